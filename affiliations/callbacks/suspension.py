"""
Suspend subscriptions whose callbacks keep failing, and pause those whose server is busy.

Both states are columns of the subscription, which a claim reads. The callbacks stay queued.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Least
from django.utils.http import parse_http_date

from affiliations import db, logs
from affiliations.callbacks import outbox
from affiliations.conf import settings
from affiliations.db import status_in
from affiliations.models import Callback, Subscription
from affiliations.models.delivery_errors import BUSY
from affiliations.models.subscription import DELIVERY_FIELDS, WARN_AFTER_FAILURES
from affiliations.signals import announce, subscription_suspended

if TYPE_CHECKING:
    from affiliations.callbacks.transport import AttemptResult, Result

logger = logging.getLogger("affiliations")

#: A subscription is suspended after this number of failures in a row, over at least this time.
SUSPEND_AFTER_FAILURES = 10
SUSPEND_AFTER = timedelta(hours=72)

LONGEST_PAUSE = timedelta(hours=1)
#: A longer ``Retry-After`` of a partner is cut to this time.
LONGEST_RETRY_AFTER = timedelta(hours=24)
_JITTER = 0.2

#: Callbacks resumed in one transaction.
_CHUNK = 500


def failing(attempts: Sequence[AttemptResult]) -> list[int]:
    """
    Return the subscriptions with a failure, now or before, in the order of their keys.

    Only their rows can change, so the others are not locked. On MariaDB such a lock would have to
    wait for all transactions that credit a visitor for these subscriptions.
    """
    failed = {row.callback.subscription_id for row in attempts if not row.result.delivered}
    others = {row.callback.subscription_id for row in attempts} - failed
    failed_before = Subscription.objects.using(db.write_alias()).failing().filter(pk__in=others)
    return sorted(failed.union(failed_before.values_list("pk", flat=True)))


def lock(subscriptions: Iterable[int]) -> None:
    """Lock rows by an update, which works on every database."""
    for subscription in subscriptions:
        Subscription.objects.filter(pk=subscription).update(failure_count=F("failure_count"))


def record(attempts: Iterable[AttemptResult], failing: Iterable[int], now: datetime) -> list[int]:
    """
    Record what attempts mean for their subscriptions, whose rows are locked.

    ``attempts`` are in the order in which they ended. Return the subscriptions that are suspended
    or paused by them.
    """
    rows = Subscription.objects.using(db.write_alias()).in_bulk(list(failing))
    waiting: set[int] = set()
    changed: set[int] = set()
    for attempt in attempts:
        subscription = rows.get(attempt.callback.subscription_id)
        if subscription is None:
            continue
        changed.add(subscription.pk)
        if attempt.result.delivered:
            _end_streak(subscription)
            waiting.discard(subscription.pk)
        else:
            _count_failure(subscription, attempt)
            _pause(subscription, attempt, now)
            _suspend(subscription, now)
            if subscription.is_paused or subscription.is_suspended:
                waiting.add(subscription.pk)
    for pk in sorted(changed):
        rows[pk].save(update_fields=list(DELIVERY_FIELDS))
    return sorted(waiting)


def resume(subscription: Subscription) -> int:
    """
    Resume a suspended or paused subscription: its callbacks are sent now.

    The dispatcher gets the callbacks of each transaction, 500 at most. If the process is killed,
    the others are sent at the time of their next attempt.

    Args:
        subscription: The subscription. Read it again to see the change.

    Returns:
        The number of callbacks that were waiting.
    """
    rows = Callback.objects.using(db.write_alias())
    Subscription.objects.filter(pk=subscription.pk).update(
        callbacks_suspended_on=None,
        failure_count=0,
        failing_since=None,
        callbacks_paused_until=None,
        pause_count=0,
        last_error="",
        last_status_code=None,
    )
    queued = rows.queued().filter(subscription=subscription.pk).order_by("pk")
    count, last = 0, 0
    while keys := list(queued.filter(pk__gt=last).values_list("pk", flat=True)[:_CHUNK]):
        last = keys[-1]
        with transaction.atomic(using=db.write_alias()):
            chunk = rows.filter(pk__in=keys)
            db.lock_rows(chunk)
            now = db.now()
            # Without a condition on the time: by the index of that column InnoDB would also lock
            # callbacks of other subscriptions.
            chunk.filter(status_in(Callback.Status.QUEUED), lease_token="").update(
                next_attempt_on=Least("next_attempt_on", Value(now))
            )
            outbox.dispatch_on_commit(keys)
        count += len(keys)
    return count


def backoff(step: int) -> timedelta:
    """Return the wait after failure number ``step``."""
    schedule = settings.callback_retry_schedule
    # Spreads the load when a partner's server is up again.
    jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 -- not a secret
    return schedule[min(step, len(schedule) - 1)] * jitter


def retry_after(result: Result) -> timedelta:
    """Return how long a busy partner asks to wait, in seconds or by a date (RFC 9110, 10.2.3)."""
    value = result.retry_after if result.status_code in BUSY else ""
    try:
        seconds = int(value) if value.isdecimal() else parse_http_date(value) - time.time()
    except ValueError:
        return timedelta(0)
    return timedelta(seconds=min(max(seconds, 0), LONGEST_RETRY_AFTER.total_seconds()))


def _end_streak(subscription: Subscription) -> None:
    subscription.failure_count, subscription.failing_since = 0, None
    subscription.callbacks_paused_until, subscription.pause_count = None, 0
    subscription.last_error, subscription.last_status_code = "", None


def _count_failure(subscription: Subscription, attempt: AttemptResult) -> None:
    subscription.failure_count += 1
    subscription.failing_since = subscription.failing_since or attempt.started_on
    subscription.last_error = attempt.result.error
    subscription.last_status_code = attempt.result.status_code
    if subscription.failure_count == WARN_AFTER_FAILURES:
        logger.warning(
            "Subscription %s: %s callbacks have failed in a row. After %s failures in a row, over "
            "at least %s, it is suspended.",
            subscription.pk,
            WARN_AFTER_FAILURES,
            SUSPEND_AFTER_FAILURES,
            SUSPEND_AFTER,
            extra=logs.fields(partner=subscription.partner_id, reason=attempt.result.error),
        )


def _pause(subscription: Subscription, attempt: AttemptResult, now: datetime) -> None:
    """
    Pause a subscription whose server is busy.

    The pause ends with a probe, and is longer after each probe that fails in any way. Answers to
    calls that were made before the pause do not count as probes.
    """
    until = subscription.callbacks_paused_until
    asked = now + retry_after(attempt.result)
    if until is not None and attempt.claimed_on < until:
        subscription.callbacks_paused_until = max(until, asked)
    elif until is not None or attempt.result.status_code in BUSY:
        subscription.pause_count += 1
        pause = min(backoff(subscription.pause_count), LONGEST_PAUSE)
        subscription.callbacks_paused_until = max(now + pause, asked)


def _suspend(subscription: Subscription, now: datetime) -> None:
    """Suspend a subscription that has failed too often for too long."""
    since = subscription.failing_since
    if (
        subscription.is_suspended
        or subscription.failure_count < SUSPEND_AFTER_FAILURES
        or since is None
        or since > now - SUSPEND_AFTER
    ):
        return
    subscription.callbacks_suspended_on = now
    announce(subscription_suspended, using=db.write_alias(), subscription=subscription)
    fields = logs.fields(partner=subscription.partner_id)
    logger.error("Subscription %s is suspended.", subscription.pk, extra=fields)
