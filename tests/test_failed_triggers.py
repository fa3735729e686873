"""What a lock or a time-out keeps from being recorded is recorded later: no order is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import Client
from django.utils import timezone

from affiliations import dispatchers, privacy, retries
from affiliations.conversions import attempts, by_reference, recording
from affiliations.exceptions import Reason
from affiliations.models import Callback, Conversion, FailedTrigger, UncreditedTrigger, Visitor
from affiliations.tracking import binding
from affiliations.triggers import (
    adjust_conversions,
    approve_conversions,
    complete_trigger,
    object_created,
    reject_conversions,
)
from tests.arrivals import referred, request_of
from tests.factories import UserFactory
from tests.test_admin import shown, url
from tests.test_admin_conversions import choose, confirmed
from tests.test_failures import another_connection, execute, host, impatient, renamed
from tests.test_races import at_once
from tests.testapp.models import Order

__all__ = ["impatient"]  # a fixture

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("impatient", "wired"),
]

BY_NOTE = {"reference": "note"}
#: Signals of the host's.
order_paid, order_refunded, order_returned = Signal(), Signal(), Signal()

PLACED = {
    "amount": "total",
    "currency": "currency",
    "visitor": lambda order: order.comes_from,
    "user": "user",
}

NOW = {"new_amount": "total"}

in_transaction_or_not = pytest.mark.parametrize(
    "in_transaction", [True, False], ids=["in_transaction", "in_autocommit"]
)


@pytest.fixture
def wired(wire: Any) -> None:
    of = {"of": "Order placed"} | BY_NOTE
    wire(
        [
            ("Order placed", post_save, object_created, Order, PLACED | BY_NOTE),
            ("Order paid", order_paid, approve_conversions, Order, of),
            ("Order returned", order_returned, adjust_conversions, Order, of | NOW),
            ("Order refunded", order_refunded, reject_conversions, Order, of),
        ]
    )


@contextmanager
def held(row: Visitor | Conversion) -> Iterator[Any]:
    """Let another connection hold a row, and on SQLite the whole database, for too long."""
    with another_connection() as other:
        execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN", other)
        table = row._meta.db_table
        execute(f"UPDATE {table} SET is_test = is_test WHERE id = {row.pk}", other)
        if connection.vendor == "mysql":
            # An update that changes nothing takes the lock as well.
            execute(f"SELECT id FROM {table} WHERE id = {row.pk} FOR UPDATE", other)
        yield other
        execute("ROLLBACK", other)


def placed(visitor: Visitor, **values: Any) -> Order:
    stated = {"note": "A-1", "total": 100, "currency": "EUR", "user": None} | values
    order = Order(**stated)
    # No foreign key: on MariaDB a new order would wait for the visitor itself.
    order.comes_from = visitor.pk
    order.save()
    return order


def sweep(minutes: float = 10) -> int:
    return sum(retries.retry_due(timezone.now() + timedelta(minutes=minutes)))


def failing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, name: str = "record", module: Any = recording
) -> None:
    """Let the database fail whenever a conversion is recorded."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(module, name, fail)


LOCKED = OperationalError("canceling statement due to lock timeout")


def seen(conversion: Conversion) -> tuple[Any, ...]:
    return (
        conversion.reference,
        conversion.visitor,
        conversion.user,
        conversion.amount,
        conversion.currency,
    )


