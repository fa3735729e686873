from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
import stripe
from django.test import Client, RequestFactory
from django.urls import reverse
from djstripe.models import Event, WebhookEndpoint
from pytest_httpserver import HTTPServer

from affiliations.models import Conversion, Partner, Visitor
from tests.documented import DOCS, add_shop, triggers
from tests.factories import SubscriptionFactory
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

SECRET = "whsec_of_the_shop"
PAGE = DOCS / "guides/djstripe.rst"

#: What was paid at the checkout.
CHARGE = {
    "id": "ch_1",
    "object": "charge",
    "amount": 4990,
    "currency": "eur",
    "captured": True,
    "paid": True,
    "status": "succeeded",
    "metadata": {"order": "W17"},
    "livemode": False,
}


@pytest.fixture
def stripe_sends(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, Any]], None]:
    """
    Return what lets Stripe tell the shop, by its webhook, what happened to an object.

    dj-stripe then fetches the object, from a server of this machine that stands in for Stripe's.
    """
    monkeypatch.setattr(stripe, "api_base", httpserver.url_for("").rstrip("/"))
    monkeypatch.setattr(stripe, "default_http_client", None)
    account = {"id": "acct_1", "object": "account", "settings": {}, "business_profile": {}}
    httpserver.expect_request("/v1/account").respond_with_json(account)
    endpoint = WebhookEndpoint.objects.create(
        id="we_1", url="https://shop.example/", secret=SECRET, enabled_events=["*"], livemode=False
    )

    def send(kind: str, about: dict[str, Any]) -> None:
        place = {"checkout.session": "checkout/sessions", "charge": "charges"}[about["object"]]
        httpserver.expect_request(f"/v1/{place}/{about['id']}").respond_with_json(about)
        event = {
            "id": f"evt_{about['id']}",
            "object": "event",
            "type": kind,
            "api_version": "2026-05-27.dahlia",
            "created": int(time.time()),
            "livemode": False,
            "data": {"object": about},
        }
        body, now = json.dumps(event), int(time.time())
        signature = stripe.WebhookSignature._compute_signature(f"{now}.{body}", SECRET)
        answer = Client().post(
            reverse("djstripe:djstripe_webhook_by_uuid", args=[endpoint.djstripe_uuid]),
            body,
            content_type="application/json",
            headers={"stripe-signature": f"t={now},v1={signature}"},
        )
        assert answer.status_code == 200
        assert Event.objects.filter(id=event["id"], type=kind).exists()

    return send


def checkout(visitor: Visitor) -> dict[str, Any]:
    """Return a paid checkout, with the visitor and the order that the shop has stated for it."""
    return {
        "id": "cs_1",
        "object": "checkout.session",
        "amount_total": 4990,
        "currency": "eur",
        "client_reference_id": str(visitor.pk),
        "metadata": {"order": "W17"},
        "payment_status": "paid",
        "livemode": False,
    }


def test_a_checkout_that_stripe_reports_is_credited(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    stripe_sends: Callable[[str, dict[str, Any]], None],
) -> None:
    SubscriptionFactory(
        partner=partner, trigger="Order paid", payout_type="percent", payout_value=10
    )
    visitor = follow_link()
    stripe_sends("checkout.session.completed", checkout(visitor))
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "Order paid")
    assert (conversion.user, conversion.reference) == (None, "cs_1")
    assert (conversion.amount, conversion.currency) == (Decimal("49.90"), "EUR")
    assert (conversion.payout, conversion.payout_currency) == (Decimal("4.99"), "EUR")


def test_the_checkout_of_the_page_states_visitor_and_order(
    follow_link: Callable[..., Visitor],
    client: Client,
    rf: RequestFactory,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop: Any = add_shop(monkeypatch, PAGE, Order)
    monkeypatch.setattr(stripe, "api_base", httpserver.url_for("").rstrip("/"))
    monkeypatch.setattr(stripe, "api_key", "sk_test_0")
    session = {"id": "cs_1", "object": "checkout.session"}
    httpserver.expect_request("/v1/checkout/sessions").respond_with_json(session)
    order = Order.objects.create()
    visitor = follow_link()
    for browser in (client, Client()):
        request = rf.get("/")
        request.session = browser.session
        shop.stripe_checkout.checkout(request, order, success_url="https://shop.example/thanks/")
    sent = [parse_qs(request.get_data(as_text=True)) for request, _ in httpserver.log]
    stated = [str(order.pk)]
    assert [form["metadata[order]"] for form in sent] == [stated] * 2
    assert [form["payment_intent_data[metadata][order]"] for form in sent] == [stated] * 2
    assert [form.get("client_reference_id") for form in sent] == [[str(visitor.pk)], None]


def test_a_payment_is_credited_and_a_refund_adjusts_it_by_the_events_of_stripe(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    stripe_sends: Callable[[str, dict[str, Any]], None],
    wire: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SubscriptionFactory(
        partner=partner, trigger="Order paid", payout_type="percent", payout_value=10
    )
    add_shop(monkeypatch, PAGE, Order)
    wire(triggers(PAGE, "Order paid"))
    visitor = follow_link()
    stripe_sends("checkout.session.completed", checkout(visitor))
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.reference) == (visitor, "W17")
    assert (conversion.amount, conversion.currency) == (Decimal("49.90"), "EUR")
    for refunded, status in ((990, "approved"), (4990, "rejected")):
        charge = {**CHARGE, "id": f"ch_{refunded}", "amount_refunded": refunded}
        stripe_sends("charge.refunded", {**charge, "refunded": refunded == 4990})
        conversion = Conversion.objects.get(partner=partner)
        assert (conversion.status, conversion.current_payout) == (status, Decimal("4.00"))


def test_events_of_other_checkouts_are_not_credited(
    partner: Partner,
    stripe_sends: Callable[[str, dict[str, Any]], None],
    wire: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    SubscriptionFactory(partner=partner, trigger="Order paid")
    add_shop(monkeypatch, PAGE, Order)
    wire(triggers(PAGE, "Order paid"))
    donation = {**checkout(Visitor(pk=1)), "client_reference_id": None, "metadata": {}}
    stripe_sends("checkout.session.completed", donation)
    stripe_sends("charge.refunded", {**CHARGE, "amount_refunded": 4990, "metadata": {}})
    assert not Conversion.objects.filter(partner=partner).exists()
    assert [r for r in caplog.records if r.name == "affiliations" and r.levelname == "ERROR"] == []
