"""A subscription whose callbacks keep failing: paused, suspended, resumed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.callbacks import claims, results, suspension
from affiliations.callbacks.slots import Slots
from affiliations.callbacks.transport import Result
from affiliations.models import Callback, CallbackAttempt, Subscription, delivery_errors
from tests.factories import CallbackFactory, ConversionFactory, SubscriptionFactory
from tests.test_results import FAILED, OK, Error, attempt, claim, lease_ends, sent

OURS = Result(duration_ms=0, error=Error.LOST, message="KeyError('x')", is_our_fault=True)


@pytest.mark.django_db
class TestASubscription:
    """Suspended after 10 failures in a row over at least 72 hours."""

    LONG = suspension.SUSPEND_AFTER + timedelta(minutes=1)

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
    def test_keeps_its_last_error_until_a_callback_is_accepted_or_it_is_resumed(
        self, subscription: Subscription
    ) -> None:
        def last() -> tuple[str, int | None]:
            subscription.refresh_from_db()
            return subscription.last_error, subscription.last_status_code

        broken = replace(BUSY, status_code=500)
        self.fail(1, since=timedelta(0), result=broken)
        assert last() == ("http_status", 500)
        self.fail(1, since=timedelta(0), result=FAILED)
        assert last() == ("connect", None)
        self.fail(1, since=timedelta(0), result=OK)
        assert last() == ("", None)
        self.fail(1, since=timedelta(0), result=broken)
        suspension.resume(subscription)
        assert last() == ("", None)

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

    @pytest.mark.usefixtures("callbacks")
    def test_says_in_the_log_that_it_fails_before_it_is_suspended(
        self, subscription: Subscription, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.fail(4, since=self.LONG)
        assert caplog.records == []
        self.fail(5, since=self.LONG)
        [warning] = caplog.records
        assert warning.levelname == "WARNING"
        assert f"Subscription {subscription.pk}: 5 callbacks have failed" in warning.getMessage()
        self.fail(2, since=self.LONG)
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]

    def test_that_is_suspended_keeps_back_what_waits(
        self, callbacks: list[Callback], subscription: Subscription
    ) -> None:
        other = CallbackFactory()
        self.fail(13, since=self.LONG)
        lease_ends()
        assert claim() == [other]
        assert Callback.objects.queued().count() == len(callbacks) + 1

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_resumed_sends_what_waits_at_once(self, subscription: Subscription) -> None:
        self.fail(12, since=self.LONG)
        assert suspension.resume(subscription) == 12
        subscription.refresh_from_db()
        assert not subscription.is_failing
        assert subscription.failing_since is None
        assert len(claim()) == 12

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_resumed_does_not_send_a_second_time_what_is_in_flight(
        self, subscription: Subscription
    ) -> None:
        claimed = claim()
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        suspension.resume(subscription)
        assert claim() == []
        results.record([sent(callback, OK) for callback in claimed])

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_resumed_leaves_the_others_suspended(self, subscription: Subscription) -> None:
        other = CallbackFactory()
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        suspension.resume(subscription)
        assert Subscription.objects.get(pk=other.subscription_id).is_suspended
        assert other not in claim()

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_suspended_keeps_back_its_new_callbacks_too(
        self, subscription: Subscription
    ) -> None:
        self.fail(10, since=self.LONG)
        CallbackFactory(
            conversion=ConversionFactory(
                visitor__partner=subscription.partner, subscription=subscription
            )
        )
        assert claim() == []

    @pytest.mark.usefixtures("callbacks")
    def test_takes_no_notice_of_a_fault_of_ours(self, subscription: Subscription) -> None:
        """It calls nobody, which takes no time; a connection that is lost has taken some."""
        self.fail(12, since=self.LONG, result=OURS)
        subscription.refresh_from_db()
        assert (subscription.failure_count, subscription.callbacks_suspended_on) == (0, None)
        assert CallbackAttempt.objects.filter(error="lost").count() == 12
        self.fail(10, since=self.LONG, result=Result(1, error=Error.LOST))
        subscription.refresh_from_db()
        assert subscription.callbacks_suspended_on is not None

    def test_takes_no_notice_of_a_test_of_the_deal_that_is_sent_by_hand(
        self, callbacks: list[Callback], subscription: Subscription
    ) -> None:
        Callback.objects.update(is_test=True)
        self.fail(12, since=self.LONG)
        subscription.refresh_from_db()
        assert (subscription.failure_count, subscription.callbacks_suspended_on) == (0, None)

    def test_that_is_resumed_hands_over_what_waits(
        self,
        callbacks: list[Callback],
        subscription: Subscription,
        handed_over: list[int],
        django_capture_on_commit_callbacks: Any,
    ) -> None:
        self.fail(10, since=self.LONG)
        with django_capture_on_commit_callbacks(execute=True):
            suspension.resume(subscription)
            assert handed_over == []
        assert sorted(handed_over) == [callback.pk for callback in callbacks]

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


BUSY = Result(duration_ms=7, status_code=503, error=Error.HTTP_STATUS)


def busy(retry_after: object = "", status: int = 503) -> Result:
    return replace(BUSY, status_code=status, retry_after=str(retry_after))


@pytest.mark.django_db
class TestABusyServer:
    """Paused by its own streak, then probed with one callback."""

    MANY = 6

    @pytest.fixture(autouse=True)
    def _exactly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suspension, "_JITTER", 0)

    @pytest.fixture(autouse=True)
    def callbacks(self, subscription: Subscription) -> list[Callback]:
        conversion = ConversionFactory(
            visitor__partner=subscription.partner, subscription=subscription
        )
        return [
            CallbackFactory(conversion=conversion, version=version)
            for version in range(1, self.MANY + 1)
        ]

    def pause_of(self, subscription: Subscription) -> float:
        """Return for how many seconds the subscription is paused."""
        subscription.refresh_from_db()
        if subscription.callbacks_paused_until is None:
            return 0
        return (subscription.callbacks_paused_until - timezone.now()).total_seconds()

    def pause_ends(self) -> None:
        Subscription.objects.update(callbacks_paused_until=timezone.now())

    def probe(self, result: Result) -> Callback:
        """Let the pause end and the probe be answered so."""
        self.pause_ends()
        [callback] = claim()
        results.record([sent(callback, result)])
        return callback

    @pytest.mark.parametrize("status", delivery_errors.BUSY)
    def test_gets_nothing_more_until_the_pause_is_over(
        self, status: int, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, busy(status=status))])
        assert 4 < self.pause_of(subscription) <= 5
        assert claim() == []
        # And none of those that wait has used up an attempt.
        assert list(Callback.objects.exclude(pk=first.pk).values_list("attempt_count")) == [
            (0,)
        ] * (self.MANY - 1)

    def test_is_told_by_nothing_but_such_an_answer(self, subscription: Subscription) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, replace(BUSY, status_code=500, retry_after="60"))])
        assert self.pause_of(subscription) == 0
        assert len(claim()) == self.MANY - 1

    def test_gets_one_probe_after_the_pause_the_first_that_is_due(
        self, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        self.pause_ends()
        oldest = Callback.objects.order_by("-pk")[0]
        Callback.objects.filter(pk=oldest.pk).update(next_attempt_on="2026-01-01T00:00Z")
        assert claim() == [oldest]
        assert claim() == []

    def test_is_paused_for_longer_after_each_probe_up_to_an_hour(
        self, subscription: Subscription
    ) -> None:
        pauses = []
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        for _ in range(5):
            pauses.append(round(self.pause_of(subscription)))
            self.probe(BUSY)
        assert pauses == [5, 300, 1800, 3600, 3600]

    def test_says_for_how_long_up_to_a_day(self, subscription: Subscription) -> None:
        for asked, pause in ((3, 5), (600, 600), (10**6, 86400)):
            Subscription.objects.update(callbacks_paused_until=None, pause_count=0)
            Callback.objects.filter(lease_token="").update(next_attempt_on=timezone.now())
            [callback] = claims.claim(1, Slots())
            results.record([sent(callback, busy(asked))])
            assert round(self.pause_of(subscription)) == pause

    def test_counts_once_for_all_that_was_in_flight(self, subscription: Subscription) -> None:
        results.record([sent(callback, BUSY) for callback in claim()[:4]])
        subscription.refresh_from_db()
        assert (subscription.pause_count, subscription.failure_count) == (1, 4)
        assert self.pause_of(subscription) <= 5

    def test_is_heard_by_its_longest_wish_of_those_in_flight(
        self, subscription: Subscription
    ) -> None:
        first, second, *_ = claim()
        results.record([sent(first, BUSY)])
        results.record([sent(second, busy(900))])
        subscription.refresh_from_db()
        assert subscription.pause_count == 1
        assert round(self.pause_of(subscription)) == 900

    def test_is_back_with_any_success(self, subscription: Subscription) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        self.probe(OK)
        subscription.refresh_from_db()
        assert not subscription.is_failing
        assert subscription.pause_count == 0
        assert len(claim()) == self.MANY - 2

    def test_is_not_back_where_the_probe_fails_in_another_way(
        self, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        self.probe(FAILED)
        assert round(self.pause_of(subscription)) == 300

    def test_gets_another_probe_where_its_worker_died_or_failed_itself(
        self, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        self.pause_ends()
        [probe] = claim()
        Callback.objects.filter(pk=probe.pk).update(next_attempt_on=timezone.now())
        [again] = claim()
        results.record([sent(again, OURS)])
        assert len(claim()) == 1

    def test_lets_the_row_that_got_the_answer_keep_its_own_schedule(
        self, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        for _ in range(3):
            self.probe(BUSY)
        # Each probe was another callback, and each has failed once.
        assert Callback.objects.filter(attempt_count=1).count() == 4
        assert Callback.objects.filter(attempt_count=0).count() == self.MANY - 4

    def test_is_called_again_at_once_where_staff_resume_it(
        self, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, busy(3600))])
        assert suspension.resume(subscription) == self.MANY
        assert len(claim()) == self.MANY

    def test_says_nothing_of_the_other_subscriptions_of_its_partner(
        self, subscription: Subscription
    ) -> None:
        [first] = claims.claim(1, Slots())
        results.record([sent(first, BUSY)])
        other = CallbackFactory(subscription=SubscriptionFactory(partner=subscription.partner))
        assert claim() == [other]


@pytest.mark.django_db(transaction=True)
def test_two_workers_send_one_probe(subscription: Subscription) -> None:
    conversion = ConversionFactory(visitor__partner=subscription.partner, subscription=subscription)
    for version in range(1, 9):
        CallbackFactory(conversion=conversion, version=version)
    Subscription.objects.update(callbacks_paused_until=timezone.now(), pause_count=1)
    together = threading.Barrier(4)

    def probe(number: int) -> list[Callback]:
        try:
            together.wait(10)
            return claims.claim(16, Slots())
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        claimed = [callback for found in pool.map(probe, range(4)) for callback in found]
    assert len(claimed) == 1


@pytest.mark.django_db(transaction=True)
class TestManyCallbacksOfASubscription:
    """Resumed a few at a time."""

    MANY = 8

    @pytest.fixture(autouse=True)
    def suspended(self, subscription: Subscription, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suspension, "_CHUNK", 3)
        conversion = ConversionFactory(
            visitor__partner=subscription.partner, subscription=subscription
        )
        tomorrow = timezone.now() + timedelta(days=1)
        for version in range(1, self.MANY + 1):
            CallbackFactory(conversion=conversion, version=version, next_attempt_on=tomorrow)
        Subscription.objects.update(callbacks_suspended_on=timezone.now())

    def test_are_changed_and_handed_over_a_few_in_each_transaction(
        self, subscription: Subscription, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_suspension.remember"
        remembered.clear()
        assert suspension.resume(subscription) == self.MANY
        assert [len(ids) for ids in remembered] == [3, 3, 2]
        assert len(claim()) == self.MANY

    def test_are_not_lost_where_the_process_is_killed(
        self, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(suspension.outbox, "dispatch_on_commit", die)
        with pytest.raises(KeyboardInterrupt):
            suspension.resume(subscription)
        assert Callback.objects.queued().count() == self.MANY
        lease_ends()
        assert len(claim()) == self.MANY


remembered: list[Sequence[int]] = []


def remember(callback_ids: Sequence[int]) -> None:
    """Remember what was handed over at once; a dispatcher."""
    remembered.append(callback_ids)


@pytest.mark.django_db
class TestTheWorker:
    """It makes no call that it has claimed before for a subscription that waits now."""

    def test_is_told_of_a_paused_subscription(self) -> None:
        CallbackFactory()
        [callback] = claim()
        assert results.record([sent(callback, BUSY)]) == [callback.subscription_id]

    def test_is_told_of_a_suspended_subscription(self) -> None:
        CallbackFactory()
        [callback] = claim()
        Subscription.objects.update(
            failure_count=suspension.SUSPEND_AFTER_FAILURES - 1,
            failing_since=timezone.now() - TestASubscription.LONG,
        )
        assert results.record([sent(callback, FAILED)]) == [callback.subscription_id]

    def test_is_told_of_no_other(self) -> None:
        CallbackFactory()
        [callback] = claim()
        assert results.record([sent(callback, FAILED)]) == []


@pytest.mark.django_db
def test_only_the_subscriptions_that_are_recorded_are_locked() -> None:
    with CaptureQueriesContext(connection) as queries:
        suspension.lock([SubscriptionFactory().pk])
    assert all("WHERE" in query["sql"] for query in queries if query["sql"].startswith("UPDATE"))
