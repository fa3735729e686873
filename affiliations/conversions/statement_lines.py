"""The lines and the columns of payout statements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.utils.translation import gettext, pgettext
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.amounts import money
from affiliations.conversions.unpaid import CutOff, unsettled
from affiliations.models import Adjustment, Conversion, Partner, Settlement, Visitor
from affiliations.reports import export
from affiliations.reports.columns import Column, as_day


@dataclass(frozen=True)
class StatementLine:
    """One line of a statement: a conversion, or an adjustment of one."""

    #: The conversion, or the one that is adjusted.
    conversion: Conversion
    #: The adjustment, or ``None`` if the line is a conversion.
    adjustment: Adjustment | None
    #: The partner's own id of the click.
    click_id: str

    @property
    def created_on(self) -> datetime:
        return (self.adjustment or self.conversion).created_on

    @property
    def description(self) -> str:
        if self.adjustment is None:
            return pgettext("line of a statement", "Conversion")
        return gettext("Adjustment: %(kind)s") % {"kind": self.adjustment.get_kind_display()}

    @property
    def amount(self) -> Decimal | None:
        return (self.adjustment or self.conversion).amount

    @property
    def currency(self) -> str:
        """The currency of the order."""
        return self.conversion.currency

    @property
    def payout(self) -> Decimal:
        return (self.adjustment or self.conversion).payout or Decimal(0)

    @property
    def payout_currency(self) -> str:
        """The currency of the settlement."""
        return self.conversion.payout_currency

    @property
    def reason(self) -> str:
        return self.adjustment.reason_display if self.adjustment else ""


#: The columns of a statement, for staff and for the partner.
STATEMENT_COLUMNS = [
    Column("created_on", _("Date"), attrgetter("created_on"), as_day),
    Column("description", _("Description"), attrgetter("description")),
    Column("trigger", _("Trigger"), attrgetter("conversion.trigger")),
    Column("reference", _("Reference"), attrgetter("conversion.reference")),
    Column("click_id", _("Click id"), attrgetter("click_id")),
    Column(
        "amount",
        _("Amount"),
        attrgetter("amount"),
        lambda amount, line: "" if amount is None else money(amount, line.currency),
        is_number=True,
    ),
    Column("currency", _("Currency"), attrgetter("currency")),
    Column(
        "payout",
        _("Payout"),
        attrgetter("payout"),
        lambda payout, line: money(payout, line.payout_currency),
        is_number=True,
    ),
    Column("payout_currency", _("Payout currency"), attrgetter("payout_currency")),
    Column("reason", _("Reason"), attrgetter("reason")),
]


def statement(settlement: Settlement) -> Iterator[StatementLine]:
    """
    Yield the lines of a settlement: its conversions, then its adjustments, the oldest first.

    They are read a few at a time, so that a long statement takes no more memory than a short one.
    """
    alias = db.write_alias()
    return _lines(settlement.conversions.using(alias), settlement.adjustments.using(alias))


def file_name(settlement: Settlement) -> str:
    """
    Return the name of a file with the lines, such as ``statement-2026-000012-moox6esi``.

    Several statements may have the same reference, so the name has the number as well.
    """
    word = pgettext("name of a file", "statement")
    reference, uid = settlement.reference, settlement.partner.uid
    return export.file_name(word, settlement.serial_number, reference, uid)


def draft(
    partner: Partner, currency: str, before: datetime, cut_off: CutOff = CutOff.APPROVED
) -> Iterator[StatementLine]:
    """Yield the lines that the statement would have if ``settle()`` were called now."""
    conversions, adjustments = unsettled(before, cut_off, held_back=partner.is_stopped)
    return _lines(
        conversions.filter(partner=partner, payout_currency=currency),
        adjustments.filter(partner=partner, currency=currency),
    )


def _lines(
    conversions: QuerySet[Conversion], adjustments: QuerySet[Adjustment]
) -> Iterator[StatementLine]:
    earned: QuerySet[Any] = conversions.annotate(click_id=_click_id("visitor"))
    for conversion in db.by_key(earned):
        yield StatementLine(conversion, None, conversion.click_id)
    adjusted: QuerySet[Any] = adjustments.annotate(click_id=_click_id("conversion__visitor"))
    for adjustment in db.by_key(adjusted.select_related("conversion")):
        yield StatementLine(adjustment.conversion, adjustment, adjustment.click_id)


def _click_id(visitor: str) -> Subquery:
    """
    Read the click id of a row's visitor.

    Not by a join: if a partner has few visitors, MariaDB would read these first, and sort all
    remaining rows again for each batch.
    """
    return Subquery(Visitor.objects.filter(pk=OuterRef(visitor)).values("click_id"))
