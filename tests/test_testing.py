"""What a host's own tests are given, used as a host uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import transaction
from django.test import AsyncClient, Client, TestCase, override_settings
from pytest_httpserver import HTTPServer

from affiliations.callbacks import outbox, test_callback, worker
from affiliations.conversions import decisions
from affiliations.conversions import recording as conversions
from affiliations.models import Callback, Conversion, Partner, Visitor
from affiliations.testing import (
    RecordedCallbacks,
    astart_referral,
    record_callbacks,
    start_referral,
)
from tests.factories import (
    CallbackFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_documentation import DOCS, blocks

pytestmark = pytest.mark.django_db


def at_once(callback_ids: Sequence[int]) -> None:
    """Send where the dispatcher is called, as an engine does that runs its tasks in the test."""
    worker.deliver(callback_ids)


@pytest.fixture(autouse=True)
def _eager(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_testing.at_once"
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


@pytest.fixture
def partner(httpserver: HTTPServer) -> Partner:
    """Make a partner with a server of their own, who hears of orders and of rejections."""
    httpserver.expect_request("/cb").respond_with_data("")
    subscription = SubscriptionFactory(
        callback_url=httpserver.url_for("/cb") + "?v={visitor_id}&c={click_id}&is={status}",
        counting="every",
        closes_referral=False,
        call_on_rejection=True,
    )
    partner: Partner = subscription.partner
    return partner


def told(callbacks: RecordedCallbacks) -> list[str]:
    return [callback.event for callback in callbacks]


# Recording


class RecordingBlock:
    def test_gives_the_callbacks_that_are_queued_in_it(
        self, client: Client, partner: Partner, httpserver: HTTPServer
    ) -> None:
        visitor = start_referral(client, partner, click_id="42")
        with record_callbacks() as callbacks:
            assert callbacks == []
            client.post("/order/")
            assert len(callbacks) == 1
            client.post("/order/")
        [first, second] = callbacks
        url = httpserver.url_for("/cb") + f"?v={visitor.pk}&c=42&is=approved"
        assert [first.url, second.url] == [url, url]
        assert callbacks == [first, second]
        assert callbacks[1] == second
        assert callbacks[:1] == [first]
        assert repr(callbacks) == repr([first, second])
        assert callbacks != object()
        with record_callbacks() as others:
            first.save()
        assert others != callbacks
        assert others == []
        assert first.conversion == Conversion.objects.earliest("pk")

    def test_gives_them_to_an_async_test_too(
        self, async_client: AsyncClient, partner: Partner
    ) -> None:
        @async_to_sync  # as TestCase runs a test that is a coroutine
        async def test() -> None:
            visitor = await astart_referral(async_client, partner, "/async/", sub2="footer")
            assert (visitor.partner_id, visitor.sub2) == (partner.pk, "footer")
            with record_callbacks() as callbacks:
                await async_client.post("/async/order/")
            [callback] = callbacks
            assert callback.conversion.visitor_id == visitor.pk

        test()

    def test_sends_nothing_neither_now_nor_later(
        self, client: Client, partner: Partner, httpserver: HTTPServer
    ) -> None:
        start_referral(client, partner)
        with TestCase.captureOnCommitCallbacks(execute=True), record_callbacks() as callbacks:
            client.post("/order/")
            call_command("deliver_callbacks")
        call_command("deliver_callbacks")
        assert len(callbacks) == 1
        assert httpserver.log == []
        with TestCase.captureOnCommitCallbacks(execute=True):
            client.post("/order/")
        assert len(callbacks) == 1
        assert len(httpserver.log) == 1

    def test_leaves_out_what_was_rolled_back(self, partner: Partner) -> None:
        visitor = VisitorFactory(partner=partner)
        with record_callbacks() as callbacks:
            with transaction.atomic():
                conversions.record(visitor, "Order placed", reference="1")
                with transaction.atomic():
                    conversions.record(visitor, "Order placed", reference="2")
                    transaction.set_rollback(True)
                assert [callback.conversion.reference for callback in callbacks] == ["1"]
            with transaction.atomic():
                conversions.record(visitor, "Order placed", reference="3")
                assert len(callbacks) == 2
                transaction.set_rollback(True)
        assert [callback.conversion.reference for callback in callbacks] == ["1"]

    def test_lets_a_partner_hear_of_a_refund_as_on_the_real_site(self, partner: Partner) -> None:
        visitor = VisitorFactory(partner=partner)
        with record_callbacks() as callbacks:
            conversion = conversions.record(visitor, "Order placed", reference="1")
            decisions.decide(conversion, "rejected")
        assert told(callbacks) == ["conversion", "rejection"]
        assert set(Callback.objects.values_list("status", flat=True)) == {"delivered"}

    def test_does_not_record_what_goes_to_nobody(self, partner: Partner) -> None:
        SubscriptionFactory(partner=partner, callback_url="https://partner.example/{click_id}/")
        with record_callbacks() as callbacks:
            conversions.record(VisitorFactory(partner=partner), "Order placed", reference="1")
        assert len(callbacks) == 1
        assert Callback.objects.get(status="cancelled").reason == outbox.NO_CLICK_ID

    def test_leaves_other_callbacks_and_what_is_sent_by_hand_alone(
        self, partner: Partner, httpserver: HTTPServer
    ) -> None:
        older = CallbackFactory(subscription=partner.subscriptions.get())
        with record_callbacks() as callbacks:
            older.save()
            test_callback.send_test_callback(partner.subscriptions.get())
        older.refresh_from_db()
        assert older.status == "queued"
        assert len(httpserver.log) == 1
        assert callbacks == []

    def test_can_stand_in_another_one_and_under_other_settings(
        self, partner: Partner, httpserver: HTTPServer
    ) -> None:
        visitor = VisitorFactory(partner=partner)
        recording = record_callbacks()
        with record_callbacks() as outer:
            conversions.record(visitor, "Order placed", reference="1")
            with override_settings(AFFILIATE_CALLBACK_REQUIRE_HTTPS=True):
                with recording as inner:
                    conversions.record(visitor, "Order placed", reference="2")
                conversions.record(visitor, "Order placed", reference="3")
        assert [callback.conversion.reference for callback in outer] == ["1", "2", "3"]
        assert [callback.conversion.reference for callback in inner] == ["2"]
        assert httpserver.log == []

    def test_ends_with_an_error_of_the_test_too(self, partner: Partner) -> None:
        with pytest.raises(ZeroDivisionError), record_callbacks() as callbacks:
            _ = 1 / 0
        with TestCase.captureOnCommitCallbacks(execute=True):
            conversions.record(VisitorFactory(partner=partner), "Order placed", reference="1")
        assert callbacks == []


class TestARecordingBlockWithoutCommits(RecordingBlock):
    """As in Django's ``TestCase``."""


