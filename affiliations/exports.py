"""
Rows as a CSV file that a spreadsheet opens rightly and safely, in flat memory.

People click on such a file. So it is written as a spreadsheet in the reader's language reads it:
where money has a decimal comma, Excel parts columns at semicolons, and takes ``2.50`` for a date.
It begins with a byte order mark, since without one Excel reads UTF-8 as the old code page of the
machine. LibreOffice takes the mark for what it is, and so does ``utf-8-sig`` in Python.
"""

from __future__ import annotations

import csv
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from io import StringIO
from itertools import islice

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.template.defaultfilters import yesno
from django.utils import timezone, translation
from django.utils.formats import get_format
from django.utils.http import content_disposition_header

#: So many rows are sent at once.
_ROWS = 200

#: What ends a line or a cell somewhere, or is no text at all.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
#: What makes a formula of a cell; Excel for East Asia takes the wide ones as well.
_FORMULA = "[=+@\uff1d\uff0b\uff0d\uff20-]"
#: What may stand before it and is not seen.
_UNSEEN = "[\\s\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"
#: By the delimiter of the file: where a cell begins, here or for who opens it with the other one.
_BEGINS = {
    delimiter: re.compile(f'((?:^|{other}"*){_UNSEEN})(?={_FORMULA})')
    for delimiter, other in (",;", ";,")
}


def as_csv(
    request: HttpRequest, name: str, header: Iterable[object], rows: Iterable[Sequence[object]]
) -> StreamingHttpResponse:
    """
    Answer with a CSV file, of which no more is in memory than is being sent.

    ``name`` is the file's, without an ending. A number, money as a ``Decimal``, a moment and a day
    arrive in a spreadsheet as what they are. Everything else is text, a ``bool`` among it in the
    reader's language, and text is no formula there.
    ``rows`` is consumed while the file is sent, in the language and the time zone of now.
    """
    pieces = _Pieces(header, rows)
    # Under WSGI Django would first collect an asynchronous iterator, under ASGI any other.
    is_asynchronous = isinstance(request, ASGIRequest)
    return StreamingHttpResponse(
        _from_a_thread(pieces) if is_asynchronous else pieces,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": str(content_disposition_header(True, f"{name}.csv"))},
    )


class _Pieces:
    """The file, some lines at a time, for whoever asked for it though the view is over."""

    def __init__(self, header: Iterable[object], rows: Iterable[Sequence[object]]) -> None:
        self.language = translation.get_language() or "en"
        self.zone = timezone.get_current_timezone()
        self.rows = iter(rows)
        self.start = "\ufeff" + self._lines([list(header)])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with translation.override(self.language), timezone.override(self.zone):
            piece = self.start or self._lines(islice(self.rows, _ROWS))
        self.start = ""
        if not piece:
            raise StopIteration
        return piece.encode()

    def _lines(self, rows: Iterable[Sequence[object]]) -> str:
        mark = str(get_format("DECIMAL_SEPARATOR"))
        delimiter = ";" if mark == "," else ","
        lines = StringIO()
        writer = csv.writer(lines, delimiter=delimiter)
        writer.writerows([_cell(value, delimiter, mark) for value in row] for row in rows)
        return lines.getvalue()


async def _from_a_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces, each made where a database may be asked."""
    following = sync_to_async(lambda: next(pieces, None))
    while (piece := await following()) is not None:
        yield piece


def _cell(value: object, delimiter: str, mark: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(yesno(value))
    if isinstance(value, Decimal):
        return _money(value).replace(".", mark)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        # Without its offset, which no spreadsheet understands.
        local = timezone.localtime(value) if timezone.is_aware(value) else value
        return f"{local:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, date):
        return value.isoformat()
    # An apostrophe is what a spreadsheet itself marks text with.
    return _BEGINS[delimiter].sub(r"\1'", _CONTROLS.sub(" ", str(value)))


def _money(value: Decimal) -> str:
    """Write two decimals, or as many as there are."""
    whole, _, decimals = f"{value:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"
