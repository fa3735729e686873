"""
Sign a callback, so that the partner can see that it comes from this site and is not an old one.

As Standard Webhooks has it (https://www.standardwebhooks.com), with one addition that its
specification leaves open: a GET has no body, so path and query of the URL stand in its place.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Mapping


def headers(path_and_query: str, *, webhook_id: str, secret: str) -> Mapping[str, str]:
    """
    Return the headers that sign a GET of a path and query now.

    ``secret`` is the partner's, ``whsec_`` and the key in base64. What is signed is
    ``<webhook-id>.<webhook-timestamp>.<path and query>``, with HMAC-SHA256.
    """
    timestamp = int(time.time())
    signed = f"{webhook_id}.{timestamp}.{path_and_query}"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, signed.encode(), "sha256")
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
