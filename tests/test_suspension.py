"""A subscription whose callbacks keep failing: suspended, held, resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from affiliations.callbacks import claims, delivery, results, suspension
from affiliations.callbacks.transport import Result
from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription
from tests.factories import CallbackFactory, ConversionFactory
from tests.test_results import FAILED, OK, Error, Status, attempt, claim, lease_ends, sent

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
        assert suspension.resume(subscription) == 12
        subscription.refresh_from_db()
        assert subscription.callbacks_suspended_on is None
        assert (subscription.failure_count, subscription.failing_since) == (0, None)
        assert len(claim()) == 12

    @pytest.mark.usefixtures("callbacks")
    def test_that_is_resumed_leaves_the_others_suspended(self, subscription: Subscription) -> None:
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        other = CallbackFactory(status=Status.HELD)
        suspension.resume(subscription)
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
        Conversion.objects.update(is_test=True)
        self.fail(12, since=self.LONG)
        subscription.refresh_from_db()
        assert (subscription.failure_count, subscription.callbacks_suspended_on) == (0, None)

    def test_that_is_resumed_hands_over_what_was_held(
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


@pytest.mark.django_db(transaction=True)
class TestManyCallbacksOfASubscription:
    """Held and let go a few at a time: a visitor who is being credited for it waits for each."""

    MANY = 8

    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suspension, "_CHUNK", 3)

    @pytest.fixture
    def waiting(self, subscription: Subscription) -> Callback:
        """Make many callbacks that wait, and return one, whose failure will be the tenth."""
        for _ in range(self.MANY):
            conversion = ConversionFactory(
                visitor__partner=subscription.partner, subscription=subscription
            )
            CallbackFactory(conversion=conversion)
        (callback,) = claims.claim(1, per_partner=1, busy={})
        Subscription.objects.update(
            failure_count=9, failing_since=timezone.now() - suspension.SUSPEND_AFTER
        )
        return callback

    @pytest.fixture
    def suspended(self, waiting: Callback, subscription: Subscription) -> Subscription:
        """Return the subscription, of which many are held."""
        results.record([sent(waiting, FAILED)])
        subscription.refresh_from_db()
        assert self.stand() == {Status.HELD: self.MANY}
        return subscription

    def stand(self) -> dict[str, int]:
        return Counter(Callback.objects.values_list("status", flat=True))

    def test_are_changed_a_few_in_each_transaction(
        self, waiting: Callback, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touched: list[int] = []
        read: list[str] = []
        atomic = transaction.atomic
        table = connection.ops.quote_name(Callback._meta.db_table)

        @contextmanager
        def begin(**options: Any) -> Iterator[None]:
            if not connection.in_atomic_block:  # and none of Django's own inside it
                touched.append(0)
            with atomic(**options):
                yield

        def look(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            done = execute(sql, params, many, context)
            if sql.startswith(f"UPDATE {table}"):
                touched[-1] += context["cursor"].rowcount
            elif sql.startswith("SELECT") and f"FROM {table}" in sql and "FOR " not in sql:
                read.append(sql)
            return done

        monkeypatch.setattr(suspension.transaction, "atomic", begin)
        with connection.execute_wrapper(look):
            results.record([sent(waiting, FAILED)])
            assert touched == [1, 3, 3, 2]
            assert self.stand() == {Status.HELD: self.MANY}
            touched.clear()
            assert suspension.resume(subscription) == self.MANY
            assert touched == [3, 3, 2]
        assert self.stand() == {Status.QUEUED: self.MANY}
        keys = [sql for sql in read if "ORDER BY" in sql]
        assert len(keys) == 8
        assert all(sql.endswith("LIMIT 3") for sql in keys)

    def after_the_first(self, work: Callable[[], object]) -> Any:
        """Do something once, when the first few have been changed and committed."""
        atomic = transaction.atomic
        done: list[bool] = []

        @contextmanager
        def begin(**options: Any) -> Iterator[None]:
            is_ours = not connection.in_atomic_block
            before = self.stand()
            with atomic(**options):
                yield
            if is_ours and not done and self.stand() != before:
                done.append(True)
                work()

        return begin

    def test_are_not_sent_while_others_are_being_held(
        self, waiting: Callback, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claimed: list[Callback] = []

        def send() -> None:
            claimed.extend(claim())

        monkeypatch.setattr(suspension.transaction, "atomic", self.after_the_first(send))
        results.record([sent(waiting, FAILED)])
        assert claimed == []
        assert self.stand() == {Status.HELD: self.MANY}

    def test_are_not_held_where_their_subscription_is_resumed_meanwhile(
        self, waiting: Callback, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resumed: list[int] = []

        def resume() -> None:
            resumed.append(suspension.resume(subscription))

        monkeypatch.setattr(suspension.transaction, "atomic", self.after_the_first(resume))
        results.record([sent(waiting, FAILED)])
        assert resumed == [3]
        assert self.stand() == {Status.QUEUED: self.MANY}

    def test_stay_held_where_their_subscription_is_suspended_again(
        self, suspended: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def suspend() -> None:
            Subscription.objects.update(callbacks_suspended_on=timezone.now())

        monkeypatch.setattr(suspension.transaction, "atomic", self.after_the_first(suspend))
        assert suspension.resume(suspended) == 3
        assert self.stand() == {Status.HELD: self.MANY - 3, Status.QUEUED: 3}
        suspension.let_go_forgotten()
        assert self.stand() == {Status.HELD: self.MANY - 3, Status.QUEUED: 3}

    @pytest.fixture
    def broken_off(self, suspended: Subscription, monkeypatch: pytest.MonkeyPatch) -> Subscription:
        """Return the subscription; whoever resumed it was killed when a few had been let go."""

        def die() -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(suspension.transaction, "atomic", self.after_the_first(die))
            with pytest.raises(KeyboardInterrupt):
                suspension.resume(suspended)
        assert self.stand() == {Status.HELD: self.MANY - 3, Status.QUEUED: 3}
        return suspended

    def test_are_let_go_by_who_resumes_again(self, broken_off: Subscription) -> None:
        assert suspension.resume(broken_off) == self.MANY - 3
        assert self.stand() == {Status.QUEUED: self.MANY}

    @pytest.mark.usefixtures("broken_off")
    def test_are_let_go_by_a_sweep(self) -> None:
        other = CallbackFactory(status=Status.HELD)
        suspended = Subscription.objects.filter(pk=other.subscription_id)
        suspended.update(callbacks_suspended_on=timezone.now())
        suspension.let_go_forgotten()
        assert self.stand() == {Status.QUEUED: self.MANY, Status.HELD: 1}

    @pytest.mark.usefixtures("broken_off")
    def test_are_let_go_and_sent_by_whoever_sweeps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delivery.transport, "send", lambda *args: OK)
        assert delivery.Courier().run().delivered == self.MANY

    def test_are_looked_for_once_a_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks: list[float] = []
        clock = [0.0]
        monkeypatch.setattr(delivery.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(suspension, "let_go_forgotten", lambda: looks.append(clock[0]))
        courier, moments = delivery.Courier(), iter((1.0, 59.0, 61.0, 62.0, 121.0))

        def rest() -> None:
            clock[0] = next(moments, clock[0])
            if clock[0] == 121.0 and looks[-1] == 121.0:
                courier.stop()

        courier.run(rest=rest)
        assert looks == [0.0, 61.0, 121.0]

    @pytest.mark.usefixtures("broken_off")
    def test_are_left_for_the_next_sweep_where_the_database_is_down(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*args: Any) -> Any:
            raise DatabaseError("the database is down")

        with connection.execute_wrapper(refuse):
            suspension.let_go_forgotten()
        assert "the database is down" in caplog.text
