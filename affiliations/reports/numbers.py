"""The numbers of a report, and what they are grouped by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db.models import TextChoices
from django.utils.formats import number_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.amounts import kept
from affiliations.models import Conversion
from affiliations.models.visitor import SUB_IDS

Status = Conversion.Status

#: The key of a row: the first day of its interval; and the partner's primary key, the trigger's
#: name, the sub id or ``Others``. Each is ``None`` if the report has no interval or no dimension.
Key = tuple[date | None, Any]


class Dimension(TextChoices):
    """The grouping: ``PARTNER``, ``GROUP``, ``TRIGGER``, ``SOURCE``, or ``SUB1`` to ``SUB5``."""

    PARTNER = "partner", _("partner")
    #: The current group of the partner.
    GROUP = "group", _("group")
    TRIGGER = "trigger", _("trigger")
    #: The ``source`` of the visitor.
    SOURCE = "source", _("source")
    SUB1 = "sub1", _("sub id 1")
    SUB2 = "sub2", _("sub id 2")
    SUB3 = "sub3", _("sub id 3")
    SUB4 = "sub4", _("sub id 4")
    SUB5 = "sub5", _("sub id 5")

    @property
    def is_sub_id(self) -> bool:
        return self.value in SUB_IDS

    @property
    def is_of_visitor(self) -> bool:
        """Whether the daily totals have rows by it; a report can use only one such dimension."""
        return self.is_sub_id or self is Dimension.SOURCE


@dataclass(frozen=True)
class Others:
    """The key of the row with the numbers of all partners, triggers or sub ids beyond the limit."""

    count: int

    def __str__(self) -> str:
        return gettext("All others (%(count)s)") % {"count": number_format(self.count)}


@dataclass
class Numbers:
    """The numbers of one row of a report."""

    #: The clicks that were counted.
    clicks: int = 0
    #: The conversions that wait for a decision.
    pending: int = 0
    #: The conversions that are approved.
    approved: int = 0
    #: The conversions that are rejected.
    rejected: int = 0
    #: The payouts of the approved conversions after adjustments, by currency.
    payouts: dict[str, Decimal] = field(default_factory=dict)
    #: The payouts of the pending conversions after adjustments, by currency.
    pending_payouts: dict[str, Decimal] = field(default_factory=dict)
    #: The order values of the conversions that are not rejected, after adjustments, by the currency
    #: of the order, which may differ from that of the payout.
    revenue: dict[str, Decimal] = field(default_factory=dict)
    #: How many of these conversions have an order value, by its currency.
    orders: dict[str, int] = field(default_factory=dict)
    #: How many of these conversions pay no percentage of the order value.
    flat_orders: int = 0
    #: The conversions and the payouts of visitors who came by a code on an order, and so without a
    #: click. The rates by click leave them out.
    conversions_without_click: int = 0
    payouts_without_click: dict[str, Decimal] = field(default_factory=dict)
    #: The partner's last click, whatever the period; set by ``by_partner()`` only.
    last_click: datetime | None = None

    @property
    def conversions(self) -> int:
        """The pending and the approved conversions together."""
        return self.pending + self.approved

    @property
    def clicked_conversions(self) -> int:
        """The conversions of visitors who came by a click."""
        return self.conversions - self.conversions_without_click

    @property
    def clicked_payouts(self) -> dict[str, Decimal]:
        """The payouts of the conversions of visitors who came by a click, by currency."""
        without = self.payouts_without_click
        return {
            currency: payout - without.get(currency, 0) for currency, payout in self.payouts.items()
        }

    @property
    def rate(self) -> Decimal | None:
        """Conversions by a click, divided by clicks (CR); ``None`` without a click."""
        return Decimal(self.clicked_conversions) / self.clicks if self.clicks else None

    @property
    def per_click(self) -> dict[str, Decimal]:
        """Payouts by a click, divided by clicks (EPC), by currency; empty without a click."""
        if not self.clicks:
            return {}
        payouts = self.clicked_payouts
        return {currency: payout / self.clicks for currency, payout in payouts.items()}

    @property
    def average_order(self) -> dict[str, Decimal]:
        """
        Revenue divided by the conversions with an order value in that currency (AOV), by currency.

        Registrations and other conversions without an order value do not lower the average.
        """
        return {currency: self.revenue[currency] / count for currency, count in self.orders.items()}

    def add(self, sums: Sums) -> None:
        setattr(self, sums.status, getattr(self, sums.status) + sums.conversions)
        if sums.status == Status.REJECTED:
            return
        if not sums.has_click:
            self.conversions_without_click += sums.conversions
            if sums.status == Status.APPROVED:
                _add(self.payouts_without_click, sums.currency, sums.payout)
        payouts = self.pending_payouts if sums.status == Status.PENDING else self.payouts
        _add(payouts, sums.currency, sums.payout)
        _add(self.revenue, sums.order_currency, sums.order_value)
        if sums.orders and (code := sums.order_currency):
            self.orders[code] = self.orders.get(code, 0) + sums.orders
            self.flat_orders += sums.flat_orders


class Sums(NamedTuple):
    """What the database has added up: of conversions, or of their adjustments."""

    has_click: bool
    status: str
    #: The currency of the payouts.
    currency: str
    order_currency: str
    payout: Decimal | None
    order_value: Decimal | None
    #: The number of the conversions, and of those with an order value; none for adjustments.
    conversions: int = 0
    orders: int = 0
    #: How many of the orders pay no percentage of their value.
    flat_orders: int = 0


def _add(sums: dict[str, Decimal], currency: str, amount: Decimal | None) -> None:
    """Add an amount, unless it has no currency."""
    if amount is not None and currency:
        sums[currency] = sums.get(currency, Decimal(0)) + kept(amount)


@dataclass
class Arrivals:
    """
    The clicks that arrived: those that were counted, and those that were filtered.

    A click that was removed later is a filtered one. Clicks on test links are neither.
    """

    #: The clicks that were counted, as in ``Numbers.clicks``.
    counted: int = 0
    #: The number of filtered clicks by reason, a code of ``affiliations.exceptions.Reason``.
    filtered: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.counted + self.filtered.total()

    @property
    def reasons(self) -> list[str]:
        """The reasons of filtered clicks, the most frequent first."""
        return [reason for reason, _count in self.filtered.most_common()]

    def __add__(self, other: Arrivals) -> Arrivals:
        return Arrivals(self.counted + other.counted, self.filtered + other.filtered)


@dataclass
class ReportResult:
    """The rows of a report and their total."""

    #: The numbers of each row, by the key that ``report()`` describes.
    rows: dict[Key, Numbers]
    #: The numbers of all rows together.
    total: Numbers

    @property
    def currencies(self) -> list[str]:
        """The currencies of the payouts, the pending ones too, and of the orders."""
        total = self.total
        return sorted({*total.payouts, *total.pending_payouts, *total.revenue})

    @property
    def has_data(self) -> bool:
        return self.total != Numbers()
