from __future__ import annotations

import logging
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import CommandError
from django.db import close_old_connections

from affiliations import logs, retries
from affiliations.callbacks.slots import CONCURRENCY, PER_PARTNER
from affiliations.callbacks.worker import DeliveryWorker, Summary
from affiliations.conf import settings
from affiliations.management import ProgressCommand

logger = logging.getLogger("affiliations")


class Command(ProgressCommand):
    help = (
        "Approves conversions whose hold period has ended, and sends all due callbacks, including "
        "retries and callbacks of a worker that died. Also tries again the triggers that failed "
        "because of the database."
    )

    #: Seconds between two searches for due callbacks.
    POLL = 1.0
    #: Seconds between two lines of the log.
    LOG_EVERY = 60.0

    _logged_at = float("-inf")

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--loop",
            action="store_true",
            help="Run until stopped, and look for due callbacks every second.",
        )
        parser.add_argument(
            "--concurrency",
            type=int,
            default=CONCURRENCY,
            help=f"Maximum number of simultaneous calls, of which at most {PER_PARTNER} go to one "
            f"partner. Defaults to {CONCURRENCY}.",
        )
        parser.add_argument("--limit", type=int, help="Stop after this number of attempts.")
        parser.add_argument(
            "--seconds",
            type=float,
            help="Stop after this number of seconds. Use 50 to run the command every minute from "
            "cron.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        limit, seconds = options["limit"], options["seconds"]
        if options["concurrency"] < 1 or (limit is not None and limit < 1):
            raise CommandError("--concurrency and --limit must be 1 or more.")
        if seconds is not None and (options["loop"] or not seconds > 0):
            raise CommandError("--seconds must be greater than 0, and cannot be used with --loop.")
        if not settings.send_callbacks:
            self.stderr.write("AFFILIATE_SEND_CALLBACKS is False: no callback is sent.")
        worker = DeliveryWorker(concurrency=options["concurrency"])
        # Not an event: a signal may arrive while its lock is held.
        woken: SimpleQueue[None] = SimpleQueue()

        def stop(number: int, frame: object) -> None:
            worker.stop()
            woken.put(None)

        def rest() -> None:
            self._report(worker.summary)
            self._rest(woken)

        if options["loop"] and not self.stdout.isatty():
            self._log_to_stdout()
        with _signals(stop):
            summary = worker.run(
                limit=limit,
                seconds=float("inf") if seconds is None else seconds,
                meanwhile=retries.due_work,
                rest=rest if options["loop"] else None,
                progress=self._report,
            )
        self.end_line()
        self.stdout.write(f"{summary.delivered} delivered, {summary.failed} failed.")

    def _log_to_stdout(self) -> None:
        """Log to standard output, for a supervisor, unless the host has configured a handler."""
        if not logger.hasHandlers():
            handler = logging.StreamHandler(self.stdout)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            # With DEBUG, include the messages that the console would show, see ``logs.tell()``.
            logger.setLevel(logging.DEBUG if django_settings.DEBUG else logging.INFO)

    def _report(self, now: Summary) -> None:
        """Show the numbers: on a terminal at once, in the log once a minute."""
        numbers = f"{now.delivered} delivered, {now.failed} failed"
        if not logs.is_told():  # Otherwise each callback is logged, and would break the line.
            self.show(numbers)
        if time.monotonic() - self._logged_at >= self.LOG_EVERY:
            self._logged_at = time.monotonic()
            logger.info("%s.", numbers)

    def _rest(self, woken: SimpleQueue[None]) -> None:
        close_old_connections()
        with suppress(Empty):
            woken.get(timeout=self.POLL)


@contextmanager
def _signals(stop: Callable[[int, object], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call ``stop``, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
