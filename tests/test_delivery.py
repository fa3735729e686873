"""Callbacks sent to a partner's real server, and what is written down about it."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.db import connection, connections
from django.utils import timezone
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from affiliations.callbacks import delivery, transport
from affiliations.models import Callback, CallbackAttempt
from affiliations.triggers import complete_trigger
from tests.factories import CallbackFactory, SubscriptionFactory, VisitorFactory
from tests.raw_partner import RawPartner, hanging_after

Error = CallbackAttempt.Error
Status = Callback.Status


@pytest.fixture(autouse=True)
def _partners_on_this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True


def delivered(url: str) -> Callback:
    """Deliver a callback to this URL, and return it as it is afterwards."""
    callback = CallbackFactory(url=url)
    delivery.deliver([callback.pk])
    callback.refresh_from_db()
    return callback


@pytest.mark.django_db
class TestADelivery:
    def test_is_written_down_with_what_the_partner_said(self, httpserver: HTTPServer) -> None:
        httpserver.expect_request("/cb").respond_with_data("thank you", status=202)
        before = timezone.now()
        callback = delivered(httpserver.url_for("/cb"))
        assert callback.status == Status.DELIVERED
        assert before < callback.delivered_on < timezone.now()
        assert callback.attempt_count == 1
        attempt = callback.attempts.get()
        assert (attempt.number, attempt.status_code, attempt.error) == (1, 202, "")
        assert (attempt.message, attempt.response_excerpt) == ("", "thank you")
        assert before < attempt.started_on < callback.delivered_on
        assert 0 <= attempt.duration_ms < 10_000

    def test_that_is_answered_with_an_error_is_none(self, httpserver: HTTPServer) -> None:
        """(D17) 0.12 took it for sent. It is due again, and everybody can see why."""
        httpserver.expect_request("/cb").respond_with_data("out of order", status=500)
        callback = delivered(httpserver.url_for("/cb"))
        assert (callback.status, callback.delivered_on) == (Status.QUEUED, None)
        assert list(Callback.objects.due(timezone.now())) == [callback]
        attempt = callback.attempts.get()
        assert (attempt.number, attempt.status_code) == (1, 500)
        assert (attempt.error, attempt.response_excerpt) == (Error.HTTP_STATUS, "out of order")

    def test_to_a_partner_who_is_not_there_is_none_and_says_so(self) -> None:
        """(D16) In 0.12 it was a server error for the visitor."""
        with RawPartner() as partner:
            url = partner.url
        callback = delivered(url)
        assert callback.status == Status.QUEUED
        attempt = callback.attempts.get()
        assert (attempt.status_code, attempt.error) == (None, Error.CONNECT)
        assert "refused" in attempt.message

    def test_to_a_partner_who_hangs_ends_after_the_timeout(self, settings: Any) -> None:
        """(D16) 0.12 had none, and held the visitor's request and its transaction."""
        settings.AFFILIATE_CALLBACK_TIMEOUT = (1, 0.3)
        with RawPartner(hanging_after()) as partner:
            callback = delivered(partner.url)
        attempt = callback.attempts.get()
        assert attempt.error == Error.TIMEOUT
        assert attempt.duration_ms < 3000

    def test_that_failed_can_succeed_later(self, httpserver: HTTPServer) -> None:
        httpserver.expect_ordered_request("/cb").respond_with_data(status=503)
        httpserver.expect_ordered_request("/cb").respond_with_data(status=200)
        callback = delivered(httpserver.url_for("/cb"))
        delivery.deliver([callback.pk])
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Status.DELIVERED, 2)
        attempts = callback.attempts.order_by("number")
        assert list(attempts.values_list("number", "status_code")) == [(1, 503), (2, 200)]

    @pytest.mark.parametrize(
        "status", [Status.HELD, Status.DELIVERED, Status.EXHAUSTED, Status.CANCELLED]
    )
    def test_is_not_made_of_what_is_not_queued(self, status: str) -> None:
        with RawPartner() as partner:
            callback = CallbackFactory(url=partner.url, status=status)
            delivery.deliver([callback.pk])
        assert partner.connections == 0
        assert not CallbackAttempt.objects.exists()

    def test_is_not_made_before_it_is_due(self) -> None:
        with RawPartner() as partner:
            later = timezone.now() + timedelta(minutes=1)
            callback = CallbackFactory(url=partner.url, next_attempt_on=later)
            delivery.deliver([callback.pk])
        assert partner.connections == 0

    def test_of_one_that_does_not_exist_keeps_no_other_from_being_sent(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with RawPartner() as partner:
            callback = CallbackFactory(url=partner.url)
            delivery.deliver([callback.pk + 1, callback.pk])
        assert len(partner.requests) == 1
        assert caplog.messages == [f"Callback {callback.pk + 1} could not be attempted."]

    def test_that_kills_its_worker_counts_as_an_attempt(self, monkeypatch: Any) -> None:
        """So a callback that always does so comes to an end."""

        def killed(url: str) -> None:
            raise SystemExit

        monkeypatch.setattr(transport, "send", killed)
        callback = CallbackFactory()
        with pytest.raises(SystemExit):
            delivery.deliver([callback.pk])
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Status.QUEUED, 1)
        assert callback.next_attempt_on > timezone.now() + timedelta(seconds=80)


