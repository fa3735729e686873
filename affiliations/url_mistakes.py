"""
Find the mistakes in a pasted callback URL, with their corrections, and what looks doubtful.

A URL is examined in steps. Each step reads the text with the corrections of the earlier steps, so
that all mistakes are found at once.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import idna
from django.utils.translation import gettext as _

from affiliations import aliases, placeholders
from affiliations.aliases import MAX_NAME, meant
from affiliations.exceptions import InvalidCallBackURL
from affiliations.placeholders import IDENTIFYING, LONE_PERCENT, MAX_LENGTH, joined

#: Further corrections can follow from a correction, as in ``&amp;lt;``.
_ROUNDS = 10

#: Controls, and characters that no font shows or that look like a blank.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f"
    "\u2028-\u202f\u205f-\u206f\u3000\u3164\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]+"
)
_BLANKS = re.compile(r"[ \t\n\r\v\f]+")
_ENTITIES = re.compile(r"&(?:amp;)+|&(?:lt|gt|quot|#3[489]|#12[35]|#x2[267]|#x7[bd]);", re.I)
_CURLY_QUOTES = re.compile("[\u2018-\u201f]")
_OPENING, _CLOSING = "\"'`<([«", "\"'`>)]»"
_ENCODED_BRACES = re.compile(
    r"(?:%(?:25){0,3}7B){1,3}([\w.-]{1,64})(?:(?:%(?:25){0,3}7D){1,3}|\})"
    r"|\{([\w.-]{1,64})%(?:25){0,3}7D(?!\})",
    re.I,
)
#: The end of a value in the path or the query.
_END = r"(?=[&/?#;]|\Z)"
#: A macro of another system, or something in braces.
_MACRO = re.compile(
    r"[$#]\{[^{}]*\}|(?<!\{)\{{2,}[^{}]*\}{2,}|#\w+#|%%\w+%%|(?<=[=/])(?:\[\w+\]|<\w+>|\$\w+\$)"
    r"|(?<=[=/])(?P<maybe>%[A-Za-z_]\w*%|__\w+__|!{1,3}\w+!{1,3}|\*\|\w+\|\*|\[\[\w+\]\])" + _END +
    r"|\{(?P<name>[^{}]*)\}"
)  # fmt: skip
_LONE_BRACE = re.compile(
    rf"\{{[^{{}}]*\}}|\{{(\w{{1,{MAX_NAME}}}){_END}|(?<=[=/])(\w{{1,{MAX_NAME}}})\}}|[{{}}]"
)
_HOST = re.compile(r"\A[\w-]+(?:\.[\w-]+)+(?::\d+)?(?=[/?]|\Z)")
#: A value that looks like a placeholder, with the name of its parameter.
_DOUBTFUL = re.compile(
    r"(?:[?&;]([^=&?#/;{}]{1,64})=|/)"
    r"(REPLACE\w*|(?i:replace_me|change_?me|x{3,}|(?:your|insert|enter)[_-][\w-]+|your\w*id)"
    r"|:\w+|@\w+@|\(\w+\)|~\w+~|\|\w+\||\*\w+\*|__\w+__|!+\w+!+|(?P<bare>\w+))" + _END
)

_PROMPT = re.compile(r"\A(?:replace|your|insert|enter)[_-]?", re.I)


@dataclass(frozen=True)
class Mistake:
    message: str
    #: The label of the button that corrects it; empty if only a person can.
    correction: str = ""


class _Edit(NamedTuple):
    """A mistake at one place of a URL. Those with the same message are one mistake."""

    start: int
    end: int
    #: What the correction puts there; ``None`` if only a person knows.
    text: str | None
    message: str
    correction: str = ""
    is_doubt: bool = False


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that only some callback URLs must follow."""

    #: The URL must contain one of these placeholders, if there are any.
    identifying: Collection[str] = IDENTIFYING
    require_https: bool = False


_USUAL = Rules()


def validate(url: str, rules: Rules = _USUAL) -> None:
    """
    Raise ``InvalidCallBackURL``, with each mistake, if there are any.

    Django's ``URLValidator`` validates the rest of the URL.
    """
    if found := mistakes(url, rules):
        raise InvalidCallBackURL([mistake.message for mistake in found])


def mistakes(url: str, rules: Rules = _USUAL) -> list[Mistake]:
    if len(url) > MAX_LENGTH:
        text = _("A callback URL has at most %(limit)d characters.") % {"limit": MAX_LENGTH}
        return [Mistake(text)]
    found = _examine(url, rules, _is_mistake)
    # The mistakes that the corrections leave.
    others = [Mistake(message) for message in _others(found.seen, rules)]
    return [*found.mistakes(), *others]


def doubts(url: str) -> list[Mistake]:
    """Return what looks like a placeholder but is none. A URL with doubts is valid."""
    if len(url) > MAX_LENGTH:
        return []
    return _examine(url, _USUAL, _is_mistake).mistakes(is_doubt=True)


