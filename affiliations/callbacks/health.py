"""How the delivery of callbacks is doing, for the host's monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, Min
from django.utils import timezone

from affiliations.models import Callback, Subscription


@dataclass(frozen=True)
class Health:
    """The figures to watch."""

    #: Callbacks that somebody should be sending now.
    due: int
    #: How long the first of them has been due.
    oldest_due: timedelta
    #: Callbacks that have failed for good.
    exhausted: int
    #: Subscriptions whose callbacks are held.
    suspended: int


def health() -> Health:
    """
    Measure how the delivery is doing, with three queries.

    Where nobody sends, ``oldest_due`` grows with the clock; a few seconds are ordinary.
    """
    now = timezone.now()
    # A test callback that fails has shown what it was to show.
    exhausted = Callback.objects.filter(status=Callback.Status.EXHAUSTED).exclude(
        event=Callback.Event.TEST
    )
    due = Callback.objects.due(now).aggregate(count=Count("pk"), oldest=Min("next_attempt_on"))
    return Health(
        due=due["count"],
        oldest_due=now - (due["oldest"] or now),
        exhausted=exhausted.count(),
        suspended=Subscription.objects.exclude(callbacks_suspended_on=None).count(),
    )
