"""The numbers of a report, as they are called and written."""

from __future__ import annotations

from decimal import Decimal

from django.utils import translation

from affiliations import figures
from affiliations.reports import Numbers

NUMBERS = Numbers(
    clicks=3000,
    pending=1,
    approved=2,
    rejected=4,
    payouts={"EUR": Decimal("12.5"), "JPY": Decimal("1000")},
)
BOTH = ["EUR", "JPY"]


def test_each_number_has_a_name() -> None:
    assert dict(zip(figures.header(BOTH), figures.cells(NUMBERS, BOTH), strict=True)) == {
        "Clicks": "3000",
        "Conversions": "3",
        "Pending": "1",
        "Rejected": "4",
        "CR, %": "0.10",
        "Payout, EUR": "12.50",
        "EPC, EUR": "0.0042",
        "Payout, JPY": "1000",
        "EPC, JPY": "0.3333",
    }


def test_the_numbers_are_written_as_the_reader_writes_them() -> None:
    with translation.override("da"):
        assert figures.cells(NUMBERS, ["EUR"])[4:] == ["0,10", "12,50", "0,0042"]


def test_without_clicks_there_is_no_rate_and_nothing_a_click() -> None:
    earned = Numbers(approved=1, payouts={"EUR": Decimal(2)})
    assert figures.values(earned, ["EUR"]) == [0, 1, 0, 0, None, Decimal(2), None]
    dash = "\u2013"
    assert figures.cells(earned, ["EUR"]) == ["0", "1", "0", "0", dash, "2.00", dash]


def test_what_was_earned_in_another_currency_only_is_nothing_in_this() -> None:
    assert figures.cells(NUMBERS, ["USD"])[-2:] == ["0.00", "0.0000"]
