"""Subscriptions whose callbacks are a POST with a JSON body."""

from __future__ import annotations

import json
import re
import socket
from datetime import datetime, timezone
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from standardwebhooks import Webhook

from affiliations.callbacks import outbox, transport, worker
from affiliations.callbacks.test_callback import send_test_callback
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.placeholders import NAMES
from affiliations.privacy import blank
from affiliations.triggers import complete_trigger
from tests.factories import SubscriptionFactory, UserFactory, VisitorFactory
from tests.raw_partner import OK, RawPartner, redirecting

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def order(server: RawPartner, **fields: Any) -> Callback:
    """Complete a trigger whose subscription asks for a POST, and return the callback."""
    subscription = SubscriptionFactory(
        callback_url=server.url, method="POST", payout_type="percent", payout_value=10, **fields
    )
    visitor = VisitorFactory(
        partner=subscription.partner, click_id="ü“\\", sub1="", user=UserFactory()
    )
    complete_trigger(
        None,
        subscription.trigger,
        visitor=visitor,
        reference="10/1",
        amount="1e3",
        currency="EUR",
    )
    return Callback.objects.get(event=Callback.Event.CONVERSION)


def sent(request: bytes) -> tuple[str, dict[str, str], str]:
    head, _, body = request.decode().partition("\r\n\r\n")
    line, *headers = head.split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body


def test_the_body_holds_all_values_and_is_signed() -> None:
    with RawPartner() as server:
        callback = order(server)
        worker.deliver([callback.pk])
    line, headers, body = sent(server.requests[0])
    assert line == "POST /cb HTTP/1.1"
    assert headers["Content-Type"] == "application/json"
    assert body == callback.body
    envelope = Webhook(callback.partner.signing_secret).verify(body, headers)
    assert envelope == json.loads(body)
    assert list(envelope) == ["type", "timestamp", "data"]
    assert envelope["type"] == "conversion"
    assert datetime.fromisoformat(envelope["timestamp"]) == callback.created_on
    assert datetime.fromisoformat(envelope["timestamp"]).tzinfo == timezone.utc
    data = envelope["data"]
    assert tuple(data) == NAMES
    assert (data["click_id"], data["reference"], data["sub1"]) == ("ü“\\", "10/1", "")
    assert (data["amount"], data["payout"], data["currency"]) == ("1000.00", "100.00", "EUR")
    assert data["visitor_id"] == callback.conversion.visitor_id


def test_the_url_may_hold_placeholders_and_need_not() -> None:
    for url in ("https://partner.example/", "https://partner.example/{reference}"):
        SubscriptionFactory(callback_url=url, method="POST").full_clean()
    with pytest.raises(InvalidCallBackURL):
        SubscriptionFactory(callback_url="https://partner.example/", method="GET")
    with pytest.raises(InvalidCallBackURL):
        SubscriptionFactory(callback_url="https://partner.example/{nobody}", method="POST")


def test_a_get_without_an_id_cannot_be_made_of_it() -> None:
    subscription = SubscriptionFactory(callback_url="https://partner.example/", method="POST")
    subscription.method = "GET"
    with pytest.raises(ValidationError):
        subscription.full_clean()
    with pytest.raises(InvalidCallBackURL):
        subscription.save(update_fields=["method"])


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_is_followed_with_the_body(status: int) -> None:
    def answer(connection: socket.socket) -> None:
        first = len(server.requests) == 1
        connection.sendall(redirecting("/there", status) if first else OK)

    with RawPartner(answer) as server:
        result = transport.send(server.url, body='{"a": "é"}')
    assert result.delivered
    assert [sent(request)[0] for request in server.requests] == [
        "POST /cb HTTP/1.1",
        "POST /there HTTP/1.1",
    ]
    assert [sent(request)[2] for request in server.requests] == ['{"a": "é"}'] * 2


@pytest.mark.parametrize("status", [301, 302, 303])
def test_any_other_redirect_is_a_failure(status: int) -> None:
    with RawPartner(redirecting("/there", status)) as server:
        result = transport.send(server.url, body="{}")
    assert (result.error, result.status_code) == (CallbackAttempt.Error.HTTP_STATUS, status)
    assert len(server.requests) == 1


def test_the_row_is_frozen_and_sent_again_as_it_is() -> None:
    with RawPartner() as server:
        callback = order(server)
        worker.deliver([callback.pk])
        Subscription.objects.update(method="GET", callback_url=server.url + "?v={visitor_id}")
        assert outbox.resend(callback)
        worker.deliver([callback.pk])
        callback.subscription.refresh_from_db()
        anew = outbox.resend_anew(callback)
        assert anew is not None
        worker.deliver([anew.pk])
    first, again, with_current_url = map(sent, server.requests)
    assert (first[0], first[2]) == (again[0], again[2])
    assert with_current_url[0].startswith("GET /cb?v=")
    assert (anew.method, anew.body) == ("GET", "")


def test_a_test_callback_has_a_body_of_samples() -> None:
    with RawPartner() as server:
        send_test_callback(SubscriptionFactory(callback_url=server.url, method="POST"))
    envelope = json.loads(sent(server.requests[0])[2])
    assert (envelope["type"], envelope["data"]["reference"]) == ("test", "test-order")


def test_erasing_a_person_erases_the_body() -> None:
    with RawPartner() as server:
        callback = order(server)
    blank(callback.conversion.visitor.user)
    callback.refresh_from_db()
    assert (callback.url, callback.body) == ("", "")


def test_the_admin_shows_the_body(staff: Client) -> None:
    with RawPartner() as server:
        callback = order(server)
    page = staff.get(reverse("admin:affiliations_callback_change", args=[callback.pk]))
    assert "10/1" in page.text
    page = staff.get(reverse("admin:affiliations_callback_resend", args=[callback.pk]))
    assert f"POST {callback.url}" in page.text
    assert "10/1" in page.text
    url = reverse("admin:affiliations_subscription_send_test", args=[callback.subscription_id])
    page = staff.get(url)
    assert f"POST {server.url}" in page.text
    assert "test-order" in page.text
    url = reverse("admin:affiliations_subscription_preview")
    preview = staff.get(url, {"url": server.url, "method": "POST"}).json()
    assert preview["mistakes"] == []
    assert "test-order" in preview["rendered"]
    assert staff.get(url, {"url": server.url, "method": "GET"}).json()["mistakes"]


@pytest.mark.parametrize("page", ["subscription_change", "partner_deal"])
def test_the_form_shows_the_body_from_the_start(page: str, staff: Client) -> None:
    subscription = SubscriptionFactory(callback_url="https://partner.example/cb", method="POST")
    row = subscription if page == "subscription_change" else subscription.partner
    url = reverse(f"admin:affiliations_{page}", args=[row.pk])
    (shown,) = re.findall(r'aff-rendered">([^<]*)<', staff.get(url).text.partition("__prefix__")[0])
    assert shown.startswith("https://partner.example/cb\n\n{")
