"""
Earning periods: for how long later conversions of a customer are credited.

A period begins with a visitor's first conversion of a trigger that is not rejected. The partner's
subscription, as it is now, says how long the period lasts.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import Q

from affiliations import db
from affiliations.models import Conversion, Subscription, Visitor
from affiliations.models.visitor import VisitorQuerySet

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def find(
    trigger: str, now: datetime, *, visitor: Visitor | None = None, user: User | None = None
) -> Visitor | None:
    """
    Return the visitor whose earning period of a trigger runs, if any.

    If several visitors have one, the period that began first counts: a later click, even one that
    was credited in the meantime, takes no customer away from the first partner. A test comes after
    all others. On a site without earning periods this takes one query.

    Args:
        trigger: The name of the trigger.
        now: The time of the event.
        visitor: The stated visitor.
        user: The stated user: the user of the visitor, or the buyer of one of its conversions.
    """
    visitors = Visitor.objects.using(db.write_alias())
    found = []
    if visitor is not None:
        found.append(visitors.filter(pk=visitor.pk))
    if user is not None and user.pk is not None:
        bought = Conversion.objects.filter(user=user.pk, trigger=trigger)
        # Two queries in one, since each has an index of its own.
        found += [visitors.filter(user=user.pk), visitors.filter(pk__in=bought.values("visitor"))]
    columns = ("is_test", "first_on", "pk", "partner_id")
    parts = [some.with_earning_period(trigger).values_list(*columns) for some in found]
    rows = sorted(parts[0].union(*parts[1:])) if parts else []
    rules: dict[int, Subscription] = {}
    if rows:
        partners = {row[-1] for row in rows}
        subscriptions = Subscription.objects.using(db.write_alias()).filter(partner__in=partners)
        for rule in subscriptions.to_trigger(trigger):
            rules.setdefault(rule.partner_id, rule)  # The oldest one, which is credited.
    for _is_test, first_on, pk, partner_id in rows:
        if partner_id in rules and rules[partner_id].is_earning(first_on, now):
            return visitors.select_related("partner").get(pk=pk)
    return None


def count_changes(before: Subscription, after: Subscription, now: datetime) -> tuple[int, int]:
    """
    Count the customers whose later conversions a change of the earning period affects.

    Args:
        before: The subscription with the earlier values.
        after: The subscription with the new values.
        now: The time at which the change is made.

    Returns:
        How many customers' later conversions are credited only after the change, and how many only
        before it. Customers are visitors with a conversion, except tests and visitors whom staff
        have stopped tracking.
    """
    visitors = Visitor.objects.using(db.write_alias()).filter(
        partner=after.partner_id, partner__active=True, is_test=False, stopped_on=None
    )
    customers = visitors.converted(after.trigger)
    earned, earning = (_is_earning(rule, visitors, now) for rule in (before, after))
    return customers.filter(earning, ~earned).count(), customers.filter(earned, ~earning).count()


def _is_earning(rule: Subscription, visitors: VisitorQuerySet, now: datetime) -> Q:
    """Return the condition by which converted visitors earn under a subscription."""
    if not rule.has_earning_period:
        return Q(pk__in=visitors.open(now).values("pk"))
    if rule.earns_for == Subscription.EarnsFor.ALWAYS:
        return Q(first_on__isnull=False)
    return Q(first_on__gte=rule.earliest_running(now))
