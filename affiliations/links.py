"""
Build a partner's tracking link, and take the affiliate part out of a URL again.

A query string is a row of bytes here, never parsed and put together anew: what is not the
affiliate part comes out as it went in. Pairs are parted at ``&`` alone, as Django parts them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from urllib.parse import quote_plus, unquote_to_bytes

from django.core.signing import BadSignature, TimestampSigner

from affiliations.conf import settings

#: A signed uid as it stands in a link, and behind it what chats put there.
_SIGNED_UID = re.compile(rb"([A-Za-z0-9]+:[A-Za-z0-9]+:[A-Za-z0-9_-]+)[^A-Za-z0-9_\0-]*")
#: What a partner's own network replaces in a link before somebody follows it, in any of the forms
#: that networks have: {clickid}, {{ad.id}}, ${cid}, [cid], #s2#, %%CID%%, <cid>, $cid$.
_MACRO = re.compile(r"(\$?\{+[\w.:-]+\}+|\[[\w.:-]+\]|#\w+#|%%\w+%%|<[\w.:-]+>|\$\w+\$)")
#: For so long a link for trying the deal can be followed.
_TEST_LINK_AGE = timedelta(days=7)


def without_parameters(query: bytes, names: Collection[str]) -> tuple[bytes, bytes | None]:
    """
    Take every parameter with one of ``names`` out of a raw query string.

    Return what is left, byte for byte, and the decoded value of the last one taken: ``b""`` where
    it was blank or had no ``=``, ``None`` where there was none at all.
    """
    left, value = [], None
    for raw, name, raw_value in _pairs(query):
        if name in names:
            value = _unquoted(raw_value)
        else:
            left.append(raw)
    return b"&".join(left), value


def parameters(query: bytes, names: Collection[str]) -> dict[str, bytes]:
    """Return the decoded last value of each of ``names`` that stands in a raw query string."""
    return {name: _unquoted(value) for _, name, value in _pairs(query) if name in names}


def stripped(url: str) -> str:
    """
    Return a URL or path without its affiliate part; every other byte stays.

    >>> stripped("https://example.com/some/page?page_id=9&affiliate_id=moox6esi&other=3")
    'https://example.com/some/page?page_id=9&other=3'
    """
    url, hash_sign, fragment = url.partition("#")
    path, _, query = url.partition("?")
    left, value = without_parameters(query.encode(), settings.query_string_keys)
    if value is not None:
        url = f"{path}?{left.decode()}" if left else path
    return url + hash_sign + fragment


def tracking_link(url: str, uid: str, *, click_id: str = "", **sub_ids: str) -> str:
    """
    Return a URL or path of this site with a partner's uid in it.

    ``click_id`` and ``sub1`` to ``sub5`` are written under the names that the settings give them;
    blank ones are left out. An affiliate part that the URL had gives way; its other parameters and
    its fragment stay. ``TypeError`` for any other keyword.

    >>> tracking_link("/path/?x=1", "moox6esi", click_id="42")
    '/path/?x=1&affiliate_id=moox6esi&click_id=42'
    """
    return _link(url, uid, click_id, sub_ids, quote_plus)


def link_with_macros(url: str, uid: str, *, click_id: str = "", **sub_ids: str) -> str:
    """
    Return what ``tracking_link()`` does, for a partner's network to fill in before it is followed.

    The macros in the labels stay as they are. Escaped, the network would not know them.

    >>> link_with_macros("/", "moox6esi", click_id="{clickid}")
    '/?affiliate_id=moox6esi&click_id={clickid}'
    """
    return _link(url, uid, click_id, sub_ids, _quoted_around_macros)


def signed_uid(uid: str) -> str:
    """Return a uid as it stands in a link for trying the deal, which nobody else can make."""
    return _signer().sign(uid)


def tested_uid(value: bytes) -> bytes | None:
    """Return the uid in the value of such a link, ``None`` for every other and after seven days."""
    if (match := _SIGNED_UID.fullmatch(value)) is None:
        return None
    try:
        return _signer().unsign(match[1].decode(), max_age=_TEST_LINK_AGE).encode()
    except BadSignature:
        return None


def _quoted_around_macros(label: str) -> str:
    """Escape a label, but for the macros in it."""
    parts = _MACRO.split(label)
    parts[::2] = map(quote_plus, parts[::2])  # what stands between two macros
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
        raise TypeError(f"tracking_link() got an unexpected keyword: {', '.join(sorted(unknown))}")
    pairs = {settings.query_string_keys[0]: uid}
    if click_id:
        pairs[settings.click_id_key] = click_id
    pairs |= {sub_id_names[name]: value for name, value in sorted(sub_ids.items()) if value}

    # A template may give a number.
    labels = "&".join(f"{quote_plus(name)}={quoted(str(value))}" for name, value in pairs.items())
    url, hash_sign, fragment = stripped(url).partition("#")
    path, _, query = url.partition("?")
    return f"{path}?{query}{'&' if query else ''}{labels}{hash_sign}{fragment}"


def _signer() -> TimestampSigner:
    return TimestampSigner(salt="affiliations.test")


def _pairs(query: bytes) -> Iterator[tuple[bytes, str, bytes]]:
    """Part a raw query string into (pair as it stands, decoded name, raw value)."""
    for raw in query.split(b"&"):
        name, _, value = raw.partition(b"=")
        # surrogateescape: no two names are taken for one, however broken their bytes
        yield raw, _unquoted(name).decode(errors="surrogateescape"), value


def _unquoted(raw: bytes) -> bytes:
    """Decode ``+`` and percent escapes; broken escapes stand for themselves."""
    return unquote_to_bytes(raw.replace(b"+", b" "))
