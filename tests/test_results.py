"""What is written down of attempts, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.http import http_date
from hypothesis import given
from hypothesis import strategies as st

from affiliations.callbacks import claims, results
from affiliations.callbacks.results import Sent
from affiliations.callbacks.transport import Result
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.signals import callback_delivered, callback_exhausted, subscription_suspended
from tests.factories import CallbackFactory, ConversionFactory, SubscriptionFactory

Status = Callback.Status
Error = CallbackAttempt.Error

OK = Result(duration_ms=7, status_code=200, excerpt="thank you")
FAILED = Result(duration_ms=7, error=Error.CONNECT, message="refused")
GONE = Result(duration_ms=7, status_code=410, error=Error.HTTP_STATUS)


def claim() -> list[Callback]:
    return claims.claim(100, per_partner=100, busy={})


def sent(callback: Callback, result: Result, started_on: datetime | None = None) -> Sent:
    return Sent(callback, started_on or timezone.now(), result)


def attempt(result: Result) -> Callback:
    """Claim the one callback, let an attempt at it end so, and return it as it is then."""
    (callback,) = claim()
    results.record([sent(callback, result)])
    callback.refresh_from_db()
    return callback


def lease_ends() -> None:
    Callback.objects.update(next_attempt_on=timezone.now())


def busy(retry_after: str, status: int = 429) -> Result:
    return Result(1, status_code=status, error=Error.HTTP_STATUS, retry_after=retry_after)


@pytest.mark.django_db
class TestARecordedAttempt:
    def test_tells_what_happened(self) -> None:
        callback = CallbackFactory(attempt_count=2)
        began = timezone.now().replace(microsecond=0)
        (claimed,) = claim()
        result = Result(12, 503, Error.HTTP_STATUS, "", "come back later", retry_after="1")
        results.record([sent(claimed, result, began)])
        row = callback.attempts.get()
        assert (row.number, row.manual, row.started_on) == (3, False, began)
        assert (row.duration_ms, row.status_code, row.error) == (12, 503, "http_status")
        assert (row.message, row.response_excerpt) == ("", "come back later")

    def test_that_succeeded_ends_the_callback(self) -> None:
        CallbackFactory()
        before = timezone.now()
        callback = attempt(OK)
        assert (callback.status, callback.lease_token) == (Status.DELIVERED, "")
        assert callback.delivered_on is not None
        assert before <= callback.delivered_on <= timezone.now()
        assert claim() == []

    def test_that_failed_lets_it_wait(self) -> None:
        CallbackFactory()
        callback = attempt(FAILED)
        assert (callback.status, callback.lease_token) == (Status.QUEUED, "")
        assert callback.delivered_on is None
        assert callback.next_attempt_on > timezone.now()

    def test_that_was_the_last_exhausts_it(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0, 5, 5]
        CallbackFactory()
        ends = []
        for _ in range(3):
            lease_ends()
            ends.append(attempt(FAILED).status)
        assert ends == [Status.QUEUED, Status.QUEUED, Status.EXHAUSTED]
        lease_ends()
        assert claim() == []

    def test_that_was_answered_410_exhausts_it_at_once_and_counts_as_one_failure(self) -> None:
        CallbackFactory()
        callback = attempt(GONE)
        assert (callback.status, callback.attempt_count) == (Status.EXHAUSTED, 1)
        assert Subscription.objects.get().failure_count == 1

    def test_is_one_of_ten(self) -> None:
        CallbackFactory()
        for number in range(1, 11):
            lease_ends()
            assert attempt(FAILED).attempt_count == number
        assert Callback.objects.get().status == Status.EXHAUSTED
        numbers = CallbackAttempt.objects.order_by("pk").values_list("number", flat=True)
        assert list(numbers) == list(range(1, 11))

    def test_costs_the_same_number_of_queries_in_a_group_of_successes_of_any_size(self) -> None:
        counts = []
        subscription = SubscriptionFactory()
        for size in (2, 40):
            for _ in range(size):
                conversion = ConversionFactory(
                    visitor__partner=subscription.partner, subscription=subscription
                )
                CallbackFactory(conversion=conversion)
            group = [sent(callback, OK) for callback in claim()]
            with CaptureQueriesContext(connection) as queries:
                results.record(group)
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 6

    def test_that_failed_costs_one_query_more(self) -> None:
        counts = []
        for size in (1, 5):
            Callback.objects.update(status=Status.DELIVERED)
            CallbackFactory.create_batch(size, conversion__subscription=SubscriptionFactory())
            group = [sent(callback, FAILED) for callback in claim()]
            with CaptureQueriesContext(connection) as queries:
                results.record(group)
            counts.append(len(queries))
        assert counts[1] - counts[0] == 4


@pytest.mark.django_db
class TestTheFence:
    """A worker slower than its lease comes back when the row is another's."""

    @pytest.fixture
    def two(self) -> tuple[Callback, Callback]:
        """Return one callback as the slow worker sees it, and as the one who claimed it next."""
        CallbackFactory()
        (slow,) = claim()
        lease_ends()
        (other,) = claim()
        return slow, other

    def test_lets_a_late_failure_change_nothing(self, two: tuple[Callback, Callback]) -> None:
        slow, other = two
        results.record([sent(slow, FAILED)])
        slow.refresh_from_db()
        assert (slow.status, slow.lease_token) == (Status.QUEUED, other.lease_token)
        assert slow.next_attempt_on == other.next_attempt_on
        assert Subscription.objects.get().failure_count == 0

    def test_lets_a_late_410_change_nothing(self, two: tuple[Callback, Callback]) -> None:
        results.record([sent(two[0], GONE)])
        assert Callback.objects.get().status == Status.QUEUED

    def test_writes_a_late_attempt_down_all_the_same(self, two: tuple[Callback, Callback]) -> None:
        results.record([sent(two[1], FAILED)])
        results.record([sent(two[0], FAILED)])
        numbers = CallbackAttempt.objects.order_by("pk").values_list("number", flat=True)
        assert list(numbers) == [2, 1]

    def test_lets_a_late_success_count(self, two: tuple[Callback, Callback]) -> None:
        slow, other = two
        results.record([sent(slow, OK)])
        results.record([sent(other, FAILED)])
        slow.refresh_from_db()
        assert (slow.status, slow.lease_token) == (Status.DELIVERED, "")

    @pytest.mark.parametrize("status", [Status.EXHAUSTED, Status.HELD, Status.CANCELLED])
    def test_lets_a_late_success_count_whatever_was_decided(
        self, two: tuple[Callback, Callback], status: str
    ) -> None:
        Callback.objects.update(status=status)
        results.record([sent(two[0], OK)])
        assert Callback.objects.get().status == Status.DELIVERED

    def test_keeps_the_time_of_the_first_of_two_successes(
        self, two: tuple[Callback, Callback]
    ) -> None:
        results.record([sent(two[0], OK)])
        first = Callback.objects.get().delivered_on
        results.record([sent(two[1], OK)])
        assert Callback.objects.get().delivered_on == first

    def test_sorts_out_both_in_one_group(self, two: tuple[Callback, Callback]) -> None:
        results.record([sent(two[0], FAILED), sent(two[1], OK)])
        assert Callback.objects.get().status == Status.DELIVERED
        assert CallbackAttempt.objects.count() == 2

    @pytest.mark.parametrize("status", [Status.HELD, Status.CANCELLED])
    def test_lets_a_failure_of_what_was_stopped_in_flight_change_nothing(self, status: str) -> None:
        CallbackFactory()
        (callback,) = claim()
        Callback.objects.update(status=status)
        results.record([sent(callback, FAILED)])
        callback.refresh_from_db()
        assert callback.status == status
        assert callback.attempts.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("result", [OK, FAILED, GONE])
