"""
Suspend a subscription whose callbacks keep failing: they are held, until somebody resumes it.

Each transaction locks the subscription before its callbacks, as ``results`` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, router, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from affiliations import batches
from affiliations.callbacks import handover
from affiliations.callbacks.attempts import Sent
from affiliations.models import Callback, Subscription
from affiliations.models.status import has_status
from affiliations.signals import announce, subscription_suspended

logger = logging.getLogger("affiliations")

Status = Callback.Status

#: A subscription is suspended after so many failures in a row, over at least so long.
SUSPEND_AFTER_FAILURES = 10
SUSPEND_AFTER = timedelta(hours=72)

#: What takes back that a claim counts as an attempt.
NOT_ATTEMPTED = {"attempt_count": F("attempt_count") - 1}

#: So many are held, or let go, in one transaction.
_CHUNK = 500
_SUSPENDED = Q(callbacks_suspended_on__isnull=False)


def failing(sent: Sequence[Sent]) -> list[int]:
    """
    Return the subscriptions that have failed, in this group or before, in the order of their keys.

    Only their rows can change. One that is well is not locked: on MariaDB the recording would wait
    for each visitor who is just being credited for it.
    """
    failed = {one.callback.subscription_id for one in sent if not one.result.delivered}
    others = {one.callback.subscription_id for one in sent} - failed
    failed_before = (
        Subscription.objects.using(_database())
        .filter(pk__in=others)
        .exclude(failure_count=0, callbacks_suspended_on=None)
    )
    return sorted(failed.union(failed_before.values_list("pk", flat=True)))


def lock(subscriptions: Iterable[int]) -> None:
    """Lock these subscriptions, in the order in which they are given."""
    for subscription in subscriptions:
        _lock(Subscription.objects.filter(pk=subscription))


def record_streaks(sent: Iterable[Sent], failing: Iterable[int], now: datetime) -> list[int]:
    """
    Keep, for each that is failing, how many failures in a row there were and since when.

    Return those that are suspended for it.
    """
    streaks: dict[int, list[Sent]] = {}
    recovered: set[int] = set()
    for one in sent:
        subscription = one.callback.subscription_id
        if one.result.delivered:
            recovered.add(subscription)
            streaks.pop(subscription, None)
        else:
            streaks.setdefault(subscription, []).append(one)
    subscriptions = Subscription.objects.using(_database()).order_by()
    if recovered := recovered.intersection(failing):
        subscriptions.filter(pk__in=recovered, failure_count__gt=0).update(
            failure_count=0, failing_since=None
        )
    for subscription, failures in sorted(streaks.items()):
        subscriptions.filter(pk=subscription).update(
            failure_count=F("failure_count") + len(failures),
            failing_since=Coalesce("failing_since", failures[0].started_on),
        )
    return _suspend(streaks.keys(), now)


def hold_all(subscriptions: Iterable[int]) -> None:
    """Hold what waits for subscriptions that are suspended, and log it."""
    for subscription in subscriptions:
        # What becomes due before its turn is held by whoever claims it.
        held = _move(subscription, _SUSPENDED, Status.QUEUED, {"status": Status.HELD})
        logger.error("Subscription %s is suspended; %s held.", subscription, held)


def hold(callback: Callback) -> bool:
    """Hold a claimed callback; ``False`` where its subscription is resumed at this moment."""
    suspended = Subscription.objects.filter(_SUSPENDED, pk=callback.subscription_id)
    with transaction.atomic(using=_database()):
        # Whoever resumes it sees this row held, or this row sees it resumed. Held with nobody to
        # let it go, it would be lost.
        if not _lock(suspended):
            return False
        mine = Callback.objects.as_claimed(callback)
        mine.update(status=Status.HELD, lease_token="", **NOT_ATTEMPTED)
    return True


def resume(subscription: Subscription) -> int:
    """
    Let a suspended subscription's callbacks go out again; return how many were held.

    A few in a transaction. Who does it again goes on where it was broken off.
    """
    Subscription.objects.filter(pk=subscription.pk).update(
        callbacks_suspended_on=None, failure_count=0, failing_since=None
    )
    return _let_go(subscription.pk, then=handover.after_commit)


def let_go_forgotten() -> None:
    """
    Let go what is held though its subscription is not suspended.

    For sweeps: whoever resumed it was killed half-way. What fails is logged, and left to the next.
    """
    try:
        held = Callback.objects.using(_database()).filter(status=Status.HELD).order_by()
        forgotten = held.exclude(subscription__in=Subscription.objects.filter(_SUSPENDED))
        for subscription in list(forgotten.values_list("subscription", flat=True).distinct()):
            _let_go(subscription)  # whoever sweeps sends them
    except (DatabaseError, InterfaceError):
        logger.exception("What is held for nothing could not be let go.")


def _database() -> str:
    return router.db_for_write(Callback)


def _lock(subscriptions: QuerySet[Subscription]) -> bool:
    """Lock a subscription by writing it, which every database knows; ``False`` if there is none."""
    return bool(subscriptions.update(failure_count=F("failure_count")))


def _suspend(subscription_ids: Iterable[int], now: datetime) -> list[int]:
    """Suspend those of the subscriptions that have failed too often for too long; return which."""
    failing = Subscription.objects.using(_database()).filter(
        pk__in=list(subscription_ids),
        failure_count__gte=SUSPEND_AFTER_FAILURES,
        failing_since__lte=now - SUSPEND_AFTER,
        callbacks_suspended_on=None,
    )
    suspended = []
    # Locked since the beginning: nobody else suspends them now.
    for subscription in failing.order_by("pk"):
        subscription.callbacks_suspended_on = now
        subscription.save(update_fields=["callbacks_suspended_on"])
        announce(subscription_suspended, using=_database(), subscription=subscription)
        suspended.append(subscription.pk)
    return suspended


def _let_go(subscription: int, **then: Callable[[Sequence[int]], None]) -> int:
    changes = {"status": Status.QUEUED, "next_attempt_on": timezone.now()}
    return _move(subscription, ~_SUSPENDED, Status.HELD, changes, **then)


def _move(
    subscription: int,
    as_long_as: Q,
    before: Status,
    changes: Mapping[str, Any],
    then: Callable[[Sequence[int]], None] = lambda keys: None,
) -> int:
    """
    Change a subscription's callbacks that stand so, in the order of their keys; return how many.

    With each few, in their transaction, something is done ``then``.

    Each transaction locks the subscription first, and the last is before it is suspended or resumed
    in the meantime: nothing is held that nobody lets go.
    """
    rows = Callback.objects.using(_database())
    theirs = rows.filter(subscription=subscription, status=before).order_by("pk")
    count, last = 0, 0
    # Read outside, since on SQLite a transaction that reads before it writes would fail.
    while keys := list(theirs.filter(pk__gt=last).values_list("pk", flat=True)[:_CHUNK]):
        last = keys[-1]
        with transaction.atomic(using=_database()):
            if not _lock(Subscription.objects.filter(as_long_as, pk=subscription)):
                break
            some = rows.filter(has_status(before), pk__in=keys)
            batches.hold(some)
            count += some.update(**changes)
            then(keys)
    return count
