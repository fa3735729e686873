"""
The page that a click leads to, and its URL without personal data.

A landing page may be the link of a newsletter or of a password reset, with an e-mail address or a
token in its path or query.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.urls import ResolverMatch, resolve
from django.utils import translation
from django.utils.encoding import escape_uri_path

from affiliations import query_strings
from affiliations.conf import settings

#: What stands in a URL instead of personal data. A URL may contain these characters unescaped.
REDACTED = "(redacted)"

#: An e-mail address, from the character before its "@" on. The full-width forms of "@" and "." are
#: included. The domain may have any other non-ASCII character, such as a vowel sign.
_ADDRESS = re.compile(
    r"[^\s@\uff20\ufe6b][@\uff20\ufe6b](?:\[|localhost\b|"
    r"[^\s@\uff20\ufe6b\x00-,/:-?\[-^`{-\x7f]*[.\uff0e\u3002\uff61][^\W\d][^\s\x00-@\[-`{-\x7f])"
)
#: Characters that separate the parameters of a URL inside a value.
_SEPARATORS = re.compile("[?&;#]")
_WITH_SEPARATORS = re.compile(f"({_SEPARATORS.pattern})")
#: How many times a value is decoded. A value that is still encoded then counts as personal.
_DEPTH = 5
#: How many parent paths are looked up for a path without a page.
_PARENTS = 4


@dataclass(frozen=True)
class LandingPage:
    """What the URLconf says about a path."""

    #: Whether it is a page of ``affiliations.urls``, whose path contains a partner's secret token.
    is_partner_page: bool = False
    #: Where the decoded path has values whose names are in ``AFFILIATE_ENTRY_POINT_REDACTED``.
    redacted: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, request: HttpRequest, path: str) -> LandingPage:
        """Look up an escaped path in the URLconf of the request."""
        path = unquote(path)
        prefix = request.META.get("SCRIPT_NAME", "").rstrip("/")
        offset = len(prefix) if path.startswith(f"{prefix}/") else 0
        urlconf = getattr(request, "urlconf", None)
        for language, added, candidate in _candidates(request, path[offset:]):
            try:
                with translation.override(language):
                    match = resolve(candidate, urlconf)
                    spans = tuple(_redacted_spans(match, candidate, offset - len(added)))
            except Exception:  # noqa: S112 -- no such page, or a converter of the host fails
                continue
            return cls("affiliations" in match.app_names, spans)
        return cls()


def redacted_path(path: str, page: LandingPage | None = None) -> str:
    """Return an escaped path with ``REDACTED`` instead of personal data."""
    if page is not None and page.redacted:
        decoded, pieces, position = unquote(path), [], 0
        for start, end in sorted(page.redacted):
            pieces += [escape_uri_path(decoded[position:start]), REDACTED]
            position = max(position, end)
        path = "".join([*pieces, escape_uri_path(decoded[position:])])
    names = settings.entry_point_redacted
    return "/".join(REDACTED if _is_personal(part, names) else part for part in path.split("/"))


def redacted_query(query: bytes) -> bytes:
    """Return a raw query string with ``REDACTED`` instead of personal data."""
    names, mark = settings.entry_point_redacted, REDACTED.encode()
    pairs = []
    for raw, name, value in query_strings.raw_pairs(query):
        if _is_personal(name, ()):
            pairs.append(mark)
        # Together with the name, which other text may precede: "&amp;token=", ";token=".
        elif value and _is_personal(raw.decode(errors="replace"), names):
            pairs.append(raw.partition(b"=")[0] + b"=" + mark)
        else:
            pairs.append(raw)
    return b"&".join(pairs)


def redacted_text(text: str) -> str:
    """Return a decoded text with ``REDACTED`` instead of the parts with personal data."""
    names = settings.entry_point_redacted
    parts = _WITH_SEPARATORS.split(text)
    return "".join(REDACTED if _is_personal(part, names) else part for part in parts)


def _is_personal(text: str, names: Collection[str]) -> bool:
    """Tell whether a text, decoded or not, has an e-mail address or a parameter of ``names``."""
    for _ in range(_DEPTH):
        if _ADDRESS.search(text):
            return True
        inner = (part.partition("=") for part in _SEPARATORS.split(text))
        if any(value and name.casefold() in names for name, _, value in inner):
            return True
        decoded = unquote(text)
        if decoded == text:
            return False
        text = decoded
    return True


def _candidates(request: HttpRequest, path: str) -> Iterator[tuple[str, str, str]]:
    """
    Yield (language, prefix, path with the prefix), the most likely first.

    LocaleMiddleware, which activates the language of a path, may be listed below ours. The active
    language may then be that of an earlier request.
    """
    # As CommonMiddleware does after our redirect.
    slashes = ("", "/") if django_settings.APPEND_SLASH and not path.endswith("/") else ("",)
    if language := translation.get_language_from_path(path):
        found = [(language, "")]
    else:
        active = translation.get_language() or django_settings.LANGUAGE_CODE
        chosen = translation.get_language_from_request(request)
        languages = list(dict.fromkeys([active, chosen, django_settings.LANGUAGE_CODE]))
        found = [(language, "") for language in languages]
        # As LocaleMiddleware does after our redirect.
        found += [(language, f"/{language}") for language in languages]
    for language, prefix in found:
        for slash in slashes:
            yield language, prefix, f"{prefix}{path}{slash}"
    # A link with a wrong end still contains its token.
    for above in _above(path):
        for language, prefix in found:
            yield language, prefix, f"{prefix}{above}"


def _above(path: str) -> Iterator[str]:
    """Yield the nearest parent paths, but not the root, which has no token."""
    for _ in range(_PARENTS):
        path = path[: path.rstrip("/").rfind("/") + 1]
        if len(path) < 2:
            return
        yield path


def _redacted_spans(match: ResolverMatch, path: str, offset: int) -> Iterator[tuple[int, int]]:
    """
    Yield the start and end of each value in a path whose name is to be redacted.

    The values in ``match.kwargs`` are converted, and may differ from the text of the path.
    """
    position = 1  # After the leading slash.
    # The last list of tried patterns has those that matched, beginning with the outermost.
    for pattern in (match.tried or [[]])[-1]:
        found = pattern.pattern.regex.search(path[position:])
        for name in found.re.groupindex:
            start, end = found.span(name)
            if start < end and name.casefold() in settings.entry_point_redacted:
                yield offset + position + start, offset + position + end
        position += found.end()
