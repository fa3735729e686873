"""The other work of processes that send callbacks: retries of failed triggers, and approvals."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from functools import partial

from django.db import DatabaseError, InterfaceError
from django.db.models import Min

from affiliations import db
from affiliations.conversions import attempts, decisions
from affiliations.events import TriggerEvent
from affiliations.models import FailedTrigger
from affiliations.models.failed_trigger import FailedTriggerQuerySet

logger = logging.getLogger("affiliations")


def due_work() -> Iterator[int]:
    """Retry failed triggers, and approve due conversions; yield the number done in each step."""
    yield from retry_due()
    yield from decisions.approve_in_batches()


def retry_due(now: datetime | None = None) -> Iterator[int]:
    """Retry the failed triggers that are due, oldest first; yield 1 for each success, else 0."""
    rows = _failed().select_related("visitor__partner")
    try:
        due = rows.due(now or db.now())
        for failed in db.by_key(due, size=100):
            event = TriggerEvent(
                None,
                failed.trigger,
                visitor=failed.visitor_id,
                user=failed.user_id,
                reference=failed.reference,
                amount=failed.amount or None,
                new_amount=failed.amount or None,
                currency=failed.currency,
                code=failed.codes.split(),
                fired_on=failed.created_on,
            )
            yield int(attempts.retry(failed, partial(event.do, failed.kind)))
    except (DatabaseError, InterfaceError):
        logger.exception("The failed triggers could not be tried again.")


def next_work() -> datetime | None:
    """Return when the next trigger is tried again, or the next hold period ends."""
    next_try: datetime | None = _failed().waiting().aggregate(next=Min("due_on"))["next"]
    moments = [one for one in (next_try, decisions.next_approval()) if one is not None]
    return min(moments, default=None)


def _failed() -> FailedTriggerQuerySet:
    return FailedTrigger.objects.using(db.write_alias())
