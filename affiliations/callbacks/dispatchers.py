"""
Who sends the callbacks: ``AFFILIATE_CALLBACK_DISPATCHER`` names one function of these.

A dispatcher gets the ids of callbacks that have just been committed and returns at once, since a
visitor waits for it. The rows are in the database whatever becomes of the call, and
``manage.py deliver_callbacks`` takes whatever is due.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING

from django.core import mail
from django.db import connections
from django.db.models import Min
from django.utils import timezone

from affiliations.callbacks.delivery import Courier
from affiliations.conf import settings
from affiliations.models import Callback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

logger = logging.getLogger("affiliations")


def thread(callback_ids: Sequence[int]) -> None:
    """
    Send from one daemon thread of this process: nothing else to run.

    Under Django's test runner it stays silent, so that no test of a host's calls a real partner.
    """
    if not _is_under_test():
        _sender.wake()


def worker(callback_ids: Sequence[int]) -> None:
    """Do nothing: a process with ``manage.py deliver_callbacks --loop`` takes what is due."""


def celery(callback_ids: Sequence[int]) -> None:
    """Hand them to Celery. A broker that is down loses nothing: the sweep finds the rows."""
    from affiliations import tasks

    # No retry: the visitor would wait for it. No result: nobody reads it.
    tasks.deliver.apply_async([list(callback_ids)], retry=False, ignore_result=True)


def tasks(callback_ids: Sequence[int]) -> None:
    """Hand them to Django's tasks, whatever backend the host has chosen."""
    from affiliations.callbacks import background

    background.deliver.enqueue(list(callback_ids))


def _is_under_test() -> bool:
    # What setup_test_environment() leaves, and nothing else does.
    return hasattr(mail, "outbox")


class _Sender:
    """The thread, started at the first commit and so after any fork of the server."""

    #: Seconds without work after which the database connection is given back.
    IDLE = 1.0
    #: Seconds after which it looks again for what another process may have left.
    LOOK = 60.0

    def __init__(self) -> None:
        self.courier = Courier()
        self.woken = threading.Event()
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None

    def wake(self) -> None:
        """Let the thread look for what is due, now; start it where there is none."""
        self.woken.set()
        with self.starting:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(
                    target=self.run, name="affiliations-callbacks", daemon=True
                )
                self.thread.start()

    def run(self) -> None:
        """Deliver for as long as the process lives."""
        try:
            self.courier.run(rest=self.rest)
        except Exception:
            logger.exception(
                "The thread that sends callbacks has ended; the next commit starts it."
            )
        finally:
            connections.close_all()

    def rest(self) -> None:
        """Sleep until there is something to do."""
        if not self.woken.wait(self.IDLE):
            pause = self.until_next()
            connections.close_all()
            self.woken.wait(pause)
        self.woken.clear()

    def until_next(self) -> float:
        """Return the seconds until the next attempt that is planned."""
        planned = Callback.objects.queued().aggregate(next=Min("next_attempt_on"))
        next_on: datetime | None = planned["next"]
        if next_on is None:
            return self.LOOK
        return min(max((next_on - timezone.now()).total_seconds(), 0), self.LOOK)

    def finish(self) -> None:
        """End with the process: what is in flight is finished, the rest is in the database."""
        self.courier.stop()
        self.woken.set()
        if self.thread is not None:
            self.thread.join(sum(settings.callback_timeout) + settings.callback_deadline)


_sender = _Sender()


def _begin_anew() -> None:
    """Forget the parent's thread, which a fork does not copy; it sends what it has claimed."""
    global _sender
    _sender = _Sender()


def _finish() -> None:
    _sender.finish()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(_finish)
