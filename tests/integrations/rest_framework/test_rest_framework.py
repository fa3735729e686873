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


def test_an_order_of_an_app_with_a_token_is_not_credited_by_default(
    follow_link: Callable[..., Visitor], partner: Partner, client: Client
) -> None:
    user = UserFactory()
    client.force_login(user)
    follow_link(client)
    order(APIClient(), authorization=f"Token {Token.objects.create(user=user)}")
    assert not Conversion.objects.filter(partner=partner).exists()
