"""Who gets a slot of a worker, so that a partner who hangs delays nobody."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from affiliations.callbacks import slots as slots_module
from affiliations.callbacks.messages import host_of
from affiliations.callbacks.slots import EXTRA, SLOW, Call, Endpoint, Slots
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription

Error = CallbackAttempt.Error
NOW = timezone.now()


def endpoint(partner: int, *, host: str = "", waiting: float = 1, probe: bool = False) -> Endpoint:
    url = f"https://{host or f'partner{partner}.example'}/cb"
    return Endpoint(partner, partner, url, NOW if probe else None, NOW - timedelta(seconds=waiting))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(slots_module, "time", clock)
    return clock


class Worker:
    """A worker's slots, with calls as long as a test wants."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.slots = Slots(**options)
        self.clock = clock

    def begin(self, *endpoints: Endpoint, limit: int = 64) -> list[Call]:
        """Claim what the endpoints may have, and begin the calls."""
        by_key = {one.pk: one for one in endpoints}
        calls = []
        for pk, count in self.slots.share(limit, endpoints).items():
            one = by_key[pk]
            subscription = Subscription(pk=pk, callback_url=one.callback_url)
            partner = Partner(pk=one.partner)
            for _ in range(count):
                callback = Callback(subscription=subscription, partner=partner)
                calls.append(self.slots.add(callback, self.clock.now))
        for call in calls:
            call.started_at = self.clock.now
        return calls

    def end(self, *calls: Call, error: str = "") -> None:
        for call in calls:
            self.slots.wait()  # as the thread that has made it
            self.slots.free(call)
            self.slots.note(call, error)
            self.slots.remove(call)

    def passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.slots.move_slow()

    def may(self, *endpoints: Endpoint) -> dict[int, int]:
        return dict(self.slots.share(64, endpoints))


@pytest.fixture
def worker(clock: Clock) -> Worker:
    return Worker(clock)


class TestAPartner:
    def test_gets_one_slot_until_a_call_has_ended_in_time_and_then_four(
        self, worker: Worker
    ) -> None:
        calls = worker.begin(endpoint(1))
        assert len(calls) == 1
        assert worker.may(endpoint(1)) == {}
        worker.end(*calls)
        assert worker.may(endpoint(1)) == {1: 4}

    @pytest.mark.parametrize("error", [Error.HTTP_STATUS, Error.TLS, Error.LOST])
    def test_gets_four_where_the_answer_is_quick_though_a_failure(
        self, worker: Worker, error: str
    ) -> None:
        worker.end(*worker.begin(endpoint(1)), error=error)
        assert worker.may(endpoint(1)) == {1: 4}

    @pytest.mark.parametrize("error", [Error.TIMEOUT, Error.DEADLINE, Error.CONNECT])
    def test_gets_one_again_where_nobody_answers(self, worker: Worker, error: str) -> None:
        worker.end(*worker.begin(endpoint(1)))
        worker.end(*worker.begin(endpoint(1)), error=error)
        assert worker.may(endpoint(1)) == {1: 1}

    def test_gets_none_while_a_call_is_slow(self, worker: Worker) -> None:
        worker.end(*worker.begin(endpoint(1)))
        slow, quick, *_ = worker.begin(endpoint(1))
        worker.end(quick)
        worker.passes(SLOW)
        assert worker.may(endpoint(1)) == {}
        worker.end(slow)
        # Others of it still hang.
        assert worker.may(endpoint(1)) == {}

    def test_begins_no_call_that_was_claimed_before_another_became_slow(
        self, worker: Worker
    ) -> None:
        worker.end(*worker.begin(endpoint(1)))
        *begun, waiting = worker.begin(endpoint(1))
        waiting.started_at = None
        assert worker.slots.may_begin(waiting)
        worker.passes(SLOW)
        assert not worker.slots.may_begin(waiting)
        worker.end(*begun)
        assert worker.slots.may_begin(waiting)

    def test_that_is_probed_gets_one(self, worker: Worker) -> None:
        worker.end(*worker.begin(endpoint(1)))
        assert worker.may(endpoint(1, probe=True)) == {1: 1}

    def test_that_is_paused_begins_no_call_that_was_claimed_before(
        self, worker: Worker, clock: Clock
    ) -> None:
        worker.end(*worker.begin(endpoint(1)), *worker.begin(endpoint(2)))
        [before, *_], [other, *_] = worker.begin(endpoint(1)), worker.begin(endpoint(2))
        clock.now += 1
        worker.slots.keep_back([1])
        assert not worker.slots.may_begin(before)
        assert worker.slots.may_begin(other)
        clock.now += 1
        worker.end(before)
        [after, *_] = worker.begin(endpoint(1))
        assert worker.slots.may_begin(after)


class TestPartners:
    def test_take_turns_the_longest_due_first(self, worker: Worker) -> None:
        all_of_them = [endpoint(partner, waiting=partner) for partner in (1, 2, 3)]
        assert list(worker.may(*all_of_them)) == [3, 2, 1]
        worker.end(*worker.begin(all_of_them[2]))
        assert list(worker.may(*all_of_them)) == [2, 1, 3]

    def test_get_one_each_before_anybody_gets_a_second(self, worker: Worker) -> None:
        both = [endpoint(1, waiting=9), endpoint(2)]
        for one in both:
            worker.end(*worker.begin(one))
        assert dict(worker.slots.share(5, both)) == {1: 3, 2: 2}


