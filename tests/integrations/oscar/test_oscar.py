from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse
from oscar.apps.order.models import Order
from oscar.test.factories import create_product

from affiliations.models import Conversion, Partner, Visitor
from tests.factories import SubscriptionFactory, User

pytestmark = pytest.mark.django_db

ORDER_PLACED = (
    "Order placed",
    "oscar.apps.order.signals.order_placed",
    "affiliations.triggers.object_saved",
    None,
    {
        "instance": "order",
        "user": "user",
        "reference": "number",
        "amount": "total_excl_tax",
        "currency": "currency",
    },
)
STATUS_CHANGED = (
    "Order sent",
    "oscar.apps.order.signals.order_status_changed",
    "affiliations.triggers.approve_conversions",
    None,
    {"instance": "order", "of": "Order placed", "reference": "number"},
)


@pytest.fixture
def buy(client: Client) -> Callable[[], Order]:
    """Return what lets a browser register with the shop and buy for 24.98 GBP."""

    def register_and_order() -> Order:
        tea = create_product(price=Decimal("12.49"), num_in_stock=10)
        tea.product_class.requires_shipping = False
        tea.product_class.save()
        account = {
            "registration-email": "buyer@shop.example",
            "registration-password1": "an unusual secret",
            "registration-password2": "an unusual secret",
            "registration_submit": "Register",
        }
        client.post(reverse("customer:login"), account)
        client.post(reverse("basket:add", args=[tea.pk]), {"quantity": 2})
        client.get(reverse("checkout:index"), follow=True)
        client.post(reverse("checkout:preview"), {"action": "place_order"})
        return Order.objects.get()

    return register_and_order


def test_an_order_of_the_checkout_is_credited_with_its_number_and_amount(
    follow_link: Callable[..., Visitor], partner: Partner, buy: Callable[[], Order]
) -> None:
    SubscriptionFactory(partner=partner, payout_type="percent", payout_value=10)
    visitor = follow_link()
    order = buy()
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "Order placed")
    assert conversion.user == User.objects.get(email="buyer@shop.example")
    assert conversion.reference == order.number
    assert (conversion.amount, conversion.currency) == (Decimal("24.98"), "GBP")
    assert (conversion.payout, conversion.payout_currency) == (Decimal("2.50"), "GBP")


def test_a_registration_with_the_shop_is_credited(
    follow_link: Callable[..., Visitor], partner: Partner, buy: Callable[[], Order]
) -> None:
    SubscriptionFactory(partner=partner, trigger="User registered")
    visitor = follow_link()
    buy()
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "User registered")
    assert conversion.user == User.objects.get(email="buyer@shop.example")


def test_the_signal_of_the_shop_gives_an_order_its_number_and_amount(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    buy: Callable[[], Order],
    wire: Callable[..., None],
) -> None:
    SubscriptionFactory(partner=partner)
    wire([ORDER_PLACED])
    visitor = follow_link()
    order = buy()
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "Order placed")
    assert conversion.user == order.user
    assert conversion.reference == order.number
    assert (conversion.amount, conversion.currency) == (Decimal("24.98"), "GBP")


def test_an_order_is_approved_when_staff_send_it(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    buy: Callable[[], Order],
    staff: Client,
    wire: Callable[..., None],
) -> None:
    SubscriptionFactory(partner=partner, approval="manual")
    wire([ORDER_PLACED, STATUS_CHANGED])
    follow_link()
    change_status(staff, buy())
    assert Conversion.objects.get(partner=partner).status == "approved"


def test_staff_who_change_an_order_in_the_dashboard_are_not_credited(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    buy: Callable[[], Order],
    staff: Client,
    wire: Callable[..., None],
) -> None:
    SubscriptionFactory(partner=partner)
    receiver, sender = "affiliations.triggers.object_saved", "order.Order"
    wire([("Order placed", "django.db.models.signals.post_save", receiver, sender)])
    order = buy()
    follow_link(staff)
    change_status(staff, order)
    assert not Conversion.objects.filter(partner=partner).exists()


def change_status(staff: Client, order: Order) -> None:
    """Let staff say in the dashboard that an order was sent."""
    dashboard = reverse("dashboard:order-detail", args=[order.number])
    staff.post(dashboard, {"order_action": "change_order_status", "new_status": "AttemptResult"})
    order.refresh_from_db()
    assert order.status == "AttemptResult"
