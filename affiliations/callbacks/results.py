"""
Record how attempts ended, and what follows: delivered, due again, exhausted, suspended.

Recording is fenced by the lease: a failure of somebody whose lease has passed to another says
nothing any more. A success always wins, for the partner has been told.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import router, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce
from django.dispatch import Signal
from django.utils import timezone
from django.utils.http import parse_http_date

from affiliations.callbacks.transport import Result
from affiliations.conf import settings
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.signals import callback_delivered, callback_exhausted, subscription_suspended

logger = logging.getLogger("affiliations")

Status = Callback.Status

#: A subscription is suspended after so many failures in a row, over at least so long.
SUSPEND_AFTER_FAILURES = 10
SUSPEND_AFTER = timedelta(hours=72)

#: A partner's Retry-After is kept to, up to here.
LONGEST_RETRY_AFTER = timedelta(hours=24)
_JITTER = 0.2
_GONE = 410
_BUSY = (429, 503)
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


def record(sent: Sequence[Sent]) -> None:
    """
    Write down a group of attempts, in one transaction, in the order in which they ended.

    It may be called again with the same group: where the database was lost at the commit, nobody
    knows whether it had happened.
    """
    now = timezone.now()
    # Rows are changed in the order of their keys, so that two workers never wait for each other.
    in_order = sorted(sent, key=lambda one: one.callback.pk)
    delivered = [one.callback for one in in_order if one.result.delivered]
    with transaction.atomic(using=_database()):
        CallbackAttempt.objects.bulk_create(
            [one.attempt for one in in_order], ignore_conflicts=True
        )
        _record_delivered(delivered, now)
        ignored = [
            one for one in in_order if not one.result.delivered and not _record_failed(one, now)
        ]
        # A test callback says nothing of the partner's real address either.
        _record_streaks(
            [one for one in sent if one.callback.conversion_id and one not in ignored], now
        )


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
    """Let a suspended subscription's callbacks go out again; return how many were held."""
    with transaction.atomic(using=_database()):
        Subscription.objects.filter(pk=subscription.pk).update(
            callbacks_suspended_on=None, failure_count=0, failing_since=None
        )
        held = Callback.objects.filter(subscription=subscription, status=Status.HELD)
        return held.update(status=Status.QUEUED, next_attempt_on=timezone.now())


def delay(attempt: int, result: Result) -> timedelta:
    """Return how long to wait after attempt number ``attempt`` has failed with ``result``."""
    schedule = settings.callback_retry_schedule
    # Not all at once when a partner is back.
    jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 -- nobody guards a secret here
    backoff = schedule[min(attempt, len(schedule) - 1)] * jitter
    if result.status_code not in _BUSY:
        return backoff
    return max(backoff, _retry_after(result.retry_after))


def _retry_after(value: str) -> timedelta:
    """Read a ``Retry-After`` header, seconds or a date (RFC 9110, 10.2.3); nonsense is nothing."""
    try:
        seconds = int(value) if value.isdecimal() else parse_http_date(value) - time.time()
    except ValueError:
        return timedelta(0)
    return timedelta(seconds=min(seconds, LONGEST_RETRY_AFTER.total_seconds()))


def _database() -> str:
    return router.db_for_write(Callback)


def _mine(callback: Callback) -> QuerySet[Callback]:
    """Keep the row as long as it is waiting and the lease has not passed to another."""
    return Callback.objects.queued().filter(pk=callback.pk, lease_token=callback.lease_token)


def _record_delivered(callbacks: Sequence[Callback], now: datetime) -> None:
    rows = Callback.objects.filter(pk__in=[callback.pk for callback in callbacks])
    rows.exclude(status=Status.DELIVERED).update(
        status=Status.DELIVERED, delivered_on=now, is_manual=False, lease_token=""
    )
    for callback in callbacks:
        _tell(callback_delivered, callback=callback)


def _record_failed(one: Sent, now: datetime) -> bool:
    """Plan the next attempt, if there is one; ``False`` where it is another's business by now."""
    callback, result = one.callback, one.result
    allowed = callback.attempts_allowed(settings.callback_retry_schedule)
    if callback.attempt_count >= allowed or result.status_code == _GONE:
        return _exhaust(callback)
    planned = _mine(callback).update(
        next_attempt_on=now + delay(callback.attempt_count, result),
        is_manual=False,
        lease_token="",
    )
    return bool(planned)


def _exhaust(callback: Callback, **changes: Any) -> bool:
    """End a callback that nothing more is tried for; one that had been delivered once stays so."""
    ended = Status.EXHAUSTED if callback.delivered_on is None else Status.DELIVERED
    changes |= {"status": ended, "is_manual": False, "lease_token": ""}
    changed = _mine(callback).update(**changes)
    if changed and ended == Status.EXHAUSTED:
        logger.error("Callback %s failed for good: %s", callback.pk, callback.url)
        _tell(callback_exhausted, callback=callback)
    return bool(changed)


def _hold(callback: Callback) -> bool:
    """Hold a claimed callback; ``False`` where its subscription is resumed at this moment."""
    suspended = Subscription.objects.filter(
        pk=callback.subscription_id, callbacks_suspended_on__isnull=False
    )
    with transaction.atomic(using=_database()):
        # Written, which locks it on every database: whoever resumes it sees this row held, or this
        # row sees it resumed. Held with nobody to let it go, it would be lost.
        if not suspended.update(failure_count=F("failure_count")):
            return False
        _mine(callback).update(status=Status.HELD, lease_token="", **_NOT_ATTEMPTED)
    return True


def _record_streaks(sent: Iterable[Sent], now: datetime) -> None:
    """Keep, for each subscription, how many failures in a row there were and since when."""
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
    if recovered:
        subscriptions.filter(pk__in=recovered, failure_count__gt=0).update(
            failure_count=0, failing_since=None
        )
    for subscription, failures in sorted(streaks.items()):
        subscriptions.filter(pk=subscription).update(
            failure_count=F("failure_count") + len(failures),
            failing_since=Coalesce("failing_since", failures[0].started_on),
        )
    _suspend(streaks.keys(), now)


def _suspend(subscription_ids: Iterable[int], now: datetime) -> None:
    """Suspend those of the subscriptions that have failed too often for too long."""
    failing = Subscription.objects.using(_database()).filter(
        pk__in=list(subscription_ids),
        failure_count__gte=SUSPEND_AFTER_FAILURES,
        failing_since__lte=now - SUSPEND_AFTER,
        callbacks_suspended_on=None,
    )
    # Nobody else suspends them now: since their failures were counted, they are locked.
    for subscription in failing.order_by("pk"):
        subscription.callbacks_suspended_on = now
        subscription.save(update_fields=["callbacks_suspended_on"])
        waiting = Callback.objects.queued().filter(subscription=subscription)
        held = waiting.update(status=Status.HELD)
        logger.error("Subscription %s is suspended; %s held.", subscription.pk, held)
        _tell(subscription_suspended, subscription=subscription)


def _tell(signal: Signal, **what: Callback | Subscription) -> None:
    """Send a signal once the recording is committed."""
    (instance,) = what.values()
    transaction.on_commit(partial(signal.send_robust, type(instance), **what), using=_database())