@pytest.mark.django_db(transaction=True)
class TestARecordingBlockWithCommits(RecordingBlock):
    """As in Django's ``TransactionTestCase``."""


@record_callbacks(kwarg_name="callbacks")
def test_a_function_is_decorated(partner: Partner, **recorded: Any) -> None:
    conversions.record(VisitorFactory(partner=partner), "Order placed", reference="1")
    assert told(recorded["callbacks"]) == ["conversion"]


# Coming from a partner


class TestAReferral:
    def test_keeps_what_the_link_says(self, client: Client, partner: Partner) -> None:
        visitor = start_referral(client, partner, "/page/?x=1", click_id="42", sub1="spring")
        assert (visitor.partner, visitor.click_id, visitor.sub1) == (partner, "42", "spring")
        assert visitor.entry_point.endswith("/page/?x=1&click_id=42&sub1=spring")
        assert Visitor.objects.get() == visitor

    def test_is_the_users_who_is_logged_in(self, client: Client, partner: Partner) -> None:
        user = UserFactory()
        client.force_login(user)
        assert start_referral(client, partner).user == user

    def test_is_that_which_what_follows_is_credited_to(
        self, client: Client, partner: Partner
    ) -> None:
        start_referral(client, PartnerFactory())
        visitor = start_referral(client, partner)
        client.post("/order/")
        assert Conversion.objects.get().visitor == visitor

    def test_is_the_first_one_where_the_first_click_wins(
        self, client: Client, partner: Partner, settings: Any
    ) -> None:
        settings.AFFILIATE_ATTRIBUTION_MODEL = "first_click"
        visitor = start_referral(client, partner)
        assert start_referral(client, PartnerFactory()) == visitor

    def test_starts_on_a_site_that_wants_https(
        self, client: Client, partner: Partner, settings: Any
    ) -> None:
        settings.MIDDLEWARE = [
            "django.middleware.security.SecurityMiddleware",
            *settings.MIDDLEWARE,
        ]
        settings.SECURE_SSL_REDIRECT = True
        assert start_referral(client, partner).entry_point.startswith("https://")

    @pytest.mark.parametrize("is_referred", [False, True])
    def test_that_is_not_counted_is_an_error(
        self, client: Client, partner: Partner, is_referred: bool
    ) -> None:
        if is_referred:
            start_referral(client, partner)
        with pytest.raises(AssertionError, match=r"The link of Gone was not counted; .* 302"):
            start_referral(client, PartnerFactory(name="Gone", active=False))


# The page that explains it


def shown(file: str) -> dict[str, Any]:
    """Run the block of docs/guides/testing.rst that belongs to a file."""
    [block] = [
        block for block in blocks(DOCS / "guides/testing.rst", "python") if block.file == file
    ]
    namespace = {"__name__": __name__}
    exec(block.code, namespace)
    return namespace


# Collected and run here, like any test of a host.
OrderTests = shown("shop/tests.py")["OrderTests"]
NewsletterTests = shown("shop/test_newsletter.py")["NewsletterTests"]
callbacks = shown("shop/conftest.py")["callbacks"]


def test_the_fixture_of_the_page_records(partner: Partner, callbacks: RecordedCallbacks) -> None:
    conversions.record(VisitorFactory(partner=partner), "Order placed", reference="1")
    assert told(callbacks) == ["conversion"]


def test_the_month_of_the_page_approves_what_was_due(partner: Partner) -> None:
    partner.subscriptions.update(approve_after=30)
    conversion = conversions.record(VisitorFactory(partner=partner), "Order placed", reference="1")
    assert conversion.status == "pending"
    shown("shop/test_returns.py")["a_month_passes"]()
    conversion.refresh_from_db()
    assert conversion.status == "approved"
