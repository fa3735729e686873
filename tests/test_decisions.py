"""What is decided about a conversion, by whom, and what the partner hears of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, call_command
from django.db import DatabaseError, connection, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from affiliations import db
from affiliations.callbacks import maintenance, outbox, results, suspension
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.conversions import by_reference, decisions
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Subscription,
    Visitor,
)
from affiliations.models.accounts import account_name
from affiliations.signals import conversion_decided, trigger_not_credited
from affiliations.testing import start_referral
from affiliations.tracking import binding
from affiliations.triggers import (
    approve_conversions,
    complete_trigger,
    object_created,
    object_saved,
    reject_conversions,
)
from tests import claiming
from tests.arrivals import referred, request_of
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory
from tests.testapp.models import Elsewhere, Order

User = get_user_model()
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

Error = CallbackAttempt.Error
Status = Conversion.Status
PENDING, APPROVED, REJECTED = Status.PENDING, Status.APPROVED, Status.REJECTED
QUEUED, DELIVERED, EXHAUSTED, CANCELLED = Callback.Status

URL = "https://partner.example/cb?v={visitor_id}&e={event}&s={status}&t={timestamp}"
OK = Result(duration_ms=7, status_code=200)
NO = Result(duration_ms=7, status_code=500, error=Error.HTTP_STATUS)

order_paid, order_refunded = Signal(), Signal()


def counted(*, reference: str = "17", **subscription: Any) -> Conversion:
    """Count an order of a new visitor that somebody is to decide on."""
    options = {
        "counting": "every",
        "approval": "manual",
        "call_on_approval": True,
        "call_on_rejection": True,
        "callback_url": URL,
    }
    visitor = referred(**options | subscription)
    conversion = complete_trigger(None, "Order placed", visitor=visitor, reference=reference)
    assert conversion is not None
    return conversion


def decide(conversion: Conversion, *statuses: str) -> None:
    for status in statuses:
        assert decisions.decide(conversion, status)


def told() -> list[tuple[str, str]]:
    """Return the event and status of each callback, the oldest first."""
    return list(Callback.objects.order_by("pk").values_list("event", "status"))


def claim() -> list[Callback]:
    return claiming.claim()


def record(callbacks: list[Callback], result: Result) -> None:
    results.record([AttemptResult(callback, timezone.now(), result) for callback in callbacks])


def attempt(result: Result, times: int = 1) -> None:
    """Let attempts at everything that is queued end so."""
    for _ in range(times):
        Callback.objects.queued().update(next_attempt_on=timezone.now() - timedelta(seconds=1))
        record(claim(), result)


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """Say which triggers were not counted and why, as the log has it."""
    caplog.set_level(logging.DEBUG, logger="affiliations")
    yield lambda: [
        (record.args[0], record.reason)
        for record in caplog.records
        if "had no effect: %s%s (" in record.msg and record.args[0] != "User registered"
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class TestADecision:
    @pytest.mark.parametrize(
        ("first", "then"),
        [
            ([], APPROVED),
            ([], REJECTED),
            ([APPROVED], REJECTED),
            ([REJECTED], PENDING),
            ([REJECTED], APPROVED),
        ],
    )
    def test_leads_from_one_status_to_another(self, first: list[str], then: str) -> None:
        conversion = counted()
        decide(conversion, *first)
        assert decisions.decide(conversion, then)
        assert conversion.status == Conversion.objects.get().status == then

    @pytest.mark.parametrize("status", [PENDING, "paid", ""])
    def test_that_leads_nowhere_is_said_at_once(self, status: str) -> None:
        conversion = counted()
        decide(conversion, APPROVED)
        with pytest.raises(ValueError, match="that is approved cannot become"):
            decisions.decide(conversion, status)
        assert Conversion.objects.get().status == APPROVED

    def test_says_why_when_and_by_whom(self) -> None:
        conversion, staff = counted(), UserFactory()
        before = timezone.now()
        assert decisions.decide(conversion, REJECTED, reason="Returned", by=staff)
        stored = Conversion.objects.get()
        for one in (conversion, stored):
            assert (one.reason, one.decided_by) == ("Returned", staff)
            assert before <= one.decided_on <= timezone.now()

    def test_that_brings_back_takes_the_decision_back(self) -> None:
        conversion = counted()
        decisions.decide(conversion, REJECTED, reason="Returned", by=UserFactory())
        decide(conversion, PENDING)
        stored = Conversion.objects.get()
        assert (stored.reason, stored.decided_on, stored.decided_by) == ("", None, None)

    def test_keeps_of_a_long_reason_what_there_is_room_for(self) -> None:
        conversion = counted()
        decisions.decide(conversion, REJECTED, reason="x" * 300)
        assert Conversion.objects.get().reason == "x" * 255
        decide(conversion, PENDING)
        decisions.stop_for_fraud(conversion.partner, reason="y" * 300)
        assert Conversion.objects.get().reason == "y" * 255

    def test_of_several_locks_their_visitors_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        conversion, _other = counted(), counted(reference="18")
        locked: list[Any] = []
        monkeypatch.setattr(db, "lock_rows", locked.extend)
        decisions.lock_visitors(Conversion.objects.filter(pk=conversion.pk))
        assert locked == [conversion.visitor]

    def test_that_is_made_already_changes_nothing(self, django_assert_num_queries: Any) -> None:
        conversion = counted()
        decide(conversion, REJECTED)
        with django_assert_num_queries(0):
            assert not decisions.decide(conversion, REJECTED, reason="again")

    def test_of_what_somebody_else_has_decided_since_changes_nothing(self) -> None:
        conversion = counted()
        decide(Conversion.objects.get(), REJECTED)
        assert not decisions.decide(conversion, APPROVED)
        stored = Conversion.objects.get()
        assert (stored.status, conversion.status) == (REJECTED, PENDING)
        assert told() == [("conversion", CANCELLED)]

    def test_of_what_has_come_to_need_review_since_changes_nothing(self) -> None:
        conversion = counted()
        Conversion.objects.update(review_reason=Reason.NO_AMOUNT)
        assert not decisions.decide(conversion, APPROVED)
        assert Conversion.objects.get().status == PENDING
        assert decisions.decide(Conversion.objects.get(), APPROVED)

    def test_leaves_the_payout_as_it_was(self) -> None:
        conversion = counted(payout_type="fixed", payout_value="2.50", payout_currency="EUR")
        Subscription.objects.update(payout_value=99)
        decide(conversion, APPROVED)
        assert Conversion.objects.get().payout == conversion.payout == 2.5

    def test_is_told_to_the_hosts_code_after_the_commit(
        self, django_capture_on_commit_callbacks: Any
    ) -> None:
        heard: list[tuple[type, str]] = []

        def receiver(sender: type, conversion: Conversion, **kwargs: Any) -> None:
            heard.append((sender, conversion.status))

        conversion_decided.connect(receiver)
        try:
            conversion = counted()
            with django_capture_on_commit_callbacks(execute=True):
                decide(conversion, APPROVED)
                assert heard == []
        finally:
            conversion_decided.disconnect(receiver)
        assert heard == [(Conversion, APPROVED)]

    def test_is_nothing_where_the_host_rolls_back(self) -> None:
        conversion = counted()
        with transaction.atomic():
            decide(conversion, APPROVED)
            transaction.set_rollback(True)
        assert Conversion.objects.get().status == PENDING
        assert told() == [("conversion", QUEUED)]


class TestADecisionAfterThePurge:
    """What was told long ago is told, though its callback is gone."""

    @pytest.fixture
    def purged(self) -> Conversion:
        """Make a conversion whose approval the partner has heard of, and purge its callbacks."""
        conversion = counted()
        decide(conversion, APPROVED)
        attempt(OK)
        self.purge()
        return conversion

    def purge(self) -> None:
        sum(maintenance.purge(timezone.now() + timedelta(seconds=1)))
        assert told() == []

    def test_tells_of_the_rejection(self, purged: Conversion) -> None:
        decide(purged, REJECTED)
        assert told() == [("rejection", QUEUED)]

    def test_tells_of_no_approval_again(self, purged: Conversion) -> None:
        decide(purged, REJECTED, APPROVED)
        assert told() == [("rejection", CANCELLED)]
        decide(purged, REJECTED)
        assert told() == [("rejection", QUEUED)]

    def test_tells_of_no_rejection_again(self, purged: Conversion) -> None:
        decide(purged, REJECTED)
        attempt(OK)
        self.purge()
        decide(purged, APPROVED, REJECTED)
        assert told() == []

    def test_tells_who_has_heard_nothing_of_it_yet(self) -> None:
        """And of a rejection whoever has heard of something."""
        conversion = counted(call_on_approval=False)
        attempt(OK)
        other = SubscriptionFactory(
            partner=conversion.partner, callback_url=URL, call_on_rejection=True
        )
        conversion.subscription.call_on_approval = True
        conversion.subscription.save()
        self.purge()
        decide(conversion, APPROVED)
        assert told() == [("approval", QUEUED)]
        decide(conversion, REJECTED)
        assert told() == [("approval", CANCELLED), ("rejection", QUEUED)]
        assert not Callback.objects.filter(subscription=other).exists()

    def test_goes_by_what_is_purged_while_somebody_decides(self) -> None:
        """The conversion was read before."""
        conversion = counted()
        decide(conversion, APPROVED)
        mine = Conversion.objects.get()
        attempt(OK)
        self.purge()
        decide(mine, REJECTED)
        assert told() == [("rejection", QUEUED)]

    def test_costs_one_query_more_only_where_no_callback_is_left(
        self, django_assert_num_queries: Any
    ) -> None:
        conversion = counted()
        attempt(OK)
        with django_assert_num_queries(6):
            decide(conversion, APPROVED)
        conversion = counted(reference="18")
        attempt(OK)
        self.purge()
        with django_assert_num_queries(7):
            decide(conversion, APPROVED)


class TestARejectionOf:
    """What becomes of the callbacks of before, and whether the rejection is told."""

    def test_what_waits_cancels_it_and_is_not_told(self) -> None:
        decide(counted(), REJECTED)
        callback = Callback.objects.get()
        assert (callback.event, callback.status) == ("conversion", CANCELLED)
        assert callback.reason == outbox.DECIDED_SINCE
        assert claim() == []

    def test_what_a_suspension_keeps_back_cancels_it_and_is_not_told(self) -> None:
        conversion = counted()
        subscription = conversion.subscription
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        assert claim() == []
        decide(conversion, REJECTED)
        assert suspension.resume(subscription) == 0
        assert told() == [("conversion", CANCELLED)]
        assert claim() == []

    def test_what_was_delivered_is_told(self) -> None:
        conversion = counted()
        attempt(OK)
        decide(conversion, REJECTED)
        assert told() == [("conversion", DELIVERED), ("rejection", QUEUED)]

    def test_what_was_approved_and_delivered_is_told_once(self) -> None:
        conversion = counted()
        decide(conversion, APPROVED)
        attempt(OK)
        decide(conversion, REJECTED)
        assert told() == [
            ("conversion", DELIVERED),
            ("approval", DELIVERED),
            ("rejection", QUEUED),
        ]

    def test_what_was_approved_and_waits_cancels_the_approval_too(self) -> None:
        conversion = counted()
        attempt(OK)
        decide(conversion, APPROVED, REJECTED)
        assert told() == [
            ("conversion", DELIVERED),
            ("approval", CANCELLED),
            ("rejection", QUEUED),
        ]

    def test_what_is_on_its_way_is_told_and_a_success_counts(self) -> None:
        conversion = counted()
        sent = claim()
        decide(conversion, REJECTED)
        assert told() == [("conversion", CANCELLED), ("rejection", QUEUED)]
        record(sent, OK)
        assert told() == [("conversion", DELIVERED), ("rejection", QUEUED)]

    def test_what_is_on_its_way_is_told_and_after_a_failure_it_does_not_go_out_later(self) -> None:
        conversion = counted()
        sent = claim()
        decide(conversion, REJECTED)
        record(sent, NO)
        Callback.objects.update(next_attempt_on=timezone.now())
        assert [callback.event for callback in claim()] == ["rejection"]
        assert told() == [("conversion", CANCELLED), ("rejection", QUEUED)]

    def test_what_the_partner_has_refused_until_now_is_not_told(self) -> None:
        conversion = counted()
        attempt(NO, times=3)
        decide(conversion, REJECTED)
        assert told() == [("conversion", CANCELLED)]

    def test_what_failed_for_good_is_not_told_and_stays_in_the_history(self) -> None:
        conversion = counted()
        attempt(NO, times=10)
        assert told() == [("conversion", EXHAUSTED)]
        decide(conversion, REJECTED)
        assert told() == [("conversion", EXHAUSTED)]

    @pytest.mark.parametrize("error", Error.values)
    def test_what_the_partner_may_have_taken_in_a_failed_attempt_is_told(self, error: str) -> None:
        """(Rule 12) Who does not answer in time has often done the work."""
        unknown = {Error.TIMEOUT, Error.DEADLINE, Error.LOST, Error.PROTOCOL}
        conversion = counted()
        attempt(Result(duration_ms=7, error=Error(error)))
        attempt(NO)
        decide(conversion, REJECTED)
        expected = [("rejection", QUEUED)] if error in unknown else []
        assert told() == [("conversion", CANCELLED), *expected]

    def test_what_a_worker_has_died_sending_is_told(self) -> None:
        conversion = counted()
        claim()
        Callback.objects.update(next_attempt_on=timezone.now() - timedelta(days=1))
        decide(conversion, REJECTED)
        assert told() == [("conversion", CANCELLED), ("rejection", QUEUED)]

    def test_what_was_delivered_and_is_to_be_sent_again_leaves_it_delivered(self) -> None:
        conversion = counted()
        attempt(OK)
        assert outbox.resend(Callback.objects.get())
        decide(conversion, REJECTED)
        assert told() == [("conversion", DELIVERED), ("rejection", QUEUED)]
        assert [callback.event for callback in claim()] == ["rejection"]

    def test_what_waits_with_the_url_of_another_day_cancels_that_too(self) -> None:
        conversion = counted()
        outbox.resend_anew(Callback.objects.get())
        decide(conversion, REJECTED)
        assert told() == [("conversion", CANCELLED)] * 2

    def test_what_was_claimed_at_the_same_moment_is_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the decision and the cancelling."""
        conversion = counted()
        waiting = Callback.objects.get()
        cancel, sent = outbox._cancel, []

        def too_late(*arguments: Any) -> int:
            sent.extend(claiming.claim(1, [waiting.pk]))
            return cancel(*arguments)

        monkeypatch.setattr(outbox, "_cancel", too_late)
        decide(conversion, REJECTED)
        assert sent == [waiting]
        assert told() == [("conversion", CANCELLED), ("rejection", QUEUED)]

    def test_what_waits_hands_nothing_over(
        self, handed_over: list[int], django_capture_on_commit_callbacks: Any
    ) -> None:
        conversion = counted()
        with django_capture_on_commit_callbacks(execute=True):
            decide(conversion, REJECTED)
        assert handed_over == []

    def test_what_was_delivered_is_handed_over(
        self, handed_over: list[int], django_capture_on_commit_callbacks: Any
    ) -> None:
        conversion = counted()
        attempt(OK)
        with django_capture_on_commit_callbacks(execute=True):
            decide(conversion, REJECTED)
        assert handed_over == [Callback.objects.get(event="rejection").pk]


