"""
CSV files that a spreadsheet opens correctly and safely, written in flat memory.

The format is the one that a spreadsheet in the reader's language expects: where money has a decimal
comma, Excel separates columns by semicolons, and takes ``2.50`` for a date. The file begins with a
byte order mark, without which Excel reads UTF-8 as the old code page of the machine. LibreOffice
and Python's ``utf-8-sig`` skip the mark.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from io import StringIO
from itertools import chain, groupby, islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.template.defaultfilters import yesno
from django.utils import timezone, translation
from django.utils.formats import get_format
from django.utils.http import content_disposition_header

from affiliations.amounts import plain
from affiliations.dates import in_active_zone

#: The number of rows that are sent at once.
_ROWS = 200

#: Characters that end a line or a cell in some programs, or that are not text.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
#: Characters that are no letters, digits, dots, hyphens and underscores.
_UNSAFE = re.compile(r"[^\w.-]+")
#: The maximum of characters of a part of a file's name, whose bytes the systems limit to 255.
_LONGEST_PART = 40
#: Characters that begin a formula; Excel for East Asia accepts the wide ones as well.
_FORMULA = "[=+@\uff1d\uff0b\uff0d\uff20-]"
#: Invisible characters that may precede them.
_UNSEEN = "[\\s\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"
#: The start of a cell before a formula, by the delimiter of the file. It also matches what would be
#: the start of a cell if a program reads the file with the other delimiter.
_BEGINS = {
    delimiter: re.compile(f'((?:^|{other}"*){_UNSEEN})(?={_FORMULA})')
    for delimiter, other in (",;", ";,")
}


def as_csv(
    request: HttpRequest,
    name: str,
    header: Iterable[object],
    rows: Iterable[Sequence[object]],
    *,
    finish: Callable[[], object] | None = None,
) -> StreamingHttpResponse:
    """
    Return a CSV file as a streaming response.

    ``name`` is the name of the file without its extension, as ``file_name()`` returns it. A
    spreadsheet recognizes integers, money (``Decimal``), moments and days. Everything else is text,
    which never becomes a formula; a ``bool`` is a word in the reader's language. ``header`` and
    ``rows`` are consumed while the file is sent, in the language and time zone of the call;
    ``rows`` not at all for ``HEAD``. ``finish`` is called when the response ends, also if the
    client disconnects.
    """
    pieces = _Pieces(header, () if request.method == "HEAD" else rows)
    # Django would collect the whole file first: an asynchronous iterator under WSGI, and a
    # synchronous one under ASGI.
    is_asynchronous = isinstance(request, ASGIRequest)
    return _CSVResponse(
        _from_a_thread(pieces) if is_asynchronous else pieces,
        finish=finish,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": str(content_disposition_header(True, f"{name}.csv"))},
    )


def file_name(*parts: object) -> str:
    """Join parts into a name that is safe on every system, such as ``report-2026-10-01``."""
    words = (_UNSAFE.sub(_dashed, unicodedata.normalize("NFC", str(part))) for part in parts)
    return "-".join(filter(None, (word[:_LONGEST_PART].strip("-._") for word in words)))


def _dashed(unsafe: re.Match[str]) -> str:
    """Replace characters by a hyphen, but keep the vowel signs and accents of many scripts."""
    kinds = groupby(unsafe[0], lambda character: unicodedata.category(character)[0] == "M")
    return "".join("".join(characters) if are_marks else "-" for are_marks, characters in kinds)


class _CSVResponse(StreamingHttpResponse):
    def __init__(self, *args: Any, finish: Callable[[], object] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._finish = finish

    def close(self) -> None:
        # The test client closes a response twice.
        finish, self._finish = self._finish, None
        try:
            if finish:
                finish()
        finally:
            super().close()


class _Pieces:
    """
    Iterates over the file, some lines at a time, in the language and time zone of the view.

    The first piece is the byte order mark, so that no query delays the start of the download.
    """

    def __init__(self, header: Iterable[object], rows: Iterable[Sequence[object]]) -> None:
        self.language = translation.get_language() or "en"
        self.zone = timezone.get_current_timezone()
        self.rows = chain([header], rows)
        self.start = "\ufeff"

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with translation.override(self.language), timezone.override(self.zone):
            piece = self.start or self._lines(islice(self.rows, _ROWS))
        self.start = ""
        if not piece:
            raise StopIteration
        return piece.encode()

    def _lines(self, rows: Iterable[Iterable[object]]) -> str:
        decimal_mark = str(get_format("DECIMAL_SEPARATOR"))
        delimiter = ";" if decimal_mark == "," else ","
        lines = StringIO()
        writer = csv.writer(lines, delimiter=delimiter)
        writer.writerows([_cell(value, delimiter, decimal_mark) for value in row] for row in rows)
        return lines.getvalue()


async def _from_a_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces, each made in a thread, where queries are allowed."""
    following = sync_to_async(lambda: next(pieces, None))
    while (piece := await following()) is not None:
        yield piece


def _cell(value: object, delimiter: str, decimal_mark: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(yesno(value))
    if isinstance(value, Decimal):
        return plain(value).replace(".", decimal_mark)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        # Without the offset, which no spreadsheet understands.
        return f"{in_active_zone(value):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, date):
        return value.isoformat()
    # An apostrophe is the spreadsheets' own mark of text.
    return _BEGINS[delimiter].sub(r"\1'", _CONTROLS.sub(" ", str(value)))
