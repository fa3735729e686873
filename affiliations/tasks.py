"""
The tasks of Celery, which ``autodiscover_tasks()`` of the host finds by the name of this module.

Only Celery and its dispatcher import this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from celery import Task, shared_task

from affiliations import retries
from affiliations.callbacks import worker


class _Delivery(Task):  # type: ignore[misc] # no types
    """
    A task with time limits of its own.

    The host's limits, made for other tasks, would kill it while it calls partners.
    """

    ignore_result = True

    @property
    def soft_time_limit(self) -> float:
        return worker.longest_task()

    @property
    def time_limit(self) -> float:
        return 2 * self.soft_time_limit


@shared_task(base=_Delivery, name="affiliations.deliver")
def deliver(callback_ids: Sequence[int]) -> None:
    worker.deliver(callback_ids)


@shared_task(base=_Delivery, name="affiliations.sweep")
def sweep() -> None:
    """Retry failed triggers, approve due conversions, and send all due callbacks."""
    worker.sweep(retries.due_work)
