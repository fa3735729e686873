"""
What the partner may see of clicks, conversions and statements: enough to check the payouts.

A row does not name the customer, and it has only the end of a reference. Templates and CSV files
get these rows, never the models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.conversions import statement_lines
from affiliations.dates import Interval, Period
from affiliations.exceptions import Reason
from affiliations.models import Conversion, Partner, Settlement
from affiliations.models.conversion_queries import ConversionQuerySet
from affiliations.reports.columns import Column, arrival_columns, header
from affiliations.reports.numbers import Arrivals, ReportResult
from affiliations.reports.queries import report

#: The number of characters of a reference that are shown, but never more than half of it.
_SHOWN_CHARACTERS = 4

#: Why clicks are filtered, in words for partners. The rules that recognize requests of bots and
#: browsers have one text together: to know the rule would help a partner to avoid it.
_NO_PERSON = _("not opened as a page by a person, but for example by a bot or a link preview")
_FILTERED: dict[str, Any] = {
    **dict.fromkeys((Reason.HEAD, Reason.PREFETCH, Reason.SUBRESOURCE, Reason.BOT), _NO_PERSON),
    Reason.AGENT: _("opened by an AI agent, not by a person"),
    Reason.DUPLICATE_CLICK: _("the same visitor clicked the same link again"),
    Reason.NO_CONSENT: _("the visitor did not agree to tracking"),
    Reason.PARTNER_INACTIVE: _("your tracking link was inactive"),
    Reason.REMOVED: _("removed after a check"),
}
_OTHER_REASONS = _("other reasons")


def shortened(reference: str) -> str:
    """
    Return the end of a reference, which the partner can compare with their own reference.

    Not the start: an e-mail address that is used as a reference begins with a name.
    """
    count = min(_SHOWN_CHARACTERS, len(reference) // 2)
    return reference and f"…{reference[len(reference) - count :]}"


def numbers(partner: Partner, period: Period, interval: Interval) -> ReportResult:
    """
    Return the numbers of a period.

    Revenue is left out if it includes an amount that the partner page does not show.
    """
    result = report(period, interval=interval, partners=[partner])
    if result.total.flat_orders:
        for row in (result.total, *result.rows.values()):
            row.revenue, row.orders = {}, {}
    return result


def _amount(conversion: Conversion) -> Decimal | None:
    return conversion.current_amount if conversion.is_percentage else None


def _reason(conversion: Conversion) -> str:
    """Return why a conversion is pending or was rejected."""
    is_approved = conversion.status == Conversion.Status.APPROVED
    return "" if is_approved else conversion.reason_display


def _adjustment_reasons(conversion: Conversion) -> str:
    adjustments = sorted(conversion.adjustments.all(), key=attrgetter("pk"))
    return " ".join(dict.fromkeys(row.reason_display for row in adjustments))


#: The columns of the partner's conversions, which get their values from a conversion.
CONVERSION_COLUMNS = [
    Column("created_on", _("Date"), attrgetter("created_on")),
    Column("trigger", _("Trigger"), attrgetter("trigger")),
    Column("reference", _("Reference"), lambda conversion: shortened(conversion.reference)),
    Column("click_id", _("Click id"), attrgetter("visitor.click_id")),
    Column("sub1", _("Sub id 1"), attrgetter("visitor.sub1")),
    Column("sub2", _("Sub id 2"), attrgetter("visitor.sub2")),
    Column("sub3", _("Sub id 3"), attrgetter("visitor.sub3")),
    Column("sub4", _("Sub id 4"), attrgetter("visitor.sub4")),
    Column("sub5", _("Sub id 5"), attrgetter("visitor.sub5")),
    Column("amount", _("Amount"), _amount),
    Column("currency", _("Currency"), lambda row: row.currency if row.is_percentage else ""),
    Column("payout", _("Payout"), attrgetter("current_payout")),
    Column("payout_currency", _("Payout currency"), attrgetter("payout_currency")),
    Column("status", _("Status"), lambda conversion: conversion.get_status_display()),
    Column("reason", _("Reason"), _reason),
    Column("adjusted", _("Adjustment"), attrgetter("payout_change")),
    Column("adjustment_reasons", _("Adjustment reason"), _adjustment_reasons),
]


def with_related(rows: ConversionQuerySet) -> ConversionQuerySet:
    return rows.select_related("visitor").with_adjustments()


def conversion_row(conversion: Conversion) -> SimpleNamespace:
    row = _row(CONVERSION_COLUMNS, conversion)
    row.status_code = conversion.status
    row.is_rejected = conversion.status == Conversion.Status.REJECTED
    return row


def all_conversions(rows: ConversionQuerySet) -> Iterator[SimpleNamespace]:
    for conversion in db.by_key(with_related(rows)):
        yield _row(CONVERSION_COLUMNS, conversion)


def statement(settlement: Settlement) -> Iterator[SimpleNamespace]:
    for line in statement_lines.statement(settlement):
        row = _row(statement_lines.STATEMENT_COLUMNS, line)
        row.reference = shortened(row.reference)
        if not line.conversion.is_percentage:
            row.amount, row.currency = None, ""
        row.is_adjustment = line.adjustment is not None
        yield row


def arrivals(found: Arrivals) -> list[tuple[Column, Arrivals]]:
    """Return the rows of a table of arrived clicks: each a column, and the numbers it reads."""
    filtered: Counter[str] = Counter()
    for reason, count in found.filtered.items():
        filtered[str(_FILTERED.get(reason, _OTHER_REASONS))] += count
    grouped = Arrivals(found.counted, filtered)
    return [(column, grouped) for column in arrival_columns(grouped.reasons, str)]


def file(
    columns: Sequence[Column], rows: Iterable[SimpleNamespace]
) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the header and the lines of a CSV file."""
    lines = ([getattr(row, column.name) for column in columns] for row in rows)
    return header(columns), lines


def cells(columns: Iterable[Column], row: SimpleNamespace) -> list[tuple[Column, str]]:
    return [(column, column.format(getattr(row, column.name), row)) for column in columns]


def _row(columns: Iterable[Column], source: object) -> SimpleNamespace:
    return SimpleNamespace(**{column.name: column.value(source) for column in columns})
