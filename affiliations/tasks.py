"""
The task that Celery runs; a host's ``autodiscover_tasks()`` finds it by the name of this module.

Only Celery and the dispatcher for it import this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from celery import shared_task

from affiliations import decisions
from affiliations.callbacks import delivery


@shared_task(name="affiliations.deliver", ignore_result=True)
def deliver(callback_ids: Sequence[int]) -> None:
    """Attempt these callbacks, as far as they are due."""
    delivery.deliver(callback_ids)


@shared_task(name="affiliations.sweep", ignore_result=True)
def sweep() -> None:
    """
    Approve what is due, and attempt every callback that is.

    Those are retries, and what a broker or a worker has lost.
    """
    delivery.Courier().run(seconds=delivery.SWEEP_SECONDS, meanwhile=decisions.approve_in_batches)
