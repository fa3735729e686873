"""
The tasks of Django's task framework (Django 6.0, or the django-tasks package).

Only its dispatcher and a system check import this module: the definition of a task looks up its
backend.
"""

from __future__ import annotations

from collections.abc import Sequence

from affiliations import retries
from affiliations.callbacks import worker

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task  # type: ignore[no-redef] # the same


@task
def deliver(callback_ids: Sequence[int]) -> None:
    worker.deliver(callback_ids)


@task
def sweep() -> None:
    """Retry failed triggers, approve due conversions, and send all due callbacks."""
    worker.sweep(retries.due_work)
