"""Backends of Django's tasks that are in trouble."""

from __future__ import annotations

import time
from typing import Any

try:
    from django.tasks.backends.base import BaseTaskBackend
except ImportError:  # Django 5.2
    from django_tasks.backends.base import BaseTaskBackend

from tests.hosts import FOR_EVER


class Hanging(BaseTaskBackend):
    """Keeps whoever enqueues a task waiting."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        time.sleep(FOR_EVER)


class Broken(BaseTaskBackend):
    """Cannot take a task."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        raise ConnectionError("the queue is down")