def correct(url: str, rules: Rules = _USUAL) -> str:
    """Return the URL with all corrections of its mistakes, but not of its doubts."""
    rounds, before = 0, ""
    while url != before and rounds < _ROUNDS and len(url) <= MAX_LENGTH:
        rounds, before, url = rounds + 1, url, _examine(url, rules, _is_mistake).text
    return url


def correct_one(url: str, correction: str, rules: Rules = _USUAL) -> str:
    """
    Return the URL after one correction, and after earlier ones if they are needed to make it.

    The URL stays as it is if it has no such mistake.
    """
    if len(url) > MAX_LENGTH:
        return url
    alone = _examine(url, rules, lambda edit: edit.correction == correction).text
    if alone != url:
        return alone
    labels = [edit.correction for edit in _examine(url, rules, _is_mistake).edits]
    wanted = set(labels[: labels.index(correction) + 1]) if correction in labels else set()
    return _examine(url, rules, lambda edit: edit.correction in wanted).text


@dataclass(frozen=True)
class _Found:
    #: One for each mistake.
    edits: list[_Edit]
    #: The URL with the corrections.
    text: str
    #: The same, with letters in the place of each mistake that is left.
    seen: str

    def mistakes(self, *, is_doubt: bool = False) -> list[Mistake]:
        return [
            Mistake(edit.message, edit.correction)
            for edit in self.edits
            if edit.is_doubt is is_doubt
        ]


def _is_mistake(edit: _Edit) -> bool:
    return not edit.is_doubt


def _examine(url: str, rules: Rules, is_wanted: Callable[[_Edit], bool]) -> _Found:
    """
    Find the mistakes and make the wanted corrections.

    A step does not see what an earlier one has found and left, so each mistake is found once.
    """
    text = seen = url
    found: dict[str, _Edit] = {}
    for step in _STEPS:
        edits = list(step(seen, rules))
        for edit in edits:
            found.setdefault(edit.message, edit)
        for edit in reversed(edits):
            start, end, new = edit.start, edit.end, edit.text
            left, mask = text[start:end], "m" * (end - start)
            if new is not None and is_wanted(edit):
                left = mask = new
            text, seen = text[:start] + left + text[end:], seen[:start] + mask + seen[end:]
    return _Found(list(found.values()), text, seen)


def _invisible(text: str, rules: Rules) -> Iterator[_Edit]:
    message = _("The URL contains invisible characters, as texts from e-mails and documents do.")
    label = _("Remove the invisible characters")
    for match in _INVISIBLE.finditer(text):
        yield _Edit(*match.span(), "", message, label)


def _blanks(text: str, rules: Rules) -> Iterator[_Edit]:
    for match in _BLANKS.finditer(text):
        start, end = match.span()
        if match[0] == " " and text[:start][-1:].isalnum() and text[end:][:1].isalnum():
            message = _("A URL cannot contain a blank. Use %20 for the blank itself.")
            yield _Edit(start, end, "%20", message, _("Replace blanks with %20"))
        else:
            message = _("The URL contains blanks or line breaks.")
            yield _Edit(start, end, "", message, _("Remove blanks and line breaks"))


def _entities(text: str, rules: Rules) -> Iterator[_Edit]:
    for match in _ENTITIES.finditer(text):
        entity = match[0]
        character = "&" if "amp" in entity.lower() else html.unescape(entity)
        message = _("“%(found)s” is HTML. In a URL it is “%(text)s”.")
        names = {"found": entity, "text": character}
        yield _Edit(*match.span(), character, message % names, _replace(entity, character))


def _curly_quotes(text: str, rules: Rules) -> Iterator[_Edit]:
    message = _("The URL contains curly quotes, as word processors make them.")
    for match in _CURLY_QUOTES.finditer(text):
        start, end = match.span()
        is_apostrophe = text[:start][-1:].isalpha() and text[end:][:1].isalpha()
        new = "'" if is_apostrophe else ""
        yield _Edit(start, end, new, message, _("Correct the curly quotes"))


def _wrapping(text: str, rules: Rules) -> Iterator[_Edit]:
    rest = text.lstrip(_OPENING)
    count = len(text) - len(rest)
    if count and (rest[:8].lower().startswith(("http://", "https://")) or _HOST.match(rest)):
        message = _("The URL is in quotes or brackets.")
        label = _("Remove the quotes or brackets")
        yield _Edit(0, count, "", message, label)
        closing = min(count, len(text) - len(text.rstrip(_CLOSING)))
        yield _Edit(len(text) - closing, len(text), "", message, label)


def _scheme(text: str, rules: Rules) -> Iterator[_Edit]:
    start = text[:8].lower()
    if start.startswith("http://") and rules.require_https:
        message = _(
            "Enter a URL that begins with https://. This site sends callbacks over HTTPS only."
        )
        yield _Edit(0, 4, "https", message, _replace("http://", "https://"))
    elif not start.startswith(("http://", "https://")):
        missing = "https:" if start.startswith("//") else "https://"
        is_host = missing == "https:" or _HOST.match(text)
        yield _Edit(
            0,
            0,
            missing if is_host else None,
            _("A callback URL begins with http:// or https://."),
            _("Add https://") if is_host else "",
        )


