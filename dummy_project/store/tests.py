"""What the shop promises its customers, its payment provider and its partners."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.test import TestCase
from django.urls import reverse

from affiliations.models import Conversion, Partner, Subscription, Visitor
from store.models import Order, Product
from store.payments import SIGNATURE_HEADER, checkout_url, sign


class ShopTestCase(TestCase):
    """A shop with one tea, and a partner who subscribes to paid orders."""

    product: Product
    partner: Partner

    @classmethod
    def setUpTestData(cls) -> None:
        """Fill the shop."""
        cls.product = Product.objects.create(
            name="Green Sencha", slug="green-sencha", colour="#4f7a3a", price=Decimal("12.00")
        )
        cls.partner = Partner.objects.create(name="Steep Notes", active=True)
        Subscription.objects.create(partner=cls.partner, trigger="Order paid")

    def place_order(self) -> Order:
        """Order a tea as whoever this client is."""
        url = self.product.get_absolute_url()
        self.client.post(url, {"email": "reader@reader.example"})
        return Order.objects.latest("pk")

    def arrive(self) -> Visitor:
        """Come to the shop through the partner's link."""
        self.client.get(self.partner.link("/", click_id="42"), headers={"user-agent": "Mozilla"})
        return Visitor.objects.latest("pk")


class OrderTests(ShopTestCase):
    """Customers."""

    def test_a_guest_orders_and_comes_back_to_the_order(self) -> None:
        order = self.place_order()
        self.assertContains(self.client.get(order.get_absolute_url()), "Waiting for payment")

    def test_an_order_keeps_the_visitor_who_placed_it(self) -> None:
        visitor = self.arrive()
        assert self.place_order().affiliate_visitor == visitor

    def test_an_order_without_a_partner_keeps_no_visitor(self) -> None:
        assert self.place_order().affiliate_visitor is None

    def test_an_order_without_a_usable_email_is_refused(self) -> None:
        response = self.client.post(self.product.get_absolute_url(), {"email": "nobody"})
        self.assertContains(response, "Enter a valid email address.")
        assert not Order.objects.exists()

    def test_my_orders_are_mine(self) -> None:
        self.client.force_login(User.objects.create_user("somebody"))
        theirs = self.place_order()
        self.client.force_login(User.objects.create_user("reader"))
        mine = self.place_order()
        response = self.client.get(reverse("store:orders"))
        self.assertContains(response, mine.get_absolute_url())
        self.assertNotContains(response, theirs.get_absolute_url())

    def test_my_orders_ask_a_guest_to_log_in(self) -> None:
        response = self.client.get(reverse("store:orders"))
        self.assertRedirects(response, f"{reverse('login')}?next={reverse('store:orders')}")

    def test_the_address_of_the_checkout_is_signed_whole(self) -> None:
        query = checkout_url(self.place_order(), "http://testserver/").partition("?")[2]
        signed, _, signature = query.partition("&signature=")
        assert "amount=12.00" in signed
        assert signature == sign(signed.encode())


class PaymentWebhookTests(ShopTestCase):
    """The payment provider."""

    def setUp(self) -> None:
        """Have an order, placed by a visitor of the partner."""
        self.visitor = self.arrive()
        self.order = self.place_order()
        self.client.logout()

    def notify(self, *, signature: str | None = None, **notice: object) -> Any:
        """Report a payment as the provider does."""
        body = json.dumps(self.notice(**notice)).encode()
        return self.knock(body, sign(body) if signature is None else signature)

    def notice(self, **changes: object) -> dict[str, object]:
        """Return what the provider says of the order."""
        notice: dict[str, object] = {
            "payment_id": "pay_1",
            "order": str(self.order.pk),
            "amount": "12.00",
            "currency": "EUR",
        }
        return notice | changes

    def knock(self, body: bytes, signature: str) -> Any:
        """Send `body` to the webhook."""
        try:
            return self.client.post(
                reverse("store:payment-webhook"),
                body,
                content_type="application/json",
                headers={SIGNATURE_HEADER: signature},
            )
        finally:
            self.order.refresh_from_db()

    def test_a_payment_marks_the_order_as_paid(self) -> None:
        assert self.notify().status_code == 200
        self.assertContains(self.client.get(self.order.get_absolute_url()), "it is paid")

    def test_a_payment_is_credited_to_the_visitor_of_the_order(self) -> None:
        self.notify()
        conversion = Conversion.objects.get(trigger="Order paid")
        assert conversion.visitor == self.visitor
        assert conversion.reference == str(self.order.pk)
        assert (conversion.amount, conversion.currency) == (Decimal("12.00"), "EUR")

    def test_a_payment_with_a_wrong_signature_is_refused(self) -> None:
        for signature in ("", "0" * 64, "é"):
            with self.subTest(signature=signature):
                assert self.notify(signature=signature).status_code == 403
                assert self.order.paid_on is None

    def test_the_same_payment_again_changes_nothing(self) -> None:
        self.notify()
        paid_on = self.order.paid_on
        response = self.notify()
        assert response.status_code == 200
        assert not json.loads(response.content)["news"]
        assert self.order.paid_on == paid_on
        assert Conversion.objects.filter(trigger="Order paid").count() == 1

    def test_another_payment_of_a_paid_order_is_refused(self) -> None:
        self.notify()
        assert self.notify(payment_id="pay_2").status_code == 409
        assert self.order.payment_id == "pay_1"

    def test_another_amount_does_not_pay_the_order(self) -> None:
        for change in ({"amount": "1.20"}, {"amount": "NaN"}, {"currency": "SEK"}):
            with self.subTest(change=change):
                assert self.notify(**change).status_code == 400
                assert self.order.paid_on is None

    def test_what_is_no_payment_is_refused(self) -> None:
        for body in (b"", b"\xff", b"[]", b"{}", json.dumps(self.notice(order="x")).encode()):
            with self.subTest(body=body):
                assert self.knock(body, sign(body)).status_code == 400

    def test_the_payment_of_an_unknown_order_is_refused(self) -> None:
        assert self.notify(order="999999").status_code == 404

    def test_the_webhook_cannot_be_opened_in_a_browser(self) -> None:
        assert self.client.get(reverse("store:payment-webhook")).status_code == 405
