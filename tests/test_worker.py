"""Delivery with real partners on this machine: who is called when, and what if something fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, connections
from django.utils import timezone

from affiliations.callbacks import claims, worker
from affiliations.callbacks.slots import Call, Slots
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.callbacks.worker import DeliveryWorker, Summary
from affiliations.conf import settings
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription
from tests.factories import CallbackFactory, PartnerFactory, SubscriptionFactory
from tests.outages import Outage
from tests.raw_partner import OK, RawPartner, dripping, hanging_after
from tests.settings import DATABASE

pytestmark = pytest.mark.django_db
#: For what other threads or processes are to see.
committed = pytest.mark.django_db(transaction=True)

Status = Callback.Status

NO = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"


class ReplicaRouter:
    """Read from another database, which has nothing in it, as from a replica that lags."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "other"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    settings.AFFILIATE_CALLBACK_TIMEOUT = (20, 20)
    settings.AFFILIATE_CALLBACK_DEADLINE = 20


def due(count: int, url: str, partner: Partner | None = None) -> list[Callback]:
    """Make callbacks to ``url``, all of one partner, that are due now."""
    subscription = SubscriptionFactory(partner=partner or PartnerFactory())
    return Callback.objects.bulk_create(
        Callback(subscription=subscription, partner=subscription.partner, url=url)
        for _ in range(count)
    )


def due_each(count: int, url: str) -> None:
    """Make callbacks to ``url``, each of a partner of its own, that are due now."""
    for _ in range(count):
        due(1, url)


def statuses() -> list[str]:
    return list(Callback.objects.order_by("pk").values_list("status", flat=True))


