"""The payout of a conversion: calculated once, by the subscription's rule, and stored with it."""

from __future__ import annotations

from decimal import localcontext

from django.utils.translation import gettext_noop

from affiliations.amounts import EXACT, Money, rounded
from affiliations.models import Conversion, Subscription

Type = Subscription.PayoutType

# Why a payout needs review: stored in English, shown in the reader's language.
NO_AMOUNT = gettext_noop(
    "The amount is missing, zero or invalid, so the percentage cannot be calculated."
)
NO_RULE = gettext_noop("The payout of the subscription is incomplete or invalid.")


def payout(rule: Subscription, order: Money) -> Money:
    """
    Calculate the payout of an order.

    A percentage is of the amount and in its currency. The payout is rounded half up to the smallest
    unit.
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


def frozen_rule(conversion: Conversion) -> Subscription:
    """Return the rule that a conversion was credited with, whatever its subscription says now."""
    is_fixed = conversion.payout_type == Type.FIXED
    return Subscription(
        payout_type=conversion.payout_type,
        payout_value=conversion.payout_value,
        payout_currency=conversion.payout_currency if is_fixed else "",
    )