class TestSlowCalls:
    def test_make_room_for_others(self, worker: Worker) -> None:
        worker.begin(*[endpoint(partner) for partner in range(1, 17)])
        assert worker.slots.regular == 16
        worker.passes(SLOW - 0.1)
        assert worker.slots.regular == 16
        worker.passes(0.1)
        assert worker.slots.regular == 0
        assert len(worker.slots.calls) == 16

    def test_have_no_more_slots_than_the_extra_ones(self, worker: Worker) -> None:
        first = worker.begin(*[endpoint(partner) for partner in range(1, 17)])
        worker.passes(SLOW)
        worker.begin(*[endpoint(partner) for partner in range(17, 21)])
        worker.passes(SLOW)
        assert worker.slots.regular == 4
        worker.end(*first[:3], error=Error.TIMEOUT)
        worker.passes(0)
        assert worker.slots.regular == 1

    def test_of_a_partner_are_followed_by_one_that_begins_in_an_extra_slot(
        self, worker: Worker
    ) -> None:
        [call] = worker.begin(endpoint(1))
        worker.passes(10)
        worker.end(call, error=Error.TIMEOUT)
        [again] = worker.begin(endpoint(1))
        assert again.has_extra_slot
        assert worker.slots.regular == 0
        assert worker.may(endpoint(1)) == {}

    def test_leave_the_other_slots_to_others_however_many_partners_hang(
        self, worker: Worker
    ) -> None:
        hanging = [endpoint(partner) for partner in range(1, 101)]
        for one in hanging:
            worker.end(*worker.begin(one), error=Error.TIMEOUT)
        assert len(worker.begin(*hanging)) == EXTRA
        assert worker.slots.regular == 0
        assert worker.may(*hanging, endpoint(200)) == {200: 1}

    def test_that_end_at_last_count_as_slow(self, worker: Worker) -> None:
        [call] = worker.begin(endpoint(1))
        worker.passes(9)
        worker.end(call)
        assert worker.begin(endpoint(1))[0].has_extra_slot

    def test_in_the_moment_of_their_end_keep_their_slot(self, worker: Worker) -> None:
        [call] = worker.begin(endpoint(1))
        call.has_ended = True
        worker.passes(SLOW)
        assert not call.is_slow
        worker.slots._move(call)
        assert not call.has_extra_slot


class TestAHost:
    def test_is_not_limited_where_it_answers(self, worker: Worker) -> None:
        healthy = [endpoint(partner, host="network.example") for partner in range(64)]
        for one in healthy:
            worker.end(*worker.begin(one))
        assert len(worker.begin(*healthy, limit=256)) == 256

    def test_is_not_limited_before_it_is_known(self, worker: Worker) -> None:
        healthy = [endpoint(partner, host="network.example") for partner in range(64)]
        assert len(worker.begin(*healthy)) == 64

    def test_gets_four_slots_while_its_calls_time_out_and_its_partners_take_turns(
        self, worker: Worker
    ) -> None:
        partners = [endpoint(partner, host="network.example") for partner in range(1, 41)]
        worker.begin(*partners[:1])
        worker.passes(SLOW)
        served = [call.partner for call in worker.begin(*partners)]
        assert len(served) == 4
        worker.passes(SLOW)
        # Those moved to extra slots, and others have their turn.
        turn = [call.partner for call in worker.begin(*partners)]
        assert len(turn) == 4
        assert not set(turn) & {1, *served}

    def test_is_not_limited_any_more_when_a_call_has_ended_in_time(self, worker: Worker) -> None:
        partners = [endpoint(partner, host="network.example") for partner in range(1, 41)]
        worker.begin(partners[0])
        worker.passes(SLOW)
        first, *others = worker.begin(*partners)
        worker.end(first)
        assert len(worker.may(*partners)) == 40 - 1 - len(others)

    def test_is_a_host_with_its_port_whoever_logs_in(self) -> None:
        assert host_of("https://user:pw@Partner.Example:8443/cb") == "partner.example:8443"

    @pytest.mark.parametrize("url", ["http://[x/{visitor_id}", "http://a[b]@c/{visitor_id}"])
    def test_is_empty_where_a_stored_url_has_none(self, url: str) -> None:
        # Python 3.10 reads the second as a host with a name and a password.
        assert host_of(url) in ("", "c")


class TestTheThreads:
    def test_are_as_many_at_work_as_there_are_slots_and_one_more_for_each_slow_call(
        self, worker: Worker
    ) -> None:
        worker = Worker(worker.clock, concurrency=2)
        calls = worker.begin(*[endpoint(partner) for partner in range(1, 4)])
        working = threading.Semaphore(0)

        def work() -> None:
            worker.slots.wait()
            working.release()

        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        assert [working.acquire(timeout=9) for _ in range(2)] == [True, True]
        assert not working.acquire(timeout=0.2)
        calls[2].started_at = None
        worker.passes(SLOW)
        assert [working.acquire(timeout=9) for _ in range(2)] == [True, True]
        # The two that were slow have ended: their slots were extra ones.
        worker.slots.free(calls[0])
        threading.Thread(target=work, daemon=True).start()
        assert not working.acquire(timeout=0.2)
        worker.slots.free(None)
        assert working.acquire(timeout=9)


def test_a_call_that_was_given_up_is_forgotten_once(worker: Worker) -> None:
    [call] = worker.begin(endpoint(1))
    worker.slots.remove(call)
    worker.slots.remove(call)
    assert worker.slots.regular == 0
