"""
Who sends the callbacks: ``AFFILIATE_CALLBACK_DISPATCHER`` names one function of these.

A dispatcher gets the ids of callbacks that have just been committed and returns at once, since a
visitor waits for it. The rows are in the database whatever becomes of the call.
"""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from django.db import close_old_connections, connections

from affiliations.callbacks import delivery

if TYPE_CHECKING:
    from collections.abc import Sequence


def thread(callback_ids: Sequence[int]) -> None:
    """Send from one daemon thread of this process: nothing else to run."""
    _sender.wake(callback_ids)


class _Sender:
    """The thread, started at the first commit and so after any fork of the server."""

    #: Seconds without work after which the thread gives its database connection back.
    IDLE = 1.0

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the parent's thread, which a fork does not copy; its rows it sends itself."""
        self.waiting: SimpleQueue[int] = SimpleQueue()
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None

    def wake(self, callback_ids: Sequence[int]) -> None:
        for callback_id in callback_ids:
            self.waiting.put(callback_id)
        with self.starting:
            # The thread ends only if its database connection cannot even be closed.
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(
                    target=self.run, name="affiliations-callbacks", daemon=True
                )
                self.thread.start()

    def run(self) -> None:
        while True:
            try:
                callback_id = self.waiting.get(timeout=self.IDLE)
            except Empty:
                connections.close_all()
                callback_id = self.waiting.get()
            close_old_connections()
            delivery.deliver([callback_id])


_sender = _Sender()
if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(after_in_child=_sender.begin_anew)
