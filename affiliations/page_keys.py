"""
The key to a partner's page: what its private link ends in, made and checked without keeping it.

Kept with the partner are a random seed and a hash of the token, ``seed:hash``. The token itself is
reckoned from the seed and ``SECRET_KEY``. So what is kept opens nothing, and yet the link can be
shown again; and the page still opens after ``SECRET_KEY`` was replaced, since only the hash is
asked then.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

from django.conf import settings as django_settings
from django.utils.crypto import constant_time_compare, salted_hmac

#: A token: 32 bytes in the base64 of URLs, without padding.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def new_key(uid: str) -> str:
    """Return what is kept of a new link of the partner ``uid``; no two are the same."""
    seed = secrets.token_urlsafe(24)
    return f"{seed}:{_hash(_token(uid, seed, django_settings.SECRET_KEY))}"


def token(uid: str, key: str) -> str | None:
    """
    Return the token that fits ``key``, to be shown.

    ``None`` where the partner has no link, or where the ``SECRET_KEY`` of its making is gone, from
    ``SECRET_KEY_FALLBACKS`` too: then only those know the link to whom it was handed.
    """
    seed, _, _ = key.partition(":")
    for secret in (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS):
        if fits(made := _token(uid, seed, secret), key):
            return made
    return None


def is_token(value: str) -> bool:
    """Tell whether something could be a token, before anybody asks the database."""
    return _TOKEN.fullmatch(value) is not None


def fits(value: str, key: str) -> bool:
    """Tell, in a time that says nothing, whether a token opens the page of who has ``key``."""
    _, _, kept = key.partition(":")
    return constant_time_compare(_hash(value), kept)


def _token(uid: str, seed: str, secret: str | bytes) -> str:
    signed = salted_hmac("affiliations.page", f"{uid}:{seed}", secret=secret, algorithm="sha256")
    return base64.urlsafe_b64encode(signed.digest()).decode().rstrip("=")


def _hash(value: str) -> str:
    # No salt and no slow hash: nobody guesses 32 bytes.
    return hashlib.sha256(value.encode()).hexdigest()
