"""The payout of a conversion: calculated once, by the subscription's rule, and stored with it."""

from __future__ import annotations

from decimal import Decimal, localcontext

from django.utils.translation import gettext_noop

from affiliations.amounts import EXACT, TOO_MUCH, Money, parse, rounded
from affiliations.models import Conversion, Subscription

Type = Subscription.PayoutType

# Why a payout needs review: stored in English, shown in the reader's language.
NO_AMOUNT = gettext_noop(
    "The amount is missing, zero or invalid, so the percentage cannot be calculated."
)
NO_RULE = gettext_noop("The payout of the subscription is incomplete or invalid.")
FAILED = gettext_noop("The function that calculates the payout failed.")
NOT_A_DECIMAL = gettext_noop("The calculated payout is not a Decimal.")
NOT_A_PAIR = gettext_noop("The calculated payout is not a pair of a Decimal and a currency.")
NOT_FINITE = gettext_noop("The calculated payout is not a number, or too large.")
NEGATIVE = gettext_noop("The calculated payout is negative.")
UNKNOWN_CURRENCY = gettext_noop("The currency of the calculated payout is unknown.")
NO_CURRENCY = gettext_noop("The calculated payout has no currency, and neither has the order.")
NOT_ADJUSTED = gettext_noop(
    "The order is worth less now. Its payout is in another currency and was not adjusted."
)


def payout(rule: Subscription, order: Money) -> Money:
    """
    Calculate the payout of an order.

    A percentage is calculated from the amount, and paid in its currency. The payout is rounded half
    up to the smallest unit of its currency.
    """
    if rule.payout_type == Type.NONE:
        return Money()
    if rule.payout_value is None or rule.payout_mistakes():
        return Money(problem=NO_RULE)
    if rule.payout_type == Type.FIXED:
        fixed = rounded(rule.payout_value, rule.payout_currency)
        return Money(fixed, rule.payout_currency) if fixed else Money(problem=NO_RULE)
    if not order.amount or order.problem:
        return Money(problem=order.problem or NO_AMOUNT)
    with localcontext(EXACT):
        share = order.amount * rule.payout_value / 100
    return Money(rounded(share, order.currency), order.currency)


def calculated(returned: object, currency: str) -> Money | None:
    """
    Read what ``AFFILIATE_PAYOUT`` has returned for an order in a currency.

    Returns:
        The payout, rounded half up to the smallest unit, or a ``Money`` with a ``problem``;
        ``None`` if the function leaves the payout to the subscription.
    """
    if returned is None:
        return None
    no_currency, value = NO_CURRENCY, returned
    if isinstance(returned, tuple):
        if len(returned) != 2 or not isinstance(returned[1], str):
            return Money(problem=NOT_A_PAIR)
        no_currency, value = UNKNOWN_CURRENCY, returned[0]
        currency = parse(None, returned[1]).currency
    if isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    if not isinstance(value, Decimal):
        return Money(problem=NOT_A_DECIMAL)
    if not value.is_finite() or value.copy_abs() >= TOO_MUCH:
        return Money(problem=NOT_FINITE)
    if value < 0:
        return Money(problem=NEGATIVE)
    if not currency:
        return Money(problem=no_currency)
    payout = rounded(value.copy_abs(), currency)  # no minus before a zero
    return Money(problem=NOT_FINITE) if payout >= TOO_MUCH else Money(payout, currency)


def by_frozen_rule(conversion: Conversion, order: Money) -> Money:
    """
    Return what a conversion pays for another amount of its order, whatever its subscription says.

    A payout that this site has calculated changes in proportion to the amount.
    """
    if not conversion.is_custom:
        return payout(_frozen_rule(conversion), order)
    paid = conversion.payout
    if paid is not None and order.amount is not None and conversion.amount:
        with localcontext(EXACT):
            share = paid * order.amount / conversion.amount
        paid = rounded(share, conversion.payout_currency)
    return Money(paid, conversion.payout_currency)


def _frozen_rule(conversion: Conversion) -> Subscription:
    """Return the rule that a conversion was credited with, whatever its subscription says now."""
    is_fixed = conversion.payout_type == Type.FIXED
    return Subscription(
        payout_type=conversion.payout_type,
        payout_value=conversion.payout_value,
        payout_currency=conversion.payout_currency if is_fixed else "",
    )