class TestWhatIsBroughtBack:
    def test_goes_out_after_all(
        self, handed_over: list[int], django_capture_on_commit_callbacks: Any
    ) -> None:
        conversion = counted()
        with django_capture_on_commit_callbacks(execute=True):
            decide(conversion, REJECTED)
        assert handed_over == []
        with django_capture_on_commit_callbacks(execute=True):
            decide(conversion, PENDING)
        callback = Callback.objects.get()
        assert handed_over == [callback.pk]
        assert (callback.status, callback.reason) == (QUEUED, "")
        assert claim() == [callback]

    def test_goes_out_when_it_would_have(self) -> None:
        conversion = counted()
        attempt(NO, times=2)
        planned = Callback.objects.get().next_attempt_on
        decide(conversion, REJECTED, PENDING)
        callback = Callback.objects.get()
        assert (callback.status, callback.next_attempt_on) == (QUEUED, planned)
        assert planned > timezone.now()

    def test_is_not_sent_twice_where_it_is_still_on_its_way(self) -> None:
        conversion = counted()
        sent = claim()
        decide(conversion, REJECTED, PENDING)
        assert claim() == []
        record(sent, NO)
        callback = Callback.objects.get(event="conversion")
        assert (callback.status, callback.lease_token) == (QUEUED, "")
        assert callback.next_attempt_on > timezone.now()

    def test_cancels_a_rejection_that_waits(self) -> None:
        conversion = counted()
        attempt(OK)
        decide(conversion, REJECTED, PENDING)
        assert told() == [("conversion", DELIVERED), ("rejection", CANCELLED)]

    def test_waits_with_its_approval_until_it_is_approved_again(self) -> None:
        conversion = counted()
        attempt(OK)
        decide(conversion, APPROVED, REJECTED, PENDING)
        assert told()[1:] == [("approval", CANCELLED), ("rejection", CANCELLED)]
        decide(conversion, APPROVED)
        assert told()[1:] == [("approval", QUEUED), ("rejection", CANCELLED)]

    def test_and_rejected_again_tells_of_it_by_the_row_that_is_there(self) -> None:
        conversion = counted()
        attempt(OK)
        decide(conversion, REJECTED, PENDING, REJECTED)
        assert told() == [("conversion", DELIVERED), ("rejection", QUEUED)]

    def test_and_rejected_again_before_anybody_heard_of_it_tells_nothing(self) -> None:
        decide(counted(), REJECTED, PENDING, REJECTED)
        assert told() == [("conversion", CANCELLED)]

    def test_tells_each_event_once_whatever_happens(self) -> None:
        conversion = counted()
        for _ in range(3):
            for status in (APPROVED, REJECTED, PENDING, REJECTED):
                decide(conversion, status)
                attempt(OK)
            decide(conversion, PENDING)
        assert told() == [
            ("conversion", DELIVERED),
            ("approval", DELIVERED),
            ("rejection", DELIVERED),
        ]


