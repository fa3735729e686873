"""
The dispatchers, one of which ``AFFILIATE_CALLBACK_DISPATCHER`` names.

A dispatcher gets the ids of callbacks after the commit and returns at once, since a visitor waits
for the response. If it fails, ``manage.py deliver_callbacks`` still sends the callbacks.

The worker and the task engines take a fraction of a second to import, so only the background
threads import them.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connections

from affiliations import db, retries
from affiliations.conf import settings
from affiliations.models import Callback

if TYPE_CHECKING:
    from affiliations.callbacks.worker import DeliveryWorker

logger = logging.getLogger("affiliations")


def thread(callback_ids: Sequence[int]) -> None:
    """
    Send from one daemon thread of this process.

    Under Django's test runner this does nothing, so that no test of a host calls a partner.
    """
    if not _is_under_test():
        _sender.wake()


#: Called at the first request of each process: an earlier one may have left callbacks.
thread.start = lambda: thread([])  # type: ignore[attr-defined]


def worker(callback_ids: Sequence[int]) -> None:
    """Do nothing: the processes of ``manage.py deliver_callbacks --loop`` send callbacks."""


#: What must run beside the web server, as a developer reads it.
worker.needs = "manage.py deliver_callbacks --loop"  # type: ignore[attr-defined]


def celery(callback_ids: Sequence[int]) -> None:
    """Enqueue a Celery task. If the broker is down, the sweep sends the callbacks."""

    def enqueue() -> None:
        from affiliations import tasks

        # No retry by Celery: the sweep sends what is left.
        tasks.deliver.apply_async([list(callback_ids)], retry=False, ignore_result=True)

    _enqueue(enqueue)


celery.needs = "a Celery worker and Celery beat"  # type: ignore[attr-defined]


def tasks(callback_ids: Sequence[int]) -> None:
    """Enqueue a task of Django's tasks, with the backend of the host."""

    def enqueue() -> None:
        from affiliations import background

        background.deliver.enqueue(list(callback_ids))

    _enqueue(enqueue)


tasks.needs = "a worker of Django’s tasks, such as manage.py db_worker"  # type: ignore[attr-defined]


def _enqueue(call: Callable[[], object]) -> None:
    """Make a call in the background; under a test runner at once, so that tests can check it."""
    if _is_under_test():
        call()
    else:
        _enqueuer.add(call)


def _is_under_test() -> bool:
    # Only test runners load this module. (mail.outbox would not do: the e-mail backend "locmem"
    # creates one as well.)
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


class _Background(ABC):
    """A daemon thread of this process, started when there is work and so after any fork."""

    NAME: str
    #: Seconds before work begins: the interpreter runs one thread at a time, and the visitor who
    #: caused the work waits for the response and the next page.
    DELAY = 0.1
    #: Seconds without work after which the database connection is closed.
    IDLE = 1.0
    #: Seconds that the end of the process waits for the thread. A web server with one process
    #: sends no responses meanwhile.
    EXIT_TIMEOUT = 2.0

    def __init__(self) -> None:
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None

    def start(self, run: Callable[[], None]) -> None:
        with self.starting:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=run, name=self.NAME, daemon=True)
                self.thread.start()

    @abstractmethod
    def stop(self) -> None:
        """Let the thread end."""

    def finish(self) -> None:
        """End the thread, and wait a moment for it."""
        until = time.monotonic() + self.EXIT_TIMEOUT
        self.stop()
        self.join(until)

    def join(self, until: float) -> None:
        if self.thread is not None:
            self.thread.join(max(0, until - time.monotonic()))


