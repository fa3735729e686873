"""Callbacks sent to a partner's real server, and what is written down about it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.utils import timezone
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from affiliations import placeholders
from affiliations.callbacks import transport, worker
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.triggers import complete_trigger
from tests.factories import CallbackFactory, SubscriptionFactory, VisitorFactory
from tests.raw_partner import RawPartner, hanging_after

Error = CallbackAttempt.Error
Status = Callback.Status


@pytest.fixture(autouse=True)
def _partners_on_this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def delivered(url: str) -> Callback:
    """Deliver a callback to this URL, and return it as it is afterwards."""
    callback = CallbackFactory(url=url)
    worker.deliver([callback.pk])
    callback.refresh_from_db()
    return callback


@pytest.mark.django_db
class TestADelivery:
    def test_is_written_down_with_what_the_partner_said(self, httpserver: HTTPServer) -> None:
        httpserver.expect_request("/cb").respond_with_data("thank you", status=202)
        before = timezone.now()
        callback = delivered(httpserver.url_for("/cb"))
        after = timezone.now()
        assert callback.status == Status.DELIVERED
        assert before < callback.delivered_on < after
        assert callback.attempt_count == 1
        attempt = callback.attempts.get()
        assert (attempt.number, attempt.status_code, attempt.error) == (1, 202, "")
        assert (attempt.message, attempt.response_excerpt) == ("", "thank you")
        assert before < attempt.started_on < callback.delivered_on
        assert 0 <= attempt.duration_ms <= (after - before) / timedelta(milliseconds=1) + 1

    def test_that_is_answered_with_an_error_is_none(self, httpserver: HTTPServer) -> None:
        """(D17) 0.12 took it for sent. It is due again, and everybody can see why."""
        httpserver.expect_request("/cb").respond_with_data("out of order", status=500)
        callback = delivered(httpserver.url_for("/cb"))
        assert (callback.status, callback.delivered_on) == (Status.QUEUED, None)
        assert callback.next_attempt_on > timezone.now()
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
        settings.AFFILIATE_CALLBACK_TIMEOUT = (20, 0.3)
        settings.AFFILIATE_CALLBACK_DEADLINE = 60
        with RawPartner(hanging_after()) as partner:
            callback = delivered(partner.url)
        attempt = callback.attempts.get()
        assert attempt.error == Error.TIMEOUT
        assert attempt.duration_ms < 20_000

    def test_that_failed_can_succeed_later(self, httpserver: HTTPServer) -> None:
        httpserver.expect_ordered_request("/cb").respond_with_data(status=503)
        httpserver.expect_ordered_request("/cb").respond_with_data(status=200)
        callback = delivered(httpserver.url_for("/cb"))
        Callback.objects.update(next_attempt_on=timezone.now())
        Subscription.objects.update(callbacks_paused_until=timezone.now())
        worker.deliver([callback.pk])
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Status.DELIVERED, 2)
        attempts = callback.attempts.order_by("number")
        assert list(attempts.values_list("number", "status_code")) == [(1, 503), (2, 200)]

    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.EXHAUSTED, Status.CANCELLED])
    def test_is_not_made_of_what_is_not_queued(self, status: str) -> None:
        with RawPartner() as partner:
            callback = CallbackFactory(url=partner.url, status=status)
            worker.deliver([callback.pk])
        assert partner.connections == 0
        assert not CallbackAttempt.objects.exists()

    def test_is_not_made_before_it_is_due(self) -> None:
        with RawPartner() as partner:
            later = timezone.now() + timedelta(minutes=1)
            callback = CallbackFactory(url=partner.url, next_attempt_on=later)
            worker.deliver([callback.pk])
        assert partner.connections == 0

    def test_of_one_that_does_not_exist_keeps_no_other_from_being_sent(self) -> None:
        with RawPartner() as partner:
            callback = CallbackFactory(url=partner.url)
            worker.deliver([callback.pk + 1, callback.pk])
        assert len(partner.requests) == 1

    @pytest.mark.django_db(databases=["default", "other"])
    def test_does_not_wait_for_a_replica_to_know_of_the_callback(self, settings: Any) -> None:
        """It was committed a moment ago, and a site may read from elsewhere than it writes."""

        class Replica:
            def db_for_read(self, model: type, **hints: object) -> str | None:
                return "other" if model is Callback else None

        with RawPartner() as partner:
            callback = CallbackFactory(url=partner.url)
            settings.DATABASE_ROUTERS = [Replica()]
            worker.deliver([callback.pk])
        callback.refresh_from_db(using="default")
        assert callback.status == Status.DELIVERED

    def test_that_fails_by_a_fault_of_ours_is_an_attempt_too(self, monkeypatch: Any) -> None:
        """Its place in the pool is free again, and staff see what happened."""

        def send(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("no such thing")

        monkeypatch.setattr(transport, "send", send)
        callback = delivered("https://partner.example/cb")
        assert (callback.status, callback.attempt_count) == (Status.QUEUED, 1)
        attempt = callback.attempts.get()
        assert (attempt.error, attempt.message) == (Error.LOST, "RuntimeError('no such thing')")


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
        query = "&".join(f"{name}={{{name}}}" for name in placeholders.NAMES)
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
        worker.deliver([callback.pk])
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
            worker.deliver([Callback.objects.get().pk])
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
            worker.deliver([Callback.objects.get().pk])
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
        worker.deliver([callback.pk])
        assert len(received) == 1


def attempt(**result: Any) -> dict[str, Any]:
    return {"started_on": timezone.now(), "duration_ms": 1, **result}
