"""
Record how attempts ended, and what follows: delivered, due again, exhausted.

Recording is fenced by the lease: a failure of somebody whose lease has passed to another says
nothing any more. A success always wins, for the partner has been told.

Every transaction here locks the subscriptions that it may change, in the order of their keys, and
then callbacks in the order of theirs: in no order, two of them could wait for each other. None
holds a subscription for long: on MariaDB each visitor who is just being credited waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import router, transaction
from django.db.models import QuerySet
from django.dispatch import Signal
from django.utils import timezone

from affiliations import batches
from affiliations.callbacks import suspension
from affiliations.callbacks.attempts import Sent
from affiliations.callbacks.retries import delay
from affiliations.conf import settings
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.models.status import has_status
from affiliations.signals import announce, callback_delivered, callback_exhausted

logger = logging.getLogger("affiliations")

Status = Callback.Status

_GONE = 410


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
    failing = suspension.failing(sent)
    with transaction.atomic(using=_database()):
        suspension.lock(failing)
        batches.hold(Callback.objects.filter(pk__in=[one.callback.pk for one in sent]))
        _record_delivered(delivered, now)
        ignored = [
            one for one in in_order if not one.result.delivered and not _record_failed(one, now)
        ]
        # Last, since on MariaDB an attempt holds a share of its callback: two who held one could
        # not change it any more.
        CallbackAttempt.objects.bulk_create(
            [one.attempt for one in in_order], ignore_conflicts=True
        )
        suspended = suspension.record_streaks(
            [one for one in sent if one.is_the_partners and one not in ignored], failing, now
        )
    suspension.hold_all(suspended)


def set_aside(claimed: Sequence[Callback]) -> list[Callback]:
    """
    Return those of freshly claimed callbacks that are to be sent.

    One whose subscription was suspended in the meantime is held. One whose attempts were used up
    without a result, by whoever died sending it, is exhausted.
    """
    to_send = []
    for callback in claimed:
        if callback.subscription.callbacks_suspended_on is not None and suspension.hold(callback):
            continue
        if callback.attempt_count > callback.attempts_allowed(settings.callback_retry_schedule):
            _exhaust(callback, **suspension.NOT_ATTEMPTED)
        else:
            to_send.append(callback)
    return to_send


def _database() -> str:
    return router.db_for_write(Callback)


def _going_on(callback: Callback) -> QuerySet[Callback]:
    """Keep mine, but not of a subscription that was suspended meanwhile: it is about to be held."""
    suspended = Subscription.objects.exclude(callbacks_suspended_on=None)
    return Callback.objects.as_claimed(callback).exclude(subscription__in=suspended)


def _record_delivered(callbacks: Sequence[Callback], now: datetime) -> None:
    rows = Callback.objects.using(_database()).filter(pk__in=[one.pk for one in callbacks])
    rows.exclude(has_status(Status.DELIVERED)).update(
        status=Status.DELIVERED, delivered_on=now, reason="", is_manual=False, lease_token=""
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


def _tell_of(callbacks: QuerySet[Callback], signal: Signal) -> None:
    """Tell of callbacks as they stand now; as they were claimed, a receiver would save them so."""
    for callback in callbacks.order_by("pk"):
        announce(signal, using=_database(), callback=callback)