@pytest.mark.django_db
class TestWhatThePartnerReceives:
    @pytest.fixture
    def received(self, httpserver: HTTPServer) -> list[Request]:
        requests: list[Request] = []

        def answer(request: Request) -> Response:
            requests.append(request)
            return Response("ok")

        httpserver.expect_request("/cb").respond_with_handler(answer)
        return requests

    def test_is_each_value_as_it_was(self, httpserver: HTTPServer, received: list[Request]) -> None:
        visitor = VisitorFactory(
            click_id="a b/ü&=?#%41",
            sub1="one",
            sub2="+",
            sub3="{click_id}",
            sub4="\u2603",
            sub5="..",
        )
        names = (
            "visitor_id click_id sub1 sub2 sub3 sub4 sub5 partner_uid trigger event reference "
            "amount currency payout payout_currency status callback_id timestamp"
        )
        query = "&".join(f"{name}={{{name}}}" for name in names.split())
        url = httpserver.url_for("/cb") + "?" + query
        SubscriptionFactory(partner=visitor.partner, callback_url=url)
        complete_trigger(
            None,
            "Order placed",
            visitor=visitor,
            reference="Order 7/ä",
            amount=Decimal("1234.5"),
            currency="EUR",
        )
        callback = Callback.objects.get()
        delivery.deliver([callback.pk])
        (request,) = received
        assert parse_qs(request.query_string.decode(), keep_blank_values=True) == {
            "visitor_id": [str(visitor.pk)],
            "click_id": ["a b/ü&=?#%41"],
            "sub1": ["one"],
            "sub2": ["+"],
            "sub3": ["{click_id}"],
            "sub4": ["\u2603"],
            "sub5": [".."],
            "partner_uid": [visitor.partner.uid],
            "trigger": ["Order placed"],
            "event": ["conversion"],
            "reference": ["Order 7/ä"],
            "amount": ["1234.50"],
            "currency": ["EUR"],
            "payout": [""],
            "payout_currency": [""],
            "status": ["approved"],
            "callback_id": [callback.webhook_id],
            "timestamp": [str(int(callback.created_on.timestamp()))],
        }

    def test_has_a_value_in_the_path_as_one_segment(self) -> None:
        visitor = VisitorFactory(click_id="x/y?z#")
        with RawPartner() as partner:
            SubscriptionFactory(
                partner=visitor.partner,
                callback_url=f"http://{partner.host}/a/{{click_id}}/cb?v={{visitor_id}}",
            )
            complete_trigger(None, "Order placed", visitor=visitor)
            delivery.deliver([Callback.objects.get().pk])
        line = partner.requests[0].split(b"\r\n")[0].decode()
        assert line == f"GET /a/x%2Fy%3Fz%23/cb?v={visitor.pk} HTTP/1.1"

    def test_is_what_braces_0_12_knew_nothing_of_stand_for(self) -> None:
        """(D18) 0.12 evaluated ``{visitor_id.__class__}``; unknown braces crashed it."""
        visitor = VisitorFactory()
        with RawPartner() as partner:
            subscription = SubscriptionFactory(partner=visitor.partner)
            url = f"http://{partner.host}/cb?v={{visitor_id}}&c={{visitor_id.__class__}}&x={{x}}"
            # A row of 0.12: saving it today is refused.
            type(subscription).objects.update(callback_url=url)
            complete_trigger(None, "Order placed", visitor=visitor)
            delivery.deliver([Callback.objects.get().pk])
        line = partner.requests[0].split(b"\r\n")[0].decode()
        assert line == (f"GET /cb?v={visitor.pk}&c=%7Bvisitor_id.__class__%7D&x=%7Bx%7D HTTP/1.1")

    def test_is_told_although_the_partner_has_been_deactivated(
        self, httpserver: HTTPServer, received: list[Request]
    ) -> None:
        """What was earned is owed."""
        callback = CallbackFactory(url=httpserver.url_for("/cb"))
        callback.conversion.partner.active = False
        callback.conversion.partner.save()
        callback.subscription.active = False
        callback.subscription.save()
        delivery.deliver([callback.pk])
        assert len(received) == 1


