"""The partner's callbacks on their own page: what has come of them, what to do, and no secrets."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.test import Client, override_settings
from django.utils.formats import date_format

from affiliations.callbacks import suspension
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription
from affiliations.partner_pages import deliveries
from tests.factories import CallbackFactory, ConversionFactory, PartnerFactory, SubscriptionFactory
from tests.settings import MANY_ROWS
from tests.test_views import link, see

pytestmark = pytest.mark.django_db

NOW = datetime.now(timezone.utc).replace(microsecond=0)
Error, Status = CallbackAttempt.Error, Callback.Status
SECRET_URL = "https://user:pass@hooks.example:8443/T00/secret/?c={click_id}&token=s3cret"
HIDDEN = (
    "s3cret",
    "T00",
    "user:",
    "8443",
    "anna@buyer.example",
    "order-4711",
    "Traceback",
    "54.90",
)


@pytest.fixture
def partner(partner: Partner) -> Partner:
    partner.replace_page_link()
    return partner


@pytest.fixture
def subscription(partner: Partner) -> Subscription:
    return SubscriptionFactory(partner=partner, callback_url=SECRET_URL)


def called(subscription: Subscription, error: str = "", **facts: Any) -> Callback:
    """Add a callback that names a customer, with one attempt."""
    status_code = facts.pop("status_code", None)
    visitor = {"visitor__partner": subscription.partner}
    conversion = ConversionFactory(
        **visitor, subscription=subscription, reference="order-4711", amount=54.90, currency="EUR"
    )
    callback: Callback = CallbackFactory(
        **{
            "conversion": conversion,
            "subscription": subscription,
            "url": "https://hooks.example/T00/secret/?m=anna@buyer.example&token=s3cret&sum=54.90",
            "attempt_count": 1,
            "next_attempt_on": NOW + timedelta(hours=1),
        }
        | facts
    )
    CallbackAttempt.objects.create(
        callback=callback,
        number=1,
        started_on=NOW,
        duration_ms=7,
        error=error,
        status_code=status_code,
        message="Max retries exceeded with url: /T00/secret/?token=s3cret",
        response_excerpt="Traceback: anna@buyer.example",
    )
    return callback


def moment(value: datetime) -> str:
    return date_format(value, "SHORT_DATETIME_FORMAT")


def fails(subscription: Subscription, **facts: Any) -> None:
    Subscription.objects.filter(pk=subscription.pk).update(
        **{
            "failure_count": 3,
            "failing_since": NOW - timedelta(days=1),
            "last_error": Error.HTTP_STATUS,
            "last_status_code": 503,
        }
        | facts
    )


class TestTheEndpoint:
    def test_is_fine_where_nothing_has_failed(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        seen = see(client, partner)
        assert "Callbacks Order placed hooks.example OK No callbacks yet." in seen
        assert "What to do" not in seen

    def test_that_is_suspended_says_since_when_why_and_what_to_do(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        fails(subscription, failure_count=12, callbacks_suspended_on=NOW)
        called(subscription, Error.HTTP_STATUS, status_code=503)
        seen = see(client, partner)
        assert "Your server does not accept callbacks at the moment. What to do" in seen
        assert (
            "Order placed hooks.example suspended "
            f"Suspended since {moment(NOW)}: too many callbacks failed. "
            f"12 callbacks failed in a row (since {moment(NOW - timedelta(days=1))}). "
            "Last error: your server returned an error (HTTP 503). "
            "New callbacks are stored, and none is lost. When your server works again, ask your "
            "contact at the site to resume them."
        ) in seen
        assert "Next attempt" not in seen

    def test_that_is_suspended_after_a_late_success_names_no_failures(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        quiet: dict[str, Any] = {"failing_since": None, "last_error": "", "last_status_code": None}
        fails(subscription, failure_count=0, callbacks_suspended_on=NOW, **quiet)
        seen = see(client, partner)
        assert f"Suspended since {moment(NOW)}: too many callbacks failed. New callbacks" in seen

    def test_that_is_paused_says_when_it_is_tried_again(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        until = NOW + timedelta(minutes=40)
        fails(subscription, failure_count=1, callbacks_paused_until=until)
        called(subscription, next_attempt_on=NOW)
        seen = see(client, partner)
        assert (
            f"paused 1 callback failed (since {moment(NOW - timedelta(days=1))}). Last error: your "
            "server returned an error (HTTP 503). Your server is busy, so callbacks "
            f"wait. One is sent on {moment(until)}; the others follow once it is accepted. "
            "After 10 failures in a row over at least 72 hours, callbacks are suspended."
        ) in seen

    def test_that_fails_says_when_it_is_tried_again(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        fails(subscription, last_error=Error.TIMEOUT, last_status_code=None)
        after = "After 10 failures in a row"
        assert f"did not respond in time. {after}" in see(client, partner)
        called(subscription, next_attempt_on=NOW + timedelta(hours=2))
        called(subscription, next_attempt_on=NOW + timedelta(hours=1))
        seen = see(client, partner)
        next_on = moment(NOW + timedelta(hours=1))
        assert f"did not respond in time. Next attempt on {next_on}. {after}" in seen
        assert "failing" in seen

    def test_is_listed_while_it_calls_somebody_or_fails(self, partner: Partner) -> None:
        def trigger(name: str, **facts: Any) -> Subscription:
            made: Subscription = SubscriptionFactory(partner=partner, trigger=name, **facts)
            return made

        trigger("Active")
        trigger("Ended", active=False)
        trigger("Silent", callback_url="")
        fails(trigger("Ended and failing", active=False))
        fails(SubscriptionFactory(partner=PartnerFactory()))
        rows = deliveries.endpoints(partner)
        assert [row.trigger for row in rows] == ["Active", "Ended and failing"]

    def test_is_not_spoken_of_where_there_are_no_callbacks(
        self, client: Client, partner: Partner
    ) -> None:
        SubscriptionFactory(partner=partner, callback_url="")
        assert "Callbacks" not in see(client, partner)

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            (SECRET_URL, "hooks.example"),
            ("", ""),
            ("no url {visitor_id}", ""),
            ("http://[", ""),
            ("https://{host}/", "{host}"),
        ],
    )
    def test_has_of_its_url_the_host_only(
        self, partner: Partner, subscription: Subscription, url: str, host: str
    ) -> None:
        # As 0.12 stored it.
        Subscription.objects.update(callback_url=url, failure_count=1, failing_since=NOW)
        [row] = deliveries.endpoints(partner)
        assert row.host == host

    def test_is_off_where_the_site_sends_nothing(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        off = "This site is not sending callbacks at the moment."
        assert off not in see(client, partner)
        with override_settings(AFFILIATE_SEND_CALLBACKS=False):
            assert off in see(client, partner)


class TestTheCallbacks:
    def test_are_shown_with_what_has_become_of_them(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        called(subscription, Error.TLS, status=Status.CANCELLED, reason="anna@buyer.example asked")
        called(
            subscription, Error.HTTP_STATUS, status_code=500, status=Status.EXHAUSTED,
            event="approval", attempt_count=10,
        )  # fmt: skip
        called(subscription, Error.DNS, attempt_count=2)
        called(subscription, Error.DNS, lease_token="x")
        called(subscription, status=Status.DELIVERED, event="rejection")
        called(subscription, Error.LOST, status=Status.DELIVERED)
        later = moment(NOW + timedelta(hours=1))
        error = "your server returned an error (HTTP 500)"
        _head, seen = see(client, partner).split("Date Event Attempts Status ")
        date = r"\d\d/\d\d/\d{4} [\d:]+ [ap].m. "
        rows = [row.strip() for row in re.split(date + "Order placed ", seen.split("Payout st")[0])]
        assert rows == [
            "",
            "conversion 1 delivered",
            "rejection 1 delivered",
            "conversion 1 queued the host name was not found",
            f"conversion 2 queued the host name was not found Next attempt on {later}.",
            f"approval 10 gave up {error} Ask your contact at the site to send it again.",
            "conversion 1 cancelled",
        ]

    def test_have_the_error_of_the_last_attempt(
        self, partner: Partner, subscription: Subscription
    ) -> None:
        callback = called(subscription, Error.DNS, attempt_count=2)
        CallbackAttempt.objects.create(
            callback=callback, number=2, started_on=NOW, duration_ms=1, error=Error.CONNECT
        )
        waiting = CallbackFactory(subscription=subscription, conversion__visitor__partner=partner)
        assert not waiting.attempts.exists()
        assert [row.error for row in deliveries.latest(partner)] == ["", "the connection failed"]

    @pytest.mark.parametrize("state", ["suspended", "paused"])
    def test_that_wait_for_their_server_say_so(
        self, partner: Partner, subscription: Subscription, state: str
    ) -> None:
        column = {"suspended": "callbacks_suspended_on", "paused": "callbacks_paused_until"}
        fails(subscription, **{column[state]: NOW})
        called(subscription, Error.CONNECT)
        [row] = deliveries.latest(partner)
        assert (row.status, str(row.status_display), row.next_on) == (state, state, None)

    def test_that_are_tests_say_so(self, partner: Partner, subscription: Subscription) -> None:
        called(subscription)
        Callback.objects.update(is_test=True)
        Callback.objects.create(
            partner=partner, subscription=subscription, event=Callback.Event.TEST, url="x"
        )
        test, of_test_order = deliveries.latest(partner)
        assert (test.event, test.is_test) == ("test", False)
        assert (of_test_order.event, of_test_order.is_test) == ("conversion", True)

    def test_are_the_latest_of_this_partner(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        called(SubscriptionFactory(trigger="Of another"))
        made = [
            called(subscription, attempt_count=number) for number in range(deliveries.LATEST + 2)
        ]
        shown = [row.attempts for row in deliveries.latest(partner)]
        assert shown == [row.attempt_count for row in reversed(made[2:])]
        assert "Of another" not in see(client, partner)

    def test_name_no_customer_and_no_secret_of_the_url(
        self,
        client: Client,
        partner: Partner,
        subscription: Subscription,
    ) -> None:
        fails(subscription, callbacks_suspended_on=NOW)
        for error in Error:
            called(subscription, error, status_code=500)
        seen = client.get(link(partner)).text
        assert "hooks.example" in seen
        assert "returned an error" in seen
        # The reference is shortened and the amount not shown, as everywhere on the page.
        assert [text for text in HIDDEN if text in seen] == []

    def test_cost_the_same_queries_and_read_no_url_or_message(
        self,
        partner: Partner,
        subscription: Subscription,
        django_assert_num_queries: Any,
    ) -> None:
        called(subscription, Error.DNS)
        with django_assert_num_queries(3):
            deliveries.endpoints(partner)
            deliveries.latest(partner)
        one = Callback.objects.get()
        Callback.objects.bulk_create(
            Callback(partner=partner, subscription=subscription, url="x", status=Status.EXHAUSTED)
            for _ in range(MANY_ROWS)
        )
        CallbackAttempt.objects.bulk_create(
            CallbackAttempt(
                callback_id=pk, number=1, started_on=NOW, duration_ms=1, error=Error.DNS
            )
            for pk in Callback.objects.exclude(pk=one.pk).values_list("pk", flat=True)
        )
        for number in range(20):
            fails(SubscriptionFactory(partner=partner, trigger=f"Trigger {number}"))
        with django_assert_num_queries(3) as captured:
            deliveries.endpoints(partner)
            deliveries.latest(partner)
        _endpoints, *others = (query["sql"] for query in captured.captured_queries)
        for name in ("url", "body", "message", "response_excerpt", "reason", "conversion_id"):
            assert not [sql for sql in others if re.search(rf"\b{name}\b", sql)]


class TestTheAdvice:
    @pytest.mark.parametrize("error", Error)
    def test_is_given_about_every_error(self, error: Error) -> None:
        assert error.advice
        assert "the partner" not in deliveries.error_text(error, None)

    @pytest.mark.parametrize(
        ("status_code", "advice"),
        [
            (302, "Give us the final URL"),
            (403, "Your server refused the callback"),
            (404, "Your server refused the callback"),
            (410, "With 410 your server says"),
            (429, "is busy or down"),
            (500, "Look for the error in the log"),
            (503, "is busy or down"),
            (600, "Answer with a 2xx status"),
            (None, "Answer with a 2xx status"),
        ],
    )
    def test_goes_by_the_status(
        self, partner: Partner, subscription: Subscription, status_code: int, advice: str
    ) -> None:
        called(subscription, Error.HTTP_STATUS, status_code=status_code)
        [(words, found)] = deliveries.advice(deliveries.latest(partner))
        code = f" (HTTP {status_code})" if status_code else ""
        assert words == f"your server returned an error{code}"
        assert advice in found

    def test_is_given_once_for_each_error(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        fails(subscription)
        for _ in range(2):
            called(subscription, Error.HTTP_STATUS, status_code=503)
            called(subscription, Error.DNS)
        seen = see(client, partner)
        assert seen.count("or the gateway before it, is busy or down.") == 1
        assert seen.count("Check the host name and its DNS records.") == 1

    def test_says_nothing_of_an_error_that_it_does_not_know(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        """As a later version may have stored one."""
        fails(subscription, last_error="unheard_of", last_status_code=None)
        called(subscription, "unheard_of")
        seen = see(client, partner)
        assert "unheard_of" not in seen
        assert "Last error" not in seen


def test_the_page_says_after_how_many_failures_callbacks_are_suspended(
    client: Client, partner: Partner, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspension, "SUSPEND_AFTER_FAILURES", 4)
    monkeypatch.setattr(suspension, "SUSPEND_AFTER", timedelta(hours=5))
    fails(subscription)
    assert "After 4 failures in a row over at least 5 hours" in see(client, partner)


def test_a_hostile_trigger_is_text(client: Client, partner: Partner) -> None:
    evil = "\u202e<script>alert(1)</script>"
    subscription = SubscriptionFactory(partner=partner, trigger=evil, callback_url=SECRET_URL)
    called(subscription)
    shown = client.get(link(partner)).text
    assert "<script" not in shown
    assert shown.count(f"<bdi>{evil.replace('<', '&lt;').replace('>', '&gt;')}</bdi>") >= 2
