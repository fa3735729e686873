"""Amounts of money as people read them: with the decimals of the currency, and the currency."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from babel.numbers import get_currency_precision
from django.utils.formats import number_format

#: Finer than this no money is kept, and none is written.
_FINEST = Decimal("0.0001")


def money(value: Decimal, currency: str) -> str:
    """Write an amount with the decimals of its currency, or with more where it has more."""
    exponent = value.normalize().as_tuple().exponent
    places = max(get_currency_precision(currency), -int(exponent))
    return f"{number_format(value, places)} {currency}".rstrip()


def unbroken(value: Decimal, currency: str) -> str:
    """Write an amount that no list breaks in two."""
    return money(value, currency).replace(" ", "\xa0")


def by_currency(sums: Mapping[str, Decimal]) -> str:
    """Write sums of money, each in its currency; a dash where there is none."""
    written = (money(sums[name].quantize(_FINEST, ROUND_HALF_UP), name) for name in sorted(sums))
    return ", ".join(written) or "-"
