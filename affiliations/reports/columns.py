"""
The columns of tables for staff and partners, on pages and in CSV files.

A table has the columns of one list, in its order, wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from django.utils.formats import date_format, number_format
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from affiliations.amounts import figure, small_figure
from affiliations.dates import Interval, in_active_zone
from affiliations.exceptions import Reason
from affiliations.reports.numbers import Arrivals, Numbers, ReportResult

#: The precision of rates, in percent, and of earnings per click.
_PERCENT, _PER_CLICK = Decimal("0.01"), Decimal("0.0001")


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    Args:
        name: The name in templates.
        label: The heading.
        value: Takes the row and returns the value, as in a CSV file.
        format: Takes the value and the row, and returns the text on a page.
        is_number: Whether the texts are numbers.
        currencies: Takes the total of a report, and returns the currencies for each of which it
            repeats the column. ``value`` and ``format`` then also take the currency.
        currency: The currency of such a repeated column.
    """

    name: str
    label: str | Promise
    value: Callable[..., Any]
    format: Callable[..., str] = lambda value, row: str(value)
    is_number: bool = False
    currencies: Callable[[Any], Collection[str]] | None = None
    currency: str = ""

    def text(self, row: Any) -> str:
        return self.format(self.value(row), row)

    def in_currency(self, currency: str) -> Column:
        return replace(
            self,
            label=f"{self.label}, {currency}",
            value=partial(self.value, currency=currency),
            format=partial(self.format, currency=currency),
            currencies=None,
            currency=currency,
        )


def as_day(value: datetime, row: object) -> str:
    """Format the day of a moment in the active time zone."""
    return date_format(in_active_zone(value), "SHORT_DATE_FORMAT")


def as_number(value: Decimal | int | None, row: object, places: int | None = None) -> str:
    """Format a number in the reader's format; a dash for ``None``."""
    return "–" if value is None else number_format(value, places)


def _quotient(dividend: Decimal | int, clicks: int, precision: Decimal) -> Decimal | None:
    return (Decimal(dividend) / clicks).quantize(precision, ROUND_HALF_UP) if clicks else None


def _figure(value: Decimal | None, row: object, currency: str) -> str:
    return "–" if value is None else figure(value, currency)


def _small_figure(value: Decimal | None, row: object, currency: str) -> str:
    return "–" if value is None else small_figure(value, currency)


def _of_orders(numbers: Numbers) -> Collection[str]:
    return numbers.revenue


def _of_payouts(numbers: Numbers) -> Collection[str]:
    return {*numbers.payouts, *numbers.pending_payouts}


REPORT_COLUMNS = [
    Column("clicks", _("Clicks"), attrgetter("clicks"), as_number),
    Column("conversions", _("Conversions"), attrgetter("conversions"), as_number),
    Column("pending", _("Pending"), attrgetter("pending"), as_number),
    Column("rejected", _("Rejected"), attrgetter("rejected"), as_number),
    Column(
        "rate",
        _("CR, %"),
        lambda numbers: _quotient(100 * numbers.clicked_conversions, numbers.clicks, _PERCENT),
        partial(as_number, places=2),
    ),
    Column(
        "revenue",
        _("Revenue"),
        lambda numbers, currency: numbers.revenue.get(currency, Decimal(0)),
        _figure,
        currencies=_of_orders,
    ),
    Column(
        "average_order",
        _("AOV"),
        lambda numbers, currency: numbers.average_order.get(currency),
        _figure,
        currencies=_of_orders,
    ),
    Column(
        "pending_payout",
        _("Pending commission"),
        lambda numbers, currency: numbers.pending_payouts.get(currency, Decimal(0)),
        _figure,
        currencies=_of_payouts,
    ),
    Column(
        "payout",
        _("Commission (approved)"),
        lambda numbers, currency: numbers.payouts.get(currency, Decimal(0)),
        _figure,
        currencies=_of_payouts,
    ),
    Column(
        "per_click",
        _("EPC"),
        lambda numbers, currency: _quotient(
            numbers.clicked_payouts.get(currency, 0), numbers.clicks, _PER_CLICK
        ),
        _small_figure,
        currencies=_of_payouts,
    ),
]