def test_a_group_that_is_recorded_again_counts_once(result: Result) -> None:
    """Where the database was lost at the commit, nobody knows whether it had happened."""
    CallbackFactory()
    (callback,) = claim()
    results.record([sent(callback, result)])
    once = list(Callback.objects.values()), list(Subscription.objects.values())
    results.record([sent(callback, result)])
    assert (list(Callback.objects.values()), list(Subscription.objects.values())) == once
    assert CallbackAttempt.objects.count() == 1


class TestTheDelay:
    """A fifth more or less, so that not all come back at once."""

    @pytest.mark.parametrize(
        ("attempt", "seconds"),
        list(enumerate([5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400], start=1)),
    )
    def test_is_the_schedules_give_or_take_a_fifth(self, attempt: int, seconds: int) -> None:
        delays = [results.delay(attempt, FAILED).total_seconds() for _ in range(300)]
        assert seconds * 0.8 <= min(delays) < seconds * 0.9
        assert seconds * 1.1 < max(delays) <= seconds * 1.2

    def test_is_the_last_step_where_one_is_sent_by_hand_after_the_end(self) -> None:
        assert results.delay(15, FAILED).total_seconds() >= 86400 * 0.8

    @pytest.mark.parametrize("status", [429, 503])
    def test_is_what_the_partner_asks_for_in_seconds(self, status: int) -> None:
        assert results.delay(1, busy("3600", status)) == timedelta(hours=1)

    def test_is_what_the_partner_asks_for_as_a_date(self) -> None:
        asked = results.delay(1, busy(http_date(time.time() + 3600))).total_seconds()
        assert 3590 < asked <= 3600

    def test_heeds_a_date_in_a_site_without_time_zones(self, settings: Any) -> None:
        settings.USE_TZ = False
        asked = results.delay(1, busy(http_date(time.time() + 3600))).total_seconds()
        assert 3590 < asked <= 3600

    @pytest.mark.parametrize("form", ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
    def test_heeds_a_date_in_the_forms_of_old(self, form: str) -> None:
        """RFC 9110, 5.6.7."""
        when = time.strftime(form, time.gmtime(time.time() + 3600))
        assert 3590 < results.delay(1, busy(when)).total_seconds() <= 3600

    @pytest.mark.parametrize(
        "value", ["1", "0", "", "-60", "soon", "1.5", "²", "Wed, 21 Oct 2015 07:28:00 GMT"]
    )
    def test_is_the_schedules_where_that_is_later_or_what_is_asked_for_is_nonsense(
        self, value: str
    ) -> None:
        assert 4 <= results.delay(1, busy(value)).total_seconds() <= 6

    @pytest.mark.parametrize(
        "value", ["86401", "9" * 30, "Fri, 31 Dec 9999 23:59:59 GMT", "000000000999999999"]
    )
    def test_is_never_longer_than_a_day_because_a_partner_asks(self, value: str) -> None:
        assert results.delay(1, busy(value)) == timedelta(hours=24)

    @pytest.mark.parametrize("status", [200, 302, 404, 500])
    def test_does_not_heed_what_another_answer_asks_for(self, status: int) -> None:
        assert results.delay(1, busy("3600", status)).total_seconds() <= 6

    @given(st.text() | st.from_regex(r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT"))
    def test_survives_whatever_a_partner_sends(self, value: str) -> None:
        assert timedelta(0) < results.delay(1, busy(value)) <= timedelta(hours=24)

    @pytest.mark.django_db
    def test_begins_when_the_attempt_has_ended(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0, 1000]
        CallbackFactory()
        before = timezone.now()
        due = attempt(FAILED).next_attempt_on
        assert before + timedelta(seconds=800) <= due <= timezone.now() + timedelta(seconds=1200)


@pytest.mark.django_db
class TestASubscription:
    """Suspended after 10 failures in a row over at least 72 hours."""

    LONG = results.SUSPEND_AFTER + timedelta(minutes=1)

    @pytest.fixture
    def callbacks(self, subscription: Subscription) -> list[Callback]:
        """Make twelve callbacks of the subscription."""
        return [
            CallbackFactory(
                conversion=ConversionFactory(
                    visitor__partner=subscription.partner, subscription=subscription
                )
            )
            for _ in range(12)
        ]

    def fail(self, count: int, *, since: timedelta, result: Result = FAILED) -> None:
        lease_ends()
        for callback in claim()[:count]:
            results.record([sent(callback, result, timezone.now() - since)])

    @pytest.mark.usefixtures("callbacks")
    def test_counts_its_failures_and_since_when(self, subscription: Subscription) -> None:
        before = timezone.now()
        self.fail(1, since=timedelta(hours=2))
        self.fail(2, since=timedelta(0))
        subscription.refresh_from_db()
        assert subscription.failure_count == 3
        assert subscription.failing_since is not None
        assert before - timedelta(hours=2) <= subscription.failing_since
        assert subscription.failing_since < timezone.now() - timedelta(hours=1)

    @pytest.mark.usefixtures("callbacks")
    def test_is_suspended_after_ten_over_72_hours(self, subscription: Subscription) -> None:
        self.fail(9, since=self.LONG)
        subscription.refresh_from_db()
        assert subscription.callbacks_suspended_on is None
        self.fail(1, since=timedelta(0))
        subscription.refresh_from_db()
        assert subscription.callbacks_suspended_on is not None

    @pytest.mark.usefixtures("callbacks")
    def test_is_not_suspended_sooner_however_often_it_fails(
        self, subscription: Subscription
    ) -> None:
        for _ in range(4):
            self.fail(12, since=timedelta(hours=71))
        subscription.refresh_from_db()
        assert subscription.failure_count == 48
        assert subscription.callbacks_suspended_on is None

    @pytest.mark.usefixtures("callbacks")
    def test_begins_anew_after_a_success(self, subscription: Subscription) -> None:
        self.fail(9, since=self.LONG)
        self.fail(1, since=timedelta(0), result=OK)
        self.fail(5, since=timedelta(0))
        subscription.refresh_from_db()
        assert subscription.failure_count == 5
        assert subscription.failing_since is not None
        assert subscription.failing_since > timezone.now() - timedelta(hours=1)
        assert subscription.callbacks_suspended_on is None

    @pytest.mark.parametrize(
        ("group", "failures"), [("fffsff", 2), ("sffff", 4), ("ffffs", 0), ("sf", 1)]
    )
    def test_counts_a_group_in_the_order_in_which_it_ended(
        self, group: str, failures: int, callbacks: list[Callback], subscription: Subscription
    ) -> None:
        self.fail(3, since=self.LONG)
        lease_ends()
        claimed = reversed(claim())
        results.record(
            [sent(one, OK if end == "s" else FAILED) for one, end in zip(claimed, group)]  # noqa: B905
        )
        subscription.refresh_from_db()
        assert subscription.failure_count == failures
        assert (subscription.failing_since is None) == (failures == 0)

    def test_that_is_suspended_holds_what_waits_and_keeps_it(
        self, callbacks: list[Callback], subscription: Subscription
    ) -> None:
        other = CallbackFactory()
        self.fail(12, since=self.LONG, result=FAILED)
        held = set(Callback.objects.filter(status=Status.HELD))
        assert held == set(callbacks)
        assert claim() in ([], [other])
        assert Callback.objects.get(pk=other.pk).status == Status.QUEUED

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_resumed_sends_what_was_held(self, subscription: Subscription) -> None:
        self.fail(10, since=self.LONG)
        assert results.resume(subscription) == 12
        subscription.refresh_from_db()
        assert subscription.callbacks_suspended_on is None
        assert (subscription.failure_count, subscription.failing_since) == (0, None)
        assert len(claim()) == 12

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_resumed_leaves_the_others_suspended(self, subscription: Subscription) -> None:
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        other = CallbackFactory(status=Status.HELD)
        results.resume(subscription)
        assert Callback.objects.get(pk=other.pk).status == Status.HELD

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_suspended_holds_its_new_callbacks_too(
        self, subscription: Subscription
    ) -> None:
        self.fail(10, since=self.LONG)
        CallbackFactory(
            conversion=ConversionFactory(
                visitor__partner=subscription.partner, subscription=subscription
            )
        )
        assert claim() == []
        assert set(Callback.objects.values_list("status", flat=True)) == {Status.HELD}

    def test_takes_no_notice_of_a_test_callback(self, subscription: Subscription) -> None:
        Subscription.objects.update(failure_count=9, failing_since=timezone.now() - self.LONG)
        Callback.objects.create(
            subscription=subscription,
            partner=subscription.partner,
            event=Callback.Event.TEST,
            url="https://partner.example/cb",
        )
        attempt(FAILED)
        subscription.refresh_from_db()
        assert subscription.failure_count == 9
        assert subscription.callbacks_suspended_on is None


@pytest.mark.django_db
def test_what_a_deactivated_partner_has_earned_is_still_told() -> None:
    CallbackFactory()
    callback = Callback.objects.get()
    callback.partner.active = False
    callback.partner.save()
    assert attempt(OK).status == Status.DELIVERED


@pytest.mark.django_db
def test_what_was_cancelled_is_not_told() -> None:
    CallbackFactory(status=Status.CANCELLED)
    assert claim() == []


class TestASignal:
    @pytest.fixture
    def heard(self) -> Any:
        """Return what was heard, and whether a transaction was still open."""
        heard: list[tuple[Any, Any, bool]] = []

        def hear(signal: Any, sender: Any, **what: Any) -> None:
            names = {
                callback_delivered: "delivered",
                callback_exhausted: "exhausted",
                subscription_suspended: "suspended",
            }
            what = what.get("callback") or what["subscription"]
            heard.append((names[signal], what, connection.in_atomic_block))
            raise RuntimeError("a receiver of the host's that breaks")

        signals = (callback_delivered, callback_exhausted, subscription_suspended)
        for signal in signals:
            signal.connect(hear)
        yield heard
        for signal in signals:
            signal.disconnect(hear)

    def test_tells_of_a_delivery_after_the_commit(
        self, heard: list[Any], transactional_db: None
    ) -> None:
        callback = CallbackFactory()
        attempt(OK)
        assert heard == [("delivered", callback, False)]

    def test_tells_of_a_callback_that_failed_for_good_after_the_commit(
        self, heard: list[Any], transactional_db: None
    ) -> None:
        callback = CallbackFactory()
        attempt(GONE)
        assert heard == [("exhausted", callback, False)]

    def test_tells_of_one_that_has_killed_its_workers(
        self, heard: list[Any], transactional_db: None
    ) -> None:
        callback = CallbackFactory(attempt_count=10)
        assert claim() == []
        assert heard == [("exhausted", callback, False)]

    def test_tells_once_of_a_suspended_subscription_after_the_commit(
        self, heard: list[Any], transactional_db: None
    ) -> None:
        CallbackFactory.create_batch(2)
        Subscription.objects.update(
            failure_count=9, failing_since=timezone.now() - timedelta(hours=73)
        )
        first, second = claim()
        results.record([sent(first, FAILED), sent(second, FAILED)])
        results.record([sent(first, FAILED)])
        assert sorted(heard, key=lambda one: one[1].pk) == [
            ("suspended", row, False) for row in Subscription.objects.order_by("pk")
        ]
        assert all(row.callbacks_suspended_on for _, row, _ in heard)

    @pytest.mark.django_db
    def test_is_not_sent_of_what_was_rolled_back(
        self, heard: list[Any], django_capture_on_commit_callbacks: Callable[..., Any]
    ) -> None:
        CallbackFactory()
        attempt(OK)
        assert heard == []

    def test_of_a_failure_that_is_retried_does_not_exist(
        self, heard: list[Any], transactional_db: None
    ) -> None:
        CallbackFactory()
        attempt(FAILED)
        assert heard == []
