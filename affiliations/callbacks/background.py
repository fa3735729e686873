"""
The task that Django's tasks run, from Django 6.0 or the django-tasks package.

Only the dispatcher for them imports this module: a task looks up its backend when it is defined.
"""

from __future__ import annotations

from collections.abc import Sequence

from affiliations import decisions
from affiliations.callbacks import delivery

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task  # type: ignore[no-redef] # the same


@task
def deliver(callback_ids: Sequence[int]) -> None:
    """Attempt these callbacks, as far as they are due."""
    delivery.deliver(callback_ids)


@task
def sweep() -> None:
    """
    Approve what is due, and attempt every callback that is.

    Those are retries, and what a backend or a worker has lost.
    """
    delivery.Courier().run(seconds=delivery.SWEEP_SECONDS, meanwhile=decisions.approve_in_batches)
