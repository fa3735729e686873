"""
The texts of the source and their translations.

``tox -e translations`` runs this before a release. It lists, per language, the texts that have no
translation, those that are marked as fuzzy, and the translations of texts that the source no longer
has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract
from babel.messages.pofile import read_po
from django.utils.translation.template import templatize

APP = Path(__file__).parent.parent / "affiliations"
LANGUAGES = sorted(path.name for path in (APP / "locale").iterdir())

#: The functions of Django that take a text to translate, and which arguments it is.
KEYWORDS: dict[str, Any] = {
    "_": None,
    **dict.fromkeys(["gettext", "gettext_lazy", "gettext_noop"]),
    **dict.fromkeys(["ngettext", "ngettext_lazy"], (1, 2)),
    **dict.fromkeys(["pgettext", "pgettext_lazy"], ((1, "c"), 2)),
    **dict.fromkeys(["npgettext", "npgettext_lazy"], ((1, "c"), 2, 3)),
}

Key = tuple[str | None, Any]


def texts_of_the_source() -> set[Key]:
    """Find what Django's makemessages finds, without GNU gettext."""
    found: set[Key] = set()
    for path in [*APP.rglob("*.py"), *APP.glob("templates/**/*.*")]:
        source = path.read_text(encoding="utf-8")
        if path.suffix != ".py":
            # What is left of a template is indented as no Python is, but in parentheses.
            source = f"(\n{templatize(source)}\n)"
        lines = BytesIO(source.encode())
        for _line, text, _comments, context in extract("python", lines, KEYWORDS):
            found.add((context, text))
    return found


def file(language: str, ending: str) -> Path:
    return APP / "locale" / language / "LC_MESSAGES" / f"django.{ending}"


def read_catalog(language: str) -> Catalog:
    with file(language, "po").open("rb") as opened:
        return read_po(opened, locale=language, abort_invalid=True)


def messages(catalog: Catalog) -> Iterator[Message]:
    return (message for message in catalog if message.id)


def key(message: Message) -> Key:
    # Babel reads a list from one kind of file and a tuple from the other; older releases read the
    # context of a .mo file as bytes.
    context = message.context
    if isinstance(context, bytes):
        context = context.decode()
    return context, tuple(message.id) if message.pluralizable else message.id


def strings(message: Message) -> tuple[str, ...]:
    return tuple(message.string) if message.pluralizable else (message.string,)


def problems(language: str) -> Iterator[str]:
    catalog = read_catalog(language)
    found = {key(message): message for message in messages(catalog)}
    source = texts_of_the_source()
    done = {each for each, message in found.items() if all(strings(message))}
    fuzzy = {each for each, message in found.items() if message.fuzzy}
    stale = (found.keys() - source) | {key(message) for message in catalog.obsolete.values()}
    for what, texts in (
        ("not translated", source - done),
        ("fuzzy", fuzzy & source),
        ("not in the source", stale),
    ):
        for _context, text in sorted(texts, key=repr):
            yield f"{language}: {what}: {text!r}"


if __name__ == "__main__":
    sys.exit("\n".join(line for language in LANGUAGES for line in problems(language)) or None)
