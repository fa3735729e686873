"""
What each fault must end in: a row of the table of faults each, with real servers and processes.

What a partner's server can do to a single call has its tests in test_transport.py and
test_connections.py, what an address can lead to in test_addresses.py, and what becomes of a message
broker in test_engines.py; here is what follows for the callback.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django.utils.http import http_date

from affiliations.callbacks import claims, outbox, results, suspension, transport
from affiliations.callbacks import worker as delivery
from affiliations.callbacks.slots import Slots
from affiliations.callbacks.transport import AttemptResult
from affiliations.callbacks.worker import CONCURRENCY, DeliveryWorker
from affiliations.conversions import decisions
from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription
from affiliations.triggers import complete_trigger
from tests.claiming import claim
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.hosts import Process, manage, until
from tests.outages import Outage
from tests.raw_partner import (
    OK,
    RawPartner,
    dripping,
    hanging_after,
    redirecting,
    resetting,
    sending,
)

pytestmark = pytest.mark.django_db
#: For what other threads or processes are to see.
committed = pytest.mark.django_db(transaction=True)

Status = Callback.Status
Error = CallbackAttempt.Error

NO = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    settings.AFFILIATE_CALLBACK_TIMEOUT = (20, 20)
    settings.AFFILIATE_CALLBACK_DEADLINE = 60


def at_once(callback_ids: Sequence[int]) -> None:
    """Send as soon as the dispatcher is told; a dispatcher."""
    delivery.deliver(callback_ids)


def broken(callback_ids: Sequence[int]) -> None:
    """Fail as where an engine or its broker is down; a dispatcher."""
    raise ConnectionRefusedError("no broker")


def dying(callback_ids: Sequence[int]) -> None:
    """Kill this process after the commit, before anybody is told; a dispatcher."""
    os.kill(os.getpid(), signal.SIGKILL)


def convert(url: str) -> None:
    """Let a visitor of a partner at ``url`` do what is counted."""
    subscription = SubscriptionFactory(callback_url=url + "?v={visitor_id}")
    visitor = VisitorFactory(partner=subscription.partner)
    complete_trigger(None, subscription.trigger, visitor=visitor)


def code(line: str, **settings: Any) -> Any:
    """Run a line of a host's code in a process of its own."""
    return manage("shell", "-v", "0", "-c", line, **settings)


def ids(server: RawPartner) -> list[bytes]:
    """Return the webhook id of each request that a partner has got."""
    fields = [field for request in server.requests for field in request.split(b"\r\n")]
    return [field for field in fields if field.startswith(b"webhook-id: ")]


