"""A CSV file, as a spreadsheet reads it."""

from __future__ import annotations

import asyncio
import csv
import io
import tracemalloc
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import override_settings
from django.urls import path
from django.utils import translation
from django.utils.translation import gettext

from affiliations.reports.export import as_csv, file_name
from tests.browsers import connections_kept

ROWS: list[list[object]] = []

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "=cmd|' /C calc'!A0",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
    " =1",
    "\t=1",
    "\r=1",
    "\n=1",
    "\x00=1",
    "\u202e=1",
    "\ufeff=1",
    "\u200b \u2066=1",
]


def view(request: HttpRequest) -> HttpResponse:
    return as_csv(request, "månedens", ["Reference", "Payout"], ROWS)


urlpatterns = [path("csv/", view)]
pytestmark = pytest.mark.urls(__name__)


def read(*rows: list[object], delimiter: str = ",") -> list[list[str]]:
    """Write rows, and read them as a program does that is told of the delimiter."""
    text = written(*rows).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]


def written(*rows: list[object]) -> bytes:
    return as_csv(RequestFactory().get("/"), "x", ["Reference"], rows).getvalue()


def test_the_file_is_downloaded_under_its_name() -> None:
    response = Client().get("/csv/")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"] == "attachment; filename*=utf-8''m%C3%A5nedens.csv"


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (
            ("conversions", "2026-10-01", "", date(2026, 10, 31)),
            "conversions-2026-10-01-2026-10-31",
        ),
        (("payout statements", "../..\\A/B: 7\0?*"), "payout-statements-A-B-7"),
        (("statement", "\u202egnp.exe\r\nX: y"), "statement-gnp.exe-X-y"),
        (("a\u030aret", '"; drop', "日本"), "året-drop-日本"),
        (("हिन्दी", "ไทยน้ำ", "שָׁלוֹם", "a/́b"), "हिन्दी-ไทยน้ำ-שָׁלוֹם-a-́b"),
        (("x" * 300, ".", "2026"), f"{'x' * 40}-2026"),
    ],
)
def test_a_files_name_is_safe_whatever_it_is_made_of(parts: Any, name: str) -> None:
    assert file_name(*parts) == name


def test_it_begins_with_a_mark_by_which_excel_knows_utf_8() -> None:
    assert written(["Bjørn 日本"]) == "\ufeffReference\r\nBjørn 日本\r\n".encode()


def test_commas_quotes_and_blanks_come_back_as_they_were() -> None:
    row = ["a,b", 'say "no"', " x ", "", "a;b"]
    assert read(row) == [row]


@pytest.mark.parametrize(("language", "words"), [("en", ["yes", "no"]), ("da", ["ja", "nej"])])
def test_yes_and_no_are_words_of_the_reader(language: str, words: list[str]) -> None:
    with translation.override(language):
        assert read([True, False], delimiter="," if language == "en" else ";") == [words]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_is_never_a_formula(text: str) -> None:
    [[first, second]] = read([text, "x" + text])
    assert first.lstrip(" \u202e\ufeff\u200b\u2066").startswith("'")
    assert "'" not in second.replace("' /C calc'", "")


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize(("language", "other"), [("en", ";"), ("da", ",")])
@pytest.mark.parametrize("lead", ["", '"', "x", '";"'])
def test_nor_where_somebody_opens_the_file_with_the_other_delimiter(
    text: str, language: str, other: str, lead: str
) -> None:
    with translation.override(language):
        content = written(["x", f"{lead}{other}{text}{other}{lead}"]).decode("utf-8-sig")
    signs = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
    for line in content.splitlines():
        for cell in line.split(other):
            assert not cell.strip('" \u202e\ufeff\u200b\u2066').startswith(signs)


def test_a_row_is_one_line_whatever_its_text() -> None:
    assert written(["a\r\nb\x0bc\u2028d\x85e"]).decode().count("\n") == 2
    assert read(["a\r\nb\x0bc\u2028d\x85e"]) == [["a b c d e"]]