class TestWhoHears:
    def test_nobody_where_nobody_asked_for_it(self) -> None:
        conversion = counted(call_on_approval=False, call_on_rejection=False)
        attempt(OK)
        decide(conversion, APPROVED, REJECTED)
        assert told() == [("conversion", DELIVERED)]

    def test_nobody_where_there_is_no_url(self) -> None:
        conversion = counted(callback_url="")
        decide(conversion, APPROVED, REJECTED, APPROVED)
        assert told() == []

    def test_who_wants_approvals_alone_hears_no_more(self) -> None:
        conversion = counted(call_on_conversion=False)
        assert told() == []
        decide(conversion, REJECTED)
        assert told() == []
        decide(conversion, APPROVED)
        assert told() == [("approval", QUEUED)]

    def test_of_several_subscriptions_each_hears_what_it_asked_for_and_may_have_heard(self) -> None:
        visitor = referred(counting="every", approval="manual", callback_url=URL)
        never = Subscription.objects.get()
        options = {"partner": visitor.partner, "call_on_rejection": True, "counting": "every"}
        heard, refused = (
            SubscriptionFactory(callback_url=f"https://{host}.example/?v={{visitor_id}}", **options)
            for host in ("heard", "refused")
        )
        other = SubscriptionFactory(**options | {"trigger": "User registered"})
        conversion = complete_trigger(None, "Order placed", visitor=visitor, reference="17")
        for callback in claim():
            record([callback], NO if callback.subscription == refused else OK)
        decide(conversion, REJECTED)
        rejections = Callback.objects.filter(event="rejection")
        assert [callback.subscription for callback in rejections] == [heard]
        assert {never, refused, other}.isdisjoint(rejections)

    def test_who_has_subscribed_to_something_else_since_still_hears(self) -> None:
        conversion = counted()
        Subscription.objects.update(trigger="User registered")
        decide(conversion, APPROVED)
        assert told() == [("conversion", QUEUED), ("approval", QUEUED)]

    def test_what_was_earned_is_told_though_the_deal_has_ended(self) -> None:
        conversion = counted()
        Partner.objects.update(active=False)
        Subscription.objects.update(active=False)
        decide(conversion, APPROVED)
        assert told() == [("conversion", QUEUED), ("approval", QUEUED)]

    def test_a_test_of_the_deal_is_told_to_nobody(self) -> None:
        visitor = referred(approval="manual", call_on_approval=True, call_on_rejection=True)
        Visitor.objects.update(is_test=True)
        visitor.refresh_from_db()
        conversion = complete_trigger(None, "Order placed", visitor=visitor)
        assert conversion.is_test
        decide(conversion, APPROVED, REJECTED, PENDING)
        assert told() == [("conversion", CANCELLED), ("approval", CANCELLED)]
        assert set(Callback.objects.values_list("reason", flat=True)) == {outbox.IS_TEST}