class _Sender(_Background):
    """Sends due callbacks, from the first request or commit of this process on."""

    NAME = "affiliations-callbacks"
    #: The maximum number of seconds between two searches for callbacks of other processes.
    MAX_PAUSE = 30.0
    #: Seconds between two searches if the database is down.
    DATABASE_PAUSE = 5.0

    def __init__(self) -> None:
        super().__init__()
        self.delivery: DeliveryWorker | None = None
        self.woken = threading.Event()
        self.ending = False

    def wake(self) -> None:
        self.woken.set()
        self.start(self.run)

    def run(self) -> None:
        try:
            time.sleep(self.DELAY)
            from affiliations.callbacks.worker import DeliveryWorker

            # Reused, since after an error it still has unrecorded results.
            self.delivery = self.delivery or DeliveryWorker()
            if not self.ending:
                self.delivery.run(meanwhile=retries.due_work, rest=self.rest)
        except Exception:
            # At its exit the interpreter starts no more threads. Nothing has been claimed then.
            if threading.main_thread().is_alive():
                logger.exception(
                    "The thread that sends callbacks has ended; the next commit starts it again."
                )
        finally:
            connections.close_all()

    def rest(self) -> None:
        if not self.woken.wait(self.IDLE):
            pause = self.until_next()
            connections.close_all()
            self.woken.wait(pause)
        if self.woken.is_set():
            self.woken.clear()
            time.sleep(self.DELAY)

    def until_next(self) -> float:
        """Return the seconds until the next attempt, retry or approval."""
        try:
            rows = Callback.objects.using(db.write_alias())
            attempt = rows.next_attempt() if settings.send_callbacks else None
            work = retries.next_work()
            waits = [moment - db.now() for moment in (attempt, work) if moment]
        except (DatabaseError, InterfaceError):
            # The worker logs it.
            return self.DATABASE_PAUSE
        return max(0, min([self.MAX_PAUSE, *(wait.total_seconds() for wait in waits)]))

    def stop(self) -> None:
        """
        Claim no more, and wait a moment for the callbacks in flight.

        Those that are given up are sent again by another process, after the usual delay.
        """
        self.ending = True
        if self.delivery is not None:
            self.delivery.stop(patience=0.75 * self.EXIT_TIMEOUT)
        self.woken.set()


class _Enqueuer(_Background):
    """
    Makes the calls that enqueue tasks.

    Celery needs 6 seconds to notice a closed port of a broker, and waits forever for a Redis that
    accepts connections and never answers.
    """

    NAME = "affiliations-enqueuer"
    #: The maximum number of calls that wait for an engine that hangs. The sweep sends the rest.
    MAX_CALLS = 1000

    def __init__(self) -> None:
        super().__init__()
        self.calls: Queue[Callable[[], object] | None] = Queue(self.MAX_CALLS)

    def add(self, call: Callable[[], object]) -> None:
        try:
            self.calls.put_nowait(call)
        except Full:
            logger.error("The task engine hangs. The sweep sends the callbacks.")
        self.start(self.run)

    def run(self) -> None:
        while (call := self.next()) is not None:
            try:
                call()
            except Exception:
                logger.exception("The task engine failed. The sweep sends the callbacks.")
                # A broken connection would fail again, and some cannot be closed.
                with suppress(DatabaseError, InterfaceError):
                    connections.close_all()
        connections.close_all()

    def next(self) -> Callable[[], object] | None:
        was_idle = self.calls.empty()
        try:
            call = self.calls.get(timeout=self.IDLE)
        except Empty:
            connections.close_all()  # The engine may keep its queue in the database.
            call = self.calls.get()
        if was_idle:
            time.sleep(self.DELAY)
        return call

    def stop(self) -> None:
        """Make the waiting calls, then end. The sweep sends what is left if there is no time."""
        if self.thread is not None:
            with suppress(Full):
                self.calls.put_nowait(None)


_sender = _Sender()
_enqueuer = _Enqueuer()


def _replace_threads() -> None:
    """Replace the threads, which a fork does not copy; they continue in the parent."""
    global _sender, _enqueuer
    _sender, _enqueuer = _Sender(), _Enqueuer()


def _finish() -> None:
    until = time.monotonic() + _Background.EXIT_TIMEOUT
    _sender.stop()
    _enqueuer.finish()
    _sender.join(until)


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(after_in_child=_replace_threads)
atexit.register(_finish)