class TestAWorker:
    def test_sends_what_is_due_and_says_how_it_ended(self) -> None:
        with RawPartner() as good, RawPartner(NO) as bad:
            due(3, good.url)
            due(2, bad.url)
            assert DeliveryWorker().run() == Summary(delivered=3, failed=2)
        assert statuses() == [Status.DELIVERED] * 3 + [Status.QUEUED] * 2
        assert CallbackAttempt.objects.count() == 5

    def test_sends_more_than_it_has_places(self) -> None:
        with RawPartner() as partner:
            for _ in range(3):
                due(15, partner.url)
            assert DeliveryWorker(concurrency=5).run().delivered == 45
            assert len(partner.requests) == 45

    def test_goes_on_where_only_a_partners_places_were_taken_when_it_looked(self) -> None:
        slow = dripping(b"", [OK], every=0.4)
        with RawPartner(slow) as partner:
            due(2, partner.url)
            assert DeliveryWorker(concurrency=4, per_partner=1).run().delivered == 2

    def test_sends_certain_ones_only(self) -> None:
        with RawPartner() as partner:
            due(3, partner.url)
            wanted = Callback.objects.order_by("pk")[1]
            assert worker.deliver([wanted.pk]).delivered == 1
        assert statuses() == [Status.QUEUED, Status.DELIVERED, Status.QUEUED]

    def test_sends_no_more_than_it_may(self) -> None:
        with RawPartner() as partner:
            due(5, partner.url)
            assert DeliveryWorker().run(limit=3).delivered == 3
            assert len(partner.requests) == 3

    def test_that_goes_on_for_ever_ends_after_as_many_as_it_may(self) -> None:
        with RawPartner() as partner:
            due(5, partner.url)
            rest = Rest(stop_after=5)
            assert DeliveryWorker().run(limit=3, rest=rest).delivered == 3
        assert rest.count == 0

    def test_rests_where_nothing_is_due_and_goes_on_with_what_comes(self) -> None:
        delivery = DeliveryWorker()
        with RawPartner() as partner:
            rest = Rest(delivery, stop_after=3, meanwhile=lambda: due(1, partner.url))
            assert delivery.run(rest=rest).delivered == 2

    def test_goes_on_after_a_fault_of_ours_and_tries_that_one_again_later(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        send = worker.transport.send

        def faulty(url: str, *args: Any, **kwargs: Any) -> Any:
            if "fault" in url:
                raise RuntimeError("nobody has thought of this")
            return send(url, *args, **kwargs)

        monkeypatch.setattr(worker.transport, "send", faulty)
        with RawPartner() as partner:
            faulty_one = CallbackFactory(url=f"{partner.url}?fault")
            due(2, partner.url)
            assert DeliveryWorker(concurrency=1).run() == Summary(delivered=2, failed=1)
        faulty_one.subscription.refresh_from_db()
        assert faulty_one.subscription.failure_count == 0  # the partner has done nothing
        assert statuses() == [Status.QUEUED, Status.DELIVERED, Status.DELIVERED]
        assert "nobody has thought of this" in CallbackAttempt.objects.get(error="lost").message
        (record,) = [row for row in caplog.records if "could not be sent" in row.message]
        assert vars(record)["callback"] == faulty_one.pk
        assert vars(record)["reason"] == "lost"

    def test_tells_how_far_it_has_come_in_groups(self) -> None:
        counts: list[int] = []
        with RawPartner() as partner:
            for _ in range(4):
                due(10, partner.url)
            DeliveryWorker().run(progress=lambda summary: counts.append(summary.delivered))
        assert counts == sorted(counts)
        assert counts[-1] == 40
        assert len(counts) <= 20

    @committed
    def test_has_no_transaction_open_while_a_partner_is_called(self) -> None:
        database = connections["default"]
        open_: list[bool] = []

        def answer(caller: socket.socket) -> None:
            open_.append(database.in_atomic_block)
            time.sleep(0.3)
            open_.append(database.in_atomic_block)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due(1, partner.url)
            DeliveryWorker().run()
        assert open_ == [False, False]

    @committed
    def test_talks_to_the_database_from_its_own_thread_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.db.backends.base.base import BaseDatabaseWrapper

        threads: set[str] = set()
        connect = BaseDatabaseWrapper.connect

        def watched(wrapper: Any) -> None:
            threads.add(threading.current_thread().name)
            connect(wrapper)

        monkeypatch.setattr(BaseDatabaseWrapper, "connect", watched)
        with RawPartner() as partner:
            due(5, partner.url)
            connection.close()
            DeliveryWorker().run()
        assert threads == {threading.current_thread().name}

    def test_reads_nothing_from_a_replica_that_lags(self, settings: Any) -> None:
        with RawPartner() as good, RawPartner(NO) as bad:
            due(1, good.url)
            CallbackFactory(url=bad.url)
            Subscription.objects.update(failure_count=20, failing_since="2020-01-01T00:00Z")
            settings.DATABASE_ROUTERS = ["tests.test_worker.ReplicaRouter"]
            assert DeliveryWorker().run() == Summary(delivered=1, failed=1)
        settings.DATABASE_ROUTERS = []
        assert statuses() == [Status.DELIVERED, Status.QUEUED]
        assert Subscription.objects.suspended().count() == 1


class TestWhatElseAWorkerDoes:
    """It has no end of its own, and neither has what there is to send."""

    @pytest.mark.slow
    def test_goes_on_while_a_partner_hangs_and_much_waits_for_them(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_TIMEOUT = (1, 1)
        begun: list[int] = []

        def meanwhile() -> Iterator[None]:
            begun.append(delivery.summary.failed)
            if len(begun) == 3:
                delivery.stop()
            yield

        delivery = DeliveryWorker(concurrency=1)
        with RawPartner(hanging_after()) as partner:
            due(60, partner.url)
            delivery.run(meanwhile=meanwhile)
        assert 0 < len(begun) == 3
        assert Callback.objects.due(timezone.now()).exists()

    def test_is_done_before_it_ends_by_itself_and_sends_what_came_of_it(self) -> None:
        def meanwhile() -> Iterator[None]:
            for _ in range(3):
                due(1, partner.url)
                yield

        with RawPartner() as partner:
            assert DeliveryWorker().run(meanwhile=meanwhile).delivered == 3

    def test_is_done_to_its_end_though_no_more_is_to_be_sent(self) -> None:
        steps: list[int] = []

        def meanwhile() -> Iterator[None]:
            for step in range(5):
                steps.append(step)
                yield

        with RawPartner() as partner:
            due(2, partner.url)
            assert DeliveryWorker().run(meanwhile=meanwhile, limit=1).delivered == 1
        assert steps == [0, 1, 2, 3, 4]

    def test_lets_what_is_due_go_out_between_two_steps(self) -> None:
        def meanwhile() -> Iterator[None]:
            while not CallbackAttempt.objects.exists():
                yield

        with RawPartner() as partner:
            due(1, partner.url)
            assert DeliveryWorker().run(meanwhile=meanwhile).delivered == 1

    def test_ends_after_a_step_when_it_is_stopped(self) -> None:
        def meanwhile() -> Iterator[None]:
            yield
            delivery.stop()
            yield
            raise AssertionError("it was to have ended")

        delivery = DeliveryWorker()
        assert delivery.run(meanwhile=meanwhile, rest=Rest(stop_after=1)) == Summary()

    def test_ends_when_the_seconds_are_over(self) -> None:
        def meanwhile() -> Iterator[None]:
            while True:
                yield

        assert DeliveryWorker().run(meanwhile=meanwhile, seconds=0.2) == Summary()


class Rest:
    """What a worker does when nothing is due: count, and after some times stop it."""

    def __init__(
        self,
        delivery: DeliveryWorker | None = None,
        *,
        stop_after: int,
        meanwhile: Callable[[], Any] = lambda: None,
    ) -> None:
        self.delivery, self.stop_after, self.meanwhile = delivery, stop_after, meanwhile
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.count < self.stop_after:
            self.meanwhile()
        elif self.delivery is None:
            raise AssertionError("it was to have ended by itself")
        else:
            self.delivery.stop()


class TestAPartnerWhoHangs:
    def test_holds_one_slot_while_the_others_are_told(self) -> None:
        def hang(caller: socket.socket) -> None:
            assert all_others_are_recorded.wait(60)

        def progress(summary: Summary) -> None:
            if (summary.delivered, summary.failed) == (30, 0):
                all_others_are_recorded.set()

        all_others_are_recorded = threading.Event()
        with RawPartner(hang) as hanging, RawPartner() as good:
            due(9, hanging.url)
            due(30, good.url)
            delivery = DeliveryWorker(concurrency=8, per_partner=4)
            summary = delivery.run(limit=31, progress=progress)
            assert len(hanging.requests) == 1
        assert (summary.delivered, summary.failed) == (30, 1)

    @committed
    def test_keeps_few_callbacks_claimed_that_are_not_being_sent(self) -> None:
        """What waits behind more than one hanging partner would outlive its lease unsent."""
        unsent: list[int] = []

        def answer(caller: socket.socket) -> None:
            claimed = Callback.objects.filter(attempt_count=1).count()
            connection.close()
            unsent.append(claimed - len(partner.requests))
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            for _ in range(6):
                due(6, partner.url)
            DeliveryWorker(concurrency=2).run()
        assert len(unsent) == 36
        assert 0 < max(unsent) <= 6 + 1  # one is between the queue and the partner


@committed
class TestACallbackThatHasWaitedForAPlace:
    """Nearly as long as its lease: the calls before it took longer than they may."""

    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        """Let the second of two that are claimed have so many seconds left of its lease."""

        def waits(left: float) -> None:
            claim, add = claims.claim, Slots.add

            def claimed(*args: Any) -> list[Callback]:
                monkeypatch.setattr(claims, "claim", claim)
                first, second = claim(*args)
                second.next_attempt_on = timezone.now() + timedelta(seconds=left)
                second.save(update_fields=["next_attempt_on"])
                return [first, second]

            def added(slots: Slots, callback: Callback, claimed_at: float) -> Call:
                call = add(slots, callback, claimed_at)
                if len(slots.calls) == 2:
                    monkeypatch.setattr(Slots, "add", add)
                    call.claimed_at -= settings.callback_lease.total_seconds() - left
                return call

            monkeypatch.setattr(claims, "claim", claimed)
            monkeypatch.setattr(Slots, "add", added)

        return waits

    def test_is_claimed_anew_before_it_is_sent(self, waits: Callable[[float], None]) -> None:
        left: list[float] = []

        def answer(caller: socket.socket) -> None:
            lease = Callback.objects.order_by("pk")[len(left)].next_attempt_on - timezone.now()
            connection.close()
            left.append(lease.total_seconds())
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due_each(2, partner.url)
            waits(19)  # and the call may take 20
            assert DeliveryWorker(concurrency=1).run() == Summary(delivered=2)
        assert len(left) == 2
        assert min(left) > 20
        # That it was claimed and not sent was no attempt.
        assert set(Callback.objects.values_list("attempt_count", flat=True)) == {1}

    def test_is_left_to_whoever_has_claimed_it_since(self, waits: Callable[[float], None]) -> None:
        def answer(caller: socket.socket) -> None:
            if len(partner.requests) == 1:
                second = Callback.objects.order_by("pk")[1]
                assert worker.deliver([second.pk]).delivered == 1
                connection.close()
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due_each(2, partner.url)
            waits(0)
            assert DeliveryWorker(concurrency=1).run() == Summary(delivered=1)
            assert len(partner.requests) == 2
        assert statuses() == [Status.DELIVERED] * 2

    def test_is_sent_where_the_lease_was_never_long_enough(self, settings: Any) -> None:
        """A site may silence E009, and would send nothing any more."""
        settings.AFFILIATE_CALLBACK_LEASE = 1
        with RawPartner() as partner:
            due(1, partner.url)
            assert DeliveryWorker().run() == Summary(delivered=1)


@committed
class TestAWorkerThatIsStopped:
    def test_claims_no_more_and_finishes_and_records_what_is_in_flight(self) -> None:
        delivery = DeliveryWorker(concurrency=2)

        def answer(caller: socket.socket) -> None:
            delivery.stop()
            time.sleep(1)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due_each(5, partner.url)
            summary = delivery.run(rest=Rest(stop_after=1))
            assert summary.delivered == len(partner.requests) == 2
        assert statuses().count(Status.DELIVERED) == 2
        unsent = Callback.objects.due(timezone.now())
        assert unsent.filter(attempt_count=0, lease_token="").count() == 3

    def test_leaves_to_the_lease_what_it_cannot_give_back(
        self, outage: Outage, caplog: pytest.LogCaptureFixture
    ) -> None:
        delivery = DeliveryWorker(concurrency=1)
        outage.failures = 1

        def answer(caller: socket.socket) -> None:
            outage.begin()
            delivery.stop()
            time.sleep(1)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due_each(2, partner.url)
            assert delivery.run().delivered == 1
        assert "1 callbacks could not be released." in caplog.text
        assert sorted(statuses()) == [Status.DELIVERED, Status.QUEUED]
        assert not Callback.objects.due(timezone.now()).exists()

    def test_gives_up_a_database_that_does_not_come_back(
        self, monkeypatch: pytest.MonkeyPatch, outage: Outage
    ) -> None:
        monkeypatch.setattr(worker, "_LAST_TRIES", 3)
        delivery = DeliveryWorker()

        def answer(caller: socket.socket) -> None:
            delivery.stop()
            outage.begin()
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due(1, partner.url)
            with pytest.raises(OperationalError):
                delivery.run()
        outage.end()
        assert statuses() == [Status.QUEUED]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    """Let the database be gone and come back; who waits for it waits a moment."""
    monkeypatch.setattr(worker, "_DATABASE_PAUSE", 0.01)
    with Outage() as outage:
        yield outage


@committed
class TestADatabaseThatIsGone:
    @pytest.mark.parametrize("rest", [None, Rest(stop_after=1)], ids=["once", "for ever"])
    def test_while_a_result_is_recorded_gets_it_when_it_is_back(
        self, outage: Outage, rest: Rest | None
    ) -> None:
        outage.failures = 3
        delivery = DeliveryWorker()
        if rest is not None:
            rest.delivery = delivery

        def answer(caller: socket.socket) -> None:
            outage.begin()
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due(1, partner.url)
            assert delivery.run(rest=rest).delivered == 1
            assert len(partner.requests) == 1
        assert outage.logged >= 3
        assert statuses() == [Status.DELIVERED]
        assert CallbackAttempt.objects.count() == 1

    def test_while_partners_are_called_loses_none_of_their_answers(self, outage: Outage) -> None:
        """Free places are no reason to end: those that are in flight come back."""
        outage.failures = 3

        def answer(caller: socket.socket) -> None:
            if len(partner.requests) == 2:
                outage.begin()
                time.sleep(0.6)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due(2, partner.url)
            assert DeliveryWorker(concurrency=16).run().delivered == 2
        assert outage.logged >= 3
        assert statuses() == [Status.DELIVERED] * 2

    def test_before_anything_was_claimed_ends_a_run_from_cron(self, outage: Outage) -> None:
        due(1, "http://127.0.0.1:1/")
        threading_begin(outage)
        with pytest.raises(OperationalError):
            DeliveryWorker().run()

    def test_before_anything_was_claimed_is_waited_for_by_one_that_goes_on(
        self, outage: Outage, caplog: pytest.LogCaptureFixture
    ) -> None:
        outage.failures = 2
        delivery = DeliveryWorker()
        with RawPartner() as partner:
            due(1, partner.url)
            threading_begin(outage)
            assert delivery.run(rest=Rest(delivery, stop_after=9)).delivered == 1
        assert "No callbacks could be claimed." in caplog.text


def threading_begin(outage: Outage) -> None:
    """Begin the outage from another thread and wait for it."""
    thread = threading.Thread(target=outage.begin)
    thread.start()
    thread.join(10)


def test_results_are_recorded_in_groups_while_calls_are_in_flight() -> None:
    delivery = DeliveryWorker()
    [callback] = due(1, "http://127.0.0.1:1/")
    delivery._slots.add(callback, time.monotonic())
    delivery._add(AttemptResult(callback, timezone.now(), Result(1)))
    delivery._first_ended = float("inf")
    assert not delivery._is_time_to_record()
    delivery._first_ended = 0
    assert delivery._is_time_to_record()


@pytest.mark.parametrize("error", [DataError, IntegrityError])
def test_a_result_that_the_database_refuses_is_dropped_alone(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, accepted = due(2, "http://127.0.0.1:1/")
    recorded = []

    def record(group: list[AttemptResult]) -> list[int]:
        if refused in [attempt.callback for attempt in group]:
            raise error
        recorded.extend(group)
        return []

    monkeypatch.setattr(worker.results, "record", record)
    monkeypatch.setattr(worker, "_DATABASE_PAUSE", 0)
    delivery = DeliveryWorker()
    delivery.stop()  # It would try a passing failure again, but not forever.
    attempts = [AttemptResult(row, timezone.now(), Result(1)) for row in (refused, accepted)]
    delivery._write(attempts)
    assert recorded == attempts[1:]


@committed
class TestAResultThatCannotBeRecorded:
    def test_does_not_keep_the_others_from_being_recorded(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Somebody deletes the row while the partner is called."""
        both = threading.Barrier(3)

        def answer(caller: socket.socket) -> None:
            if both.wait(60) == 0:
                Callback.objects.filter(pk=doomed.pk).delete()
                connection.close()
            both.wait(60)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due_each(3, partner.url)
            doomed = Callback.objects.order_by("pk")[1]
            DeliveryWorker().run()
        assert statuses() == [Status.DELIVERED] * 2
        assert CallbackAttempt.objects.count() == 2
        # MariaDB leaves such a row out by itself.
        said = f"The result of callback {doomed.pk} cannot be recorded." in caplog.text
        assert said == (DATABASE != "mariadb")
