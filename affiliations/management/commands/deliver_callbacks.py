"""Approve the conversions whose time has come, and send the callbacks that are due."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections

from affiliations import decisions
from affiliations.callbacks.delivery import CONCURRENCY, PER_PARTNER, Courier, Summary


class Command(BaseCommand):
    """Approve and send once, as from cron, or for ever, as under a supervisor."""

    help = (
        "Approve the conversions whose time has come, and send the callbacks that are due: new "
        "ones, retries, and what a dead worker left."
    )

    #: Seconds between two looks for what is due.
    POLL = 1.0

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        parser.add_argument(
            "--loop", action="store_true", help="Go on until SIGTERM, looking each second."
        )
        parser.add_argument(
            "--concurrency",
            type=int,
            default=CONCURRENCY,
            help=f"How many partners to talk to at once; {CONCURRENCY} by default, "
            f"and never more than {PER_PARTNER} times the same.",
        )
        parser.add_argument("--limit", type=int, help="Make at most so many attempts.")

        parser.add_argument(
            "--seconds", type=float, help="End after so long at the latest, such as 50 from cron."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Deliver, and say how many."""
        limit, seconds = options["limit"], options["seconds"]
        if options["concurrency"] < 1 or (limit is not None and limit < 1):
            raise CommandError("--concurrency and --limit must be 1 or more.")
        if seconds is not None and (options["loop"] or not seconds > 0):
            raise CommandError("--seconds must be above 0, and does not go with --loop.")
        courier = Courier(concurrency=options["concurrency"])
        # A queue and no event: a signal may arrive while the lock of an event is held.
        woken: SimpleQueue[None] = SimpleQueue()

        def stop(number: int, frame: object) -> None:
            courier.stop()
            woken.put(None)

        with _signals(stop):
            summary = courier.run(
                limit=limit,
                seconds=float("inf") if seconds is None else seconds,
                meanwhile=decisions.approve_in_batches,
                rest=(lambda: self._rest(woken)) if options["loop"] else None,
                progress=self._show if self.stdout.isatty() else lambda summary: None,
            )
        if self.stdout.isatty():
            self.stdout.write()
        self.stdout.write(f"{summary.delivered} delivered, {summary.failed} failed.")

    def _rest(self, woken: SimpleQueue[None]) -> None:
        close_old_connections()
        with suppress(Empty):
            woken.get(timeout=self.POLL)

    def _show(self, summary: Summary) -> None:
        line = f"\r{summary.delivered} delivered, {summary.failed} failed"
        self.stdout.write(line, ending="")
        self.stdout.flush()


@contextmanager
def _signals(stop: Callable[[int, object], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call ``stop``, where this is the thread that they come to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
