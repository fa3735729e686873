from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from affiliations.models import Conversion, Partner, Visitor
from tests.factories import SubscriptionFactory, UserFactory
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db


def order(client: APIClient, **headers: str) -> Order:
    """Place an order of 24.98 EUR through the API."""
    fields = {"total": "24.98", "currency": "EUR"}
    answer = client.post("/api/orders/", fields, format="json", headers=headers)
    assert answer.status_code == 201
    return Order.objects.get(pk=answer.data["id"])


def assert_credited(partner: Partner, visitor: Visitor, order: Order, user: Any) -> None:
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "Order placed")
    assert (conversion.user, conversion.reference) == (user, str(order.pk))
    assert (conversion.amount, conversion.currency) == (Decimal("24.98"), "EUR")
    assert (conversion.payout, conversion.payout_currency) == (Decimal("2.50"), "EUR")


@pytest.fixture(autouse=True)
def subscription(partner: Partner) -> None:
    SubscriptionFactory(partner=partner, payout_type="percent", payout_value=10)


def test_an_order_of_an_anonymous_browser_is_credited(
    follow_link: Callable[..., Visitor], partner: Partner
) -> None:
    client = APIClient(enforce_csrf_checks=True)
    visitor = follow_link(client)
    placed = order(client)
    assert placed.affiliate_visitor == visitor
    assert_credited(partner, visitor, placed, None)


def test_an_order_of_a_browser_that_is_logged_in_is_credited(
    follow_link: Callable[..., Visitor], partner: Partner
) -> None:
    user, client = UserFactory(), APIClient()
    visitor = follow_link(client)
    client.force_login(user)
    placed = order(client)
    assert placed.affiliate_visitor == visitor
    assert_credited(partner, visitor, placed, user)


def test_an_order_of_an_app_with_a_token_is_credited_by_its_user(
    follow_link: Callable[..., Visitor], partner: Partner, client: Client, settings: Any
) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    user = UserFactory()
    client.force_login(user)
    visitor = follow_link(client)
    token = f"Token {Token.objects.create(user=user)}"
    placed = order(APIClient(), authorization=token)
    assert_credited(partner, visitor, placed, user)


def refer(client: APIClient, partner: Partner, **headers: str) -> Visitor:
    """Pass on the query of a partner's link, as the page of a single-page app does."""
    query = f"?affiliate_id={partner.uid}&click_id=42"
    answer = client.post(f"/api/referred/{query}", headers=headers)
    assert answer.data == {"is_counted": True}
    return Visitor.objects.get(source="api", click_id="42")


def test_a_single_page_app_refers_its_browser(partner: Partner) -> None:
    client = APIClient(enforce_csrf_checks=True)
    visitor = refer(client, partner)
    assert refer(client, partner) == visitor
    placed = order(client)
    assert placed.affiliate_visitor == visitor
    assert_credited(partner, visitor, placed, None)


def test_an_app_with_a_token_refers_its_user(partner: Partner, settings: Any) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    user = UserFactory()
    token = f"Token {Token.objects.create(user=user)}"
    visitor = refer(APIClient(), partner, authorization=token)
    assert visitor.user == user
    assert refer(APIClient(), partner, authorization=token) == visitor
    assert_credited(partner, visitor, order(APIClient(), authorization=token), user)


@pytest.mark.parametrize("query", ["", "?affiliate_id=", "?affiliate_id=%00", "?affiliate_id=%ff"])
def test_a_view_that_is_sent_nonsense_says_so(partner: Partner, query: str) -> None:
    answer = APIClient().post(f"/api/referred/{query}", [1], format="json")
    assert (answer.status_code, answer.data) == (200, {"is_counted": False})
    assert not Visitor.objects.exists()


def test_an_order_of_an_app_with_a_token_is_not_credited_by_default(
    follow_link: Callable[..., Visitor], partner: Partner, client: Client
) -> None:
    user = UserFactory()
    client.force_login(user)
    follow_link(client)
    order(APIClient(), authorization=f"Token {Token.objects.create(user=user)}")
    assert not Conversion.objects.filter(partner=partner).exists()
