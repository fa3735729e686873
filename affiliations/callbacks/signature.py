"""
Sign callbacks, so that the partner can verify the sender and the time.

The signature follows Standard Webhooks (https://www.standardwebhooks.com). The specification does
not cover GET, which has no body: here the path and query of the URL are signed instead.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affiliations.models import Callback


class InvalidSecret(ValueError):
    """A partner's signing secret is not ``whsec_`` and base64."""


def headers(callback: Callback, content: str) -> Mapping[str, str]:
    """
    Return the headers that sign a request now.

    Each signature is the HMAC-SHA256 of ``<webhook-id>.<webhook-timestamp>.<content>``, with a
    secret of the partner: ``whsec_`` and the key in base64. A space separates two signatures.

    Args:
        callback: The callback, with its partner.
        content: The body of a POST, or path and query of a GET.

    Raises:
        InvalidSecret: If the newest secret cannot be decoded.
    """
    timestamp = int(time.time())
    signed = f"{callback.webhook_id}.{timestamp}.{content}".encode()
    newest, *replaced = callback.partner.signing_secrets()
    keys = [_key(newest)]
    with suppress(InvalidSecret):  # That may be why it was replaced.
        keys += map(_key, replaced)
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": callback.webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError as error:
        raise InvalidSecret(f"the signing secret cannot be decoded: {error}") from error
    if not key:
        raise InvalidSecret("the signing secret is empty")
    return key
