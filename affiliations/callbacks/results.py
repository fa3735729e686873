"""
Record how attempts ended, and what follows: delivered, due again, exhausted, suspended.

Recording is fenced by the lease: a failure of somebody whose lease has passed to another says
nothing any more. A success always wins, for the partner has been told.

Every transaction here locks the subscriptions that it may change, in the order of their keys, and
then callbacks in the order of theirs: in no order, two of them could wait for each other. None
holds a subscription for long: on MariaDB each visitor who is just being credited waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, InterfaceError, router, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce
from django.dispatch import Signal
from django.utils import timezone

from affiliations.callbacks.retries import delay
from affiliations.callbacks.transport import Result
from affiliations.conf import settings
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.models.status import has_status
from affiliations.signals import callback_delivered, callback_exhausted, subscription_suspended

logger = logging.getLogger("affiliations")

Status = Callback.Status

#: A subscription is suspended after so many failures in a row, over at least so long.
SUSPEND_AFTER_FAILURES = 10
SUSPEND_AFTER = timedelta(hours=72)

#: So many are held, or let go, in one transaction.
_CHUNK = 500
_GONE = 410
_SUSPENDED = Q(callbacks_suspended_on__isnull=False)
#: What takes back that a claim counts as an attempt.
_NOT_ATTEMPTED = {"attempt_count": F("attempt_count") - 1}


@dataclass(frozen=True)
class Sent:
    """One attempt that has ended."""

    callback: Callback
    started_on: datetime
    result: Result

    @property
    def attempt(self) -> CallbackAttempt:
        """The row that tells of it."""
        return CallbackAttempt(
            callback=self.callback,
            number=self.callback.attempt_count,
            manual=self.callback.is_manual,
            started_on=self.started_on,
            duration_ms=self.result.duration_ms,
            status_code=self.result.status_code,
            error=self.result.error,
            message=self.result.message,
            response_excerpt=self.result.excerpt,
        )

    @property
    def is_the_partners(self) -> bool:
        """Whether it says something of the partner's real address: no test, no fault of ours."""
        return self.callback.conversion_id is not None and not self.result.is_our_fault


def record(sent: Sequence[Sent]) -> None:
    """
    Write down a group of attempts, in one transaction, in the order in which they ended.

    It may be called again with the same group: where the database was lost at the commit, nobody
    knows whether it had happened.
    """
    now = timezone.now()
    in_order = sorted(sent, key=lambda one: one.callback.pk)
    delivered = [one.callback for one in in_order if one.result.delivered]
    # Outside, since on SQLite a transaction that reads before it writes would fail.
    failing = _failing(sent)
    with transaction.atomic(using=_database()):
        for subscription in failing:
            _lock(Subscription.objects.filter(pk=subscription))
        _record_delivered(delivered, now)
        ignored = [
            one for one in in_order if not one.result.delivered and not _record_failed(one, now)
        ]
        # Last, since on MariaDB an attempt holds a share of its callback: two who held one could
        # not change it any more.
        CallbackAttempt.objects.bulk_create(
            [one.attempt for one in in_order], ignore_conflicts=True
        )
        suspended = _record_streaks(
            [one for one in sent if one.is_the_partners and one not in ignored], failing, now
        )
    for subscription in suspended:
        # What becomes due before its turn is held by whoever claims it.
        held = _move(subscription, _SUSPENDED, Status.QUEUED, status=Status.HELD)
        logger.error("Subscription %s is suspended; %s held.", subscription, held)


def set_aside(claimed: Sequence[Callback]) -> list[Callback]:
    """
    Return those of freshly claimed callbacks that are to be sent.

    One whose subscription was suspended in the meantime is held. One whose attempts were used up
    without a result, by whoever died sending it, is exhausted.
    """
    to_send = []
    for callback in claimed:
        if callback.subscription.callbacks_suspended_on is not None and _hold(callback):
            continue
        if callback.attempt_count > callback.attempts_allowed(settings.callback_retry_schedule):
            _exhaust(callback, **_NOT_ATTEMPTED)
        else:
            to_send.append(callback)
    return to_send


def resume(subscription: Subscription) -> int:
    """
    Let a suspended subscription's callbacks go out again; return how many were held.

    A few in a transaction. Who does it again goes on where it was broken off.
    """
    Subscription.objects.filter(pk=subscription.pk).update(
        callbacks_suspended_on=None, failure_count=0, failing_since=None
    )
    return _let_go(subscription.pk)


