"""
Deliver callbacks: one process's share of the work.

A pool of threads talks to the partners and never to the database; the thread that runs the courier
claims, hands out and records. No transaction is open while a partner is talked to, and a partner
who hangs holds no more than a few of the places.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
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
    router,
    transaction,
)
from django.utils import timezone

from affiliations.callbacks import claims, results, signature, suspension, transport
from affiliations.callbacks.attempts import Sent
from affiliations.conf import settings
from affiliations.models import Callback

logger = logging.getLogger("affiliations")

CONCURRENCY = 16
PER_PARTNER = 4

#: For each place so many callbacks are claimed at most. The last of them waits for the deadlines of
#: the others, which the lease must outlast (affiliations.E009). What has waited too long all the
#: same is given back.
IN_HAND = 4

#: Results are recorded together, up to so many and after so many seconds at the latest.
_GROUP = 50
_GROUP_SECONDS = 0.25
#: Seconds before the database is asked again after it has failed.
_DATABASE_PAUSE = 1.0
#: How often it is asked after the courier was told to stop.
_LAST_TRIES = 30
#: Seconds after which a courier turns to what else it is to do, however much there is to send.
_TURN_SECONDS = 1.0
#: Seconds between two looks for what is held for nothing.
_LOOK_SECONDS = 60.0
#: How long a sweep of a task engine goes on at most, so that one each minute is one at a time.
SWEEP_SECONDS = 50.0


@dataclass
class Summary:
    """How many attempts a courier has made."""

    delivered: int = 0
    failed: int = 0

    def add(self, group: Collection[Sent]) -> None:
        """Count a group of attempts."""
        delivered = sum(one.result.delivered for one in group)
        self.delivered += delivered
        self.failed += len(group) - delivered


def deliver(callback_ids: Collection[int]) -> Summary:
    """Attempt those of these callbacks that are due, and record how each ended."""
    return Courier(concurrency=min(len(callback_ids), PER_PARTNER)).run(ids=callback_ids)


def _turns(begin: Callable[[], Iterable[object]]) -> Iterator[bool]:
    """Go through what ``begin`` gives, each second anew; yield whether a step was made."""
    while True:
        for _ in begin():
            yield True
        ended = time.monotonic()
        yield False
        while time.monotonic() - ended < _TURN_SECONDS:
            yield False


def _has_time(callback: Callback) -> bool:
    """
    Whether the call can end within the lease: nobody else sends it meanwhile.

    A fresh claim always has its share of the lease, also where E009 is silenced.
    """
    needed = min(timedelta(seconds=settings.callback_deadline), settings.callback_lease / IN_HAND)
    return callback.next_attempt_on - timezone.now() >= needed


class Courier:
    """
    Sends what is due, with up to ``concurrency`` calls at once, ``per_partner`` to each partner.

    One thread runs it. ``stop`` ends it from any other: nothing more is claimed, what is in flight
    is finished and recorded, what is not yet is given back.
    """

    def __init__(self, *, concurrency: int = CONCURRENCY, per_partner: int = PER_PARTNER) -> None:
        self.concurrency = concurrency
        self.per_partner = per_partner
        self.summary = Summary()
        self._busy: Counter[int] = Counter()
        self._ended: SimpleQueue[Sent] = SimpleQueue()
        self._late: SimpleQueue[Callback | None] = SimpleQueue()
        self._unrecorded: list[Sent] = []
        self._looked_on = float("-inf")
        # No event: a signal may arrive while its lock is held.
        self._stopped = False

    def stop(self) -> None:
        """End the run as soon as what is in flight has been recorded."""
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
        Send until nothing is due, or for ever.

        Args:
            ids: Send only these.
            limit: Make at most so many attempts.
            seconds: Claim nothing more after so long, and end.
            meanwhile: What else is to be done: begun at once and each second from then on, one step
                at a time between the claims, and to its end before the run ends by itself.
            rest: Called when nothing is due, and then it goes on; without it, it ends there.
            progress: Called with the summary after each group that was recorded.
        """
        claimed, until = 0, time.monotonic() + seconds
        turns = _turns(meanwhile)
        with self._pool() as waiting:
            while True:
                self._release(self._late)
                has_turned = not self._stopped and next(turns)
                # Many at a time, and before there is a place for them, so that none of the places
                # waits for the database.
                in_hand = self._busy.total()
                free = IN_HAND * self.concurrency - in_hand if in_hand <= self.concurrency else 0
                if limit is not None:
                    free = min(free, limit - claimed)
                was_idle = not (self._busy.total() or self._unrecorded)
                found = self._claim(free, ids, patient=rest is not None or not was_idle)
                claimed += len(found)
                for callback in found:
                    self._busy[callback.partner_id] += 1
                    waiting.put(callback)
                if time.monotonic() >= until:
                    self.stop()
                if self._stopped:
                    self._release(waiting)
                if self._busy.total():
                    self._collect()
                if self._unrecorded and self._is_time_to_record():
                    self._record(progress)
                if found or not was_idle or has_turned:
                    continue  # what is due may have waited for what was in flight, or come since
                if rest is None or self._stopped or claimed == limit:
                    return self.summary
                rest()

    @contextmanager
    def _pool(self) -> Iterator[SimpleQueue[Callback | None]]:
        """
        Start the threads that send what is put into the queue, and end them.

        All at once and before anything is claimed, since an interpreter that is about to end starts
        none; and as daemons, since it would first wait for all others and then hand out no more.
        """
        waiting: SimpleQueue[Callback | None] = SimpleQueue()
        pool: list[threading.Thread] = []
        try:
            for _ in range(self.concurrency):
                thread = threading.Thread(
                    target=self._work, args=[waiting], name="affiliations-callback", daemon=True
                )
                thread.start()
                pool.append(thread)
            yield waiting
        finally:
            for _ in pool:
                waiting.put(None)
            for thread in pool:
                thread.join()

    def _work(self, waiting: SimpleQueue[Callback | None]) -> None:
        while (callback := waiting.get()) is not None:
            if _has_time(callback):
                self._send(callback)
            else:
                self._late.put(callback)

    def _claim(self, free: int, ids: Collection[int] | None, *, patient: bool) -> list[Callback]:
        if free <= 0 or self._stopped:
            return []
        if ids is None:
            self._look()
        try:
            return claims.claim(free, per_partner=self.per_partner, busy=self._busy, ids=ids)
        except (DatabaseError, InterfaceError):
            if not patient:
                raise
            logger.exception("No callbacks could be claimed.")
            self._await_database()
            return []

    def _look(self) -> None:
        """Let go, now and then, what is held for nothing."""
        if time.monotonic() - self._looked_on >= _LOOK_SECONDS:
            self._looked_on = time.monotonic()
            suspension.let_go_forgotten()

    def _release(self, queue: SimpleQueue[Callback | None]) -> None:
        """Give back what is claimed and not in flight: it would have to wait for the lease."""
        unsent: list[Callback] = []
        with suppress(Empty):
            while callback := queue.get_nowait():
                unsent.append(callback)
        if not unsent:
            return
        self._busy.subtract(callback.partner_id for callback in unsent)
        try:
            claims.release(unsent)
        except (DatabaseError, InterfaceError):
            logger.exception("%s callbacks are due again when their lease ends.", len(unsent))

    def _send(self, callback: Callback) -> None:
        """Send one; runs in the pool and touches no database."""
        started_on = timezone.now()
        headers = partial(
            signature.headers,
            webhook_id=callback.webhook_id,
            secret=callback.partner.signing_secret,
        )
        try:
            result = transport.send(callback.url, headers)
        except Exception as failure:
            # A fault of ours. Without a result its place in the pool would be lost.
            logger.exception("Callback %s could not be sent.", callback.pk)
            result = transport.Result(
                0, error=transport.Error.LOST, message=repr(failure), is_our_fault=True
            )
        self._ended.put(Sent(callback, started_on, result))

    def _collect(self) -> None:
        """Take what has ended, waiting a moment for the first."""
        try:
            one = self._ended.get(timeout=_GROUP_SECONDS)
            while True:
                self._busy[one.callback.partner_id] -= 1
                self._unrecorded.append(one)
                if len(self._unrecorded) == 1:
                    self._first_ended = time.monotonic()
                one = self._ended.get_nowait()
        except Empty:
            pass

    def _is_time_to_record(self) -> bool:
        if not self._busy.total() or len(self._unrecorded) >= _GROUP:
            return True
        return time.monotonic() - self._first_ended >= _GROUP_SECONDS

    def _record(self, progress: Callable[[Summary], None]) -> None:
        """Record what has ended; what the partners have been told is kept until that is done."""
        self._write(self._unrecorded)
        self.summary.add(self._unrecorded)
        self._unrecorded = []
        progress(self.summary)

    def _write(self, group: Sequence[Sent]) -> None:
        tries = 0
        while True:
            try:
                results.record(group)
                return
            except (DataError, IntegrityError):
                # The database is there, and does not take one of them: its row was deleted, say.
                if len(group) > 1:
                    for one in group:
                        self._write([one])
                else:
                    logger.exception(
                        "What became of callback %s cannot be recorded.", group[0].callback.pk
                    )
                return
            except (DatabaseError, InterfaceError):
                tries += 1
                if self._stopped and tries >= _LAST_TRIES:
                    raise
                logger.exception("%s results are not recorded yet.", len(group))
                self._await_database()

    def _await_database(self) -> None:
        transaction.get_connection(router.db_for_write(Callback)).close()
        close_old_connections()
        time.sleep(_DATABASE_PAUSE)
