"""The test callback: what staff send to see whether a partner's address works."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connections
from django.utils import timezone
from standardwebhooks import Webhook

from affiliations.callbacks import outbox
from affiliations.callbacks.test_callback import send_test_callback
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription, Visitor
from affiliations.placeholders import NAMES
from tests.factories import SubscriptionFactory
from tests.raw_partner import OK, RawPartner

pytestmark = pytest.mark.django_db

NO = b"HTTP/1.1 404 No\r\nContent-Length: 12\r\n\r\nno such page"


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def called(server: RawPartner) -> tuple[str, dict[str, str]]:
    """Return the path and query that a partner saw, and the headers."""
    line, *fields = server.requests[-1].decode("ascii").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if field)
    return line.split(" ")[1], headers


class TestATestCallback:
    def test_brings_the_answer(self) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            attempt = send_test_callback(subscription)
        assert (attempt.status_code, attempt.error, attempt.response_excerpt) == (200, "", "ok")

    def test_has_a_sample_for_each_placeholder(self) -> None:
        query = "&".join(f"{name}={{{name}}}" for name in NAMES)
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=f"{server.url}?{query}")
            send_test_callback(subscription)
            seen = {
                name: values[0]
                for name, values in parse_qs(urlsplit(called(server)[0]).query).items()
            }
        assert set(seen) == set(NAMES)
        assert seen["partner_uid"] == subscription.partner.uid
        assert seen["trigger"] == subscription.trigger
        assert (seen["event"], seen["visitor_id"], seen["amount"]) == ("test", "0", "100.00")
        callback = Callback.objects.get()
        assert seen["callback_id"] == callback.webhook_id
        assert abs(int(seen["timestamp"]) - timezone.now().timestamp()) < 60

    def test_is_signed_like_any_other(self) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            send_test_callback(subscription)
            path_and_query, headers = called(server)
        Webhook(subscription.partner.signing_secret).verify(
            path_and_query, headers, json_parse=False
        )
        assert headers["webhook-id"] == Callback.objects.get().webhook_id

    def test_is_written_down_with_no_conversion_behind_it(self) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            attempt = send_test_callback(subscription)
        callback = Callback.objects.get()
        assert callback == attempt.callback
        assert (callback.conversion, callback.event) == (None, "test")
        assert (callback.status, callback.attempt_count) == (Callback.Status.DELIVERED, 1)
        assert callback.delivered_on is not None
        assert (callback.subscription, callback.partner) == (subscription, subscription.partner)
        assert callback.url == server.url + "?v=0"
        assert not Conversion.objects.exists()
        assert not Visitor.objects.exists()

    def test_that_fails_shows_why_and_is_not_tried_again(self) -> None:
        with RawPartner(NO) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            attempt = send_test_callback(subscription)
        assert (attempt.status_code, attempt.error) == (404, "http_status")
        assert attempt.response_excerpt == "no such page"
        callback = Callback.objects.get()
        assert (callback.status, callback.delivered_on) == (Callback.Status.EXHAUSTED, None)
        assert CallbackAttempt.objects.get() == attempt

    def test_that_fails_does_not_count_for_a_suspension(self) -> None:
        with RawPartner(NO) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            for _ in range(2):
                send_test_callback(subscription)
        subscription = Subscription.objects.get()
        assert (subscription.failure_count, subscription.failing_since) == (0, None)

    def test_can_be_sent_while_the_subscription_is_suspended(self) -> None:
        """It is how staff find out that the partner is back."""
        with RawPartner() as server:
            subscription = SubscriptionFactory(
                callback_url=server.url + "?v={visitor_id}", callbacks_suspended_on=timezone.now()
            )
            assert send_test_callback(subscription).error == ""

    @pytest.mark.parametrize("url", ["", "https://partner.example/cb"])
    def test_to_an_address_that_cannot_be_called_is_refused(self, url: str) -> None:
        subscription = SubscriptionFactory()
        subscription.callback_url = url
        with pytest.raises(InvalidCallBackURL):
            send_test_callback(subscription)
        assert not Callback.objects.exists()

    def test_cannot_be_made_anew_from_the_row(self) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            callback = send_test_callback(subscription).callback
        with pytest.raises(ValueError, match="test callback"):
            outbox.resend_anew(callback)

    def test_keeps_no_transaction_open_while_it_waits(self, transactional_db: None) -> None:
        database = connections["default"]
        seen: list[bool] = []

        def answer(caller: socket.socket) -> None:
            seen.append(database.in_atomic_block)
            caller.sendall(OK)

        with RawPartner(answer) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            assert send_test_callback(subscription).status_code == 200
        assert seen == [False]