def let_go_forgotten() -> None:
    """
    Let go what is held though its subscription is not suspended.

    For sweeps: whoever resumed it was killed half-way. What fails is logged, and left to the next.
    """
    try:
        held = Callback.objects.using(_database()).filter(status=Status.HELD).order_by()
        forgotten = held.exclude(subscription__in=Subscription.objects.filter(_SUSPENDED))
        for subscription in list(forgotten.values_list("subscription", flat=True).distinct()):
            _let_go(subscription)
    except (DatabaseError, InterfaceError):
        logger.exception("What is held for nothing could not be let go.")


def _database() -> str:
    return router.db_for_write(Callback)


def _failing(sent: Sequence[Sent]) -> list[int]:
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


def _lock(subscriptions: QuerySet[Subscription]) -> bool:
    """Lock a subscription by writing it, which every database knows; ``False`` if there is none."""
    return bool(subscriptions.update(failure_count=F("failure_count")))


def _mine(callback: Callback) -> QuerySet[Callback]:
    """Keep the row as long as it is waiting and the lease has not passed to another."""
    return Callback.objects.filter(
        has_status(Status.QUEUED), pk=callback.pk, lease_token=callback.lease_token
    )


def _going_on(callback: Callback) -> QuerySet[Callback]:
    """Keep mine, but not of a subscription that was suspended meanwhile: it is about to be held."""
    suspended = Subscription.objects.filter(_SUSPENDED)
    return _mine(callback).exclude(subscription__in=suspended)


def _record_delivered(callbacks: Sequence[Callback], now: datetime) -> None:
    rows = Callback.objects.using(_database()).filter(pk__in=[one.pk for one in callbacks])
    rows.exclude(has_status(Status.DELIVERED)).update(
        status=Status.DELIVERED, delivered_on=now, is_manual=False, lease_token=""
    )
    _tell_of(rows, callback_delivered)


def _record_failed(one: Sent, now: datetime) -> bool:
    """Plan the next attempt, if there is one; ``False`` where it is another's business by now."""
    callback, result = one.callback, one.result
    allowed = callback.attempts_allowed(settings.callback_retry_schedule)
    if callback.attempt_count >= allowed or result.status_code == _GONE:
        return _exhaust(callback)
    planned = _going_on(callback).update(
        next_attempt_on=now + delay(callback.attempt_count, result),
        is_manual=False,
        lease_token="",
    )
    return bool(planned)


def _exhaust(callback: Callback, **changes: Any) -> bool:
    """End a callback that nothing more is tried for; one that had been delivered once stays so."""
    ended = Status.EXHAUSTED if callback.delivered_on is None else Status.DELIVERED
    changes |= {"status": ended, "is_manual": False, "lease_token": ""}
    changed = _going_on(callback).update(**changes)
    if changed and ended == Status.EXHAUSTED:
        logger.error("Callback %s failed for good: %s", callback.pk, callback.url)
        _tell_of(Callback.objects.using(_database()).filter(pk=callback.pk), callback_exhausted)
    return bool(changed)


def _hold(callback: Callback) -> bool:
    """Hold a claimed callback; ``False`` where its subscription is resumed at this moment."""
    suspended = Subscription.objects.filter(_SUSPENDED, pk=callback.subscription_id)
    with transaction.atomic(using=_database()):
        # Whoever resumes it sees this row held, or this row sees it resumed. Held with nobody to
        # let it go, it would be lost.
        if not _lock(suspended):
            return False
        _mine(callback).update(status=Status.HELD, lease_token="", **_NOT_ATTEMPTED)
    return True


def _record_streaks(sent: Iterable[Sent], failing: Iterable[int], now: datetime) -> list[int]:
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
        _tell(subscription_suspended, subscription=subscription)
        suspended.append(subscription.pk)
    return suspended


def _let_go(subscription: int) -> int:
    return _move(
        subscription, ~_SUSPENDED, Status.HELD, status=Status.QUEUED, next_attempt_on=timezone.now()
    )


def _move(subscription: int, as_long_as: Q, before: Status, **changes: Any) -> int:
    """
    Change a subscription's callbacks that stand so, in the order of their keys; return how many.

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
            count += rows.filter(has_status(before), pk__in=keys).update(**changes)
    return count


def _tell_of(callbacks: QuerySet[Callback], signal: Signal) -> None:
    """Tell of callbacks as they stand now; as they were claimed, a receiver would save them so."""
    for callback in callbacks.order_by("pk"):
        _tell(signal, callback=callback)


def _tell(signal: Signal, **what: Callback | Subscription) -> None:
    """Send a signal once the recording is committed."""
    (instance,) = what.values()
    transaction.on_commit(partial(signal.send_robust, type(instance), **what), using=_database())
