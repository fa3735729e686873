"""
Record the results of attempts: the callback is delivered, due again or exhausted.

A failure counts only while the claim holds, since another worker may have sent the callback after
that. A success always counts.

Every transaction locks first the subscriptions that it may change and then the callbacks, each in
the order of their keys; otherwise two could deadlock. All transactions are short: on MariaDB a
transaction that credits a visitor waits for the lock of the subscription.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.dispatch import Signal
from django.utils import translation

from affiliations import db, logs
from affiliations.callbacks import suspension
from affiliations.callbacks.messages import tell
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.conf import settings
from affiliations.db import status_in
from affiliations.models import Callback, CallbackAttempt
from affiliations.models.delivery_errors import GONE, DeliveryError, cure_for
from affiliations.signals import announce, callback_delivered, callback_exhausted

logger = logging.getLogger("affiliations")

Status = Callback.Status


def record(attempts: Sequence[AttemptResult]) -> list[int]:
    """
    Record attempts, given in the order in which they ended, in one transaction.

    If the connection is lost at the commit, call it again with the same attempts, whether the
    commit has happened or not.

    Returns:
        The subscriptions that are suspended or paused now.
    """
    now = db.now()
    by_key = sorted(attempts, key=lambda attempt: attempt.callback.pk)
    delivered = [attempt for attempt in by_key if attempt.result.delivered]
    # Before the transaction, since on SQLite a transaction that reads before it writes would fail.
    failing = suspension.failing(attempts)
    with transaction.atomic(using=db.write_alias()):
        suspension.lock(failing)
        db.lock_rows(Callback.objects.filter(pk__in=[attempt.callback.pk for attempt in attempts]))
        _record_delivered(delivered, now)
        ignored = [
            attempt
            for attempt in by_key
            if not attempt.result.delivered and not _record_failed(attempt, now)
        ]
        # Last, since on MariaDB an inserted attempt takes a shared lock of its callback: two
        # transactions with such a lock could not change the callback any more.
        CallbackAttempt.objects.bulk_create(
            [attempt.row() for attempt in by_key], ignore_conflicts=True
        )
        counted = [
            attempt
            for attempt in attempts
            if attempt.counts_for_suspension and attempt not in ignored
        ]
        return suspension.record(counted, failing, now)


def skip_undeliverable(claimed: Sequence[Callback]) -> list[Callback]:
    """
    Return the claimed callbacks that are to be sent.

    A callback whose workers have died may have no attempts left. It becomes exhausted.
    """
    to_send = []
    for callback in claimed:
        if callback.attempt_count > callback.attempts_allowed(settings.callback_retry_schedule):
            _exhaust(callback, attempt_count=F("attempt_count") - 1)
        else:
            to_send.append(callback)
    return to_send


def _record_delivered(attempts: Sequence[AttemptResult], now: datetime) -> None:
    keys = [attempt.callback.pk for attempt in attempts]
    rows = Callback.objects.using(db.write_alias()).filter(pk__in=keys)
    rows.exclude(status_in(Status.DELIVERED)).update(
        status=Status.DELIVERED, delivered_on=now, reason="", is_manual=False, lease_token=""
    )
    _announce(rows, callback_delivered)
    for attempt in attempts:
        _tell(attempt)


def _tell(attempt: AttemptResult, allowed: int = 0) -> None:
    """Log the result of an attempt, and for a failed one how many attempts are ``allowed``."""
    callback, result = attempt.callback, attempt.result
    if result.delivered:
        tell(callback, "accepted after %s ms: HTTP %s.", result.duration_ms, result.status_code)
        return
    with translation.override(None):
        cure = cure_for(result.error, result.status_code)
    tell(
        callback,
        "failed: %s (%s), attempt %s of %s. %s",
        DeliveryError(result.error).label,
        f"HTTP {result.status_code}" if result.status_code else result.message,
        callback.attempt_count,
        allowed,
        cure,
        level=logging.INFO,
        reason=result.error,
    )


def _record_failed(attempt: AttemptResult, now: datetime) -> bool:
    """Schedule the next attempt, if there is one; return ``False`` if the claim does not hold."""
    callback, result = attempt.callback, attempt.result
    allowed = callback.attempts_allowed(settings.callback_retry_schedule)
    _tell(attempt, allowed)
    if callback.attempt_count >= allowed or result.status_code == GONE:
        return _exhaust(callback)
    scheduled = Callback.objects.as_claimed(callback).update(
        next_attempt_on=now + delay(callback.attempt_count, result),
        is_manual=False,
        lease_token="",
    )
    return bool(scheduled)


def _exhaust(callback: Callback, **changes: Any) -> bool:
    """Stop the attempts; a callback that was delivered before a resend stays delivered."""
    ended = Status.EXHAUSTED if callback.delivered_on is None else Status.DELIVERED
    changes |= {"status": ended, "is_manual": False, "lease_token": ""}
    changed = Callback.objects.as_claimed(callback).update(**changes)
    if changed and ended == Status.EXHAUSTED:
        fields = log_fields(callback, Status.EXHAUSTED)
        logger.error("Callback %s is exhausted: %s", callback.pk, callback.url, extra=fields)
        rows = Callback.objects.using(db.write_alias()).filter(pk=callback.pk)
        _announce(rows, callback_exhausted)
    return bool(changed)


def log_fields(callback: Callback, reason: str) -> dict[str, object]:
    return logs.fields(
        partner=callback.partner_id,
        conversion=callback.conversion_id,
        callback=callback.pk,
        reason=reason,
    )


def _announce(callbacks: QuerySet[Callback], signal: Signal) -> None:
    """Send a signal with the rows as they are now, since a receiver may save them."""
    for callback in callbacks.order_by("pk"):
        announce(signal, using=db.write_alias(), callback=callback)


def delay(attempt: int, result: Result) -> timedelta:
    """Return the wait after attempt number ``attempt`` of a callback has failed."""
    return max(suspension.backoff(attempt), suspension.retry_after(result))
