"""
Read the query string of a partner's link, even if mail programs or people have changed the link.

Such a link is called bent. It may have:

- a second ``?``, or ``&amp;``,
- an ``&``, ``?`` or ``=`` that is encoded, or escaped as in JSON,
- quoted-printable text: ``=3D`` and soft line breaks,
- a key in another case or after spaces,
- quotes, brackets or text around the uid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

UID_LENGTH = 8

#: What ends a pair. The entities are quotes and brackets around a value.
_PAIR_END = re.compile(rb"&(?!(?:quot|apos|lt|gt);)", re.IGNORECASE)
_ENTITY = rb"(?:quot|apos|lt|gt|%(?:25){0,3}230?(?:34|39|60|62))(?:;|%(?:25){0,3}3B)"
_QUOTE = re.compile(rb"(?:&|%(?:25){0,3}26)" + _ENTITY, re.IGNORECASE)
#: What separates two parameters of a bent link within a pair.
_SEPARATOR = re.compile(
    rb"\?|;|%(?:25){0,3}3[BF]|%(?:25){0,3}26(?:amp(?:;|%(?:25){0,3}3B))*"
    rb"|(?:\\|%(?:25){0,3}5C)u00(?:26|3f)",
    re.IGNORECASE,
)
_EQUALS = re.compile(rb"=|%(?:25){0,3}3D|(?:\\|%(?:25){0,3}5C)u003d", re.IGNORECASE)
_ENCODED = re.compile(rb"%(?:25){0,3}(26(?!" + _ENTITY + rb")|3D)", re.IGNORECASE)
#: A URL or a path, with parameters of its own: with "//", with a slash at the beginning of a value,
#: or with a slash after the name of a host.
_SLASH = rb"(?:[/\\]|%(?:25){0,3}(?:2F|5C))"
_URL = re.compile(
    _SLASH + rb"{2}|\A" + _SLASH + rb"(?!\Z)"
    rb"|(?:=|%(?:25){0,3}3D)(?:[\"'(<.+ ]|%(?:25){0,3}2[0278E])*"
    rb"(?:[a-z][a-z0-9+.-]*(?::|%(?:25){0,3}3A))?" + _SLASH + rb"|\w\.[a-z]{2,}(?::\d+)?" + _SLASH,
    re.IGNORECASE,
)
#: A second "?" with its first parameter, after the value of the last one.
_SECOND_QUERY = re.compile(rb"\?[\w.-]+=")
#: What is left of a separator, such as "amp;" after "&".
_NOTHING = re.compile(rb"(?:amp|(?:#|%23)0?38|[^\w%\x80-\xff])*", re.IGNORECASE)
#: A soft line break of quoted-printable. Browsers remove a line break that is not escaped.
_SOFT_BREAK = re.compile(rb"=(?:%0D%0A|%0D|%0A)", re.IGNORECASE)
_QUOTED_PRINTABLE = re.compile(rb"=(3D)?(?:%0D|%0A|\r|\n)*", re.IGNORECASE)
#: Quotes and brackets around a key, and what else may stand before it.
_AROUND = "\"'<>()[]{}\u2018\u2019\u201c\u201d\u00ab\u00bb\u200b\ufeff"
_BEFORE_KEY = _AROUND + "# \t\r\n\u00a0"
#: Quotes and brackets before a uid, which may be encoded twice, and spaces after them.
_BEFORE_UID = re.compile(rb"(?:(?:%[0-9A-Fa-f]{2}|[^A-Za-z0-9\0 \t])[ \t]*)*")
#: A uid with a text after it. A colon may be part of a test link's signed uid.
_FIRST_WORD = re.compile(rb"([A-Za-z0-9]{%d})[^A-Za-z0-9:._~\0-]" % UID_LENGTH)
#: What a line break leaves inside a uid.
_INSIDE_UID = re.compile(rb"(?<=[A-Za-z0-9])[\s=\x80-\xff]+")
#: Escapes of characters of a plain key, and what may be inside a key in quoted-printable. Each
#: alternative begins with a fixed character, so that other escapes are rejected quickly.
_IN_KEY = r"%(?:2d|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|0(?<==%0)[ad])"
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Uid(NamedTuple):
    """A reading of the uid in a link."""

    value: bytes
    #: Whether the link is in quoted-printable, if this reading is the right one.
    is_quoted_printable: bool = False


class FollowedLink(NamedTuple):
    """What the query string of a partner's link says."""

    #: The query string without the uid.
    rest: bytes
    #: The readings of the uid: first that of Django, if it finds one, and then other possible ones.
    uids: list[Uid]
    #: The values of the other parameters that were asked for, not decoded, by name.
    ids: dict[str, bytes]


