"""The unpaid balances of partners, and the rows that they consist of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db.models import Count, Q, QuerySet, Sum, TextChoices
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.amounts import kept
from affiliations.models import Adjustment, Conversion, Partner, Settlement

CutOff = Settlement.CutOff

#: What a list of balances reads of a partner.
_OF_PARTNERS = ("uid", "name", "stopped_on", "minimum_payout", "minimum_payout_currency")


@dataclass(frozen=True)
class Balance:
    """
    What is unpaid for one partner in one currency. A balance without lines is false.

    Args:
        conversion_count: The number of conversions.
        earned: The sum of their payouts.
        adjustment_count: The number of adjustments.
        adjusted: The sum of the adjustments; below zero if more was taken back than added.
    """

    conversion_count: int = 0
    earned: Decimal = Decimal(0)
    adjustment_count: int = 0
    adjusted: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        """What the partner is owed; below zero it is what the partner owes."""
        return self.earned + self.adjusted

    @property
    def line_count(self) -> int:
        return self.conversion_count + self.adjustment_count

    def __bool__(self) -> bool:
        return bool(self.line_count)


class LeftOut(TextChoices):
    """Why ``settle_all()`` has created no statement for a balance."""

    STOPPED = "stopped", _("stopped for fraud")
    OWES = "owes", _("the partner owes you")
    NOTHING = "nothing", _("nothing to pay")
    BELOW_MINIMUM = "below_minimum", _("below the minimum payout")
    NOT_CHOSEN = "not_chosen", _("not selected")
    CHANGED = "changed", _("changed meanwhile")


class Unpaid(NamedTuple):
    """The balance of a partner in one currency."""

    partner: Partner
    currency: str
    balance: Balance

    @property
    def key(self) -> tuple[int, str]:
        """The primary key of the partner, and the currency."""
        return self.partner.pk, self.currency

    @property
    def minimum(self) -> Decimal | None:
        """The partner's minimum payout in this currency; ``None`` if there is none."""
        is_same = self.partner.minimum_payout_currency == self.currency
        return self.partner.minimum_payout if is_same else None

    @property
    def left_out(self) -> LeftOut | None:
        """Why the balance is left out by default; ``None`` if it is not."""
        if self.partner.is_stopped:
            return LeftOut.STOPPED
        if self.balance.total <= 0:
            return LeftOut.OWES if self.balance.total else LeftOut.NOTHING
        is_below = self.minimum is not None and self.balance.total < self.minimum
        return LeftOut.BELOW_MINIMUM if is_below else None


def balances(
    before: datetime,
    partner: Partner | None = None,
    *,
    held_back: bool | None = False,
    cut_off: CutOff = CutOff.APPROVED,
) -> dict[tuple[int, str], Balance]:
    """
    Return what could be settled, for all partners or for one, in two queries.

    Args:
        before: As for ``settle()``.
        partner: Only this partner.
        held_back: ``True`` returns the balances of partners who were stopped for fraud, which are
            not settled; ``None`` returns all balances.
        cut_off: As for ``settle()``.

    Returns:
        The balances, by the partner's primary key and the currency.
    """
    of_partner = {} if partner is None else {"partner": partner}
    # Not Count("pk"): the index that has all other columns does not have the primary key.
    sums = {"number": Count("*"), "total": Sum("payout")}
    conversions, adjustments = unsettled(before, cut_off, held_back)
    conversions = conversions.filter(**of_partner).order_by()
    adjustments = adjustments.filter(**of_partner).order_by()
    found = {
        (key, currency): Balance(conversion_count=number, earned=kept(total))
        for key, currency, number, total in conversions.values_list(
            "partner", "payout_currency"
        ).annotate(**sums)
    }
    for key, currency, number, total in adjustments.values_list("partner", "currency").annotate(
        **sums
    ):
        so_far = found.get((key, currency), Balance())
        found[key, currency] = replace(so_far, adjustment_count=number, adjusted=kept(total))
    return found


def balance(
    partner: Partner, currency: str, before: datetime, cut_off: CutOff = CutOff.APPROVED
) -> Balance:
    """Return a partner's balance in one currency, even if it is held back."""
    found = balances(before, partner, held_back=partner.is_stopped, cut_off=cut_off)
    return found.get((partner.pk, currency), Balance())


def unpaid_balances(
    before: datetime, partner: Partner | None = None, *, cut_off: CutOff = CutOff.APPROVED
) -> list[Unpaid]:
    """Return all balances by partner, those of stopped partners too, in three queries."""
    found = balances(before, partner, held_back=None, cut_off=cut_off)
    partners = partners_by_key({key for key, _currency in found})
    rows = [Unpaid(partners[key], currency, each) for (key, currency), each in found.items()]
    return sorted(rows, key=lambda row: (row.partner.name, row.key))


def partners_by_key(keys: Iterable[int]) -> dict[int, Partner]:
    return Partner.objects.only(*_OF_PARTNERS).in_bulk(keys)


def is_in_time(before: datetime, cut_off: CutOff) -> dict[str, Any]:
    """Return the filter arguments of conversions before the cut-off."""
    if cut_off == CutOff.ORDERED:
        return {"decided_on__isnull": False, "created_on__lt": before}
    return {"decided_on__lt": before}


def _is_unsettled(before: datetime, cut_off: CutOff, path: str = "") -> Q:
    conditions = {
        "settlement": None,
        "status": Conversion.Status.APPROVED,
        "payout__isnull": False,
        "is_test": False,
    } | is_in_time(before, cut_off)
    return Q(**{f"{path}{name}": value for name, value in conditions.items()})


def _of_stopped(held_back: bool | None) -> dict[str, bool]:
    return {} if held_back is None else {"partner__stopped_on__isnull": not held_back}


def unsettled(
    before: datetime, cut_off: CutOff, held_back: bool | None = False
) -> tuple[QuerySet[Conversion], QuerySet[Adjustment]]:
    """Return the conversions and the adjustments that can be settled."""
    conversions = unsettled_conversions(before, cut_off, held_back)
    return conversions, unsettled_adjustments(before, cut_off, held_back)


def unsettled_conversions(
    before: datetime, cut_off: CutOff, held_back: bool | None = False
) -> QuerySet[Conversion]:
    # A replica may still show a conversion as unsettled.
    conversions = Conversion.objects.using(db.write_alias())
    return conversions.filter(_is_unsettled(before, cut_off), **_of_stopped(held_back))


def unsettled_adjustments(
    before: datetime, cut_off: CutOff, held_back: bool | None = False, *, along: Q | None = None
) -> QuerySet[Adjustment]:
    """
    Return the adjustments that can be settled.

    If its conversion is settled now, which ``along`` matches, an adjustment is included whenever it
    was made. If the conversion was settled earlier, the adjustment is included unless it changes no
    payout or the conversion is pending again. By ``cut_off``, it or the order must then be older
    than ``before``.
    """
    moment = "conversion__created_on" if cut_off == CutOff.ORDERED else "created_on"
    earlier = Q(conversion__settlement__isnull=False, **{f"{moment}__lt": before}) & ~Q(
        Q(conversion__status=Conversion.Status.PENDING) | Q(payout=0)
    )
    along = along or _is_unsettled(before, cut_off, "conversion__")
    adjustments = Adjustment.objects.using(db.write_alias())
    return adjustments.filter(earlier | along, settlement=None, **_of_stopped(held_back))