@committed
class TestARollback:
    def test_leaves_no_row_and_nothing_is_sent(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_faults.at_once"
        with RawPartner() as partner:
            with transaction.atomic():
                convert(partner.url)
                transaction.set_rollback(True)
            assert not Callback.objects.exists()
            assert partner.requests == []
            # Committed, it would have been sent.
            with transaction.atomic():
                convert(partner.url)
            assert len(partner.requests) == 1


@committed
class TestBeforeTheNudge:
    @pytest.mark.server
    def test_what_was_committed_by_a_process_that_was_killed_is_sent_by_the_next_sweep(
        self,
    ) -> None:
        with RawPartner() as partner:
            line = f"from tests.test_faults import convert; convert({partner.url!r})"
            dispatcher = "tests.test_faults.dying"
            with code(line, AFFILIATE_CALLBACK_DISPATCHER=dispatcher) as process:
                assert process.wait() == -signal.SIGKILL
            assert partner.requests == []
            assert Conversion.objects.count() == 1
            assert DeliveryWorker().run().delivered == 1
            assert len(partner.requests) == 1

    def test_an_engine_that_is_down_does_not_trouble_the_host_and_the_next_sweep_sends(
        self, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_faults.broken"
        with RawPartner() as partner:
            convert(partner.url)
            assert partner.requests == []
            assert DeliveryWorker().run().delivered == 1


@pytest.mark.server
@committed
class TestAWorkerThatIsKilled:
    LEASE = 2

    def test_after_the_claim_loses_nothing_and_it_is_sent_after_the_lease(self) -> None:
        with RawPartner() as partner:
            CallbackFactory(url=partner.url)
            line = "import os; from tests.claiming import claim;claim(9); os.kill(os.getpid(), 9)"
            with code(line, AFFILIATE_CALLBACK_LEASE=self.LEASE) as process:
                assert process.wait() == -signal.SIGKILL
            lease_ends = Callback.objects.get().next_attempt_on
            until(lambda: DeliveryWorker().run().delivered)
            assert CallbackAttempt.objects.get().started_on >= lease_ends
            assert len(partner.requests) == 1

    def test_after_sending_makes_it_sent_twice_with_the_same_id(self) -> None:
        workers: list[Process] = []

        def answer(caller: socket.socket) -> None:
            if len(partner.requests) == 1:
                until(lambda: workers)
                workers[0].kill()
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            callback = CallbackFactory(url=partner.url)
            lease = {"AFFILIATE_CALLBACK_LEASE": self.LEASE}
            with manage("deliver_callbacks", "--loop", **lease) as worker:
                workers.append(worker)
                until(lambda: not worker.is_running())
            until(lambda: DeliveryWorker().run().delivered)
            assert ids(partner) == [f"webhook-id: {callback.webhook_id}".encode()] * 2
        attempt = CallbackAttempt.objects.get()
        assert (attempt.number, attempt.callback) == (2, callback)

    def test_by_the_callback_itself_each_time_ends_it(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0, 0]
        settings.AFFILIATE_CALLBACK_LEASE = 0
        callback = CallbackFactory()
        for _ in range(2):
            assert claim(1) == [callback]
        assert DeliveryWorker().run().failed == 0
        callback.refresh_from_db()
        assert callback.status == Status.EXHAUSTED


@pytest.mark.server
@committed
class TestSigterm:
    def test_claims_no_more_finishes_and_records_what_is_in_flight_and_exits_with_0(self) -> None:
        workers: list[Process] = []

        def answer(caller: socket.socket) -> None:
            until(lambda: workers)
            workers[0].popen.send_signal(signal.SIGTERM)
            time.sleep(0.7)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            for subscription in SubscriptionFactory.create_batch(2):
                Callback.objects.bulk_create(
                    Callback(subscription=subscription, partner=subscription.partner, url=url)
                    for url in [partner.url] * 9
                )
            with manage("deliver_callbacks", "--loop") as worker:
                workers.append(worker)
                assert worker.wait() == 0
                sent = len(partner.requests)
                assert worker.said() == f"{sent} delivered, 0 failed.\n"
        assert 1 <= sent <= 8
        assert Callback.objects.filter(status=Status.DELIVERED).count() == sent
        assert Callback.objects.filter(status=Status.QUEUED, attempt_count=0).count() == 18 - sent


@committed
class TestTheDatabase:
    def test_that_is_down_while_recording_gets_the_result_when_it_is_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More of it in test_worker.py."""
        monkeypatch.setattr(delivery, "_DATABASE_PAUSE", 0.01)

        def answer(caller: socket.socket) -> None:
            outage.begin()
            caller.sendall(OK)

        with RawPartner(answer) as partner, Outage() as outage:
            CallbackFactory(url=partner.url)
            outage.failures = 3
            assert DeliveryWorker().run().delivered == 1
            assert len(partner.requests) == 1
        assert Callback.objects.get().status == Status.DELIVERED


def answered(answer: Any, **options: Any) -> Callback:
    """Let a partner answer so, once, and return what has become of the callback."""
    with RawPartner(answer, **options) as partner:
        callback = CallbackFactory(url=partner.url)
        DeliveryWorker().run()
    callback.refresh_from_db()
    return callback


class TestAFailedAttempt:
    @pytest.mark.parametrize(
        ("answer", "error", "status_code"),
        [
            pytest.param(redirecting("/again"), Error.REDIRECTS, 302, id="redirects for ever"),
            pytest.param(b"HTTP/1.1 304 Not\r\n\r\n", Error.HTTP_STATUS, 304, id="304"),
            pytest.param(b"HTTP/1.1 404 Not\r\n\r\n", Error.HTTP_STATUS, 404, id="404"),
            pytest.param(NO, Error.HTTP_STATUS, 500, id="500"),
            pytest.param(resetting, Error.LOST, None, id="reset"),
            pytest.param(b"", Error.LOST, None, id="closed without reply"),
            pytest.param(b"\0\1\2 nonsense\r\n\r\n", Error.PROTOCOL, None, id="garbage"),
            pytest.param(hanging_after(), Error.TIMEOUT, None, id="silence"),
        ],
    )
    def test_has_an_error_of_the_closed_list_and_waits_for_the_next(
        self, answer: Any, error: str, status_code: int | None, settings: Any
    ) -> None:
        if error == Error.TIMEOUT:
            settings.AFFILIATE_CALLBACK_TIMEOUT = (20, 0.5)
        self.check(answered(answer), error, status_code)

    def test_with_a_bad_certificate_is_one(self) -> None:
        self.check(answered(OK, tls=True), Error.TLS)

    def test_to_nobody_is_one(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.check(self.to(f"http://127.0.0.1:{port}/"), Error.CONNECT)

    def test_to_a_name_that_does_not_exist_is_one(self) -> None:
        self.check(self.to("http://partner.invalid/"), Error.DNS)

    def to(self, url: str) -> Callback:
        callback = CallbackFactory(url=url)
        DeliveryWorker().run()
        callback.refresh_from_db()
        return callback

    def check(self, callback: Callback, error: str, status_code: int | None = None) -> None:
        attempt = callback.attempts.get()
        assert (attempt.error, attempt.status_code) == (error, status_code)
        assert attempt.message or attempt.status_code
        assert callback.status == Status.QUEUED
        assert attempt.started_on + timedelta(seconds=4) <= callback.next_attempt_on
        assert callback.next_attempt_on <= timezone.now() + timedelta(seconds=6)


class TestAPartnerWhoAsks:
    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_to_come_back_later_is_waited_for(self, status: int, form: str) -> None:
        later = "3600" if form == "seconds" else http_date(time.time() + 3600)
        head = f"HTTP/1.1 {status} Busy\r\nRetry-After: {later}\r\nContent-Length: 0\r\n\r\n"
        callback = answered(head.encode())
        wait = (callback.next_attempt_on - timezone.now()).total_seconds()
        assert 3500 < wait <= 3600
        assert callback.status == Status.QUEUED

    def test_not_to_come_back_is_not_called_again(self) -> None:
        callback = answered(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        assert (callback.status, callback.attempts.count()) == (Status.EXHAUSTED, 1)


@pytest.mark.slow
class TestADrip:
    @pytest.mark.parametrize(
        ("head", "drop"),
        [
            pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="headers"),
            pytest.param(b"HTTP/1.1 500 No\r\n\r\n", b"x", id="body"),
            pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 Continue"),
        ],
    )
    def test_ends_at_the_deadline(self, head: bytes, drop: bytes, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_DEADLINE = 1.5
        callback = answered(dripping(head, itertools.repeat(drop, 300), every=0.1))
        attempt = callback.attempts.get()
        succeeded = b"200" in head
        assert callback.status == (Status.DELIVERED if succeeded else Status.QUEUED)
        assert attempt.error == ("" if succeeded else Error.DEADLINE)
        assert 1400 < attempt.duration_ms < 20_000


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            dripping(b"HTTP/1.1 200 OK\r\n\r\n", itertools.repeat(b"x" * 65536), every=0),
            id="endless body",
        ),
        pytest.param(
            sending(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 90000\r\n\r\n",
                b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\0" * 89990,
            ),
            id="gzip bomb",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
            id="200 headers",
        ),
    ],
)
def test_of_an_answer_that_is_too_large_4_kib_are_kept(answer: Any) -> None:
    """That memory stays flat is shown in test_connections.py."""
    callback = answered(answer)
    assert callback.status == Status.DELIVERED
    assert len(callback.attempts.get().response_excerpt) <= 4096


class TestAnAddressInsideThisNetwork:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
    def test_gets_not_one_packet(self, settings: Any, host: str) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
        with RawPartner() as inside:
            callback = CallbackFactory(url=f"http://{host}:{inside.port}/")
            DeliveryWorker().run()
            assert inside.connections == 0
        assert callback.attempts.get().error == Error.BLOCKED_ADDRESS
        assert Callback.objects.get().status == Status.QUEUED

    def test_that_serves_metadata_is_not_called(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
        callback = CallbackFactory(url="http://169.254.169.254/latest/meta-data/")
        DeliveryWorker().run()
        assert callback.attempts.get().error == Error.BLOCKED_ADDRESS


@pytest.mark.server
@committed
class TestTwoWorkers:
    def test_send_each_callback_once(self) -> None:
        both_send = threading.Event()

        def answer(caller: socket.socket) -> None:
            # More at once than one of them has places.
            if len(partner.requests) > CONCURRENCY:
                both_send.set()
            assert both_send.wait(60)
            caller.sendall(OK)

        patient = {
            "AFFILIATE_CALLBACK_TIMEOUT": (3, 60),
            "AFFILIATE_CALLBACK_DEADLINE": 60,
            "AFFILIATE_CALLBACK_LEASE": 300,
        }
        with RawPartner(answer) as partner:
            for subscription in SubscriptionFactory.create_batch(10):
                Callback.objects.bulk_create(
                    Callback(subscription=subscription, partner=subscription.partner, url=url)
                    for url in [partner.url] * 10
                )
            with manage("deliver_callbacks", "--loop", **patient) as one:
                with manage("deliver_callbacks", "--loop", **patient) as other:
                    until(lambda: not Callback.objects.exclude(status=Status.DELIVERED).exists())
                    assert other.stop() == 0
                assert one.stop() == 0
            assert len(partner.requests) == len(set(ids(partner))) == 100
        assert set(Callback.objects.values_list("attempt_count", flat=True)) == {1}


@committed
class TestAWorkerSlowerThanItsLease:
    @pytest.mark.parametrize(
        ("slow", "quick", "status"),
        [
            pytest.param(NO, OK, Status.DELIVERED, id="late failure"),
            pytest.param(NO, NO, Status.QUEUED, id="late failure after a failure"),
            pytest.param(OK, NO, Status.DELIVERED, id="late success"),
        ],
    )
    def test_is_heard_with_a_late_success_and_not_with_a_late_failure(
        self, slow: bytes, quick: bytes, status: str, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_TIMEOUT = (60, 60)
        other_has_recorded = threading.Event()

        def answer(caller: socket.socket) -> None:
            if len(partner.requests) == 1:
                assert other_has_recorded.wait(60)
                caller.sendall(slow)
            else:
                caller.sendall(quick)

        def slow_worker() -> None:
            try:
                DeliveryWorker().run()
            finally:
                connection.close()

        with RawPartner(answer) as partner:
            callback = CallbackFactory(url=partner.url)
            worker = threading.Thread(target=slow_worker)
            worker.start()
            until(lambda: partner.requests)
            Callback.objects.update(next_attempt_on=timezone.now())  # the lease has ended
            DeliveryWorker().run()
            after = Callback.objects.get()
            other_has_recorded.set()
            worker.join(60)
        callback.refresh_from_db()
        assert callback.status == status
        assert callback.attempts.count() == 2
        if slow == NO:
            assert callback.next_attempt_on == after.next_attempt_on
            assert Subscription.objects.get().failure_count == (quick == NO)


class TestASubscriptionThatIsSuspended:
    def test_holds_what_waits_and_sends_it_when_it_is_resumed(self) -> None:
        with RawPartner(NO) as partner:
            subscription = SubscriptionFactory()
            for _ in range(3):
                conversion = ConversionFactory(
                    visitor__partner=subscription.partner, subscription=subscription
                )
                CallbackFactory(conversion=conversion, url=partner.url)
            Subscription.objects.update(
                failure_count=9, failing_since=timezone.now() - timedelta(hours=73)
            )
            DeliveryWorker().run()
            assert Subscription.objects.get().is_suspended
            partner.answer = sending(OK)
            assert DeliveryWorker().run().delivered == 0
            suspension.resume(subscription)
            assert DeliveryWorker().run().delivered == 3


class TestAPartner:
    def test_who_was_deactivated_is_still_told_what_was_earned(self) -> None:
        with RawPartner() as server:
            CallbackFactory(url=server.url, conversion__visitor__partner__active=False)
            assert DeliveryWorker().run().delivered == 1

    def test_who_was_stopped_for_fraud_is_told_nothing(self) -> None:
        with RawPartner() as server:
            waiting = CallbackFactory(url=server.url, conversion__status="pending")
            partner = waiting.partner
            late = CallbackFactory(url=server.url, attempt_count=3, partner=partner)
            told = CallbackFactory(url=server.url, status=Status.DELIVERED, partner=partner)
            others = CallbackFactory(url=server.url)
            assert decisions.stop_for_fraud(partner, reason="Made-up visitors") == 1
            DeliveryWorker().run()
            assert len(server.requests) == 1
        for callback in (waiting, late, told, others):
            callback.refresh_from_db()
        assert waiting.status == late.status == Status.CANCELLED
        assert waiting.reason == late.reason == "Made-up visitors"
        assert told.status == others.status == Status.DELIVERED
        assert Conversion.objects.get(pk=waiting.conversion_id).status == "rejected"
        partner.refresh_from_db()
        assert not partner.active

    def test_who_takes_what_was_on_its_way_when_they_were_stopped_has_been_told(self) -> None:
        with RawPartner() as server:
            callback = CallbackFactory(url=server.url)
            (claimed,) = claim(1)
            decisions.stop_for_fraud(callback.partner, reason="Made-up visitors")
            results.record([AttemptResult(claimed, timezone.now(), transport.send(claimed.url))])
        callback.refresh_from_db()
        assert callback.status == Status.DELIVERED


LATER = timezone.now() + timedelta(days=1)


class TestManyRowsInFront:
    ROWS = 20_000
    RANDOM = {
        "sqlite": "lower(hex(randomblob(16)))",
        "postgresql": "md5(random()::text)",
        "mysql": "md5(concat(uuid(), rand()))",
    }

    def fill(self, first: Callback) -> None:
        """Copy a row again and again, doubling: quicker than anything that Python could do."""
        fields = [field.column for field in Callback._meta.fields if not field.primary_key]
        columns = ", ".join(fields)
        values = columns.replace("webhook_id", self.RANDOM[connection.vendor])
        table = Callback._meta.db_table
        with connection.cursor() as cursor:
            count = 1
            while count < self.ROWS:
                cursor.execute(
                    f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table}"
                    " WHERE subscription_id = %s",
                    [first.subscription_id],
                )
                count *= 2

    def rows_read(self) -> int:
        """Return how much this connection has read so far, in what the database counts by."""
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(
                    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
                    " WHERE relname = 'affiliations_callback'"
                )
            else:
                cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%%'")
            return sum(int(row[-1]) for row in cursor.fetchall())

    def claim_reads(self) -> int:
        """Return how much a claim of sixteen callbacks reads."""
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        before = 0
        if connection.vendor == "sqlite":
            connection.connection.set_progress_handler(step, 10)
        else:
            before = self.rows_read()
        assert len(claims.claim(16, Slots())) == 16
        if connection.vendor == "sqlite":
            connection.connection.set_progress_handler(None, 0)
            return steps
        return self.rows_read() - before

    def due(self) -> None:
        Callback.objects.bulk_create(
            Callback(subscription=subscription, partner=subscription.partner, url="/")
            for subscription in SubscriptionFactory.create_batch(16)
            for _ in range(4)
        )

    @pytest.mark.parametrize(
        ("status", "fields"),
        [
            pytest.param(Status.EXHAUSTED, {}, id="gave up"),
            pytest.param(Status.QUEUED, {"callbacks_suspended_on": LATER}, id="suspended"),
            pytest.param(Status.QUEUED, {"callbacks_paused_until": LATER}, id="paused"),
        ],
    )
    def test_do_not_make_a_claim_read_more(self, status: str, fields: dict[str, Any]) -> None:
        """How long it takes with half a million rows is shown by the benchmark."""
        self.due()
        without = self.claim_reads()
        front = PartnerFactory()
        first = Callback.objects.create(
            subscription=SubscriptionFactory(partner=front, **fields),
            partner=front,
            status=status,
            url="/",
            next_attempt_on=timezone.now() - timedelta(days=30),
        )
        self.fill(first)
        assert self.claim_reads() < 1.5 * without + 50


class TestAResend:
    def test_by_staff_is_a_new_attempt_with_the_same_id_and_the_history_stays(self) -> None:
        with RawPartner() as partner:
            callback = CallbackFactory(url=partner.url)
            DeliveryWorker().run()
            assert outbox.resend(callback)
            DeliveryWorker().run()
            assert ids(partner) == [f"webhook-id: {callback.webhook_id}".encode()] * 2
        attempts = callback.attempts.order_by("number").values_list("number", "manual")
        assert list(attempts) == [(1, False), (2, True)]

    def test_with_the_current_url_is_a_new_row_beside_the_old_one(self) -> None:
        with RawPartner(NO) as old, RawPartner() as new:
            callback = CallbackFactory(url=old.url)
            DeliveryWorker().run()
            callback.subscription.callback_url = new.url + "?v={visitor_id}"
            callback.subscription.save()
            anew = outbox.resend_anew(callback)
            assert DeliveryWorker().run().delivered == 1
            assert ids(new) == [f"webhook-id: {anew.webhook_id}".encode()]
            assert len(old.requests) == 1
        callback.refresh_from_db()
        assert callback.status == Status.QUEUED
        assert callback.attempts.count() == 1


@committed
class TestTheThread:
    """Under web servers, reloaders and forks: test_dispatchers.py."""

    @pytest.mark.server
    def test_finishes_what_is_in_flight_when_the_interpreter_ends(self) -> None:
        with RawPartner(dripping(b"", [OK], every=0.7)) as partner:
            line = f"from tests.test_faults import convert, until; convert({partner.url!r})"
            dispatcher = "affiliations.dispatchers.thread"
            # Claimed, and a moment later the partner is called.
            line += "; from affiliations.models import Callback"
            line += "; until(lambda: Callback.objects.filter(attempt_count=1).exists())"
            line += "; import time; time.sleep(0.4)"
            with code(line, AFFILIATE_CALLBACK_DISPATCHER=dispatcher) as process:
                assert process.wait() == 0
            assert len(partner.requests) == 1
        assert Callback.objects.get().status == Status.DELIVERED
