"""
The worker that delivers callbacks.

The thread that runs it claims callbacks and records results. A pool of threads sends the callbacks,
and never uses the database. No transaction is open during a request. ``slots`` keeps partners whose
servers hang from delaying the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    close_old_connections,
    transaction,
)
from django.utils import timezone

from affiliations import db
from affiliations.callbacks import claims, results, signature, transport
from affiliations.callbacks.slots import CONCURRENCY, EXTRA, PER_PARTNER, Call, Slots
from affiliations.callbacks.transport import AttemptResult
from affiliations.conf import settings
from affiliations.models.delivery_errors import DeliveryError

logger = logging.getLogger("affiliations")

#: The maximum number of claimed callbacks for each thread. The lease must outlast the deadlines of
#: this many requests (affiliations.E009). A callback that waits too long for a thread is released.
IN_HAND = 4

#: Results are recorded in groups of this size, or after this time if fewer have arrived.
_GROUP = 50
_GROUP_SECONDS = 0.25
#: Seconds between two attempts to reach the database.
_DATABASE_PAUSE = 1.0
#: The maximum number of attempts to reach the database, once the worker is stopped.
_LAST_TRIES = 30
#: Seconds between two rounds of the worker's other work, such as approvals.
_ROUND_SECONDS = 1.0
#: A sweep, which task engines start each minute, claims no more after this time.
SWEEP_SECONDS = 50.0
#: Seconds that a task may take beside its calls, such as for a database that is down.
_TASK_MARGIN = 60.0


@dataclass
class Summary:
    """The numbers of attempts of a worker."""

    delivered: int = 0
    failed: int = 0


def deliver(callback_ids: Collection[int]) -> Summary:
    delivery = DeliveryWorker(concurrency=min(len(callback_ids), PER_PARTNER))
    return delivery.run(ids=callback_ids, seconds=SWEEP_SECONDS)


def sweep(meanwhile: Callable[[], Iterable[object]]) -> Summary:
    return DeliveryWorker().run(seconds=SWEEP_SECONDS, meanwhile=meanwhile)


def longest_task() -> float:
    """Return the seconds after which ``deliver`` and ``sweep`` have ended, unless they hang."""
    return SWEEP_SECONDS + settings.callback_deadline + _TASK_MARGIN


def _steps(begin: Callable[[], Iterable[object]]) -> Iterator[bool]:
    """
    Run the steps of ``begin()``, and again a second after they have ended.

    Each ``next()`` runs one step at most, and yields whether there was one.
    """
    while True:
        for _ in begin():
            yield True
        ended = time.monotonic()
        yield False
        while time.monotonic() - ended < _ROUND_SECONDS:
            yield False


def _given_up(call: Call) -> AttemptResult:
    elapsed = 0 if call.started_at is None else time.monotonic() - call.started_at
    result = transport.Result(
        round(elapsed * 1000),
        error=DeliveryError.LOST,
        message="This process ended before the partner answered.",
        is_our_fault=True,
    )
    return AttemptResult(call.callback, timezone.now() - timedelta(seconds=elapsed), result)


def _has_time(call: Call) -> bool:
    """
    Return whether the call can end within the lease, before another worker may claim the callback.

    A new claim always has time, even if E009 is silenced and the deadline is longer than the lease.
    """
    lease = settings.callback_lease.total_seconds()
    left = call.claimed_at + lease - time.monotonic()
    return left >= min(settings.callback_deadline, lease / IN_HAND)


class DeliveryWorker:
    """
    Sends due callbacks, up to ``concurrency`` at once, and up to ``per_partner`` to each partner.

    One thread runs it. Any thread or signal handler can ``stop`` it: it then claims no more, waits
    for the callbacks in flight, records them, and releases the others.
    """

    def __init__(self, *, concurrency: int = CONCURRENCY, per_partner: int = PER_PARTNER) -> None:
        self.concurrency = concurrency
        self.summary = Summary()
        self._slots = Slots(concurrency, per_partner)
        self._waiting: SimpleQueue[Call | None] = SimpleQueue()
        self._unsent: SimpleQueue[Call | None] = SimpleQueue()
        self._ended: SimpleQueue[tuple[Call, AttemptResult]] = SimpleQueue()
        self._unrecorded: list[AttemptResult] = []
        # Not a threading.Event: a signal may arrive while its lock is held.
        self._stopped = False
        self._gives_up_at = float("inf")

    def stop(self, patience: float = float("inf")) -> None:
        """
        Claim no more. Calls that have not ended after ``patience`` seconds are given up.

        They count as failed attempts, since their partners may have processed them.
        """
        self._gives_up_at = min(self._gives_up_at, time.monotonic() + patience)
        self._stopped = True

    def run(
        self,
        *,
        ids: Collection[int] | None = None,
        limit: int | None = None,
        seconds: float = float("inf"),
        meanwhile: Callable[[], Iterable[object]] = tuple,
        rest: Callable[[], None] | None = None,
        progress: Callable[[Summary], None] = lambda summary: None,
    ) -> Summary:
        """
        Send until nothing is due, or forever.

        Args:
            ids: Send only these callbacks.
            limit: The maximum number of attempts.
            seconds: Claim no more after this time, and end.
            meanwhile: Returns the steps of other work, which run one by one between the claims. It
                is called at once, and again a second after its last step. The run ends by itself
                only between two such rounds.
            rest: Called to wait when nothing is due. Without it, the run ends then.
            progress: Called with the summary after each group of results.
        """
        claimed, until = 0, time.monotonic() + seconds
        slots, steps = self._slots, _steps(meanwhile)
        with self._pool():
            while True:
                claimed -= self._release(self._unsent)
                slots.move_slow()
                did_step = not self._stopped and next(steps)
                # Claims many at once, and before a thread is free, so that no thread waits for the
                # database.
                in_hand = slots.regular
                free = IN_HAND * self.concurrency - in_hand if in_hand <= self.concurrency else 0
                if limit is not None:
                    free = min(free, limit - claimed)
                was_idle = not (slots.calls or self._unrecorded)
                found = self._claim(free, ids, patient=rest is not None or not was_idle)
                claimed += found
                if time.monotonic() >= until:
                    self.stop()
                if self._stopped:
                    self._release(self._waiting)
                if slots.calls:
                    self._collect()
                if self._unrecorded and self._is_time_to_record():
                    self._record(progress)
                if found or not was_idle or did_step:
                    continue  # more may be due, or may have waited for those in flight
                if rest is None or self._stopped or claimed == limit:
                    return self.summary
                rest()

    @contextmanager
    def _pool(self) -> Iterator[None]:
        """
        Start the threads that send callbacks, and end them.

        All start before the first claim, since an interpreter that shuts down starts no threads.
        They are daemon threads, since it joins all others before it runs its exit handlers.
        """
        pool: list[threading.Thread] = []
        try:
            for _ in range(self.concurrency + EXTRA):
                thread = threading.Thread(
                    target=self._work, name="affiliations-callback", daemon=True
                )
                thread.start()
                pool.append(thread)
            yield
        finally:
            for _ in pool:
                self._waiting.put(None)
                self._slots.free(None)
            if self._gives_up_at > time.monotonic():
                for thread in pool:
                    thread.join()

    def _work(self) -> None:
        while True:
            self._slots.wait()
            call = self._waiting.get()
            if call is None:
                return
            if self._slots.may_begin(call) and _has_time(call):
                self._send(call)
            else:
                self._unsent.put(call)
            self._slots.free(call)

    def _claim(self, free: int, ids: Collection[int] | None, *, patient: bool) -> int:
        if free <= 0 or self._stopped or not settings.send_callbacks:
            return 0
        claimed_at = time.monotonic()
        try:
            found = claims.claim(free, self._slots, ids)
        except (DatabaseError, InterfaceError):
            if not patient:
                raise
            logger.exception("No callbacks could be claimed.")
            self._await_database()
            return 0
        for callback in found:
            self._waiting.put(self._slots.add(callback, claimed_at))
        return len(found)

    def _release(self, queue: SimpleQueue[Call | None]) -> int:
        """Release claimed callbacks that are not in flight; return how many."""
        unsent: list[Call] = []
        with suppress(Empty):
            while call := queue.get_nowait():
                self._slots.remove(call)
                unsent.append(call)
        if unsent:
            try:
                claims.release([call.callback for call in unsent])
            except (DatabaseError, InterfaceError):
                logger.exception(
                    "%s callbacks could not be released. They are due when their lease ends.",
                    len(unsent),
                )
        return len(unsent)

    def _send(self, call: Call) -> None:
        callback, started_on = call.callback, timezone.now()
        call.started_at = time.monotonic()
        try:
            headers = partial(signature.headers, callback)
            result = transport.send(callback.url, headers, body=callback.request_body)
        except Exception as failure:
            # A bug of this app. Without a result the worker would wait forever.
            fields = results.log_fields(callback, DeliveryError.LOST)
            logger.exception("Callback %s could not be sent.", callback.pk, extra=fields)
            result = transport.Result(
                0, error=DeliveryError.LOST, message=repr(failure), is_our_fault=True
            )
        self._ended.put((call, AttemptResult(callback, started_on, result)))

    def _collect(self) -> None:
        """Collect the results of calls that have ended; wait a moment for the first."""
        try:
            call, attempt = self._ended.get(timeout=_GROUP_SECONDS)
            while True:
                self._slots.note(call, attempt.result.error)
                self._slots.remove(call)
                self._add(attempt)
                call, attempt = self._ended.get_nowait()
        except Empty:
            pass
        if time.monotonic() >= self._gives_up_at:
            for call in list(self._slots.calls):
                self._slots.remove(call)
                self._add(_given_up(call))

    def _add(self, attempt: AttemptResult) -> None:
        if not self._unrecorded:
            self._first_ended = time.monotonic()
        self._unrecorded.append(attempt)

    def _is_time_to_record(self) -> bool:
        if not self._slots.calls or len(self._unrecorded) >= _GROUP:
            return True
        return time.monotonic() - self._first_ended >= _GROUP_SECONDS

    def _record(self, progress: Callable[[Summary], None]) -> None:
        self._write(self._unrecorded)
        delivered = sum(attempt.result.delivered for attempt in self._unrecorded)
        self.summary.delivered += delivered
        self.summary.failed += len(self._unrecorded) - delivered
        self._unrecorded = []
        progress(self.summary)

    def _write(self, group: Sequence[AttemptResult]) -> None:
        tries = 0
        while True:
            try:
                self._slots.keep_back(results.record(group))
                return
            except (DataError, IntegrityError):
                # The database refuses one result, for example because its callback was deleted.
                if len(group) > 1:
                    for attempt in group:
                        self._write([attempt])
                else:
                    (attempt,) = group
                    logger.exception(
                        "The result of callback %s cannot be recorded.",
                        attempt.callback.pk,
                        extra=results.log_fields(attempt.callback, attempt.result.error),
                    )
                return
            except (DatabaseError, InterfaceError):
                tries += 1
                if self._stopped and tries >= _LAST_TRIES:
                    raise
                logger.exception("%s results could not be recorded. Trying again.", len(group))
                self._await_database()

    def _await_database(self) -> None:
        transaction.get_connection(db.write_alias()).close()
        close_old_connections()
        time.sleep(_DATABASE_PAUSE)
