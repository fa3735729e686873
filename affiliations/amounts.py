"""Amounts of money: as they are kept, and as people read them, with decimals and the currency."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Context, Decimal

from babel.numbers import get_currency_precision
from django.utils.formats import number_format

#: Finer than this no money is kept, and none is written.
_FINEST = Decimal("0.0001")
#: Enough for any amount, whatever the host's own context is.
_EXACT = Context(prec=50)


def kept(value: Decimal) -> Decimal:
    """Bring an amount to the decimals that the columns keep: SQLite sums up floats."""
    return value.quantize(_FINEST, ROUND_HALF_UP, _EXACT)


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
    written = (money(kept(sums[name]), name) for name in sorted(sums))
    return ", ".join(written) or "-"
