from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import stripe
from django.test import Client
from django.urls import reverse
from djstripe.models import Event, WebhookEndpoint
from djstripe.signals import WEBHOOK_SIGNALS
from pytest_httpserver import HTTPServer

from affiliations.models import Conversion, Partner, Visitor
from tests.factories import SubscriptionFactory

pytestmark = pytest.mark.django_db

SECRET = "whsec_of_the_shop"
PAID = (
    "Order paid",
    WEBHOOK_SIGNALS["checkout.session.completed"],
    "affiliations.triggers.object_saved",
    "djstripe.Event",
    {
        "instance": "event",
        "visitor": lambda event: event.data["object"]["client_reference_id"],
        "reference": lambda event: event.data["object"]["metadata"]["order"],
        "amount": lambda event: Decimal(event.data["object"]["amount_total"]) / 100,
        "currency": lambda event: event.data["object"]["currency"],
    },
)
REFUNDED = (
    "Order refunded",
    WEBHOOK_SIGNALS["charge.refunded"],
    "affiliations.triggers.reject_conversions",
    "djstripe.Event",
    {
        "instance": "event",
        "of": "Order paid",
        "reference": lambda event: event.data["object"]["metadata"]["order"],
    },
)

#: What was paid at the checkout, and given back since.
CHARGE = {
    "id": "ch_1",
    "object": "charge",
    "amount": 4990,
    "amount_refunded": 4990,
    "currency": "eur",
    "refunded": True,
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


def test_a_payment_is_credited_and_rejected_by_the_events_of_stripe(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    stripe_sends: Callable[[str, dict[str, Any]], None],
    wire: Callable[..., None],
) -> None:
    SubscriptionFactory(partner=partner, trigger="Order paid")
    wire([PAID, REFUNDED])
    visitor = follow_link()
    stripe_sends("checkout.session.completed", checkout(visitor))
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.reference) == (visitor, "W17")
    assert (conversion.amount, conversion.currency) == (Decimal("49.90"), "EUR")
    stripe_sends("charge.refunded", CHARGE)
    conversion.refresh_from_db()
    assert conversion.status == "rejected"
