"""Tests of the shop: customers, payment webhooks and partners."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.test import TestCase
from django.urls import reverse

from affiliations.models import Conversion, Partner, PartnerCode, Subscription, Visitor
from affiliations.testing import record_callbacks, start_referral
from store.models import NewsletterReader, Order, Product
from store.payments import SIGNATURE_HEADER, checkout_url, sign


class ShopTestCase(TestCase):
    """A shop with one tea, and a partner who earns ten per cent of each paid order."""

    product: Product
    partner: Partner

    @classmethod
    def setUpTestData(cls) -> None:
        """Fill the shop."""
        cls.product = Product.objects.create(
            name="Green Sencha", slug="green-sencha", colour="#4f7a3a", price=Decimal("12.00")
        )
        cls.partner = Partner.objects.create(name="Steep Notes", active=True)
        Subscription.objects.create(
            partner=cls.partner,
            trigger="Order placed",
            callback_url="https://www.steepnotes.com/?click={click_id}&is={status}",
            counting=Subscription.Counting.EVERY,
            closes_referral=False,
            payout_type=Subscription.PayoutType.PERCENT,
            payout_value=Decimal("10"),
            approval=Subscription.Approval.MANUAL,
            call_on_approval=True,
            call_on_rejection=True,
        )

    def place_order(self, **fields: str) -> Order:
        """Order a tea with the test client."""
        url = self.product.get_absolute_url()
        self.client.post(url, {"email": "reader@reader.example", **fields})
        return Order.objects.latest("pk")


class OrderTests(ShopTestCase):
    """Customers."""

    def test_a_guest_orders_and_comes_back_to_the_order(self) -> None:
        order = self.place_order()
        self.assertContains(self.client.get(order.get_absolute_url()), "Waiting for payment")

    def test_an_order_keeps_the_visitor_who_placed_it(self) -> None:
        visitor = start_referral(self.client, self.partner)
        assert self.place_order().affiliate_visitor == visitor

    def test_an_order_that_staff_type_in_is_not_credited_to_their_own_referral(self) -> None:
        self.client.force_login(User.objects.create_superuser("staff"))
        start_referral(self.client, self.partner)
        self.client.post(
            reverse("admin:store_order_add"),
            {"product": self.product.pk, "email": "b@x.example", "total": 12, "currency": "EUR"},
        )
        assert Order.objects.exists()
        assert not Conversion.objects.exists()

    def test_an_order_without_a_partner_keeps_no_visitor(self) -> None:
        assert self.place_order().affiliate_visitor is None

    def test_an_order_without_a_usable_email_is_refused(self) -> None:
        response = self.client.post(self.product.get_absolute_url(), {"email": "not-an-address"})
        self.assertContains(response, "Enter a valid email address.")
        assert not Order.objects.exists()

    def test_an_order_with_the_code_of_a_partner_is_credited_without_a_click(self) -> None:
        PartnerCode.objects.create(partner=self.partner, code="steepnotes")
        order = self.place_order(coupon=" SteepNotes ")
        self.assertContains(self.client.get(order.get_absolute_url()), "SteepNotes")
        conversion = Conversion.objects.get()
        assert (conversion.reference, conversion.code) == (str(order.pk), "SteepNotes")
        assert conversion.visitor.source == Visitor.Source.CODE
        assert order.affiliate_visitor is None

    def test_a_coupon_of_nobody_is_taken_and_credits_nobody(self) -> None:
        assert self.place_order(coupon="spring ☂").coupon == "spring ☂"
        assert not Conversion.objects.exists()

    def test_a_coupon_that_is_too_long_or_no_text_is_refused(self) -> None:
        for coupon in ("x" * 41, "a\0b"):
            with self.subTest(coupon=coupon):
                fields = {"email": "reader@reader.example", "coupon": coupon}
                response = self.client.post(self.product.get_absolute_url(), fields)
                self.assertContains(response, 'role="alert"')
        assert not Order.objects.exists()

    def test_my_orders_are_mine(self) -> None:
        self.client.force_login(User.objects.create_user("other-reader"))
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
    """The webhook for the payment provider."""

    def setUp(self) -> None:
        """Place an order as a visitor of the partner."""
        self.visitor = start_referral(self.client, self.partner, click_id="42")
        self.order = self.place_order()
        self.client.logout()

    def notify(self, *, signature: str | None = None, **notice: object) -> Any:
        """Report a payment as the provider does."""
        body = json.dumps(self.notice(**notice)).encode()
        return self.knock(body, sign(body) if signature is None else signature)

    def notice(self, **changes: object) -> dict[str, object]:
        """Return the provider's notice about the order."""
        notice: dict[str, object] = {
            "event": "paid",
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

    def test_a_payment_approves_the_conversion(self) -> None:
        assert Conversion.objects.get().status == Conversion.Status.PENDING
        self.notify()
        conversion = Conversion.objects.get()
        assert conversion.status == Conversion.Status.APPROVED
        assert conversion.visitor == self.visitor
        assert conversion.reference == str(self.order.pk)
        assert (conversion.payout, conversion.payout_currency) == (Decimal("1.20"), "EUR")

    def test_a_refund_marks_the_order_and_rejects_the_conversion(self) -> None:
        self.notify()
        assert self.notify(event="refunded").status_code == 200
        self.assertContains(self.client.get(self.order.get_absolute_url()), "on its way back")
        assert Conversion.objects.get().status == Conversion.Status.REJECTED

    def test_a_refund_that_comes_before_its_payment_counts_all_the_same(self) -> None:
        self.notify(event="refunded")
        self.notify()
        assert self.order.refunded_on is not None
        assert Conversion.objects.get().status == Conversion.Status.REJECTED

    @record_callbacks(kwarg_name="callbacks")
    def test_the_partner_is_notified_of_each_step_once(self, callbacks: Any) -> None:
        start_referral(self.client, self.partner, click_id="43")
        self.order = self.place_order()
        for event in ("paid", "paid", "refunded", "refunded", "paid"):
            self.notify(event=event)
        assert [callback.url.partition("?")[2] for callback in callbacks] == [
            "click=43&is=pending",
            "click=43&is=approved",
            "click=43&is=rejected",
        ]

    def renew(self, **notice: object) -> Any:
        """Report the payment of a renewal as the provider does."""
        return self.notify(payment_id="pay_2", renewal=True, **notice)

    def customer_of_a_partner_with_an_earning_period(self) -> User:
        """Give the order a user whose referral has ended, and the partner an earning period."""
        user = User.objects.create_user("reader")
        Order.objects.filter(pk=self.order.pk).update(user=user)
        Conversion.objects.update(user=user)
        Subscription.objects.update(earns_for=Subscription.EarnsFor.ALWAYS)
        Visitor.objects.update(closed_on=self.visitor.referred_on)
        return user

    def test_a_renewal_is_a_paid_order_of_the_same_customer(self) -> None:
        user = self.customer_of_a_partner_with_an_earning_period()
        assert self.renew().status_code == 200
        renewal = user.orders.latest("pk")
        assert renewal != self.order
        assert (renewal.payment_id, renewal.total) == ("pay_2", self.order.total)
        assert renewal.paid_on is not None
        assert self.order.paid_on is None

    def test_the_partner_earns_by_a_renewal_after_the_referral_has_ended(self) -> None:
        user = self.customer_of_a_partner_with_an_earning_period()
        self.renew()
        renewal = user.orders.latest("pk")
        assert renewal.affiliate_visitor is None
        conversion = Conversion.objects.latest("pk")
        assert (conversion.reference, conversion.visitor) == (str(renewal.pk), self.visitor)
        assert conversion.status == Conversion.Status.APPROVED

    def test_a_renewal_earns_nothing_without_an_earning_period_or_a_user(self) -> None:
        self.renew()
        self.customer_of_a_partner_with_an_earning_period()
        Subscription.objects.update(earns_for=Subscription.EarnsFor.WINDOW)
        self.notify(payment_id="pay_3", renewal=True)
        assert Order.objects.count() == 3
        assert Conversion.objects.count() == 1

    def test_the_same_renewal_again_changes_nothing(self) -> None:
        self.customer_of_a_partner_with_an_earning_period()
        answers = [json.loads(self.renew().content) for _ in range(2)]
        assert [answer["news"] for answer in answers] == [True, False]
        assert len({answer["order"] for answer in answers}) == 1
        assert Conversion.objects.count() == 2

    def test_the_refund_of_a_renewal_leaves_the_first_order_alone(self) -> None:
        user = self.customer_of_a_partner_with_an_earning_period()
        self.notify()
        self.renew()
        self.renew(event="refunded")
        assert user.orders.latest("pk").refunded_on is not None
        assert self.order.refunded_on is None
        statuses = Conversion.objects.order_by("pk").values_list("status", flat=True)
        assert list(statuses) == [Conversion.Status.APPROVED, Conversion.Status.REJECTED]

    def test_a_renewal_of_another_amount_or_an_unknown_order_is_refused(self) -> None:
        assert self.renew(amount="1.20").status_code == 400
        assert self.renew(order="999999").status_code == 404
        assert Order.objects.count() == 1

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
        strange = [
            json.dumps(self.notice(**change)).encode()
            for change in ({"order": "x"}, {"event": "lost"}, {"event": []})
        ]
        for body in (b"", b"\xff", b"[]", b"{}", *strange):
            with self.subTest(body=body):
                assert self.knock(body, sign(body)).status_code == 400

    def test_the_payment_of_an_unknown_order_is_refused(self) -> None:
        assert self.notify(order="999999").status_code == 404

    def test_the_webhook_cannot_be_opened_in_a_browser(self) -> None:
        assert self.client.get(reverse("store:payment-webhook")).status_code == 405


class NewsletterTests(ShopTestCase):
    """The newsletter."""

    def order(self, email: str) -> Any:
        """Order the newsletter."""
        return self.client.post(reverse("store:newsletter"), {"email": email}, follow=True)

    def test_somebody_asks_for_the_letter_on_the_first_page(self) -> None:
        self.assertContains(self.client.get("/"), reverse("store:newsletter"))
        self.assertContains(self.order("reader@reader.example"), "The next letter comes to you")
        assert str(NewsletterReader.objects.get()) == "reader@reader.example"

    def test_who_asks_again_gets_one_letter_and_the_same_answer(self) -> None:
        for _ in range(2):
            self.assertContains(self.order("reader@reader.example"), "comes to you")
        assert NewsletterReader.objects.count() == 1

    def test_an_address_that_is_none_is_refused(self) -> None:
        self.assertContains(self.order("not-an-address"), "Enter a valid email address.")
        assert not NewsletterReader.objects.exists()

    def test_a_reader_whom_a_partner_sent_is_counted_once(self) -> None:
        Subscription.objects.create(
            partner=self.partner, trigger="Newsletter ordered", closes_referral=False
        )
        start_referral(self.client, self.partner)
        self.order("reader@reader.example")
        self.order("office@reader.example")
        assert NewsletterReader.objects.count() == 2
        assert Conversion.objects.count() == 1