@dataclass
class _Rest:
    """Consecutive parts of a pair that do not belong to the uid."""

    pieces: list[bytes] = field(default_factory=list)
    #: Whether the separator before it is encoded, so that it may be a part of the uid's value.
    is_encoded: bool = False
    has_value: bool = False
    #: Whether it ends with a URL, to which all further parts belong.
    is_url: bool = False

    def add(self, separator: bytes, part: bytes) -> None:
        if self.pieces:
            self.pieces.append(separator)
        else:
            self.is_encoded = separator.startswith(b"%")
        self.pieces.append(part)
        self.has_value |= b"=" in part
        self.is_url |= _URL.search(part) is not None

    def text(self) -> bytes:
        """Return the query string of these parts; empty if it has no parameter."""
        text = b"".join(self.pieces)
        if _NOTHING.fullmatch(text) or (self.is_encoded and not _EQUALS.search(text)):
            return b""
        if self.has_value or self.is_url:
            return text
        text = _ENCODED.sub(lambda match: b"&" if match[1] == b"26" else b"=", text)
        return b"" if _NOTHING.fullmatch(text) else text


def may_name(keys: Collection[str]) -> Callable[[str], object]:
    """
    Return a function that tells whether a query string can be that of a partner's link.

    The function takes a raw query string in lower case, and returns ``None`` for "no". Otherwise
    ``read()`` finds out. It is one regular expression, since it is called for every request of the
    site that has a query string.
    """
    # The text of a key, or what a plain key is interrupted by in quoted-printable.
    clues = [re.escape(key.lower()) for key in keys]
    are_plain = all(map(_PLAIN_KEY.fullmatch, keys))
    clues += ["=3d", _IN_KEY if are_plain else r"[%+]|[^\x00-\x7f]"]
    return re.compile("|".join(clues)).search


def read(query: bytes, keys: Collection[str], ids: Collection[str] = ()) -> FollowedLink | None:
    """
    Read a raw query string; ``None`` if it is not that of a partner's link.

    Args:
        query: The query string. Pairs without a uid keep their bytes.
        keys: The names of the parameter with the uid.
        ids: The names of other parameters to read. Of several values, the last counts.
    """
    names = {_folded(name): name for name in (*keys, *ids)}
    rest: list[bytes] = []
    exact: list[bytes] = []
    bent: list[bytes] = []
    exact_ids: dict[str, bytes] = {}
    bent_ids: dict[str, bytes] = {}
    for pair in _PAIR_END.split(query):
        if not pair:
            rest.append(pair)
            continue
        raw_name, _, value = pair.partition(b"=")
        name = _decoded_name(raw_name)
        is_taken = name in keys
        parts = list(_parts(value if is_taken else pair))
        if is_taken:
            (_, _, head), *parts = parts
            nested = _parameter(head, names)
            exact = [value, head, *([nested[1]] if nested and nested[0] in keys else [])]
        rests = [_Rest()]
        for separator, raw, part in parts:
            inside = separator if rests[-1].has_value else b""
            is_apart = part and not rests[-1].is_url and inside != b";"
            found = _parameter(part, names, inside=inside) if is_apart else None
            if found is not None and found[0] in keys:
                is_taken, bent = True, [found[1]]
                rests.append(_Rest())
                continue
            if found is not None:
                bent_ids[found[0]] = found[1]
            rests[-1].add(separator, raw)
        if is_taken:
            rest += filter(None, [one.text() for one in rests])
        else:
            rest.append(pair)
            if name in ids:
                exact_ids[name] = value if _URL.search(pair) else _SECOND_QUERY.split(value)[0]
    if not exact and not bent:
        return None
    uids = dict.fromkeys(uid for value in exact + bent for uid in _readings(unquoted(value)))
    return FollowedLink(b"&".join(rest), list(uids), bent_ids | exact_ids)