def test_numbers_stay_numbers() -> None:
    row = [Decimal("-4.0000"), Decimal("12.5"), Decimal("0.1234"), Decimal("1E+3"), -17, None]
    assert read(row) == [["-4.00", "12.50", "0.1234", "1000.00", "-17", ""]]


def test_money_is_written_as_the_readers_spreadsheet_reads_it() -> None:
    """In Danish, a semicolon between the cells and a comma in them; 2.50 would be a date."""
    with translation.override("da"):
        assert read([Decimal("-1234.5"), "a,b"], delimiter=";") == [["-1234,50", "a,b"]]


def test_moments_and_days_are_those_of_the_readers_clock() -> None:
    moment = datetime(2026, 11, 30, 23, 30, tzinfo=timezone.utc)
    with override_settings(TIME_ZONE="Europe/Copenhagen"):
        row: list[object] = [moment, moment.replace(tzinfo=None), date(2026, 12, 1)]
        assert read(row) == [["2026-12-01 00:30:00", "2026-11-30 23:30:00", "2026-12-01"]]


def test_what_is_translated_while_the_file_is_sent_is_in_the_readers_language() -> None:
    with translation.override("da"):
        response = as_csv(
            RequestFactory().get("/"), "x", ["x"], ([gettext("Yes")] for _ in range(1))
        )
    assert b"\r\nJa\r\n" in response.getvalue()


@pytest.mark.slow
def test_only_what_is_being_sent_is_in_memory() -> None:
    given = 0

    def rows() -> Iterator[list[object]]:
        nonlocal given
        for number in range(100_000):
            given += 1
            yield [number, "x" * 100]

    response = as_csv(RequestFactory().get("/"), "x", ["x"], rows())
    assert given == 0
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in response)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 10_000_000
    assert peak < 3_000_000


def test_nothing_is_asked_for_before_the_first_piece_is_sent() -> None:
    asked: list[str] = []

    def cells(*texts: str) -> Iterator[str]:
        for text in texts:
            asked.append(text)
            yield text

    rows = ([cell] for cell in cells("a", "b"))
    response = as_csv(RequestFactory().get("/"), "x", cells("x"), rows)
    pieces = iter(response)
    assert next(pieces) == b"\xef\xbb\xbf"
    assert asked == []
    assert next(pieces) == b"x\r\na\r\nb\r\n"


def test_a_request_for_the_headers_reads_no_rows() -> None:
    def rows() -> Iterator[list[object]]:
        raise AssertionError
        yield []

    response = as_csv(RequestFactory().head("/"), "x", ["x"], rows())
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response.getvalue() == b"\xef\xbb\xbfx\r\n"


@pytest.mark.parametrize("read", [0, 1, 9])
def test_the_end_of_the_response_is_told_however_much_was_read(read: int) -> None:
    ended: list[int] = []
    request = RequestFactory().get("/")
    response = as_csv(
        request, "x", ["x"], ([n] for n in range(1000)), finish=lambda: ended.append(1)
    )
    for _piece in zip(range(read), response, strict=False):
        assert not ended
    with connections_kept():
        response.close()
    assert ended == [1]


async def test_under_asgi_it_is_sent_piece_by_piece_too(monkeypatch: Any) -> None:
    monkeypatch.setitem(globals(), "ROWS", [[number, "=1"] for number in range(1000)])
    response = await AsyncClient().get("/csv/")
    assert response.is_async
    pieces = [piece async for piece in response]
    assert len(pieces) == 1 + 6
    assert b"".join(pieces).decode("utf-8-sig").splitlines()[-1] == "999,'=1"
    assert b"".join(pieces) == await asyncio.to_thread(lambda: Client().get("/csv/").getvalue())


def test_a_duration_or_whatever_else_is_text() -> None:
    assert read([timedelta(days=-1)]) == [["'-1 day, 0:00:00"]]