@pytest.mark.django_db(transaction=True)
class TestTwoWorkers:
    def test_send_one_callback_once(self) -> None:
        callback = CallbackFactory()
        together = threading.Barrier(5)

        def work() -> None:
            together.wait()
            delivery.deliver([callback.pk])
            connections.close_all()

        with RawPartner() as partner:
            Callback.objects.update(url=partner.url)
            workers = [threading.Thread(target=work) for _ in range(5)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(20)
        assert len(partner.requests) == 1
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Status.DELIVERED, 1)

    def test_hold_no_transaction_while_the_partner_is_talked_to(self, monkeypatch: Any) -> None:
        seen: list[bool] = []

        def send(url: str) -> transport.Result:
            seen.append(connection.in_atomic_block)
            return transport.Result(duration_ms=1, status_code=200)

        monkeypatch.setattr(transport, "send", send)
        delivery.deliver([CallbackFactory().pk])
        assert seen == [False]


@pytest.mark.django_db
class TestTheLease:
    @pytest.fixture
    def late(self) -> Callback:
        """Return a callback as a worker has it whose lease has passed to another worker."""
        callback = CallbackFactory()
        now = timezone.now()
        assert callback.claim(now - timedelta(seconds=0.5), timedelta(seconds=0.1))
        assert Callback.objects.get().claim(now, timedelta(seconds=30))
        return callback

    def test_keeps_a_callback_for_the_worker_that_claimed_it(self) -> None:
        callback = CallbackFactory()
        now = timezone.now()
        assert callback.claim(now, timedelta(seconds=30))
        assert not Callback.objects.get().claim(now + timedelta(seconds=29), timedelta(seconds=30))

    def test_ends_so_that_the_callback_of_a_dead_worker_is_sent(self) -> None:
        callback = CallbackFactory()
        died_on = timezone.now() - timedelta(seconds=31)
        Callback.objects.update(next_attempt_on=died_on)
        assert callback.claim(died_on, timedelta(seconds=30))
        with RawPartner() as partner:
            Callback.objects.update(url=partner.url)
            delivery.deliver([callback.pk])
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Status.DELIVERED, 2)
        assert [attempt.number for attempt in callback.attempts.all()] == [2]

    def test_that_has_passed_to_another_makes_a_late_failure_no_matter(
        self, late: Callback
    ) -> None:
        due_on = Callback.objects.get().next_attempt_on
        late.record(now=timezone.now(), delivered=False, **attempt(error=Error.TIMEOUT))
        callback = Callback.objects.get()
        assert (callback.status, callback.next_attempt_on) == (Status.QUEUED, due_on)
        assert callback.attempts.get().error == Error.TIMEOUT

    def test_that_has_passed_to_another_lets_a_late_success_win(self, late: Callback) -> None:
        late.record(now=timezone.now(), delivered=True, **attempt(status_code=200))
        assert Callback.objects.get().status == Status.DELIVERED

    def test_lets_no_late_failure_undo_a_success(self, late: Callback) -> None:
        other = Callback.objects.get()
        other.record(now=timezone.now(), delivered=True, **attempt(status_code=200))
        late.record(now=timezone.now(), delivered=False, **attempt(error=Error.TIMEOUT))
        assert Callback.objects.get().status == Status.DELIVERED

    def test_keeps_the_moment_of_the_first_success(self, late: Callback) -> None:
        now = timezone.now().replace(microsecond=0)
        other = Callback.objects.get()
        other.record(now=now, delivered=True, **attempt(status_code=200))
        late.record(now=now + timedelta(1), delivered=True, **attempt(status_code=200))
        assert Callback.objects.get().delivered_on == now
        assert CallbackAttempt.objects.count() == 2


def attempt(**result: Any) -> dict[str, Any]:
    return {"started_on": timezone.now(), "duration_ms": 1, **result}
