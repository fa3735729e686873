"""
Who sends the callbacks: ``AFFILIATE_CALLBACK_DISPATCHER`` names one function of these.

A dispatcher gets the ids of callbacks that have just been committed and returns at once, since a
visitor waits for it. The rows are in the database whatever becomes of the call, and
``manage.py deliver_callbacks`` takes whatever is due.

So nothing that sends or that knows an engine is imported before it is needed, by the threads: that
takes a fraction of a second.
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

from django.db import DatabaseError, InterfaceError, connections, router
from django.db.models import Min
from django.utils import timezone

from affiliations import decisions
from affiliations.conf import settings
from affiliations.models import Callback

if TYPE_CHECKING:
    from datetime import datetime

    from affiliations.callbacks.delivery import Courier

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

    def tell() -> None:
        from affiliations import tasks

        # No retry: the sweep is the retry. No result: nobody reads it.
        tasks.deliver.apply_async([list(callback_ids)], retry=False, ignore_result=True)

    _enqueue(tell)


def tasks(callback_ids: Sequence[int]) -> None:
    """Hand them to Django's tasks, whatever backend the host has chosen."""

    def tell() -> None:
        from affiliations.callbacks import background

        background.deliver.enqueue(list(callback_ids))

    _enqueue(tell)


def _enqueue(call: Callable[[], object]) -> None:
    """Call an engine where no visitor waits; under a test runner here, where the test sees it."""
    if _is_under_test():
        call()
    else:
        _messenger.take(call)


def _is_under_test() -> bool:
    # Loaded by whoever runs tests, and by nobody else. (mail.outbox would not do: the e-mail
    # backend "locmem" makes one as well.)
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


class _Background(ABC):
    """A daemon thread of this process, started when there is work and so after any fork."""

    NAME = ""
    #: Seconds that the visitor who has brought work has for the answer and the page behind it: both
    #: are made by the same interpreter, one thread at a time.
    VISITOR_FIRST = 0.1

    def __init__(self) -> None:
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread where there is none."""
        with self.starting:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self.run, name=self.NAME, daemon=True)
                self.thread.start()

    @abstractmethod
    def run(self) -> None:
        """Work for as long as the process lives."""


class _Sender(_Background):
    """Sends what is due, from the first commit of this process on."""

    NAME = "affiliations-callbacks"
    #: Seconds without work after which the database connection is given back.
    IDLE = 1.0
    #: Seconds after which it looks again for what another process may have left.
    LOOK = 60.0
    #: Seconds after which it looks again where the database does not answer.
    DATABASE_PAUSE = 5.0

    def __init__(self) -> None:
        super().__init__()
        self.courier: Courier | None = None
        self.woken = threading.Event()
        self.ending = False

    def wake(self) -> None:
        """Let the thread look for what is due, now."""
        self.woken.set()
        self.start()

    def run(self) -> None:
        """Deliver for as long as the process lives."""
        try:
            time.sleep(self.VISITOR_FIRST)
            from affiliations.callbacks.delivery import Courier

            # The same one as before: where it failed, it still knows what was in flight.
            self.courier = self.courier or Courier()
            if not self.ending:
                self.courier.run(meanwhile=decisions.approve_in_batches, rest=self.rest)
        except Exception:
            # An interpreter that is ending starts no thread any more: nothing has been claimed.
            if threading.main_thread().is_alive():
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
        if self.woken.is_set():
            self.woken.clear()
            time.sleep(self.VISITOR_FIRST)

    def until_next(self) -> float:
        """Return the seconds until the next attempt that is planned, or the next approval."""
        try:
            queued = Callback.objects.using(router.db_for_write(Callback)).queued()
            planned = queued.aggregate(next=Min("next_attempt_on"))
            moments: list[datetime | None] = [planned["next"], decisions.next_approval()]
        except (DatabaseError, InterfaceError):
            # The courier has told of it, and will again.
            return self.DATABASE_PAUSE
        next_on = min((moment for moment in moments if moment is not None), default=None)
        if next_on is None:
            return self.LOOK
        return min(max((next_on - timezone.now()).total_seconds(), 0), self.LOOK)

    def finish(self) -> None:
        """End with the process: what is in flight is finished, the rest is in the database."""
        self.ending = True
        if self.courier is not None:
            self.courier.stop()
        self.woken.set()
        if self.thread is not None:
            self.thread.join(settings.callback_deadline + self.DATABASE_PAUSE)


class _Messenger(_Background):
    """
    Tells a task engine of new callbacks.

    Celery needs 6 seconds to find that nobody listens at a broker's port, and with a Redis that
    accepts and never answers it waits for ever.
    """

    NAME = "affiliations-messages"
    #: So many messages wait for an engine that hangs; of what is more the sweep takes care.
    WAITING = 1000
    #: Seconds without work after which a database connection is given back.
    IDLE = 1.0
    #: Seconds that the end of the process waits for messages that are on their way.
    LAST = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.calls: Queue[Callable[[], object] | None] = Queue(self.WAITING)

    def take(self, call: Callable[[], object]) -> None:
        """Have ``call`` made by the thread, as soon as it can."""
        try:
            self.calls.put_nowait(call)
        except Full:
            logger.error("The task engine hangs. The sweep sends what it is not told of.")
        self.start()

    def run(self) -> None:
        """Make one call after the other, until the process ends."""
        while (call := self.next()) is not None:
            try:
                call()
            except Exception:
                logger.exception("The task engine was not told. The sweep sends the callbacks.")
                # One may be broken, and would be for the next call. Some fail at being closed then.
                with suppress(DatabaseError, InterfaceError):
                    connections.close_all()
        connections.close_all()

    def next(self) -> Callable[[], object] | None:
        """Wait for the next call."""
        was_idle = self.calls.empty()
        try:
            call = self.calls.get(timeout=self.IDLE)
        except Empty:
            connections.close_all()  # where the engine's queue is in the database
            call = self.calls.get()
        if was_idle:
            time.sleep(self.VISITOR_FIRST)
        return call

    def finish(self) -> None:
        """End with the process; what an engine that hangs has not been told, the sweep sends."""
        if self.thread is not None:
            with suppress(Full):
                self.calls.put_nowait(None)
            self.thread.join(self.LAST)


_sender = _Sender()
_messenger = _Messenger()


def _begin_anew() -> None:
    """Forget the parent's threads, which a fork does not copy; they do what they have begun."""
    global _sender, _messenger
    _sender, _messenger = _Sender(), _Messenger()


def _finish() -> None:
    _sender.finish()
    _messenger.finish()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(after_in_child=_begin_anew)
atexit.register(_finish)