def raw_pairs(query: bytes) -> Iterator[tuple[bytes, str, bytes]]:
    """Split a raw query string, as Django does, into (raw pair, decoded name, raw value)."""
    for raw in query.split(b"&"):
        name, _, value = raw.partition(b"=")
        yield raw, _decoded_name(name), value


def unquoted(raw: bytes, *, is_quoted_printable: bool = False) -> bytes:
    """Decode a raw value."""
    if is_quoted_printable:
        joined = _QUOTED_PRINTABLE.sub(lambda match: b"=" if match[1] else b"", b"=" + raw)
        raw = joined.removeprefix(b"=")
    return unquote_to_bytes(raw.replace(b"+", b" "))


def _parts(pair: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Split a pair into (separator before it, part, part with quotes instead of entities)."""
    plain = _QUOTE.sub(lambda match: b"'" * len(match[0]), pair)
    separator, start = b"", 0
    for match in _SEPARATOR.finditer(plain):
        yield separator, pair[start : match.start()], plain[start : match.start()]
        separator, start = match[0], match.end()
    yield separator, pair[start:], plain[start:]


def _parameter(
    part: bytes, names: dict[str, str], *, inside: bytes = b""
) -> tuple[str, bytes] | None:
    """
    Return the name and the raw value of a part that is one of ``names``.

    ``inside`` is the separator before the part if that is in the value of another parameter. There
    a part without ``=``, or with both ``%26`` and ``%3D``, is text of the value.
    """
    raw_name, _, value = part.partition(b"=")
    if (name := names.get(_folded(_decoded_name(raw_name)))) is not None and value:
        return name, value
    part = _SOFT_BREAK.sub(b"", part)
    equals = _EQUALS.search(part)
    raw_name, value = (part[: equals.start()], part[equals.end() :]) if equals else (part, b"")
    name = names.get(_folded(_decoded_name(raw_name)))
    before, quoted, after = part.replace(b"=3d", b"=3D").partition(b"=3D")
    if name is None and quoted:
        # A soft line break was in the name. The browser has removed all of it but the "=".
        name = names.get(_folded(_decoded_name(before.replace(b"=", b""))))
        value = b"3D" + after
    is_encoded = inside.startswith((b"%", b"\\"))
    is_text = inside and (equals is None or (is_encoded and equals[0] != b"="))
    return None if name is None or is_text else (name, value)


def _readings(value: bytes) -> Iterator[Uid]:
    """Yield what the uid may be, as it is given first."""
    yield Uid(value)
    for is_quoted_printable in (False, True):
        if is_quoted_printable:
            if value[:2].upper() != b"3D":
                return
            value = value[2:]
        before = _BEFORE_UID.match(value)
        value = value[before.end() if before else 0 :]
        yield Uid(_INSIDE_UID.sub(b"", value), is_quoted_printable)
        if (match := _FIRST_WORD.match(value)) is not None:
            yield Uid(match[1], is_quoted_printable)


def _folded(name: str) -> str:
    return name.lstrip(_BEFORE_KEY).rstrip(_AROUND).casefold()


def _decoded_name(raw: bytes) -> str:
    # surrogateescape: names of different bytes stay different.
    return unquoted(raw).decode(errors="surrogateescape")
