"""
The slots of a worker, shared so that a partner whose server hangs delays no other partner.

- A partner gets up to four slots, but only one until a call of this worker has ended in time.
- A call that takes longer than three seconds moves to one of 16 extra slots, and its partner gets
  no further slot until the call ends. After such a call, a timeout or a failed connection, the
  partner gets only one slot, an extra one, until a call ends in time.
- While the calls to a host do not end in time, its partners share four slots.
- Partners take turns: the partner whose last slot is longest ago is next.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from datetime import datetime
from itertools import count
from typing import NamedTuple

from affiliations.callbacks.messages import host_of
from affiliations.models import Callback, CallbackAttempt

CONCURRENCY = 16
PER_PARTNER = 4
#: The number of slots for slow calls, in addition to the regular slots.
EXTRA = 16
#: Seconds after which a call is slow.
SLOW = 3.0

Error = CallbackAttempt.Error
_NO_SERVER = (Error.TIMEOUT, Error.DEADLINE, Error.CONNECT)


class Endpoint(NamedTuple):
    """A subscription that has due callbacks, the first since ``due_on``."""

    pk: int
    partner: int
    callback_url: str
    #: The end of a pause that is over, if any: the next callback is then a probe.
    paused_until: datetime | None
    due_on: datetime


class Call:
    """A callback from its claim until its call has ended. All times are monotonic."""

    def __init__(self, callback: Callback, claimed_at: float) -> None:
        self.callback = callback
        self.claimed_at = claimed_at
        self.started_at: float | None = None
        self.has_ended = False
        self.is_slow = False
        self.has_extra_slot = False
        self.partner = callback.partner_id
        self.host = host_of(callback.subscription.callback_url)


class _Taken:
    """The slots in use."""

    def __init__(self) -> None:
        self.extra = 0
        self.of_partner: Counter[int] = Counter()
        #: Without the extra slots.
        self.of_host: Counter[str] = Counter()

    def add(self, partner: int, host: str, *, extra: bool, count: int = 1) -> None:
        self.of_partner[partner] += count
        if extra:
            self.extra += count
        else:
            self.of_host[host] += count


class Slots:
    """
    The calls of a worker, and who may get the next ones.

    The threads that call partners use ``wait``, ``may_begin`` and ``free``; the worker's own thread
    uses everything else.
    """

    def __init__(self, concurrency: int = CONCURRENCY, per_partner: int = PER_PARTNER) -> None:
        self.per_partner = per_partner
        self.calls: set[Call] = set()
        self._free = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._taken = _Taken()
        self._slow: Counter[int] = Counter()
        #: Whether the last call ended in time, by partner and by host.
        self._in_time: dict[int | str, bool] = {}
        self._turns: dict[int, int] = {}
        self._turn = count(1)
        self._kept_back: dict[int, float] = {}

    @property
    def regular(self) -> int:
        """The number of calls that have no extra slot."""
        return len(self.calls) - self._taken.extra

    def share(self, limit: int, endpoints: Iterable[Endpoint]) -> dict[int, int]:
        """Return how many callbacks to claim, by endpoint, in the order of the turns."""
        in_turn = sorted(endpoints, key=lambda one: (self._turns.get(one.partner, 0), one.due_on))
        taken = deepcopy(self._taken)
        shares: Counter[int] = Counter()
        for _ in range(self.per_partner):
            for endpoint in in_turn:
                if shares.total() == limit:
                    return shares
                partner, host = endpoint.partner, host_of(endpoint.callback_url)
                is_probed = endpoint.paused_until is not None and endpoint.pk in shares
                if not is_probed and self._has_slot(partner, host, taken):
                    taken.add(partner, host, extra=self._is_late(partner))
                    shares[endpoint.pk] += 1
        return shares

    def _has_slot(self, partner: int, host: str, taken: _Taken) -> bool:
        if self._slow[partner]:
            return False
        if self._is_late(partner):
            return not taken.of_partner[partner] and taken.extra < EXTRA
        if self._is_late(host) and taken.of_host[host] >= self.per_partner:
            return False
        return taken.of_partner[partner] < (self.per_partner if partner in self._in_time else 1)

    def _is_late(self, key: int | str) -> bool:
        return self._in_time.get(key) is False

    def add(self, callback: Callback, claimed_at: float) -> Call:
        """Give a slot to a claimed callback."""
        call = Call(callback, claimed_at)
        self.calls.add(call)
        self._turns[call.partner] = next(self._turn)
        call.has_extra_slot = self._is_late(call.partner)
        self._taken.add(call.partner, call.host, extra=call.has_extra_slot)
        if call.has_extra_slot:
            self._free.release()
        return call

    def remove(self, call: Call) -> None:
        """Forget a call that has ended, was not made or was given up."""
        if call not in self.calls:
            return
        self.calls.remove(call)
        self._taken.add(call.partner, call.host, extra=call.has_extra_slot, count=-1)
        self._slow[call.partner] -= call.is_slow

    def note(self, call: Call, error: str) -> None:
        """Note whether a call has ended in time."""
        in_time = not call.is_slow and error not in _NO_SERVER
        self._in_time[call.partner] = self._in_time[call.host] = in_time

    def move_slow(self) -> None:
        """Move slow calls to extra slots, as long as there are some."""
        slow_since = time.monotonic() - SLOW
        for call in self.calls:
            if call.started_at is None or call.started_at > slow_since or call.has_ended:
                continue
            if not call.is_slow:
                call.is_slow = True
                self._slow[call.partner] += 1
                self._in_time[call.partner] = self._in_time[call.host] = False
            if not call.has_extra_slot and self._taken.extra < EXTRA:
                self._move(call)

    def _move(self, call: Call) -> None:
        with self._lock:
            if call.has_ended:
                return
            call.has_extra_slot = True
        self._taken.add(call.partner, call.host, extra=False, count=-1)
        self._taken.add(call.partner, call.host, extra=True)
        self._free.release()

    def keep_back(self, subscriptions: Iterable[int]) -> None:
        """Make no call that was claimed before now for these subscriptions."""
        self._kept_back.update(dict.fromkeys(subscriptions, time.monotonic()))

    def wait(self) -> None:
        """Wait for a free slot."""
        self._free.acquire()

    def may_begin(self, call: Call) -> bool:
        """Return whether a call with a slot may still be made."""
        kept_back = self._kept_back.get(call.callback.subscription_id, 0)
        return not self._slow[call.partner] and kept_back <= call.claimed_at

    def free(self, call: Call | None) -> None:
        """Free the slot of a call that has ended or was not made, or one that was not used."""
        with self._lock:
            if call is not None:
                call.has_ended = True
                if call.has_extra_slot:
                    return
        self._free.release()
