"""
Parse, round and format amounts of money.

Money is a ``Decimal`` everywhere. The currencies and their decimals come from Babel, which has them
from Unicode's CLDR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, DecimalException

from babel.numbers import get_currency_precision
from babel.numbers import is_currency as has_currency_code
from django.utils.formats import number_format
from django.utils.translation import gettext, gettext_noop

# Why an amount needs review: stored in English, shown in the reader's language.
NOT_AN_AMOUNT = gettext_noop("The amount is not a valid number.")
NEGATIVE = gettext_noop("The amount is negative.")
AMBIGUOUS = gettext_noop(
    "The amount can be read in two ways. Enter it without a thousands separator, and with two or "
    "four decimals."
)
NO_CURRENCY = gettext_noop("The currency of the amount is missing or unknown.")

#: The currencies of several countries. The other codes of ISO 4217 that begin with X are metals,
#: units of account, tests and "no currency".
_SHARED_CURRENCIES = {"XAF", "XCD", "XCG", "XOF", "XPF"}
#: The smallest unit that the columns hold.
_FINEST = Decimal("0.0001")
#: The limit of amounts has one digit less than the columns could hold: SQLite rounds the sixteenth
#: digit up, and Django then cannot read the row.
TOO_MUCH = 10**14
#: Exact for any product of an amount and a percentage, whatever decimal context the host has set.
EXACT = Context(prec=50, rounding=ROUND_HALF_UP)

#: A number with a dot or a comma before its decimals.
_PLAIN = re.compile(r"[0-9]+(?:[.,][0-9]+)?")
#: A number with thousands separators.
_GROUPED = re.compile(
    r"[0-9]{1,3}([.,'’ \u00a0\u2009\u202f])[0-9]{3}(?:\1[0-9]{3})*(?:(?!\1)[.,][0-9]+)?"
)


@dataclass(frozen=True)
class Money:
    """A parsed amount and its currency, with the problem, if there is one."""

    amount: Decimal | None = None
    currency: str = ""
    #: Why no commission can be calculated from the amount; empty if it can.
    problem: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether the amount is missing or zero, as for an order whose total is saved later."""
        return not self.amount and self.problem != NOT_AN_AMOUNT


def is_currency(code: str) -> bool:
    """Tell whether a code of ISO 4217 is a currency. Those of metals and tests are not."""
    return has_currency_code(code) and (code[0] != "X" or code in _SHARED_CURRENCIES)


def parse(amount: object, currency: str) -> Money:
    """
    Parse an amount from the host or from staff.

    ``amount`` is a ``Decimal`` or a value that converts to one; a float is read as it is written,
    ``0.1`` as one tenth. ``currency`` is a code of ISO 4217. The result has a ``problem`` if the
    amount is negative or the currency unknown. It has a ``problem`` and no ``amount`` if the amount
    is not a number or too large.
    """
    code = currency.strip().upper()
    known = code if is_currency(code) else ""
    if amount is None:
        return Money(currency=known)
    try:
        value = kept(Decimal(str(amount), EXACT))
    except DecimalException:
        return Money(currency=known, problem=NOT_AN_AMOUNT)
    if not value.is_finite() or value.copy_abs() >= TOO_MUCH:
        return Money(currency=known, problem=NOT_AN_AMOUNT)
    if value < 0:
        return Money(value, known, NEGATIVE)
    return Money(value.copy_abs(), known, "" if known else NO_CURRENCY)  # no minus before a zero


def parse_typed(text: str, currency: str = "") -> Money:
    """
    Parse an amount as people write it: with a dot or a comma, and with thousands separators.

    ``1.234`` and ``1,234`` can mean two amounts; the ``problem`` says so.
    """
    is_plain, grouped = _PLAIN.fullmatch(text), _GROUPED.fullmatch(text)
    if is_plain and grouped and text[0] != "0":
        return Money(problem=AMBIGUOUS)
    if not is_plain and not grouped:
        return Money(problem=NOT_AN_AMOUNT)
    if grouped and not is_plain:
        text = text.replace(grouped[1], "")
    return parse(text.replace(",", "."), currency)


def kept(value: Decimal) -> Decimal:
    """Round an amount to the decimals of the columns. Sums need it, as SQLite adds up floats."""
    return value.quantize(_FINEST, context=EXACT)


def rounded(value: Decimal, currency: str) -> Decimal:
    """Round half up to the smallest unit of ``currency``: two decimals of EUR, none of JPY."""
    return value.quantize(smallest_unit(currency), context=EXACT)


def decimals_mistake(value: Decimal, currency: str) -> str:
    """Return what is wrong with an amount that has more decimals than its currency; or empty."""
    if rounded(value, currency) == value:
        return ""
    decimals = {"decimals": get_currency_precision(currency), "currency": currency}
    return gettext("Enter at most %(decimals)s decimals for %(currency)s.") % decimals


def smallest_unit(currency: str) -> Decimal:
    return Decimal(1).scaleb(-get_currency_precision(currency))


def money(value: Decimal, currency: str) -> str:
    """Format an amount for people, with its currency; no-break spaces keep it on one line."""
    return f"{figure(value, currency)}\xa0{currency}".rstrip()


def figure(value: Decimal, currency: str) -> str:
    """
    Format an amount below a heading that names its currency.

    Every amount of a currency is shown with the same number of decimals: two of EUR, none of JPY.
    """
    shown = rounded(value, currency) or 0  # no minus before a zero
    return number_format(shown, get_currency_precision(currency)).replace(" ", "\xa0")


def small_figure(value: Decimal, currency: str) -> str:
    """Format an amount as ``figure()`` does, but with up to four decimals if it were zero."""
    small = kept(value)
    if small and not rounded(value, currency):
        return number_format(small.normalize())
    return figure(value, currency)


def plain(value: Decimal) -> str:
    """Format an amount for machines: a dot, at least two decimals, never localized."""
    return f"{value:.{max(_decimals(value), 2)}f}"


def _decimals(value: Decimal) -> int:
    """Return the number of decimals without trailing zeros; negative for multiples of ten."""
    return -int(value.normalize().as_tuple().exponent)


def by_currency(sums: Mapping[str, Decimal]) -> str:
    """Format sums by currency; a dash if there are none."""
    return ", ".join(money(kept(sums[name]), name) for name in sorted(sums)) or "-"
