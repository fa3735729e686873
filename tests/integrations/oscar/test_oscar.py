from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from oscar.apps.offer.models import Benefit, Condition, ConditionalOffer, Range
from oscar.apps.order.models import Order
from oscar.apps.voucher.models import Voucher
from oscar.test.factories import create_product

from affiliations.models import Conversion, Partner, PartnerCode, Visitor
from tests.documented import DOCS, add_shop, triggers
from tests.factories import SubscriptionFactory, User

pytestmark = pytest.mark.django_db

PAGE = DOCS / "guides/oscar.rst"


@pytest.fixture
def as_documented(monkeypatch: pytest.MonkeyPatch, wire: Callable[..., None]) -> None:
    """Connect the triggers of the page on django-oscar."""
    add_shop(monkeypatch, PAGE, Order)
    wire(triggers(PAGE, "Order placed"))


@pytest.fixture
def buy(client: Client) -> Callable[..., Order]:
    """Return what lets a browser register with the shop and buy for 24.98 GBP."""

    def register_and_order(voucher: str = "") -> Order:
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
        if voucher:
            client.post(reverse("basket:vouchers-add"), {"code": voucher})
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


@pytest.mark.usefixtures("as_documented")
def test_the_signal_of_the_shop_gives_an_order_its_number_and_amount(
    follow_link: Callable[..., Visitor], partner: Partner, buy: Callable[[], Order]
) -> None:
    SubscriptionFactory(partner=partner)
    visitor = follow_link()
    order = buy()
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "Order placed")
    assert conversion.user == order.user
    assert conversion.reference == order.number
    assert (conversion.amount, conversion.currency) == (Decimal("24.98"), "GBP")


@pytest.mark.usefixtures("as_documented")
def test_the_voucher_of_an_order_credits_its_partner(
    partner: Partner, buy: Callable[..., Order]
) -> None:
    SubscriptionFactory(partner=partner)
    PartnerCode.objects.create(partner=partner, code="steep10")
    everything = Range.objects.create(name="All", includes_all_products=True)
    offer = ConditionalOffer.objects.create(
        name="10 %",
        offer_type="Voucher",
        condition=Condition.objects.create(range=everything, type="Count", value=1),
        benefit=Benefit.objects.create(range=everything, type="Percentage", value=10),
    )
    now, day = timezone.now(), timedelta(days=1)
    dates = {"start_datetime": now - day, "end_datetime": now + day}
    Voucher.objects.create(name="Steep Notes", code="STEEP10", **dates).offers.add(offer)
    buy("STEEP10")
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.code, conversion.amount) == ("STEEP10", Decimal("22.48"))


@pytest.mark.usefixtures("as_documented")
def test_an_order_is_approved_when_staff_send_it_and_rejected_when_they_cancel_it(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    buy: Callable[[], Order],
    staff: Client,
) -> None:
    SubscriptionFactory(partner=partner, approval="manual")
    follow_link()
    order = buy()
    statuses = [Conversion.objects.get(partner=partner).status]
    for status in ("Sent", "Cancelled"):
        change_status(staff, order, status)
        statuses.append(Conversion.objects.get(partner=partner).status)
    assert statuses == ["pending", "approved", "rejected"]


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
    change_status(staff, order, "Sent")
    assert not Conversion.objects.filter(partner=partner).exists()


def change_status(staff: Client, order: Order, status: str) -> None:
    """Let staff say in the dashboard what happened to an order."""
    dashboard = reverse("dashboard:order-detail", args=[order.number])
    staff.post(dashboard, {"order_action": "change_order_status", "new_status": status})
    order.refresh_from_db()
    assert order.status == status