class TestTheUrlOfAnEvent:
    def test_tells_event_status_and_time_as_they_were(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted_on = timezone.now()
        decided_on = [counted_on + timedelta(days=day) for day in (14, 20)]
        conversion = counted()
        Conversion.objects.update(created_on=counted_on)
        attempt(OK)
        for status, now in zip((APPROVED, REJECTED), decided_on, strict=True):
            monkeypatch.setattr(timezone, "now", lambda now=now: now)
            decide(conversion, status)
        begin = f"https://partner.example/cb?v={conversion.visitor_id}"
        moments = [conversion.created_on, *decided_on]
        ends = ["e=conversion&s=pending", "e=approval&s=approved", "e=rejection&s=rejected"]
        assert list(Callback.objects.order_by("pk").values_list("url", "created_on")) == [
            (f"{begin}&{end}&t={int(moment.timestamp())}", moment)
            for end, moment in zip(ends, moments, strict=True)
        ]

    def test_is_due_when_it_is_decided_and_not_long_before(self) -> None:
        conversion = counted()
        Conversion.objects.update(created_on=timezone.now() - timedelta(days=14))
        before = timezone.now()
        decide(Conversion.objects.get(), APPROVED)
        assert Callback.objects.get(event="approval").next_attempt_on >= before
        assert conversion.status == PENDING

    def test_made_anew_is_of_the_event_and_of_today(self) -> None:
        conversion = counted()
        first = Callback.objects.select_related("conversion").get()
        decide(conversion, APPROVED)
        approval = Callback.objects.select_related("conversion").get(event="approval")
        # Who has read the conversion before somebody else decided.
        assert "e=conversion&s=approved&" in outbox.resend_anew(first).url
        decide(conversion, REJECTED)
        assert "e=conversion&s=rejected&" in outbox.resend_anew(first).url
        assert "e=approval&s=approved&" in outbox.resend_anew(approval).url


# Decided by a signal


ORDER_PLACED = ("Order placed", post_save, object_created, Order)
PAID = (
    "Order paid",
    order_paid,
    approve_conversions,
    Order,
    {"of": "Order placed"},
)
REFUNDED = (
    "Order refunded",
    order_refunded,
    reject_conversions,
    Order,
    {"of": "Order placed"},
)


@pytest.fixture
def wired(wire: Any) -> None:
    """Decide by two signals of the host's."""
    wire([ORDER_PLACED, PAID, REFUNDED])


def ordered(**subscription: Any) -> tuple[Order, Conversion]:
    """Let a new visitor place an order that is counted."""
    options = {"approval": "manual", "counting": "every", "closes_referral": False}
    visitor = referred(**options | subscription)
    with binding.binding(request_of(visitor)):
        order = Order.objects.create()
    return order, Conversion.objects.latest("pk")


def status_of(conversion: Conversion) -> str:
    conversion.refresh_from_db()
    return conversion.status


@pytest.mark.usefixtures("wired")
class TestASignal:
    def test_of_a_payment_approves_and_of_a_refund_rejects(self) -> None:
        order, conversion = ordered()
        order_paid.send(sender=Order, instance=order)
        assert status_of(conversion) == APPROVED
        assert (conversion.reason, conversion.decided_by) == ("", None)
        order_refunded.send(sender=Order, instance=order)
        assert status_of(conversion) == REJECTED
        assert (conversion.reason, conversion.decided_by) == ("Order refunded", None)

    def test_decides_what_is_of_that_order_alone(self) -> None:
        order, conversion = ordered()
        _, other = ordered()
        order_paid.send(sender=Order, instance=order)
        assert [status_of(conversion), status_of(other)] == [APPROVED, PENDING]

    def test_decides_what_is_of_that_trigger_alone(self, wire: Any) -> None:
        order, conversion = ordered()
        reference = conversion.reference
        visitor = referred("Order shipped", approval="manual", counting="every")
        other = complete_trigger(None, "Order shipped", visitor=visitor, reference=reference)
        order_paid.send(sender=Order, instance=order)
        assert [status_of(conversion), status_of(other)] == [APPROVED, PENDING]

    def test_that_comes_twice_is_told_once(self, reasons: Any) -> None:
        order, _ = ordered(call_on_approval=True)
        order_paid.send(sender=Order, instance=order)
        order_paid.send(sender=Order, instance=order)
        assert told() == [("conversion", QUEUED), ("approval", QUEUED)]
        assert reasons() == [("Order paid", "already_counted")]

    def test_of_a_payment_does_not_bring_back_what_was_rejected(self, reasons: Any) -> None:
        order, conversion = ordered()
        order_refunded.send(sender=Order, instance=order)
        order_paid.send(sender=Order, instance=order)
        assert status_of(conversion) == REJECTED
        assert reasons() == [("Order paid", "already_counted")]

    def test_of_a_payment_leaves_what_somebody_is_to_look_at(self, reasons: Any) -> None:
        """Or a partner who pays for what they buy themselves would be paid for it."""
        buyer = UserFactory()
        visitor = referred(counting="every")
        visitor.partner.users.add(buyer)
        with binding.binding(request_of(visitor, buyer)):
            order = Order.objects.create()
            order_paid.send(sender=Order, instance=order)
        conversion = Conversion.objects.get()
        assert conversion.status == PENDING
        assert conversion.reason
        assert reasons() == [("Order paid", "screened")]
        order_refunded.send(sender=Order, instance=order)
        assert status_of(conversion) == REJECTED
        # Nor where somebody has it wait again.
        conversion.refresh_from_db()
        decide(conversion, PENDING)
        order_paid.send(sender=Order, instance=order)
        assert status_of(conversion) == PENDING

    def test_of_a_payment_approves_what_somebody_brought_back_with_a_reason(self) -> None:
        order, conversion = ordered()
        order_refunded.send(sender=Order, instance=order)
        conversion.refresh_from_db()
        assert decisions.decide(conversion, PENDING, reason="The parcel is on its way after all.")
        order_paid.send(sender=Order, instance=order)
        assert status_of(conversion) == APPROVED

    def test_of_an_order_that_nobody_was_credited_for_costs_two_queries_and_says_so(
        self, reasons: Any, django_assert_num_queries: Any
    ) -> None:
        order = Order.objects.create()
        request = request_of(referred(), UserFactory())
        with binding.binding(request), CaptureQueriesContext(connection) as queries:
            order_paid.send(sender=Order, instance=order)
        # The second, whether the order itself could not be recorded yet.
        assert len([q for q in queries if q["sql"].startswith("SELECT")]) == 2
        assert not request.session.accessed
        assert reasons() == [("Order paid", "no_conversion")]

    @pytest.mark.parametrize("instance", [Order(), object()])
    def test_without_a_reference_decides_nothing(self, instance: object, reasons: Any) -> None:
        """Least of all whatever else was counted without one."""
        visitor = referred(approval="manual")
        conversion = complete_trigger(None, "Order placed", visitor=visitor)
        assert conversion.reference == ""
        order_paid.send(sender=Order, instance=instance)
        assert status_of(conversion) == PENDING
        assert reasons() == [("Order paid", "no_reference")]

    def test_is_told_to_the_hosts_code_where_it_decides_nothing(
        self, django_capture_on_commit_callbacks: Any
    ) -> None:
        heard: list[Any] = []

        def receiver(trigger: str, reason: str, reference: str, **kwargs: Any) -> None:
            heard.append((trigger, reason, reference))

        trigger_not_credited.connect(receiver)
        try:
            with django_capture_on_commit_callbacks(execute=True):
                order_paid.send(sender=Order, instance=Order(pk=5))
        finally:
            trigger_not_credited.disconnect(receiver)
        assert heard == [("Order paid", Reason.NO_CONVERSION, "testapp.order:5")]

    def test_of_a_fixture_that_is_loaded_decides_nothing(self, wire: Any) -> None:
        wire(
            [
                ORDER_PLACED,
                ("Order saved", post_save, approve_conversions, Order, {"of": "Order placed"}),
                ("Order lost", post_save, reject_conversions, Order, {"of": "Order placed"}),
            ]
        )
        order, conversion = ordered()
        Conversion.objects.update(status=PENDING)
        order.save_base(raw=True)
        assert status_of(conversion) == PENDING

    def test_that_narrows_ours_down_decides_as_ours_would(self, wire: Any) -> None:
        def paid_in_full(sender: object, instance: Order, **kwargs: Any) -> None:
            if instance.note == "paid":
                approve_conversions(sender, instance=instance, **kwargs)

        wire([ORDER_PLACED, ("Paid", post_save, paid_in_full, Order, {"of": "Order placed"})])
        order, conversion = ordered()
        order.save()
        assert status_of(conversion) == PENDING
        order.note = "paid"
        order.save()
        assert status_of(conversion) == APPROVED

    def test_finds_what_was_counted_with_a_reference_of_the_hosts(self, wire: Any) -> None:
        by_note = {"reference": "note"}
        wire([(*ORDER_PLACED, by_note), (*PAID[:4], PAID[4] | by_note)])
        conversion = counted(reference="a1")
        other = counted(reference="A1")
        order_paid.send(sender=Order, instance=Order(note="A1"))
        assert [status_of(conversion), status_of(other)] == [PENDING, APPROVED]

    def test_finds_a_reference_that_is_longer_than_what_is_kept_of_it(self, wire: Any) -> None:
        by_note = {"reference": "note"}
        wire([(*ORDER_PLACED, by_note), (*PAID[:4], PAID[4] | by_note)])
        notes = [f"{'x' * 299}{last}" for last in "ab"]
        conversions = [counted(reference=note) for note in notes]
        order_paid.send(sender=Order, instance=Order(note=notes[1]))
        assert [status_of(one) for one in conversions] == [PENDING, APPROVED]

    def test_that_fails_does_not_break_the_host(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order, conversion = ordered()

        def fail(conversion: Conversion) -> None:
            raise RuntimeError("nobody has thought of this")

        monkeypatch.setattr(outbox, "queue_decision", fail)
        with transaction.atomic():
            order_paid.send(sender=Order, instance=order)
            Order.objects.create(note="after that")
        assert "nobody has thought of this" in caplog.text
        assert status_of(conversion) == PENDING
        assert Order.objects.filter(note="after that").exists()

    def test_says_who_was_logged_in_where_it_was_sent(self) -> None:
        order, conversion = ordered()
        staff = UserFactory()
        with binding.binding(request_of(None, staff)):
            order_paid.send(sender=Order, instance=order)
        assert status_of(conversion) == APPROVED
        assert conversion.decided_by == staff


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_a_decision_about_another_database_waits_for_that_commit(wire: Any) -> None:
    wire(
        [
            ORDER_PLACED,
            ("Elsewhere paid", post_save, approve_conversions, Elsewhere,
             {"of": "Order placed", "reference": "note"}),
        ]
    )  # fmt: skip
    conversion = counted()
    with transaction.atomic(using="other"):
        Elsewhere.objects.create(note="17")
        assert status_of(conversion) == PENDING
    assert status_of(conversion) == APPROVED


def test_a_decision_in_code_says_what_has_changed() -> None:
    conversion, staff = counted(), UserFactory()
    decided = by_reference.decide("Order placed", "17", REJECTED, reason="Fake", by=lambda: staff)
    assert (decided, decided.reason, decided.decided_by) == (conversion, "Fake", staff)
    with pytest.raises(NotCredited) as refusal:
        by_reference.decide("Order placed", "17", REJECTED)
    assert refusal.value.reason is Reason.ALREADY_COUNTED


class TestASignalWithAnOrderAndItsTest:
    @pytest.fixture(autouse=True)
    def both(self, db: None) -> None:
        self.order = counted()
        visitor = referred(counting="every", approval="manual")
        Visitor.objects.filter(pk=visitor.pk).update(is_test=True)
        test = complete_trigger(None, "Order placed", visitor=visitor, reference="17")
        assert test is not None
        self.test = test

    def decided(self, status: str) -> Conversion:
        return by_reference.decide("Order placed", "17", status)

    def test_decides_both(self) -> None:
        assert self.decided(APPROVED) == self.order
        assert (status_of(self.order), status_of(self.test)) == (APPROVED, APPROVED)
        assert self.decided(REJECTED) == self.order
        assert (status_of(self.order), status_of(self.test)) == (REJECTED, REJECTED)

    def test_decides_the_one_that_is_not_decided_yet(self) -> None:
        decide(self.order, REJECTED)
        assert self.decided(APPROVED) == self.test
        assert (status_of(self.order), status_of(self.test)) == (REJECTED, APPROVED)

    def test_says_why_the_order_is_not_decided(self) -> None:
        Conversion.objects.filter(pk=self.order.pk).update(review_reason="screened")
        decide(self.test, REJECTED)
        with pytest.raises(NotCredited) as refusal:
            self.decided(APPROVED)
        assert (refusal.value.reason, refusal.value.visitor) == (
            Reason.SCREENED,
            self.order.visitor,
        )

    def test_decides_a_test_without_an_order(self) -> None:
        Conversion.objects.filter(pk=self.order.pk).update(reference_key=None)
        assert self.decided(REJECTED) == self.test


def test_a_refund_is_not_lost_where_the_payment_is_told_of_meanwhile() -> None:
    conversion = counted()
    decided = by_reference.decide(
        "Order placed", "17", REJECTED, by=lambda: decide(Conversion.objects.get(), APPROVED)
    )
    assert decided == conversion
    assert status_of(conversion) == REJECTED


def test_a_payment_comes_too_late_where_somebody_rejects_meanwhile() -> None:
    conversion = counted()
    with pytest.raises(NotCredited) as refusal:
        by_reference.decide(
            "Order placed", "17", APPROVED, by=lambda: decide(Conversion.objects.get(), REJECTED)
        )
    assert refusal.value.reason is Reason.ALREADY_COUNTED
    assert status_of(conversion) == REJECTED


@pytest.mark.only_on("mariadb")
def test_what_is_decided_is_found_by_its_key_alone() -> None:
    """By the index of what stands so, it would lock the rows of others, in another order."""
    conversion = counted()
    attempt(OK)
    for number in range(30):
        counted(reference=f"other {number}")
    with CaptureQueriesContext(connection) as queries:
        decide(conversion, REJECTED, APPROVED, REJECTED, PENDING, APPROVED)
        outbox.resend(conversion.callbacks.earliest("pk"))
        suspension.resume(conversion.subscription)
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
    # Else the statements that ask for it would match nothing, without any index.
    Partner.objects.update(stopped_on=None)
    with connection.cursor() as cursor:
        for sql in [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]:
            cursor.execute(f"EXPLAIN {sql}")
            names = [name for name, *_ in cursor.description]
            plan = dict(zip(names, cursor.fetchall()[0], strict=True))  # Others: its subqueries.
            assert plan["key"] == "PRIMARY", sql


# Decided by days


class TestTheSweep:
    def days(self, **options: Any) -> Conversion:
        return counted(approval="automatic", approve_after=14, **options)

    def in_days(self, days: int) -> Any:
        return timezone.now() + timedelta(days=days)

    def test_approves_what_nobody_has_objected_to(self) -> None:
        conversion = self.days()
        assert conversion.status == PENDING
        assert decisions.approve_due(self.in_days(13)) == 0
        assert decisions.approve_due(self.in_days(15)) == 1
        assert status_of(conversion) == APPROVED
        assert (conversion.approve_on, conversion.decided_by) == (None, None)
        assert told() == [("conversion", QUEUED), ("approval", QUEUED)]
        assert decisions.approve_due(self.in_days(15)) == 0

    def test_leaves_what_was_decided_or_is_for_somebody(self) -> None:
        rejected, manual = self.days(), counted(reference="18")
        decide(rejected, REJECTED)
        brought_back = self.days(reference="19")
        decide(brought_back, REJECTED, PENDING)
        assert decisions.approve_due(self.in_days(15)) == 0
        assert [status_of(one) for one in (rejected, manual, brought_back)] == [
            REJECTED,
            PENDING,
            PENDING,
        ]

    def test_leaves_what_somebody_is_to_look_at(self) -> None:
        visitor = referred(approve_after=14, payout_type="percent", payout_value=10)
        conversion = complete_trigger(None, "Order placed", visitor=visitor, amount="much")
        assert decisions.approve_due(self.in_days(15)) == 0
        assert status_of(conversion) == PENDING

    def test_leaves_what_was_decided_and_is_pending_again_since_it_was_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reopened = self.days()
        really = decisions._approve

        def approve(conversion: Conversion) -> bool:
            decide(reopened, REJECTED, PENDING)
            return really(conversion)

        monkeypatch.setattr(decisions, "_approve", approve)
        assert decisions.approve_due(self.in_days(15)) == 0
        assert status_of(reopened) == PENDING

    def test_approves_as_many_as_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decisions, "_BATCH", 2)
        for number in range(5):
            self.days(reference=str(number))
        assert decisions.approve_due(self.in_days(15)) == 5

    def test_approves_some_at_a_time_where_there_is_more_to_do(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decisions, "_BATCH", 2)
        for number in range(5):
            self.days(reference=str(number))
        batches = decisions.approve_in_batches(self.in_days(15))
        assert next(batches) == 2
        assert Conversion.objects.filter(status=APPROVED).count() == 2
        assert list(batches) == [2, 1]

    def test_goes_on_after_one_that_cannot_be_approved(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(decisions, "_BATCH", 2)
        wrong = self.days(reference="wrong")
        for number in range(4):
            self.days(reference=str(number))
        really = outbox.queue_decision

        def tell(conversion: Conversion) -> None:
            if conversion == wrong:
                raise RuntimeError("nobody has thought of this")
            really(conversion)

        monkeypatch.setattr(outbox, "queue_decision", tell)
        assert decisions.approve_due(self.in_days(15)) == 4
        assert status_of(wrong) == PENDING
        assert caplog.text.count(f"Conversion {wrong.pk} could not be approved.") == 1

    def test_leaves_to_others_what_they_have_decided_since(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And ends, though a transaction of the host's may go on showing it as pending."""
        self.days()
        monkeypatch.setattr(decisions, "change_status", lambda *args, **options: False)
        assert decisions.approve_due(self.in_days(15)) == 0

    def test_is_left_for_the_next_one_where_the_database_is_down(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*args: Any) -> Any:
            raise DatabaseError("the database is down")

        with connection.execute_wrapper(refuse):
            assert decisions.approve_due() == 0
        assert "the database is down" in caplog.text

    def test_costs_one_query_where_nothing_is_due(self, django_assert_num_queries: Any) -> None:
        self.days()
        with django_assert_num_queries(1):
            assert decisions.approve_due() == 0

    @pytest.mark.parametrize("number", [1, 5])
    def test_costs_six_queries_for_each(self, django_assert_num_queries: Any, number: int) -> None:
        for reference in range(number):
            self.days(reference=str(reference))
        # A savepoint, the conversion, what is told already and to whom else, the callback.
        with django_assert_num_queries(1 + 6 * number + 1):
            assert decisions.approve_due(self.in_days(15)) == number

    def test_knows_when_the_next_is_due(self) -> None:
        assert decisions.next_approval() is None
        first = self.days()
        self.days(reference="18")
        counted(reference="19")
        assert decisions.next_approval() == first.approve_on


# Stopped for fraud


class TestAPartnerWhoIsStopped:
    def test_is_told_nothing_more_and_paid_for_nothing_undecided(self) -> None:
        staff = UserFactory()
        visitor = referred(
            counting="every", approval="manual", closes_referral=False, callback_url=URL
        )
        pending, approved, rejected, delivered = (
            complete_trigger(None, "Order placed", visitor=visitor, reference=reference)
            for reference in "abcd"
        )
        decide(approved, APPROVED)
        decide(rejected, REJECTED)
        record([one for one in claim() if one.conversion_id == delivered.pk], OK)
        Callback.objects.update(lease_token="")
        other = counted()
        partner = visitor.partner

        assert decisions.stop_for_fraud(partner, reason="Own orders", by=staff) == 2

        assert not partner.active
        partner.refresh_from_db()
        assert not partner.active
        found = [
            (one.reference, one.status, one.reason, one.decided_by)
            for one in Conversion.objects.filter(partner=partner).order_by("reference")
        ]
        assert found == [
            ("a", REJECTED, "Own orders", staff),
            ("b", APPROVED, "", None),
            ("c", REJECTED, "", None),
            ("d", REJECTED, "Own orders", staff),
        ]
        names = Conversion.objects.filter(partner=partner).order_by("reference")
        names = names.values_list("decided_by_name", flat=True)
        assert list(names) == [account_name(staff), "", "", account_name(staff)]
        theirs = Callback.objects.filter(partner=partner).order_by("conversion__reference")
        assert [(one.status, one.reason) for one in theirs] == [
            (CANCELLED, "Own orders"),
            (CANCELLED, "Own orders"),
            (CANCELLED, outbox.DECIDED_SINCE),
            (DELIVERED, ""),
        ]
        other.partner.refresh_from_db()
        assert other.partner.active
        assert status_of(other) == PENDING
        assert [callback.conversion for callback in claim()] == [other]
        assert pending.partner == partner

    def test_costs_no_more_queries_for_what_is_decided(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decisions, "_BATCH", 1)
        rule = {"counting": "every", "closes_referral": False, "approval": "manual"}
        numbers = []
        for more in (0, 3):
            visitor = referred(callback_url="", **rule)
            for number in range(1 + more):
                complete_trigger(None, "Order placed", visitor=visitor, reference=f"{more}{number}")
            for row in Conversion.objects.filter(visitor=visitor)[1:]:
                decide(row, APPROVED)
            with CaptureQueriesContext(connection) as queries:
                assert decisions.stop_for_fraud(visitor.partner, reason="Own orders") == 1
            numbers.append(len(queries))
        assert numbers[0] == numbers[1]

    def test_gets_no_more_credit(self) -> None:
        conversion = counted(closes_referral=False)
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        visitor = Visitor.objects.get()
        assert complete_trigger(None, "Order placed", visitor=visitor, reference="18") is None

    def test_is_told_nothing_that_is_held_either(self) -> None:
        conversion = counted()
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        claim()
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        assert suspension.resume(conversion.subscription) == 0
        assert told() == [("conversion", CANCELLED)]

    def test_hears_of_what_is_on_its_way_if_they_take_it(self) -> None:
        conversion = counted()
        sent = claim()
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        record(sent, OK)
        assert told() == [("conversion", DELIVERED)]

    def test_is_not_told_of_later_decisions(self) -> None:
        conversion = counted(closes_referral=False)
        attempt(OK)
        declined = complete_trigger(
            None, "Order placed", visitor=conversion.visitor, reference="declined"
        )
        decide(declined, REJECTED)
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        for one in (conversion, declined):
            decide(Conversion.objects.get(pk=one.pk), APPROVED, REJECTED, PENDING)
        assert not Callback.objects.filter(status=QUEUED).exists()

    def test_is_paid_for_no_declined_card(self) -> None:
        conversion = counted(reference="A-1")
        key = ("Order placed", "A-1")
        by_reference.decide(*key, REJECTED, may_be_paid=True)
        assert decisions.stop_for_fraud(conversion.partner, reason="Own orders") == 0
        with pytest.raises(NotCredited):
            by_reference.decide(*key, APPROVED)
        assert status_of(conversion) == REJECTED

    def test_stays_so_where_it_is_said_again(self) -> None:
        conversion = counted()
        for rejected in (1, 0):
            assert decisions.stop_for_fraud(conversion.partner, reason="Own") == rejected

    def test_is_told_to_the_hosts_code(self, django_capture_on_commit_callbacks: Any) -> None:
        heard: list[tuple[str, str]] = []

        def receiver(conversion: Conversion, **kwargs: Any) -> None:
            heard.append((conversion.reference, conversion.status))

        earlier = counted(reference="earlier", closes_referral=False)
        decide(earlier, REJECTED)
        counted_now = complete_trigger(
            None, "Order placed", visitor=earlier.visitor, reference="now"
        )
        conversion_decided.connect(receiver)
        try:
            with django_capture_on_commit_callbacks(execute=True):
                decisions.stop_for_fraud(counted_now.partner, reason="Own orders")
                assert heard == []
        finally:
            conversion_decided.disconnect(receiver)
        assert heard == [("now", REJECTED)]

    def test_is_none_where_it_is_rolled_back(self) -> None:
        conversion = counted()
        with transaction.atomic():
            decisions.stop_for_fraud(conversion.partner, reason="Own orders")
            transaction.set_rollback(True)
        assert Partner.objects.get().active
        assert status_of(conversion) == PENDING
        assert told() == [("conversion", QUEUED)]


# Whose request it happens in


class OrderAdmin(admin.ModelAdmin):
    """What the shop's staff have: an order is marked as paid."""

    actions = ["mark_paid"]

    @admin.action
    def mark_paid(self, request: HttpRequest, queryset: Any) -> None:
        for order in queryset:
            order_paid.send(sender=Order, instance=order)


site = admin.AdminSite()
site.register(Order, OrderAdmin)


@csrf_exempt
def webhook(request: HttpRequest) -> HttpResponse:
    """Be told of a payment by the payment provider."""
    order_paid.send(sender=Order, instance=Order.objects.get(pk=request.POST["order"]))
    return HttpResponse()


urlpatterns = [path("staff/", site.urls), path("webhook/", webhook), path("page/", webhook)]


def staff_browser(partner: Partner) -> Client:
    """Return the browser of somebody from the shop who has followed a partner's link."""
    client = Client()
    boss = UserFactory(is_staff=True, is_superuser=True)
    client.force_login(boss)
    start_referral(client, partner)
    return client


def in_the_admin(order: Order, partner: Partner) -> None:
    data = {"action": "mark_paid", "_selected_action": [order.pk]}
    response = staff_browser(partner).post("/staff/testapp/order/", data)
    assert response.status_code == 302


def by_webhook(order: Order, partner: Partner) -> None:
    assert Client().post("/webhook/", {"order": order.pk}).status_code == 200


def in_a_browser_that_is_not_logged_in(order: Order, partner: Partner) -> None:
    """As where the customer's friend, who has followed a link too, pays."""
    client = Client()
    start_referral(client, partner)
    assert client.post("/webhook/", {"order": order.pk}).status_code == 200


class PayOrder(BaseCommand):
    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("order", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        order_paid.send(sender=Order, instance=Order.objects.get(pk=options["order"]))


def by_command(order: Order, partner: Partner) -> None:
    call_command(PayOrder(), str(order.pk))


def by_worker(order: Order, partner: Partner) -> None:
    """As in a worker of a task engine: in no request, whatever else this process does."""
    order_paid.send(sender=Order, instance=order)


ELSEWHERE = [in_the_admin, by_webhook, by_command, by_worker]


@pytest.mark.parametrize("pay", [*ELSEWHERE, in_a_browser_that_is_not_logged_in])
class TestSomebodyElsesRequest:
    """A payment is credited to the buyer's partner or to nobody."""

    @pytest.fixture
    def partner(self) -> Partner:
        """Make the partner whose link was followed by whoever's request it is."""
        partner = PartnerFactory()
        for trigger in ("Order placed", "Order paid"):
            SubscriptionFactory(partner=partner, trigger=trigger, counting="every")
        return partner

    def paid(self, wire: Any, options: dict[str, str]) -> None:
        wire([("Order paid", order_paid, object_saved, Order, options)])

    def test_credits_the_visitor_that_the_order_keeps(
        self, pay: Any, partner: Partner, wire: Any
    ) -> None:
        self.paid(wire, {"visitor": "affiliate_visitor", "user": "user"})
        buyer = referred("Order paid")
        pay(Order.objects.create(affiliate_visitor=buyer, user=UserFactory()), partner)
        assert Conversion.objects.get().visitor == buyer

    def test_credits_nobody_where_the_order_keeps_none(
        self, pay: Any, partner: Partner, wire: Any
    ) -> None:
        self.paid(wire, {"visitor": "affiliate_visitor", "user": "user"})
        pay(Order.objects.create(user=UserFactory()), partner)
        assert not Conversion.objects.exists()

    def test_approves_what_the_buyers_partner_was_credited_with(
        self, pay: Any, partner: Partner, wired: None
    ) -> None:
        order, conversion = ordered()
        pay(order, partner)
        assert Conversion.objects.get() == conversion
        assert status_of(conversion) == APPROVED

    def test_approves_nothing_of_anybodys_where_the_order_was_not_counted(
        self, pay: Any, partner: Partner, wired: None
    ) -> None:
        _, other = ordered()
        pay(Order.objects.create(), partner)
        assert status_of(other) == PENDING
        assert Conversion.objects.count() == 1


@pytest.mark.parametrize("pay", ELSEWHERE)
def test_a_payment_credits_the_latest_referral_of_the_buyer(
    pay: Any, settings: Any, wire: Any
) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    wire([("Order paid", order_paid, object_saved, Order, {"user": "user"})])
    partner = SubscriptionFactory(trigger="Order paid").partner
    buyer = referred("Order paid")
    Visitor.objects.filter(pk=buyer.pk).update(user=UserFactory())
    buyer.refresh_from_db()
    pay(Order.objects.create(user=buyer.user), partner)
    assert Conversion.objects.get().visitor == buyer


def test_staff_who_mark_the_order_of_a_stated_buyer_are_not_credited(wire: Any) -> None:
    wire([("Order paid", order_paid, object_saved, Order, {"user": "user"})])
    partner = SubscriptionFactory(trigger="Order paid").partner
    in_the_admin(Order.objects.create(user=UserFactory()), partner)
    in_the_admin(Order.objects.create(user=None), partner)
    assert not Conversion.objects.exists()


def test_a_worker_thread_of_a_request_has_no_request(wire: Any) -> None:
    wire([("Order paid", order_paid, object_saved, Order, {})])
    visitor = referred("Order paid")
    with binding.binding(request_of(visitor)):
        worker = threading.Thread(target=by_worker, args=[Order(pk=5), visitor.partner])
        worker.start()
        worker.join()
    assert not Conversion.objects.exists()