def _encoded_braces(text: str, rules: Rules) -> Iterator[_Edit]:
    for match in _ENCODED_BRACES.finditer(text):
        # Anything else in encoded braces is a value, such as JSON.
        if name := meant(match[1] or match[2]):
            message = _("The braces of “%(found)s” are encoded, so it is not filled in.")
            new = f"{{{name}}}"
            names = {"found": match[0]}
            yield _Edit(*match.span(), new, message % names, _replace(match[0], new))


def _macros(text: str, rules: Rules) -> Iterator[_Edit]:
    for match in _MACRO.finditer(text):
        if match["name"] in placeholders.NAMES:
            continue
        name = meant(match[0])
        if match["maybe"] and name is None:
            continue
        new = None if name is None else f"{{{name}}}"
        hint = aliases.did_you_mean(name) or str(aliases.AMBIGUOUS.get(joined(match[0]), ""))
        if match["name"] is None:
            message = _("“%(macro)s” is another system’s macro.") % {"macro": match[0]}
            hint = hint or _("Replace it with one of our placeholders, such as {click_id}.")
        else:
            message = _("Unknown placeholder {%(name)s}.") % {"name": match["name"]}
            ours = " ".join(f"{{{known}}}" for known in placeholders.NAMES)
            hint = hint or _("Available placeholders: %(names)s.") % {"names": ours}
        label = "" if new is None else _replace(match[0], new)
        yield _Edit(*match.span(), new, f"{message} {hint}", label)


def _lone_braces(text: str, rules: Rules) -> Iterator[_Edit]:
    for match in _LONE_BRACE.finditer(text):
        if match[0][0] == "{" and match[0][-1] == "}":
            continue
        start, end = match.span()
        name = match[1] or match[2]
        if found := name and meant(name):
            message = _("A brace of “%(found)s” is missing.") % {"found": match[0]}
            new = f"{{{found}}}"
            yield _Edit(start, end, new, message, _replace(match[0], new))
            continue
        message = _("A brace has no counterpart. Use %7B or %7D for the character itself.")
        place = start + match[0].index("{" if "{" in match[0] else "}")
        brace = text[place]
        new = "%7B" if brace == "{" else "%7D"
        yield _Edit(place, place + 1, new, message, _("Replace lone braces with %7B and %7D"))


def _fragment(text: str, rules: Rules) -> Iterator[_Edit]:
    message = _("The part after “#” is never sent. Use %23 for the character itself.")
    for match in re.finditer("#", text):
        yield _Edit(*match.span(), "%23", message, _replace("#", "%23"))


def _percent(text: str, rules: Rules) -> Iterator[_Edit]:
    message = _("A “%” does not begin an escape such as %2F. Use %25 for the character itself.")
    for match in LONE_PERCENT.finditer(text):
        yield _Edit(*match.span(), "%25", message, _replace("%", "%25"))


def _doubtful(text: str, rules: Rules) -> Iterator[_Edit]:
    for match in _DOUBTFUL.finditer(text):
        key, value = match[1] or "", match[2]
        if match["bare"] and not (key and aliases.is_name_of_ours(value)):
            continue
        name = meant(_PROMPT.sub("", value)) or meant(key)
        shown = f"{key}={value}" if key else value
        message = _("“%(found)s” looks like a placeholder, but is sent as it is.")
        hint = aliases.did_you_mean(name)
        new = None if name is None else f"{{{name}}}"
        yield _Edit(
            *match.span(2),
            new,
            f"{message % {'found': shown}} {hint}".strip(),
            "" if new is None else _replace(shown, shown[: len(key) + 1] + new if key else new),
            is_doubt=True,
        )


def _replace(found: str, text: str) -> str:
    return _("Replace %(found)s with %(text)s") % {"found": found, "text": text}


#: Each yields the mistakes of a kind in a text, by their places.
_STEPS: tuple[Callable[[str, Rules], Iterator[_Edit]], ...] = (
    _invisible,
    _blanks,
    _entities,
    _curly_quotes,
    _wrapping,
    _scheme,
    _encoded_braces,
    _macros,
    _lone_braces,
    _fragment,
    _percent,
    _doubtful,
)


def _others(text: str, rules: Rules) -> Iterator[str]:
    """Yield the mistakes that only a person can correct."""
    try:
        parts = urlsplit(text)
    except ValueError:
        yield _("This is not a valid URL.")
        return
    yield from _domain_mistakes(parts)
    if rules.identifying and not any(f"{{{name}}}" in text for name in rules.identifying):
        yield _("Add {visitor_id} or {click_id}, so the partner can identify the visitor.")


def _domain_mistakes(parts: SplitResult) -> Iterator[str]:
    if "{" in parts.netloc:
        yield _("A placeholder cannot be part of the domain. Use it in the path or the query.")
    host = parts.hostname or ""
    try:
        # In ASCII only the length of each label is checked, since a container may have a “_”.
        host.encode("idna") if host.isascii() else idna.encode(host, strict=True, std3_rules=True)
    except UnicodeError:
        yield _("The domain contains an invalid character or is too long.")
