"""What becomes of a conversion's callbacks before anything is sent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import translation

from affiliations import placeholders
from affiliations.callbacks import outbox
from affiliations.conversions import recording as conversions
from affiliations.models import Callback, Conversion
from affiliations.triggers import complete_trigger
from tests.claiming import claim
from tests.factories import CallbackFactory, PartnerFactory, SubscriptionFactory, VisitorFactory
from tests.testapp.models import Order

Status = Callback.Status

handed_over: list[Sequence[int]] = []


def recording(callback_ids: Sequence[int]) -> None:
    """Be a dispatcher that only writes down what it gets."""
    handed_over.append(list(callback_ids))


def broken(callback_ids: Sequence[int]) -> None:
    raise RuntimeError("the engine is down")


@pytest.fixture(autouse=True)
def _recording(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_outbox.recording"
    handed_over.clear()


def convert(url: str = "", *urls: str, **visitor: Any) -> Conversion:
    """Credit a new visitor of a partner with these callback URLs."""
    visitor = VisitorFactory(**visitor)
    for callback_url in (url, *urls):
        SubscriptionFactory(partner=visitor.partner, callback_url=callback_url)
    conversion = complete_trigger(None, "Order placed", visitor=visitor)
    assert conversion is not None
    return conversion


def only_callback() -> Callback:
    return Callback.objects.get()


@pytest.mark.django_db(transaction=True)
class TestTheDispatcher:
    def test_gets_the_callback_as_soon_as_the_host_has_committed(self) -> None:
        with transaction.atomic():
            convert("https://partner.example/cb?v={visitor_id}")
            callback = only_callback()
            assert handed_over == []
        assert handed_over == [[callback.pk]]
        assert (callback.status, callback.version) == (Status.QUEUED, 1)

    def test_gets_it_at_once_where_the_host_has_no_transaction(self) -> None:
        convert("https://partner.example/cb?v={visitor_id}")
        assert handed_over == [[only_callback().pk]]

    def test_gets_nothing_where_the_host_rolls_back(self) -> None:
        """(D15) 0.12 had called the partner by then."""
        with transaction.atomic():
            convert("https://partner.example/cb?v={visitor_id}")
            transaction.set_rollback(True)
        assert handed_over == []
        assert not Callback.objects.exists()

    def test_gets_nothing_where_a_part_of_the_hosts_work_is_rolled_back(self) -> None:
        with transaction.atomic():
            with transaction.atomic():
                convert("https://partner.example/cb?v={visitor_id}")
                transaction.set_rollback(True)
            Order.objects.create(note="committed all the same")
        assert handed_over == []
        assert not Callback.objects.exists()

    def test_gets_all_callbacks_of_a_conversion_together(self) -> None:
        convert("https://a.example/?v={visitor_id}", "", "https://b.example/?v={visitor_id}")
        assert handed_over == [list(Callback.objects.order_by("pk").values_list("pk", flat=True))]

    def test_does_not_get_what_is_cancelled(self) -> None:
        convert("https://a.example/?c={click_id}", "https://b.example/?v={visitor_id}")
        assert handed_over == [[Callback.objects.get(status=Status.QUEUED).pk]]

    def test_is_left_alone_where_there_is_nothing_to_send(self) -> None:
        convert("")
        convert("https://a.example/?c={click_id}")
        assert handed_over == []

    @pytest.mark.parametrize("path", ["tests.test_outbox.broken", "tests.nowhere.to_be_found"])
    @pytest.mark.parametrize("atomic", [True, False])
    def test_cannot_break_the_host(
        self, path: str, atomic: bool, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """(D16) The row is there, so that nothing is lost, and the log says what is wrong."""
        settings.AFFILIATE_CALLBACK_DISPATCHER = path
        if atomic:
            with transaction.atomic():
                convert("https://partner.example/cb?v={visitor_id}")
        else:
            convert("https://partner.example/cb?v={visitor_id}")
        assert only_callback().status == Status.QUEUED
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.django_db
class TestACallback:
    def test_of_each_subscription_is_queued_for_one_conversion(self) -> None:
        """(D25) 0.12 called one of them, in no defined order."""
        conversion = convert(
            "https://a.example/?v={visitor_id}", "https://b.example/?v={visitor_id}"
        )
        visitor = conversion.visitor_id
        assert list(Callback.objects.order_by("pk").values_list("conversion", "url")) == [
            (conversion.pk, f"https://a.example/?v={visitor}"),
            (conversion.pk, f"https://b.example/?v={visitor}"),
        ]

    def test_is_due_at_once(self) -> None:
        conversion = convert("https://a.example/?v={visitor_id}")
        callback = only_callback()
        assert callback.created_on == conversion.created_on
        assert claim() == [callback]
        assert (callback.attempt_count, callback.delivered_on) == (0, None)

    def test_is_not_made_without_a_url(self) -> None:
        convert("")
        assert Conversion.objects.count() == 1
        assert not Callback.objects.exists()

    def test_is_not_made_for_an_inactive_subscription(self) -> None:
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner, active=False)
        working = SubscriptionFactory(partner=partner)
        complete_trigger(None, "Order placed", visitor=VisitorFactory(partner=partner))
        assert only_callback().subscription == working

    def test_is_not_made_where_no_subscription_is_active(self) -> None:
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner, active=False)
        visitor = VisitorFactory(partner=partner)
        assert complete_trigger(None, "Order placed", visitor=visitor) is None
        assert not Callback.objects.exists()

    def test_keeps_its_url_when_the_subscription_changes(self) -> None:
        conversion = convert("https://a.example/?v={visitor_id}")
        conversion.subscription.callback_url = "https://b.example/?v={visitor_id}"
        conversion.subscription.save()
        assert only_callback().url == f"https://a.example/?v={conversion.visitor_id}"

    def test_holds_every_fact_that_the_url_asks_for(self) -> None:
        visitor = VisitorFactory(
            click_id="a b/ü&",
            sub1="one",
            sub2="two",
            sub3="three",
            sub4="four",
            sub5="fi{ve}",
        )
        url = "https://partner.example/cb?" + "&".join(
            f"{name}={{{name}}}" for name in placeholders.NAMES
        )
        SubscriptionFactory(
            partner=visitor.partner, callback_url=url, payout_type="percent", payout_value=10
        )
        conversions.record(
            visitor,
            "Order placed",
            reference="No 7",
            amount=Decimal("1234567.5"),
            currency="EUR",
        )
        callback = only_callback()
        sent_on = int(callback.created_on.timestamp())
        expected = (
            f"visitor_id={visitor.pk}&click_id=a%20b%2F%C3%BC%26"
            "&sub1=one&sub2=two&sub3=three&sub4=four&sub5=fi%7Bve%7D"
            f"&partner_uid={visitor.partner.uid}&trigger=Order%20placed&event=conversion"
            "&reference=No%207&amount=1234567.50&currency=EUR&payout=123456.75"
            "&payout_currency=EUR"
            f"&status=approved&callback_id={callback.webhook_id}&timestamp={sent_on}"
        )
        assert callback.url == f"https://partner.example/cb?{expected}"

    def test_tells_the_moment_of_the_conversion_in_unix_seconds(self, monkeypatch: Any) -> None:
        moment = datetime(2026, 3, 29, 0, 59, 59, 999999, tzinfo=timezone.utc)
        monkeypatch.setattr(conversions.timezone, "now", lambda: moment)
        convert("https://a.example/?v={visitor_id}&t={timestamp}", referred_on=moment)
        assert only_callback().url.endswith("&t=1774745999")

    @pytest.mark.parametrize(
        ("amount", "told"),
        [
            (Decimal("9.5"), "9.50"),
            (Decimal("1E+3"), "1000.00"),
            (Decimal("0.1234"), "0.1234"),
            (Decimal("-5"), "-5.00"),
            (7, "7.00"),
            (0, "0.00"),
            (None, ""),
        ],
    )
    def test_writes_money_for_machines(self, amount: Any, told: str, settings: Any) -> None:
        settings.USE_THOUSAND_SEPARATOR = True
        visitor = VisitorFactory()
        SubscriptionFactory(
            partner=visitor.partner, callback_url="https://a.example/?v={visitor_id}&a={amount}"
        )
        with translation.override("de"):
            complete_trigger(None, "Order placed", visitor=visitor, amount=amount)
        assert only_callback().url.endswith(f"&a={told}")


@pytest.mark.django_db
class TestACancelledCallback:
    def test_is_one_whose_partner_could_not_tell_which_click_is_meant(self) -> None:
        convert("https://partner.example/cb?c={click_id}&t={trigger}")
        callback = only_callback()
        assert callback.status == Status.CANCELLED
        assert callback.reason == "The visitor came without a click id."
        assert callback.url == "https://partner.example/cb?c={click_id}&t={trigger}"

    @pytest.mark.parametrize(
        ("url", "click_id"),
        [
            ("https://partner.example/cb?c={click_id}", "42"),
            ("https://partner.example/cb?c={click_id}&v={visitor_id}", ""),
        ],
    )
    def test_is_not_one_that_says_it_otherwise(self, url: str, click_id: str) -> None:
        convert(url, click_id=click_id)
        assert only_callback().status == Status.QUEUED

    @pytest.mark.parametrize("click_id", [".", ".."])
    def test_is_one_that_would_climb_to_another_page_of_the_partners(self, click_id: str) -> None:
        convert("https://partner.example/a/{click_id}/cb?v={visitor_id}", click_id=click_id)
        callback = only_callback()
        assert callback.status == Status.CANCELLED
        assert callback.reason == (
            "A placeholder value would turn into the path segment “.” or “..”."
        )

    def test_is_never_due(self) -> None:
        convert("https://partner.example/cb?c={click_id}")
        callback = only_callback()
        assert not Callback.objects.due(callback.created_on).exists()

    def test_does_not_keep_the_conversion_from_counting(self) -> None:
        conversion = convert("https://partner.example/cb?c={click_id}")
        conversion.visitor.refresh_from_db()
        assert conversion.visitor.successful_on is not None


@pytest.mark.django_db
class TestACallbackThatStaffCancel:
    def test_is_not_sent_and_says_why(self) -> None:
        callback = CallbackFactory()
        assert outbox.cancel(callback, "x" * 300)
        callback.refresh_from_db()
        assert (callback.status, callback.reason) == (Status.CANCELLED, "x" * 255)

    def test_stays_delivered_where_it_had_been_once(self) -> None:
        callback = CallbackFactory(delivered_on=datetime(2026, 5, 1, tzinfo=timezone.utc))
        assert outbox.cancel(callback, "Told by phone.")
        callback.refresh_from_db()
        assert (callback.status, callback.reason) == (Status.DELIVERED, "")

    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.EXHAUSTED, Status.CANCELLED])
    def test_stays_as_it_is_where_nothing_waits(self, status: str) -> None:
        callback = CallbackFactory(status=status)
        assert not outbox.cancel(callback, "Told by phone.")
        callback.refresh_from_db()
        assert (callback.status, callback.reason) == (status, "")

    def test_is_the_only_one(self) -> None:
        callback, other = CallbackFactory(), CallbackFactory()
        outbox.cancel(callback, "Told by phone.")
        other.refresh_from_db()
        assert other.status == Status.QUEUED
