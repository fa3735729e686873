"""What is written down of attempts, and what follows from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.callbacks import outbox, results, suspension
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.conversions import decisions
from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription
from affiliations.signals import callback_delivered, callback_exhausted, subscription_suspended
from tests import claiming
from tests.factories import CallbackFactory, ConversionFactory, SubscriptionFactory

Status = Callback.Status
Error = CallbackAttempt.Error

OK = Result(duration_ms=7, status_code=200, excerpt="thank you")
FAILED = Result(duration_ms=7, error=Error.CONNECT, message="refused")
GONE = Result(duration_ms=7, status_code=410, error=Error.HTTP_STATUS)


def claim() -> list[Callback]:
    return claiming.claim()


def sent(callback: Callback, result: Result, started_on: datetime | None = None) -> AttemptResult:
    return AttemptResult(callback, started_on or timezone.now(), result)


def attempt(result: Result) -> Callback:
    """Claim the one callback, let an attempt at it end so, and return it as it is then."""
    (callback,) = claim()
    results.record([sent(callback, result)])
    callback.refresh_from_db()
    return callback


def lease_ends() -> None:
    Callback.objects.update(next_attempt_on=timezone.now())


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

    def test_that_failed_is_followed_by_the_next_after_its_end(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0, 1000]
        CallbackFactory()
        before = timezone.now()
        due = attempt(FAILED).next_attempt_on
        assert before + timedelta(seconds=800) <= due <= timezone.now() + timedelta(seconds=1200)

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
        assert counts[0] == counts[1] <= 7

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
def test_only_the_exhausted_callback_is_announced(
    django_capture_on_commit_callbacks: Any,
) -> None:
    announced: list[Callback] = []

    def receiver(callback: Callback, **kwargs: Any) -> None:
        announced.append(callback)

    exhausted, _other = CallbackFactory(), CallbackFactory()
    claimed = [callback for callback in claim() if callback == exhausted]
    callback_exhausted.connect(receiver)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            results.record([sent(callback, GONE) for callback in claimed])
    finally:
        callback_exhausted.disconnect(receiver)
    assert announced == [exhausted]


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

    def test_lets_a_late_410_change_nothing(
        self, two: tuple[Callback, Callback], caplog: pytest.LogCaptureFixture
    ) -> None:
        results.record([sent(two[0], GONE)])
        assert Callback.objects.get().status == Status.QUEUED
        assert not caplog.records  # Nobody is told that it is exhausted.

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

    @pytest.mark.parametrize("status", [Status.EXHAUSTED, Status.CANCELLED])
    def test_lets_a_late_success_count_whatever_was_decided(
        self, two: tuple[Callback, Callback], status: str
    ) -> None:
        Callback.objects.update(status=status, reason="It was decided otherwise.")
        results.record([sent(two[0], OK)])
        callback = Callback.objects.get()
        assert (callback.status, callback.reason) == (Status.DELIVERED, "")

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

    def test_lets_a_failure_of_what_was_stopped_in_flight_change_nothing(self) -> None:
        CallbackFactory()
        (callback,) = claim()
        Callback.objects.update(status=Status.CANCELLED)
        results.record([sent(callback, FAILED)])
        callback.refresh_from_db()
        assert callback.status == Status.CANCELLED
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


@pytest.mark.django_db(transaction=True)
class TestTwoAtOnce:
    """Each in a transaction of its own, in the moment in which they could wait for each other."""

    CALLBACK, SUBSCRIPTION = (
        f"UPDATE {connection.ops.quote_name(model._meta.db_table)}"
        for model in (Callback, Subscription)
    )
    ATTEMPT = "INSERT"

    def together(self, *jobs: tuple[str, Callable[[], Any]]) -> list[Any]:
        """
        Do all jobs at once.

        Each comes with the beginning of a statement, behind which it waits until the others have
        come as far, or for a moment where they are kept from it.
        """
        behind = threading.Barrier(len(jobs))

        def do(job: tuple[str, Callable[[], Any]]) -> Any:
            statement, work = job

            def wait(execute: Any, sql: str, *arguments: Any) -> Any:
                done = execute(sql, *arguments)
                if sql.startswith(statement):
                    with suppress(threading.BrokenBarrierError):
                        behind.wait(0.5)
                return done

            try:
                with connection.execute_wrapper(wait):
                    return work()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(do, jobs))

    def failing(self, subscription: Subscription, *, suspended: bool = False) -> None:
        """Let the subscription be one failure from its suspension, or past it."""
        now = timezone.now()
        Subscription.objects.filter(pk=subscription.pk).update(
            failure_count=10 if suspended else 9,
            failing_since=now - suspension.SUSPEND_AFTER,
            callbacks_suspended_on=now if suspended else None,
        )

    def claimed(self, *subscriptions: Subscription) -> list[Callback]:
        """Claim a new callback of each subscription."""
        for subscription in subscriptions:
            CallbackFactory(
                conversion=ConversionFactory(
                    visitor__partner=subscription.partner, subscription=subscription
                )
            )
        return sorted(claim(), key=lambda callback: callback.pk)

    def test_a_subscription_is_resumed_while_a_success_of_it_is_recorded(
        self, subscription: Subscription
    ) -> None:
        late, other = self.claimed(subscription, subscription)
        self.failing(subscription, suspended=True)
        self.together(
            (self.SUBSCRIPTION, lambda: suspension.resume(subscription)),
            (self.CALLBACK, lambda: results.record([sent(late, OK)])),
        )
        late.refresh_from_db()
        other.refresh_from_db()
        assert (late.status, other.status) == (Status.DELIVERED, Status.QUEUED)
        subscription.refresh_from_db()
        assert not subscription.is_failing

    def test_two_record_the_failure_that_suspends_a_subscription(
        self, subscription: Subscription
    ) -> None:
        first, second = self.claimed(subscription, subscription)
        self.failing(subscription)
        self.together(
            (self.CALLBACK, lambda: results.record([sent(first, FAILED)])),
            (self.CALLBACK, lambda: results.record([sent(second, FAILED)])),
        )
        subscription.refresh_from_db()
        assert subscription.failure_count == 11
        assert subscription.is_suspended

    def test_two_record_of_two_subscriptions_what_the_other_does_not(
        self, subscription: Subscription
    ) -> None:
        other = SubscriptionFactory()
        Subscription.objects.update(failure_count=3, failing_since=timezone.now())
        one, two, three, four = self.claimed(subscription, other, subscription, other)
        self.together(
            (self.SUBSCRIPTION, lambda: results.record([sent(one, FAILED), sent(two, OK)])),
            (self.SUBSCRIPTION, lambda: results.record([sent(three, OK), sent(four, FAILED)])),
        )
        # Who comes last has the last word.
        counts = sorted(Subscription.objects.values_list("failure_count", flat=True))
        assert counts == [0, 1]

    def test_a_callback_is_sent_again_while_a_failure_of_its_subscription_is_recorded(
        self, subscription: Subscription
    ) -> None:
        (callback,) = self.claimed(subscription)
        lease_ends()
        self.together(
            (self.SUBSCRIPTION, lambda: results.record([sent(callback, FAILED)])),
            (self.CALLBACK, transaction.atomic(lambda: outbox.resend(callback))),
        )
        assert Callback.objects.get().resend_count == 1
        assert Subscription.objects.get().failure_count == 1

    def test_a_callback_is_sent_anew_while_a_failure_of_its_subscription_is_recorded(
        self, subscription: Subscription
    ) -> None:
        (callback,) = self.claimed(subscription)
        conversion = f"UPDATE {connection.ops.quote_name(Conversion._meta.db_table)}"
        assert callback.conversion is not None
        self.together(
            (self.SUBSCRIPTION, lambda: results.record([sent(callback, FAILED)])),
            (conversion, transaction.atomic(lambda: outbox.resend_anew(callback))),
        )
        assert Callback.objects.count() == 2
        assert Subscription.objects.get().failure_count == 1

    def test_all_of_a_partner_are_cancelled_while_some_of_them_are_recorded(
        self, subscription: Subscription
    ) -> None:
        first, second = self.claimed(subscription, subscription)
        self.together(
            (self.CALLBACK, lambda: results.record([sent(first, FAILED), sent(second, OK)])),
            (self.CALLBACK, lambda: decisions.stop_for_fraud(subscription.partner, reason="Fraud")),
        )
        first.refresh_from_db()
        second.refresh_from_db()
        assert (first.status, second.status) == (Status.CANCELLED, Status.DELIVERED)

    def test_two_have_delivered_the_same_callback(self, subscription: Subscription) -> None:
        (slow,) = self.claimed(subscription)
        lease_ends()
        (again,) = claim()
        self.together(
            (self.ATTEMPT, lambda: results.record([sent(slow, OK)])),
            (self.ATTEMPT, lambda: results.record([sent(again, OK)])),
        )
        assert CallbackAttempt.objects.count() == 2


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
    def received(self) -> Any:
        """Return what was received, and whether a transaction was still open."""
        received: list[tuple[Any, Any, bool]] = []

        def hear(signal: Any, sender: Any, **what: Any) -> None:
            names = {
                callback_delivered: "delivered",
                callback_exhausted: "exhausted",
                subscription_suspended: "suspended",
            }
            what = what.get("callback") or what["subscription"]
            received.append((names[signal], what, connection.in_atomic_block))
            raise RuntimeError("a receiver of the host's that breaks")

        signals = (callback_delivered, callback_exhausted, subscription_suspended)
        for signal in signals:
            signal.connect(hear)
        yield received
        for signal in signals:
            signal.disconnect(hear)

    def test_tells_of_a_delivery_after_the_commit(
        self, received: list[Any], transactional_db: None
    ) -> None:
        callback = CallbackFactory()
        attempt(OK)
        assert received == [("delivered", callback, False)]

    def test_tells_of_a_callback_that_failed_for_good_after_the_commit(
        self, received: list[Any], transactional_db: None
    ) -> None:
        callback = CallbackFactory()
        attempt(GONE)
        assert received == [("exhausted", callback, False)]

    def test_tells_of_one_that_has_killed_its_workers(
        self, received: list[Any], transactional_db: None
    ) -> None:
        callback = CallbackFactory(attempt_count=10)
        assert claim() == []
        assert received == [("exhausted", callback, False)]

    @pytest.mark.parametrize("end", ["delivered", "delivered late", "exhausted", "killed"])
    def test_hands_over_the_row_as_it_is(self, end: str, transactional_db: None) -> None:
        """Field by field; a receiver who saves it changes nothing."""
        CallbackFactory(attempt_count=10 if end == "killed" else 0, is_manual=True)
        seen: list[tuple[Any, Any]] = []

        def hear(callback: Callback, **kwargs: Any) -> None:
            [stored] = Callback.objects.values()
            shown = {name: getattr(callback, name) for name in stored}
            callback.save()
            assert Callback.objects.values().get() == stored
            seen.append((shown, stored))

        signals = (callback_delivered, callback_exhausted)
        for signal in signals:
            signal.connect(hear)
        try:
            claimed = claim()
            if end == "delivered late":
                lease_ends()
                claim()
            for callback in claimed:
                results.record([sent(callback, GONE if end == "exhausted" else OK)])
        finally:
            for signal in signals:
                signal.disconnect(hear)
        [(shown, stored)] = seen
        assert shown == stored
        assert shown["status"] == ("delivered" if "delivered" in end else "exhausted")
        assert (shown["is_manual"], shown["lease_token"]) == (False, "")

    def test_tells_once_of_a_suspended_subscription_after_the_commit(
        self, received: list[Any], transactional_db: None
    ) -> None:
        CallbackFactory.create_batch(2)
        Subscription.objects.update(
            failure_count=9, failing_since=timezone.now() - timedelta(hours=73)
        )
        first, second = claim()
        results.record([sent(first, FAILED), sent(second, FAILED)])
        results.record([sent(first, FAILED)])
        assert sorted(received, key=lambda one: one[1].pk) == [
            ("suspended", row, False) for row in Subscription.objects.order_by("pk")
        ]
        assert all(row.callbacks_suspended_on for _, row, _ in received)

    @pytest.mark.django_db
    def test_is_not_sent_of_what_was_rolled_back(
        self, received: list[Any], django_capture_on_commit_callbacks: Callable[..., Any]
    ) -> None:
        CallbackFactory()
        attempt(OK)
        assert received == []

    def test_of_a_failure_that_is_retried_does_not_exist(
        self, received: list[Any], transactional_db: None
    ) -> None:
        CallbackFactory()
        attempt(FAILED)
        assert received == []
