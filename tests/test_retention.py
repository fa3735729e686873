"""What is removed after its time, and what never is."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.callbacks import outbox, retention
from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription
from tests.factories import CallbackFactory, SubscriptionFactory

pytestmark = pytest.mark.django_db

Status = Callback.Status


def ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)


def delivered(count: int, subscription: Subscription, *, days: int = 100) -> list[Callback]:
    """Make callbacks that were delivered so many days ago, each with two attempts."""
    Callback.objects.bulk_create(
        Callback(
            subscription=subscription,
            partner=subscription.partner,
            url="https://partner.example/cb",
            status=Status.DELIVERED,
            delivered_on=ago(days),
        )
        for _ in range(count)
    )
    rows = list(Callback.objects.filter(subscription=subscription, status=Status.DELIVERED))
    CallbackAttempt.objects.bulk_create(
        (
            CallbackAttempt(callback=row, number=number, started_on=ago(days), duration_ms=1)
            for row in rows
            for number in (1, 2)
        ),
        ignore_conflicts=True,
    )
    return rows


class TestThePurge:
    def test_removes_what_was_delivered_long_ago_with_its_attempts(self) -> None:
        subscription = SubscriptionFactory()
        delivered(3, subscription)
        assert list(retention.purge(ago(90))) == [3]
        assert not Callback.objects.exists()
        assert not CallbackAttempt.objects.exists()

    def test_keeps_what_was_delivered_since(self) -> None:
        delivered(1, SubscriptionFactory(), days=89)
        assert sum(retention.purge(ago(90))) == 0
        assert CallbackAttempt.objects.count() == 2

    @pytest.mark.parametrize("status", [status for status in Status if status != Status.DELIVERED])
    def test_keeps_what_was_not_delivered_or_is_sent_again_however_old(self, status: str) -> None:
        CallbackFactory(
            status=status, created_on=ago(900), next_attempt_on=ago(900), delivered_on=ago(900)
        )
        assert sum(retention.purge(ago(0))) == 0
        assert Callback.objects.exists()

    def test_keeps_the_conversion(self) -> None:
        CallbackFactory(status=Status.DELIVERED, delivered_on=ago(100))
        assert sum(retention.purge(ago(90))) == 1
        assert Conversion.objects.exists()

    def test_goes_in_batches(self) -> None:
        delivered(7, SubscriptionFactory())
        assert list(retention.purge(ago(90), batch=3)) == [3, 3, 1]

    def test_costs_the_same_for_each_batch_of_any_size(self) -> None:
        counts = []
        for size in (1, 50):
            delivered(size, SubscriptionFactory())
            with CaptureQueriesContext(connection) as queries:
                assert list(retention.purge(ago(90), batch=50)) == [size]
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 8

    def test_leaves_what_is_sent_again_at_this_moment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again, _ = delivered(2, SubscriptionFactory())
        atomic = retention.transaction.atomic

        def resent_meanwhile(**options: Any) -> Any:
            monkeypatch.undo()
            outbox.resend(again)
            return atomic(**options)

        monkeypatch.setattr(retention.transaction, "atomic", resent_meanwhile)
        assert list(retention.purge(ago(90))) == [1]
        assert Callback.objects.get() == again
        assert again.attempts.count() == 2

    def test_ends_where_all_of_a_batch_were_sent_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (again,) = delivered(1, SubscriptionFactory())
        atomic = retention.transaction.atomic

        def resent_meanwhile(**options: Any) -> Any:
            monkeypatch.undo()
            outbox.resend(again)
            return atomic(**options)

        monkeypatch.setattr(retention.transaction, "atomic", resent_meanwhile)
        assert list(retention.purge(ago(90))) == [0]

    @pytest.mark.django_db(transaction=True)
    def test_works_while_others_write(self) -> None:
        """(SQLite) A transaction that reads before it writes fails beside another writer."""
        subscription = SubscriptionFactory()
        delivered(60, subscription)
        done = threading.Event()

        def write() -> None:
            try:
                while not done.is_set():
                    Subscription.objects.update(failure_count=1)
            finally:
                connection.close()

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            assert sum(retention.purge(ago(90), batch=2)) == 60
        finally:
            done.set()
            for writer in writers:
                writer.join(30)


class TestTheCommand:
    def test_removes_what_is_older_than_90_days_and_says_how_many(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        delivered(2, SubscriptionFactory(), days=91)
        delivered(1, SubscriptionFactory(), days=89)
        call_command("purge_affiliations")
        assert capsys.readouterr().out == "2 delivered callbacks removed.\n"
        assert Callback.objects.count() == 1

    def test_takes_another_number_of_days(self, capsys: pytest.CaptureFixture[str]) -> None:
        delivered(2, SubscriptionFactory(), days=8)
        call_command("purge_affiliations", days=7, batch=1)
        assert capsys.readouterr().out == "2 delivered callbacks removed.\n"

    def test_removes_nothing_in_a_dry_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        delivered(2, SubscriptionFactory())
        call_command("purge_affiliations", dry_run=True)
        assert capsys.readouterr().out == "2 delivered callbacks would be removed.\n"
        assert Callback.objects.count() == 2

    @pytest.mark.parametrize("options", [{"days": -1}, {"batch": 0}])
    def test_refuses_what_makes_no_sense(self, options: dict[str, int]) -> None:
        with pytest.raises(CommandError, match="--days must be 0 or more, --batch 1 or more"):
            call_command("purge_affiliations", **options)
