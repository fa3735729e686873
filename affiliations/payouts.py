"""
What a conversion earns: reckoned once, by the subscription's rule, and frozen with it.

Money is a ``Decimal`` everywhere. Which currencies there are, and how many decimals each has, is
known by Babel, which has it from Unicode's CLDR.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, DecimalException, localcontext

from babel.numbers import get_currency_precision, is_currency
from django.utils.translation import gettext_noop

from affiliations.models import Subscription

Type = Subscription.PayoutType

# Why somebody is to look at a conversion: kept in English, shown in the reader's language.
NOT_AN_AMOUNT = gettext_noop("What was given as the amount is not one.")
NEGATIVE = gettext_noop("The amount is negative.")
NO_CURRENCY = gettext_noop("The amount has no currency, or an unknown one.")
NO_AMOUNT = gettext_noop("There is no amount to take a percentage of.")
NO_RULE = gettext_noop("The subscription does not say properly what it pays.")

#: What the column keeps of an amount.
_SMALLEST = Decimal("0.0001")
#: A digit less than the column holds: SQLite rounds up the sixteenth, and then cannot read the row.
_TOO_MUCH = 10**14
#: Enough for any product of an amount and a percentage, whatever the host's own context is.
_EXACT = Context(prec=50, rounding=ROUND_HALF_UP)


@dataclass(frozen=True)
class Money:
    """An amount in a currency, as far as they are known, and what is wrong with them."""

    amount: Decimal | None = None
    currency: str = ""
    #: One of the sentences above; empty where nothing is wrong.
    problem: str = ""


def money(amount: object, currency: str) -> Money:
    """
    Read what the host states of an amount.

    ``amount`` is a ``Decimal`` or what makes one; a float is read as it is written, ``0.1`` as one
    tenth. ``currency`` is a code of ISO 4217. What no commission can be reckoned on is a
    ``problem``: what is no number or too large a one, and is left out; a negative one; one without
    a known currency.
    """
    code = currency.strip().upper()
    known = code if is_currency(code) else ""
    if amount is None:
        return Money(currency=known)
    try:
        value = Decimal(str(amount), _EXACT).quantize(_SMALLEST, context=_EXACT)
    except DecimalException:
        return Money(currency=known, problem=NOT_AN_AMOUNT)
    if not value.is_finite() or value.copy_abs() >= _TOO_MUCH:
        return Money(currency=known, problem=NOT_AN_AMOUNT)
    if value < 0:
        return Money(value, known, NEGATIVE)
    return Money(value.copy_abs(), known, "" if known else NO_CURRENCY)  # no minus before a zero


def payout(rule: Subscription, order: Money) -> Money:
    """
    Reckon what a subscription pays for what was ordered.

    A percentage is of the amount and in its currency. Rounded half up to the smallest unit of the
    currency.
    """
    if rule.payout_type == Type.NONE:
        return Money()
    if rule.payout_value is None or rule.payout_mistakes():
        return Money(problem=NO_RULE)
    if rule.payout_type == Type.FIXED:
        return Money(rule.payout_value, rule.payout_currency)
    if order.amount is None or order.problem:
        return Money(problem=order.problem or NO_AMOUNT)
    with localcontext(_EXACT):
        share = order.amount * rule.payout_value / 100
    return Money(rounded(share, order.currency), order.currency)


def rounded(value: Decimal, currency: str) -> Decimal:
    """Round half up to the smallest unit of ``currency``: two decimals of EUR, none of JPY."""
    smallest = Decimal(1).scaleb(-get_currency_precision(currency))
    return value.quantize(smallest, ROUND_HALF_UP, _EXACT)