def report_columns(total: Numbers) -> list[Column]:
    """
    Return the columns of a report: first those without a currency, then those of each.

    A currency has the columns that the report's ``total`` has numbers for. Orders may have another
    currency than payouts, and registrations have payouts only.
    """
    money_columns = [column for column in REPORT_COLUMNS if column.currencies]
    by_currency = [
        column.in_currency(currency)
        for column in money_columns
        for currency in column.currencies(total)  # type: ignore[misc]
    ]
    return [
        *(column for column in REPORT_COLUMNS if not column.currencies),
        # A stable sort.
        *sorted(by_currency, key=attrgetter("currency")),
    ]


#: The heading of a table that has a row for each of ``arrival_columns()``.
ARRIVALS_HEADER = [_("Result"), _("Clicks")]


def arrival_columns(
    reasons: Iterable[str], display: Callable[[str], str] | None = None
) -> list[Column]:
    """
    Return the columns of ``Arrivals``: all clicks, those that were counted, and each reason.

    ``display`` returns the words of a reason; those for staff by default.
    """
    words = display or Reason.display
    return [
        Column("arrived", _("Arrived"), attrgetter("total"), as_number),
        Column("counted", _("Counted"), attrgetter("counted"), as_number),
        *(
            Column(reason, capfirst(words(reason)), partial(_filtered, reason), as_number)
            for reason in reasons
        ),
    ]


def _filtered(reason: str, arrivals: Arrivals) -> int:
    return arrivals.filtered[reason]


def change(value: Decimal | int | None, before: Decimal | int | None) -> str:
    """Format the change of a number in percent, with its sign; a dash if nothing was before."""
    if value is None or not before:
        return "–"
    ratio = (Decimal(value) - before) / abs(Decimal(before))
    percent = (100 * ratio).quantize(Decimal(1), ROUND_HALF_UP)
    sign = "+" if percent > 0 else ""
    return f"{sign}{number_format(percent or 0)}\xa0%"


def in_all_currencies(column: Column, numbers: Numbers) -> str:
    """Format a number in one cell; an amount of money in each of its currencies."""
    if column.currencies is None:
        return column.text(numbers)
    codes = sorted(column.currencies(numbers))
    amounts = [f"{column.in_currency(code).text(numbers)}\xa0{code}" for code in codes]
    return ", ".join(amounts) or "–"


def header(columns: Iterable[Column]) -> list[str]:
    return [str(column.label) for column in columns]


def values(columns: Iterable[Column], row: Any) -> list[Any]:
    return [column.value(row) for column in columns]


def texts(columns: Iterable[Column], row: Any) -> list[str]:
    return [column.text(row) for column in columns]


def over_time(interval: Interval, result: ReportResult) -> list[tuple[str, list[str]]]:
    """Return the rows of a report over time: the day, week or month, and its numbers."""
    columns = report_columns(result.total)
    return [
        (interval_label(interval, start), texts(columns, numbers))
        for (start, _key), numbers in result.rows.items()
        if start
    ]


def totals(total: Numbers, before: Numbers | None = None) -> list[list[tuple[str, str, str]]]:
    """
    Return headings and numbers: those without a currency, then those of each.

    The third text is the change since ``before``, the total of the period before.
    """
    return [
        [
            (
                str(column.label),
                column.text(total),
                "" if before is None else change(column.value(total), column.value(before)),
            )
            for column in group
        ]
        for _currency, group in groupby(report_columns(total), key=attrgetter("currency"))
    ]


def percentage(rate: Decimal | None) -> str:
    """Format a rate, such as the conversion rate, in percent; a dash for ``None``."""
    if rate is None:
        return "-"
    return f"{number_format((rate * 100).quantize(_PERCENT, ROUND_HALF_UP), 2)}\xa0%"


def interval_label(interval: Interval, start: date) -> str:
    """Format the day, week or month that begins on ``start``."""
    if interval is Interval.MONTH:
        return date_format(start, "YEAR_MONTH_FORMAT")
    first = date_format(start, "SHORT_DATE_FORMAT")
    if interval is Interval.DAY:
        return first
    return f"{first} – {date_format(start + timedelta(days=6), 'SHORT_DATE_FORMAT')}"
