"""A callback that staff send once more."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from affiliations.callbacks import outbox, results, suspension
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.models import Callback, CallbackAttempt, Subscription
from tests import claiming
from tests.factories import CallbackFactory, SubscriptionFactory

Status = Callback.Status

OK = Result(duration_ms=7, status_code=200)
FAILED = Result(duration_ms=7, error=CallbackAttempt.Error.CONNECT, message="refused")


def claim() -> list[Callback]:
    return claiming.claim()


def attempt(result: Result) -> Callback:
    """Claim the one callback, let an attempt at it end so, and return it as it is then."""
    (callback,) = claim()
    results.record([AttemptResult(callback, timezone.now(), result)])
    callback.refresh_from_db()
    return callback


def ended(status: str, **fields: Any) -> Callback:
    """Make a callback that has ended, with one attempt behind it."""
    callback = CallbackFactory(status=status, **{"attempt_count": 1} | fields)
    CallbackAttempt.objects.create(
        callback=callback, number=1, started_on=timezone.now(), duration_ms=1
    )
    return callback


@pytest.mark.django_db
class TestAResend:
    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.EXHAUSTED])
    def test_is_a_new_attempt_with_the_same_id_and_the_history_stays(self, status: str) -> None:
        callback = ended(status)
        assert outbox.resend(callback)
        again = attempt(OK)
        assert (again.status, again.webhook_id, again.url) == (
            Status.DELIVERED,
            callback.webhook_id,
            callback.url,
        )
        told = again.attempts.order_by("number").values_list("number", "manual")
        assert list(told) == [(1, False), (2, True)]

    def test_does_not_wait_for_the_next_attempt(self) -> None:
        callback = CallbackFactory(
            attempt_count=1, next_attempt_on=timezone.now() + timedelta(hours=5)
        )
        assert claim() == []
        assert outbox.resend(callback)
        assert claim() == [callback]

    def test_that_fails_goes_on_as_before(self) -> None:
        callback = CallbackFactory(attempt_count=1)
        outbox.resend(callback)
        again = attempt(FAILED)
        assert again.status == Status.QUEUED
        assert again.next_attempt_on > timezone.now()
        assert not again.is_manual

    def test_after_the_last_attempt_is_one_more(self) -> None:
        callback = ended(Status.EXHAUSTED, attempt_count=10)
        outbox.resend(callback)
        assert attempt(FAILED).status == Status.EXHAUSTED
        assert callback.attempts.filter(number=11, manual=True).exists()

    def test_that_fails_leaves_what_was_delivered_delivered(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0]
        callback = ended(Status.DELIVERED, delivered_on=timezone.now())
        outbox.resend(callback)
        again = attempt(FAILED)
        assert (again.status, again.delivered_on) == (Status.DELIVERED, callback.delivered_on)

    def test_of_one_that_has_killed_each_worker_is_sent(self) -> None:
        callback = CallbackFactory(attempt_count=10)
        assert claim() == []
        outbox.resend(callback)
        assert claim() == [callback]

    def test_is_sent_where_the_schedule_has_become_shorter(self, settings: Any) -> None:
        callback = ended(Status.EXHAUSTED, attempt_count=10)
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0, 5]
        outbox.resend(callback)
        assert attempt(FAILED).status == Status.EXHAUSTED
        assert callback.attempts.filter(number=11).exists()

    @pytest.mark.parametrize("status", [Status.CANCELLED])
    def test_of_what_is_not_to_be_sent_is_refused(self, status: str) -> None:
        callback = CallbackFactory(status=status)
        assert not outbox.resend(callback)
        assert Callback.objects.get().status == status

    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.EXHAUSTED])
    def test_of_a_test_callback_is_refused(self, status: str) -> None:
        """It is tried once, and would be given the schedule of a real one."""
        callback = ended(
            status,
            event=Callback.Event.TEST,
            conversion=None,
            subscription=SubscriptionFactory(),
            url="https://partner.example/cb",
        )
        assert not outbox.resend(callback)
        assert Callback.objects.get().status == status

    def test_of_what_is_being_sent_is_refused(self) -> None:
        callback = CallbackFactory()
        (claimed,) = claim()
        assert not outbox.resend(callback)
        callback.refresh_from_db()
        assert callback.next_attempt_on == claimed.next_attempt_on

    def test_of_what_a_dead_worker_left_is_sent(self) -> None:
        callback = CallbackFactory()
        claim()
        Callback.objects.update(next_attempt_on=timezone.now())
        assert outbox.resend(callback)
        assert claim() == [callback]

    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.EXHAUSTED, Status.QUEUED])
    def test_of_a_suspended_subscription_is_refused(self, status: str) -> None:
        callback = ended(status, delivered_on=timezone.now())
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        before = Callback.objects.values().get()
        assert not outbox.resend(callback)
        assert Callback.objects.values().get() == before
        suspension.resume(callback.subscription)
        assert outbox.resend(callback)
        assert claim() == [callback]

    def test_asks_of_its_own_subscription_only(self) -> None:
        callback = ended(Status.EXHAUSTED)
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        assert outbox.resend(callback)

    def test_costs_two_queries(self, django_assert_num_queries: Any) -> None:
        callback = ended(Status.DELIVERED)
        with django_assert_num_queries(2 + 2):  # a savepoint, and its release
            outbox.resend(callback)

    def test_is_handed_over_after_the_commit(
        self, handed_over: list[int], django_capture_on_commit_callbacks: Any
    ) -> None:
        callback = ended(Status.DELIVERED)
        with django_capture_on_commit_callbacks(execute=True):
            outbox.resend(callback)
            assert handed_over == []
        assert handed_over == [callback.pk]

    def test_that_is_refused_is_not_handed_over(
        self, handed_over: list[int], django_capture_on_commit_callbacks: Any
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True) as callbacks:
            outbox.resend(CallbackFactory(status=Status.CANCELLED))
        assert callbacks == []


@pytest.mark.django_db
class TestAResendWithTheUrlOfToday:
    def test_is_a_new_row_beside_the_old_one(self) -> None:
        callback = ended(Status.EXHAUSTED)
        Subscription.objects.update(callback_url="https://new.example/?v={visitor_id}&e={event}")
        callback.subscription.refresh_from_db()
        anew = outbox.resend_anew(callback)
        visitor = callback.conversion.visitor_id
        assert anew.url == f"https://new.example/?v={visitor}&e=conversion"
        assert anew.pk != callback.pk
        assert anew.webhook_id != callback.webhook_id
        assert (anew.conversion, anew.event) == (callback.conversion, callback.event)
        assert (anew.version, anew.status, anew.attempt_count) == (2, Status.QUEUED, 0)
        old = Callback.objects.get(pk=callback.pk)
        assert (old.status, old.url, old.attempts.count()) == (Status.EXHAUSTED, callback.url, 1)
        assert claim() == [anew]

    def test_may_be_made_again_and_from_any_of_the_rows(self) -> None:
        callback = ended(Status.EXHAUSTED)
        second = outbox.resend_anew(callback)
        assert outbox.resend_anew(callback).version == 3
        assert outbox.resend_anew(second).version == 4

    def test_has_versions_for_each_conversion_subscription_and_event(self) -> None:
        callback = ended(Status.EXHAUSTED)
        of_conversion = {name: getattr(callback, name) for name in ("conversion", "subscription")}
        approval = ended(Status.DELIVERED, event=Callback.Event.APPROVAL, **of_conversion)
        CallbackFactory(
            conversion=callback.conversion, subscription=SubscriptionFactory(), version=5
        )
        CallbackFactory(subscription=callback.subscription, version=5)
        assert outbox.resend_anew(callback).version == 2
        assert outbox.resend_anew(approval).version == 2

    def test_says_when_it_was_made(self) -> None:
        """A partner who reads the timestamp of the URL reads the time of this one."""
        callback = ended(Status.EXHAUSTED)
        Callback.objects.update(created_on=timezone.now() - timedelta(days=30))
        before = timezone.now()
        assert before <= outbox.resend_anew(callback).created_on <= timezone.now()

    def test_is_handed_over_after_the_commit(
        self, handed_over: list[int], django_capture_on_commit_callbacks: Any
    ) -> None:
        callback = ended(Status.DELIVERED)
        with django_capture_on_commit_callbacks(execute=True):
            anew = outbox.resend_anew(callback)
            assert handed_over == []
        assert handed_over == [anew.pk]

    def test_of_a_suspended_subscription_is_refused(self) -> None:
        callback = ended(Status.EXHAUSTED)
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        assert outbox.resend_anew(callback) is None
        assert Callback.objects.get() == callback
        suspension.resume(callback.subscription)
        assert outbox.resend_anew(callback) is not None

    def test_of_a_subscription_that_calls_nobody_any_more_is_refused(self) -> None:
        callback = ended(Status.EXHAUSTED)
        Subscription.objects.update(callback_url="")
        callback.subscription.refresh_from_db()
        assert outbox.resend_anew(callback) is None
        assert Callback.objects.get() == callback

    @pytest.mark.django_db(databases=["default", "other"])
    def test_asks_no_replica_that_may_not_have_heard_of_it(self, settings: Any) -> None:
        callback = ended(Status.EXHAUSTED)
        assert callback.conversion.visitor is not None
        assert callback.conversion.partner is not None
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        assert outbox.resend_anew(callback).version == 2

    def test_that_would_not_say_which_visitor_is_meant_is_cancelled(self) -> None:
        callback = ended(Status.DELIVERED)
        callback.subscription.callback_url = "https://new.example/?c={click_id}"
        anew = outbox.resend_anew(callback)
        assert anew.status == Status.CANCELLED
        assert anew.reason

    def test_that_would_climb_to_another_page_of_the_partners_is_cancelled(self) -> None:
        callback = ended(Status.DELIVERED)
        callback.conversion.visitor.sub1 = ".."
        callback.subscription.callback_url = "https://new.example/{sub1}/?v={visitor_id}"
        anew = outbox.resend_anew(callback)
        assert (anew.status, anew.url) == (
            Status.CANCELLED,
            "https://new.example/{sub1}/?v={visitor_id}",
        )
        assert anew.reason


@pytest.mark.django_db(transaction=True)
class TestTwoAtOnce:
    def together(self, work: Any) -> list[Any]:
        barrier = threading.Barrier(4)

        def run() -> Any:
            try:
                barrier.wait(10)
                return work()
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            return [running.result(30) for running in [pool.submit(run) for _ in range(4)]]

    def test_who_send_anew_make_one_row_each(self) -> None:
        callback = CallbackFactory(
            status=Status.EXHAUSTED, conversion__subscription=SubscriptionFactory()
        )
        pk = callback.pk
        for _ in range(3):
            self.together(lambda: outbox.resend_anew(Callback.objects.get(pk=pk)))
        editions = Callback.objects.order_by("version").values_list("version", flat=True)
        assert list(editions) == list(range(1, 14))
