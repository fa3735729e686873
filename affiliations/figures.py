"""
The numbers of a report as somebody reads them: what each is called, and how it is written.

Each list is in one order: counts, the conversion rate, and of each currency payout and EPC.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext as _

from affiliations.amounts import by_currency, money
from affiliations.reports import Numbers

#: How finely rates, in percent, and earnings per click are told.
_PERCENT, _PER_CLICK = Decimal("0.01"), Decimal("0.0001")


def header(currencies: list[str]) -> list[str]:
    """Return what the numbers are called."""
    counts = [_("Clicks"), _("Conversions"), _("Pending"), _("Rejected"), _("CR, %")]
    money_ = [f"{what}, {code}" for code in currencies for what in (_("Payout"), _("EPC"))]
    return counts + money_


def values(numbers: Numbers, currencies: list[str]) -> list[Any]:
    """Return what belongs below the header; ``None`` where no clicks are to be divided by."""
    counts = [numbers.clicks, numbers.conversions, numbers.pending, numbers.rejected]
    rate = numbers.rate
    per_click = numbers.per_click
    earned: list[Any] = []
    for currency in currencies:
        payout = numbers.payouts.get(currency, Decimal(0))
        each = per_click.get(currency, Decimal(0)) if numbers.clicks else None
        earned += [payout, _rounded(each, _PER_CLICK)]
    return [*counts, _rounded(rate and rate * 100, _PERCENT), *earned]


def cells(numbers: Numbers, currencies: list[str]) -> list[str]:
    """Write them as the reader writes numbers."""
    clicks, conversions, pending, rejected, rate, *earned = values(numbers, currencies)
    written = [number_format(count) for count in (clicks, conversions, pending, rejected)]
    written.append(_decimals(rate, 2))
    for currency, payout, each in zip(currencies, earned[::2], earned[1::2], strict=True):
        written += [money(payout, currency).removesuffix(f" {currency}"), _decimals(each, 4)]
    return written


def named(numbers: Numbers) -> list[tuple[str, str]]:
    """Write them each beside its name: few enough to be read without a table."""
    return [
        (_("clicks"), number_format(numbers.clicks)),
        (_("conversions"), number_format(numbers.conversions)),
        (_("CR"), percentage(numbers.rate)),
        (_("approved payout"), by_currency(numbers.payouts)),
        (_("EPC"), by_currency(numbers.per_click)),
    ]


def percentage(rate: Decimal | None) -> str:
    """Write a rate, such as the conversion rate, in percent; a dash where there is none."""
    return "-" if rate is None else f"{_decimals(_rounded(rate * 100, _PERCENT), 2)}\xa0%"


def _decimals(value: Decimal | None, places: int) -> str:
    return "–" if value is None else number_format(value, places)


def _rounded(value: Decimal | None, smallest: Decimal) -> Decimal | None:
    return None if value is None else value.quantize(smallest, ROUND_HALF_UP)
