"""
Build a partner's tracking link, and remove the partner's uid from a URL.

A query string is not parsed and rebuilt, so that all other parameters keep their bytes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import quote_plus

from django.core.signing import BadSignature, SignatureExpired, TimestampSigner

from affiliations import query_strings
from affiliations.conf import settings

__all__ = ["stripped"]

#: A signed uid, and characters that chats add to the end of a link.
_SIGNED_UID = re.compile(
    rb"\A([A-Za-z0-9]+:[0-9a-f]+:[A-Za-z0-9]+:[A-Za-z0-9_-]+)[^A-Za-z0-9_\0-]*"
)
#: Macros that a network replaces in a link before it is followed:
#: {clickid}, {{ad.id}}, ${cid}, [cid], #s2#, %%CID%%, <cid>, $cid$.
_MACRO = re.compile(r"(\$?(?<!\{)\{+[\w.:-]+\}+|\[[\w.:-]+\]|#\w+#|%%\w+%%|<[\w.:-]+>|\$\w+\$)")
_TEST_LINK_AGE = timedelta(hours=1)


class SignedUid(NamedTuple):
    """The value of the partner's parameter in a test link."""

    uid: str
    #: Random text, so that each link makes one test.
    nonce: str
    is_expired: bool


def stripped(url: str) -> str:
    """
    Return a URL or path without the partner's uid; every other byte stays.

    >>> stripped("https://example.com/some/page?page_id=9&affiliate_id=moox6esi&other=3")
    'https://example.com/some/page?page_id=9&other=3'
    """
    url, hash_sign, fragment = url.partition("#")
    path, _, query = url.partition("?")
    found = query_strings.read(query.encode(), settings.query_string_keys)
    if found is not None:
        url = f"{path}?{found.rest.decode()}" if found.rest else path
    return url + hash_sign + fragment


def tracking_link(url: str, uid: str, *, click_id: str = "", **sub_ids: str) -> str:
    """
    Return a URL or path of this site with a partner's uid in it.

    ``click_id`` and ``sub1`` to ``sub5`` get the parameter names of the settings; blank ones are
    left out. A uid in the URL is replaced; other parameters and the fragment stay. Any other
    keyword raises ``TypeError``.

    >>> tracking_link("/path/?x=1", "moox6esi", click_id="42")
    '/path/?x=1&affiliate_id=moox6esi&click_id=42'
    """
    return _link(url, uid, click_id, sub_ids, quote_plus)


def link_with_macros(url: str, uid: str, *, click_id: str = "", **sub_ids: str) -> str:
    """
    Return a tracking link for a partner's network to fill in before it is followed.

    Macros in the click id and the sub ids are not escaped, or the network would not find them.

    >>> link_with_macros("/", "moox6esi", click_id="{clickid}")
    '/?affiliate_id=moox6esi&click_id={clickid}'
    """
    return _link(url, uid, click_id, sub_ids, _quoted_around_macros)


def signed_uid(uid: str) -> str:
    """Return the uid for a test link: signed, so that only this site can make such links."""
    # No capital letters, which are equal to small ones on MariaDB.
    return _signer().sign(f"{uid}:{secrets.token_hex(8)}")


def read_signed_uid(value: bytes) -> SignedUid | None:
    """Return what ``signed_uid()`` has signed; ``None`` if this site has not signed ``value``."""
    if (match := _SIGNED_UID.fullmatch(value)) is None:
        return None
    signer, signed = _signer(), match[1].decode()
    try:
        text, is_expired = signer.unsign(signed, max_age=_TEST_LINK_AGE), False
    except SignatureExpired:
        text, is_expired = signer.unsign(signed), True
    except BadSignature:
        return None
    uid, nonce = text.split(":")
    return SignedUid(uid, nonce, is_expired)


def _quoted_around_macros(value: str) -> str:
    parts = _MACRO.split(value)
    parts[::2] = map(quote_plus, parts[::2])  # The parts between the macros.
    return "".join(parts)


def _link(
    url: str,
    uid: str,
    click_id: str,
    sub_ids: Mapping[str, str],
    quoted: Callable[[str], str],
) -> str:
    sub_id_names = {f"sub{n}": key for n, key in enumerate(settings.sub_id_keys, start=1)}
    if unknown := sub_ids.keys() - sub_id_names.keys():
        raise TypeError(f"tracking links have no parameter for {', '.join(sorted(unknown))}")
    pairs = {settings.query_string_keys[0]: uid}
    if click_id:
        pairs[settings.click_id_key] = click_id
    pairs |= {sub_id_names[name]: value for name, value in sorted(sub_ids.items()) if value}

    # str: a template may pass a number.
    added = "&".join(f"{quote_plus(name)}={quoted(str(value))}" for name, value in pairs.items())
    url, hash_sign, fragment = stripped(url).partition("#")
    path, _, query = url.partition("?")
    return f"{path}?{query}{'&' if query else ''}{added}{hash_sign}{fragment}"


def _signer() -> TimestampSigner:
    return TimestampSigner(salt="affiliations.test")
