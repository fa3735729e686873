"""The health of the delivery, for monitoring, and the purge of delivered callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Min, Q

from affiliations import db
from affiliations.models import Callback, Conversion, Partner, Subscription
from affiliations.models.callback import CallbackQuerySet

DAYS = 90
BATCH = 1000
#: Conversions updated by one statement.
_CHUNK = 200


def notified(events: Iterable[str]) -> set[tuple[str, int]]:
    """Parse ``Conversion.notified_events``: event and subscription of each purged callback."""
    pairs = (event.split(":") for event in events)
    return {(event, int(subscription)) for event, subscription in pairs}


def delivered_before(before: datetime) -> CallbackQuerySet:
    return Callback.objects.filter(status=Callback.Status.DELIVERED, delivered_on__lt=before)


def purge(before: datetime, *, batch: int = BATCH) -> Iterator[int]:
    """
    Delete callbacks that were delivered before a time; yield the number in each batch.

    Their conversions keep the events, which later decisions need.
    """
    alias = db.write_alias()
    old = delivered_before(before).using(alias)
    last = 0
    while True:
        found = old.filter(pk__gt=last).order_by("pk").values_list("pk", "conversion")[:batch]
        callbacks = dict(found)
        if not callbacks:
            return
        last = max(callbacks)
        conversions = set(callbacks.values()) - {None}  # Test callbacks have no conversion.
        with transaction.atomic(using=alias):
            # A decision also locks first the conversion and then the callbacks.
            db.lock_rows(Conversion.objects.using(alias).filter(pk__in=conversions))
            rows = old.filter(pk__in=callbacks.keys())
            # An update locks the rows on every database, so that no resend begins now. On SQLite a
            # transaction that reads before it writes would fail.
            rows.update(lease_token="")
            if conversions:
                _keep_events(rows.exclude(conversion=None))
            _, removed = rows.delete()
        yield removed.get(Callback._meta.label, 0)


def _keep_events(rows: CallbackQuerySet) -> None:
    """Add the events of callbacks to their conversions, which are locked."""
    conversions: dict[int | None, Any] = {}
    names = ("event", "subscription", "conversion__notified_events")
    for row in rows.select_related("conversion").only(*names):
        conversion: Any = conversions.setdefault(row.conversion_id, row.conversion)
        conversion.notified_events = sorted(
            {*conversion.notified_events, f"{row.event}:{row.subscription_id}"}
        )
    Conversion.objects.using(rows.db).bulk_update(
        conversions.values(), ["notified_events"], batch_size=_CHUNK
    )


HEALTH_DAYS = 7
#: A probe is overdue if it was not sent within this time after the end of the pause.
_PROBE_TIME = timedelta(minutes=5)


@dataclass(frozen=True)
class Health:
    """The state of the delivery of callbacks."""

    #: Callbacks that should be sent now; not those of suspended or paused subscriptions.
    due: int
    #: How long the oldest of them has been due.
    oldest_due: timedelta
    #: Callbacks that were given up in the last ``days``.
    exhausted: int
    #: Suspended subscriptions.
    suspended: int
    #: How far the clock of this host is ahead of the database's.
    skew: timedelta


def health(*, days: int = HEALTH_DAYS, partner: Partner | None = None) -> Health:
    """
    Measure the delivery of callbacks, with a few queries.

    A few seconds of ``oldest_due`` are normal. While no worker sends callbacks, it keeps growing.

    Args:
        days: Count only callbacks exhausted in the last days, so that an alarm ends by itself.
        partner: Count only callbacks and subscriptions of this partner.
    """
    skew, now = db.clock_skew(), db.now()
    callbacks, subscriptions = Callback.objects.all(), Subscription.objects.all()
    if partner is not None:
        callbacks = callbacks.filter(partner=partner)
        subscriptions = subscriptions.filter(partner=partner)
    exhausted = callbacks.gave_up(now - timedelta(days=days))
    # After a pause the callbacks wait for a probe. If no worker sends it, they count as due.
    probe_is_overdue = Q(callbacks_paused_until__lt=now - _PROBE_TIME)
    open_ = subscriptions.filter(
        Q(callbacks_paused_until=None) | probe_is_overdue, callbacks_suspended_on=None
    )
    due = (
        callbacks.due(now)
        .filter(subscription__in=open_)
        .aggregate(count=Count("pk"), oldest=Min("next_attempt_on"))
    )
    return Health(
        due=due["count"],
        oldest_due=now - (due["oldest"] or now),
        exhausted=exhausted.filter(is_test=False).count(),
        suspended=subscriptions.suspended().count(),
        skew=skew,
    )
