"""How the delivery of callbacks is doing, for the host's monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, Min, Q
from django.utils import timezone

from affiliations.models import Callback, Partner, Subscription

DAYS = 7


@dataclass(frozen=True)
class Health:
    """The figures to watch."""

    #: Callbacks that somebody should be sending now.
    due: int
    #: How long the first of them has been due.
    oldest_due: timedelta
    #: Callbacks that have failed for good of late.
    exhausted: int
    #: Subscriptions whose callbacks are held.
    suspended: int


def health(*, days: int = DAYS, partner: Partner | None = None) -> Health:
    """
    Measure how the delivery is doing, with three queries; of one partner, or of all.

    Where nobody sends, ``oldest_due`` grows with the clock; a few seconds are ordinary.
    ``exhausted`` counts the last so many ``days``, so that an alarm ends by itself.
    """
    now = timezone.now()
    # What the last attempt leaves here is the end of its lease. The index of what is due has it.
    callbacks, subscriptions = Callback.objects.all(), Subscription.objects.all()
    if partner is not None:
        callbacks = callbacks.filter(partner=partner)
        subscriptions = subscriptions.filter(partner=partner)
    exhausted = callbacks.filter(
        status=Callback.Status.EXHAUSTED, next_attempt_on__gt=now - timedelta(days=days)
    )
    due = callbacks.due(now).aggregate(count=Count("pk"), oldest=Min("next_attempt_on"))
    return Health(
        due=due["count"],
        oldest_due=now - (due["oldest"] or now),
        # A test that fails has shown what it was to show.
        exhausted=exhausted.exclude(
            Q(event=Callback.Event.TEST) | Q(conversion__is_test=True)
        ).count(),
        suspended=subscriptions.exclude(callbacks_suspended_on=None).count(),
    )