class TestAnOrder:
    @pytest.mark.only_on("postgresql", "mariadb")
    def test_that_met_a_lock_is_credited_after_the_commit(self) -> None:
        visitor = referred()
        with transaction.atomic(), held(visitor):
            placed(visitor)
            assert Conversion.objects.count() == 0
            assert FailedTrigger.objects.count() == 1
        assert Conversion.objects.get().reference == "A-1"
        assert Callback.objects.count() == 1
        assert not FailedTrigger.objects.exists()

    @pytest.mark.only_on("postgresql", "mariadb")
    @in_transaction_or_not
    def test_whose_lock_outlasts_the_commit_is_credited_by_the_sweep(
        self, in_transaction: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        visitor, user = referred(), UserFactory()
        with held(visitor):
            with host(in_transaction):
                order = placed(visitor, user=user)
            failed = FailedTrigger.objects.get()
            assert failed.tries == (2 if in_transaction else 1)
            assert sweep() == 0
        # It needs nothing of the host's any more.
        order.delete()
        assert sweep(60) == 1
        conversion = Conversion.objects.get()
        assert seen(conversion) == ("A-1", visitor, user, Decimal(100), "EUR")
        assert conversion.created_on == failed.created_on
        assert not FailedTrigger.objects.exists()
        line = (
            "Trigger “Order placed” failed. It is tried again: credit, reference “A-1”, visitor "
            f"{visitor.pk} of partner “{visitor.partner.uid}”, user {user.pk}, amount 100 EUR."
        )
        assert {record.getMessage() for record in caplog.records} == {line}
        assert {record.levelname for record in caplog.records} == {"WARNING"}

    def test_that_is_rolled_back_leaves_nothing_behind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred()
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            with transaction.atomic():
                placed(visitor)
                assert FailedTrigger.objects.count() == 1
                transaction.set_rollback(True)
        assert not FailedTrigger.objects.exists()
        assert sweep() == Conversion.objects.count() == 0

    @pytest.mark.only_on("sqlite")
    def test_for_which_sqlite_is_locked_is_credited_after_the_commit(self) -> None:
        visitor = referred()
        request = request_of(visitor)
        assert request.session["affiliate_visitor_id"] == visitor.pk
        with binding.binding(request), transaction.atomic():
            assert Order.objects.count() == 0
            with held(visitor):
                complete_trigger(request, "Order placed", reference="A-1")
        assert Conversion.objects.get().reference == "A-1"
        assert not FailedTrigger.objects.exists()

    def test_within_the_attribution_window_is_credited_after_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred()
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(visitor)
        FailedTrigger.objects.update(created_on=timezone.now() - timedelta(hours=2))
        referred_on = timezone.now() - timedelta(days=30, hours=1)
        Visitor.objects.update(referred_on=referred_on)
        assert sweep() == 1
        assert Conversion.objects.count() == 1

    def test_that_was_credited_meanwhile_is_credited_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred()
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            order = placed(visitor)
        post_save.send(sender=Order, instance=order, created=True)
        assert Conversion.objects.count() == 1
        assert sweep() == 1
        assert Conversion.objects.count() == 1
        assert not FailedTrigger.objects.exists()

    def test_that_earns_nothing_after_all_is_explained(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred()
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(visitor)
        visitor.partner.subscriptions.update(active=False)
        assert sweep() == 1
        assert not FailedTrigger.objects.exists()
        assert UncreditedTrigger.objects.get().reason == Reason.NOT_SUBSCRIBED

    @pytest.mark.slow
    @pytest.mark.only_on("postgresql", "mariadb")
    def test_is_credited_once_however_many_sweep_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred(counting="every", closes_referral=False)
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            for number in range(20):
                placed(visitor, note=f"A-{number}")
        assert FailedTrigger.objects.count() == 20
        done = at_once(*[sweep] * 4)
        sweep(60)
        assert sum(done) <= 20
        assert Conversion.objects.count() == 20
        assert not FailedTrigger.objects.exists()

    def test_whose_total_is_saved_later_is_credited_with_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred(payout_type="percent", payout_value=10)
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            with transaction.atomic():
                order = placed(visitor, total=0)
                Order.objects.filter(pk=order.pk).update(total=100)
        assert sweep() == 1
        assert seen(Conversion.objects.get())[3:] == (100, "EUR")
        assert Conversion.objects.get().status == "approved"

    def test_with_a_total_keeps_it_whatever_is_saved_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            with transaction.atomic():
                order = placed(referred())
                order.total = 50
                order.save()
        assert FailedTrigger.objects.get().amount == "100"

    def test_with_a_long_reference_is_found_by_it_afterwards(
        self, monkeypatch: pytest.MonkeyPatch, wire: Any
    ) -> None:
        def number(order: Order) -> str:
            return f"{'0' * 300}{order.pk}"

        paid = {"of": "Order placed", "reference": number}
        wire(
            [
                ("Order placed", post_save, object_created, Order, PLACED | {"reference": number}),
                ("Order paid", order_paid, approve_conversions, Order, paid),
            ]
        )
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            order = placed(referred(approval="manual"))
        assert sweep() == 1
        order_paid.send(sender=Order, instance=order)
        assert Conversion.objects.get().status == "approved"


class TestAPayment:
    @pytest.mark.only_on("postgresql", "mariadb")
    @pytest.mark.parametrize(
        ("signal", "status"), [(order_paid, "approved"), (order_refunded, "rejected")]
    )
    @in_transaction_or_not
    def test_or_refund_that_met_a_lock_is_heard_by_the_sweep(
        self, in_transaction: bool, signal: Any, status: str
    ) -> None:
        order = placed(referred(approval="manual"))
        conversion = Conversion.objects.get()
        with held(conversion), host(in_transaction):
            signal.send(sender=Order, instance=order)
        order.delete()
        assert sweep(60) == 1
        conversion.refresh_from_db()
        assert conversion.status == status
        assert not FailedTrigger.objects.exists()

    def test_of_an_order_that_is_still_to_be_credited_waits_for_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred(approval="manual")
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            order = placed(visitor)
            order_paid.send(sender=Order, instance=order)
            assert sweep() == 0
        assert FailedTrigger.objects.count() == 2
        assert sweep(60) == 2
        assert Conversion.objects.get().status == "approved"

    @pytest.mark.parametrize(
        ("total", "is_approved", "amount"), [(40, True, 40), (100, True, 100), (None, False, 100)]
    )
    def test_is_compared_with_the_amount_that_it_reported(
        self, monkeypatch: pytest.MonkeyPatch, total: Any, is_approved: bool, amount: int
    ) -> None:
        order = placed(referred(approval="manual", payout_type="percent", payout_value=10))
        order.total = total
        with monkeypatch.context() as patch:
            failing(patch, LOCKED, "decide", by_reference)
            order_paid.send(sender=Order, instance=order)
        order.delete()
        assert sweep() == 1
        conversion = Conversion.objects.get()
        assert (conversion.status == "approved") is is_approved
        assert conversion.needs_review is not is_approved
        assert conversion.current_amount == amount

    def test_of_an_amount_that_is_no_number_needs_review_in_the_sweep_too(
        self, monkeypatch: pytest.MonkeyPatch, wire: Any
    ) -> None:
        stated = PLACED | {"amount": lambda order: "much"}
        wire([("Order placed", post_save, object_created, Order, stated)])
        visitor = referred(payout_type="fixed", payout_value=5)
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(visitor)
        assert FailedTrigger.objects.get().stated_amount == "much EUR"
        assert sweep() == 1
        conversion = Conversion.objects.get()
        assert (conversion.status, conversion.needs_review) == ("pending", True)

    def test_back_in_part_is_adjusted_by_the_sweep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        order = placed(referred(payout_type="percent", payout_value=10))
        order.total = 40
        with monkeypatch.context() as patch:
            failing(patch, LOCKED, "adjust", by_reference)
            order_returned.send(sender=Order, instance=order)
        order.delete()
        assert sweep() == 1
        assert Conversion.objects.get().current_payout == 4

    def test_back_in_an_unknown_currency_changes_nothing_in_the_sweep_either(
        self, monkeypatch: pytest.MonkeyPatch, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        of = {"of": "Order placed"} | BY_NOTE | NOW | {"currency": "currency"}
        wire(
            [
                ("Order placed", post_save, object_created, Order, PLACED | BY_NOTE),
                ("Order returned", order_returned, adjust_conversions, Order, of),
            ]
        )
        order = placed(referred(payout_type="percent", payout_value=10))
        order.total, order.currency = 40, "EURO"
        with monkeypatch.context() as patch:
            failing(patch, LOCKED, "adjust", by_reference)
            order_returned.send(sender=Order, instance=order)
        assert sweep() == 1
        assert Conversion.objects.get().current_payout == 10
        assert "cannot be adjusted to the amount" in caplog.text

    def test_of_an_order_of_nobody_waits_for_nothing(self) -> None:
        order_paid.send(sender=Order, instance=Order(note="B-1"))
        assert not FailedTrigger.objects.exists()


class TestTheRow:
    def test_is_tried_ten_times_and_then_left_to_staff(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        failing(monkeypatch, LOCKED)
        placed(referred())
        now, pauses = timezone.now(), []
        while FailedTrigger.objects.waiting().exists():
            row = FailedTrigger.objects.get()
            pauses.append((row.due_on - now).total_seconds())
            now = row.due_on
            assert list(retries.retry_due(now - timedelta(seconds=1))) == []
            assert list(retries.retry_due(now)) == [0]
        assert len(pauses) == FailedTrigger.objects.get().tries - 1 == 9
        assert pauses[1:] == sorted(pauses[1:])
        assert list(retries.retry_due(now + timedelta(days=365))) == []
        assert caplog.records[-1].levelname == "ERROR"
        assert "It has failed too often: credit, reference “A-1”" in caplog.text

    def test_that_cannot_be_written_is_one_line_of_the_log(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        visitor, user = referred(), UserFactory()
        failing(monkeypatch, LOCKED)
        with renamed(FailedTrigger._meta.db_table):
            placed(visitor, user=user)
        (line,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
        assert line == (
            "Trigger “Order placed” failed. It is lost: credit, reference “A-1”, visitor "
            f"{visitor.pk} of partner “{visitor.partner.uid}”, user {user.pk}, amount 100 EUR."
        )

    def test_that_cannot_be_written_in_a_transaction_is_one_line_too(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        failing(monkeypatch, LOCKED)
        with renamed(FailedTrigger._meta.db_table), transaction.atomic():
            placed(referred())
        (line,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
        assert "It is lost: credit, reference “A-1”" in line

    def test_is_not_written_for_a_mistake_that_no_time_mends(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        failing(monkeypatch, TypeError("a mistake"))
        visitor = referred()
        placed(visitor)
        assert not FailedTrigger.objects.exists()
        assert (
            f"It is not tried again: credit, reference “A-1”, visitor {visitor.pk}" in caplog.text
        )

    def test_is_read_without_what_cannot_be_read(
        self, wire: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(order: Order) -> None:
            raise LookupError

        wire([("Order placed", post_save, object_created, Order, {"amount": fail})])
        visitor = referred()
        with binding.binding(request_of(visitor)):
            order = Order.objects.create()
        assert f"credit, reference “testapp.order:{order.pk}”, visitor {visitor.pk}" in caplog.text

    def test_wakes_the_thread_which_sleeps_until_the_next_try(
        self, monkeypatch: pytest.MonkeyPatch, handed_over: list[int]
    ) -> None:
        woken: list[object] = []
        monkeypatch.setattr("tests.dispatchers.remembered", woken.append)
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(referred())
            assert woken == [[]]
            with transaction.atomic():
                placed(referred(), note="A-2")
                assert len(woken) == 1
            assert len(woken) == 2
        due_on = FailedTrigger.objects.earliest("due_on").due_on
        assert retries.next_work() == due_on
        FailedTrigger.objects.update(due_on=timezone.now() + timedelta(seconds=20))
        assert 15 < dispatchers._Sender().until_next() < 20.1
        FailedTrigger.objects.update(tries=10)
        assert retries.next_work() is None

    def test_is_tried_by_the_command(
        self, monkeypatch: pytest.MonkeyPatch, handed_over: list[int]
    ) -> None:
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(referred(callback_url=""))
        call_command("deliver_callbacks")
        assert Conversion.objects.count() == 1

    def test_is_left_to_the_next_round_if_the_table_is_missing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with renamed(FailedTrigger._meta.db_table):
            assert sweep() == 0
        assert "The failed triggers could not be tried again." in caplog.text


class TestPersonalData:
    @pytest.fixture
    def failed(self, monkeypatch: pytest.MonkeyPatch) -> FailedTrigger:
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(referred(), user=UserFactory())
        return FailedTrigger.objects.get()

    def test_of_a_deleted_account_is_not_tried_again(self, failed: FailedTrigger) -> None:
        user = failed.user
        privacy.blank(user)
        user.delete()
        assert FailedTrigger.objects.get().user is None
        assert sweep() == 1
        assert Conversion.objects.get().user is None

    def test_keeps_the_visitor_from_the_purge_while_it_waits(self, failed: FailedTrigger) -> None:
        Visitor.objects.update(referred_on=timezone.now() - timedelta(days=900))
        purge = {"visitors_older_than": 400}
        call_command("purge_affiliations", **purge)
        assert Visitor.objects.count() == 1
        failed.delete()
        call_command("purge_affiliations", **purge)
        assert not Visitor.objects.exists()


class TestTheAdmin:
    @pytest.fixture
    def failed(self, monkeypatch: pytest.MonkeyPatch, staff: Client) -> FailedTrigger:
        with monkeypatch.context() as patch:
            failing(patch, LOCKED)
            placed(referred())
        FailedTrigger.objects.update(tries=10)
        return FailedTrigger.objects.get()

    def test_shows_what_gave_up_and_tries_again(self, staff: Client, failed: FailedTrigger) -> None:
        assert "gave up" in shown(staff.get(url(FailedTrigger)))
        page = shown(staff.get(url(failed)))
        assert "A-1" in page
        assert "lock timeout" in page
        assert sweep() == 0
        page = staff.post(url(failed, "try_again"), follow=True)
        assert "The trigger will be tried again within a minute." in shown(page)
        assert "waiting" in shown(staff.get(url(FailedTrigger)))
        assert sweep() == 1
        assert Conversion.objects.count() == 1

    def test_tries_many_again(self, staff: Client, failed: FailedTrigger) -> None:
        page = staff.post(url(FailedTrigger), choose([failed], "try_selected_again"))
        page = staff.post(url(FailedTrigger), confirmed(page), follow=True)
        assert "1 trigger will be tried again within a minute." in shown(page)
        assert sweep() == 1

    def test_lets_staff_delete_it(self, staff: Client, failed: FailedTrigger) -> None:
        staff.post(url(failed, "delete"), {"post": "yes"})
        assert not FailedTrigger.objects.exists()

    def test_is_reported_by_the_command(
        self, failed: FailedTrigger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("check_callbacks")
        assert "Failed triggers waiting: 0, given up: 1." in capsys.readouterr().out
        with pytest.raises(CommandError, match="failed triggers > 0"):
            call_command("check_callbacks", max_failed_triggers=0)


@pytest.mark.django_db
class TestAnotherProcess:
    @pytest.fixture
    def failed(self) -> FailedTrigger:
        return FailedTrigger.objects.create(trigger="Paid", kind="approve", due_on=timezone.now())

    def test_that_tries_it_is_left_alone(self, failed: FailedTrigger) -> None:
        FailedTrigger.objects.update(tries=5)
        assert not attempts.retry(failed, lambda: pytest.fail("tried twice"))

    def test_that_has_done_it_is_enough(
        self, failed: FailedTrigger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(failed, "claim", lambda now: True)
        FailedTrigger.objects.filter(pk=failed.pk).delete()
        assert not attempts.retry(failed, lambda: pytest.fail("done twice"))


def test_a_dispatcher_that_fails_is_logged(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.dispatchers.failing"
    attempts.wake()
    assert "The dispatcher failed." in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_is_lost_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = transaction.get_connection()
    connection.ensure_connection()
    monkeypatch.setattr(connection, "is_usable", lambda: False)
    closed: list[bool] = []
    monkeypatch.setattr(connection, "close", lambda: closed.append(True))
    error = ValueError("a fault of the host")
    attempts._after_failure(error, lambda: None, lambda: FailedTrigger(trigger="Paid"))
    assert closed == [True]
    with transaction.atomic():  # A transaction of the host ends by itself.
        attempts._after_failure(error, lambda: None, lambda: FailedTrigger(trigger="Paid"))
    assert closed == [True]
