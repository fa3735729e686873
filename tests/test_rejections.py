"""What a rejection frees, what it keeps, and who may change it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from affiliations.admin import notified as notes
from affiliations.callbacks import maintenance, results
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.conversions import adjustments, by_reference, decisions, recording
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import (
    Adjustment,
    Callback,
    Conversion,
    Partner,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from affiliations.tracking import binding, visitors
from affiliations.triggers import (
    approve_conversions,
    complete_trigger,
    object_saved,
    reject_conversions,
)
from tests.arrivals import referred, request_of
from tests.claiming import claim
from tests.factories import (
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import shown
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

PENDING, APPROVED, REJECTED = Conversion.Status.PENDING, "approved", "rejected"
TRIGGER = "Order placed"

order_paid, card_declined, order_refunded = Signal(), Signal(), Signal()


@pytest.fixture(autouse=True)
def wired(wire: Any) -> None:
    """Count each save of an order; decide by three signals."""
    of = {"of": TRIGGER}
    wire(
        [
            (TRIGGER, post_save, object_saved, Order),
            ("Order paid", order_paid, approve_conversions, Order, of),
            ("Card declined", card_declined, reject_conversions, Order, of | {"may_be_paid": True}),
            ("Order refunded", order_refunded, reject_conversions, Order, of),
        ]
    )


@pytest.fixture
def visitor() -> Visitor:
    """Make a visitor whose partner earns once, when an order is paid: the defaults."""
    return referred(TRIGGER, approval="manual")


def place(visitor: Visitor) -> Order:
    """Let a visitor place an order."""
    with binding.binding(request_of(visitor)):
        return Order.objects.create()


def save(order: Order, visitor: Visitor) -> None:
    with binding.binding(request_of(visitor)):
        order.save()


def send(signal: Signal, order: Order, request: Any = None) -> None:
    with binding.binding(request or request_of(None)):
        signal.send(sender=Order, instance=order)


def statuses() -> list[str]:
    return list(Conversion.objects.order_by("pk").values_list("status", flat=True))


def decide(status: str, **options: Any) -> Conversion:
    """Let staff decide the only conversion."""
    conversion = Conversion.objects.get()
    assert decisions.decide(conversion, status, **options)
    return conversion


class TestThePlaceOfTheVisitor:
    @pytest.mark.parametrize("signal", [order_refunded, card_declined])
    def test_is_free_for_the_next_order(self, visitor: Visitor, signal: Signal) -> None:
        first = place(visitor)
        send(signal, first)
        second = place(visitor)
        send(order_paid, second)
        assert statuses() == [REJECTED, APPROVED]
        third = place(visitor)
        send(order_paid, third)
        assert statuses() == [REJECTED, APPROVED]

    def test_is_free_after_a_rejection_by_staff(self, visitor: Visitor) -> None:
        place(visitor)
        decide(REJECTED)
        place(visitor)
        assert statuses() == [REJECTED, PENDING]

    def test_is_not_free_for_the_order_that_was_rejected(self, visitor: Visitor) -> None:
        """Its next save would pay it again, whoever could be credited."""
        order = place(visitor)
        send(order_refunded, order)
        save(order, visitor)
        save(order, VisitorFactory(partner=visitor.partner))
        assert statuses() == [REJECTED]
        assert set(UncreditedTrigger.objects.values_list("reason", flat=True)) <= {
            "already_counted"
        }

    @pytest.mark.parametrize(("first", "second"), [("", ""), ("", "18"), ("17", "")])
    def test_is_not_free_without_references_that_tell_two_events_apart(
        self, visitor: Visitor, first: str, second: str
    ) -> None:
        complete_trigger(None, TRIGGER, visitor=visitor, reference=first)
        decide(REJECTED)
        assert complete_trigger(None, TRIGGER, visitor=visitor, reference=second) is None
        assert recording.record(Visitor.objects.get(), TRIGGER, reference=second, manual=True)

    def test_is_not_free_where_a_rejection_came_between_the_look_and_the_insert(
        self, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = VisitorFactory(partner=visitor.partner)

        def meanwhile(*args: Any) -> str:
            monkeypatch.undo()
            assert complete_trigger(None, TRIGGER, visitor=other, reference="17")
            decide(REJECTED)
            return ""

        monkeypatch.setattr(recording, "_screen", meanwhile)
        with pytest.raises(NotCredited) as refused:
            recording.record(visitor, TRIGGER, reference="17")
        assert refused.value.reason is Reason.ALREADY_COUNTED
        assert statuses() == [REJECTED]
        visitor.refresh_from_db()
        assert visitor.successful_on is visitor.closed_on is None

    def test_is_taken_again_by_reopening(self, visitor: Visitor) -> None:
        place(visitor)
        decide(REJECTED)
        decide(PENDING)
        place(visitor)
        assert statuses() == [PENDING]
        assert Conversion.objects.get().released == 0

    @pytest.mark.parametrize("status", [PENDING, APPROVED])
    def test_cannot_be_taken_twice(self, visitor: Visitor, status: str, staff: Client) -> None:
        send(order_refunded, place(visitor))
        place(visitor)
        first, second = Conversion.objects.order_by("pk")
        with pytest.raises(NotCredited) as refused:
            decisions.decide(first, status)
        assert refused.value.reason is Reason.ALREADY_COUNTED
        first.refresh_from_db()
        assert (first.status, first.released) == (REJECTED, first.pk)

        name = {PENDING: "reopen", APPROVED: "approve"}[status]
        url = reverse(f"admin:affiliations_conversion_{name}", args=[first.pk])
        page = shown(staff.post(url, {"reason": ""}, follow=True))
        assert f"Conversion {second.pk} of {visitor.partner} was credited instead" in page
        assert statuses() == [REJECTED, PENDING]


class TestTheReference:
    def credited_to_another(self, visitor: Visitor) -> tuple[Order, Visitor]:
        """Let staff reject an order, and credit it to the partner who has earned it."""
        order = place(visitor)
        wrong = decide(REJECTED, reason="Not theirs", by=UserFactory())
        right = referred(TRIGGER, approval="manual")
        recording.record(right, TRIGGER, reference=wrong.reference, manual=True)
        return order, right

    def test_is_credited_by_hand_to_another_partner_and_decided_there(
        self, visitor: Visitor
    ) -> None:
        order, right = self.credited_to_another(visitor)
        send(order_paid, order)
        assert statuses() == [REJECTED, APPROVED]
        send(order_refunded, order)
        assert statuses() == [REJECTED, REJECTED]
        assert Conversion.objects.latest("pk").visitor == right

    def test_is_credited_by_hand_once(self, visitor: Visitor) -> None:
        order, right = self.credited_to_another(visitor)
        reference = Conversion.objects.latest("pk").reference
        with pytest.raises(NotCredited):
            recording.record(visitor, TRIGGER, reference=reference, manual=True)
        save(order, right)
        assert statuses() == [REJECTED, PENDING]

    def test_of_two_rejections_the_later_is_the_one_that_may_be_paid(
        self, visitor: Visitor
    ) -> None:
        order, _ = self.credited_to_another(visitor)
        send(card_declined, order)
        assert statuses() == [REJECTED, REJECTED]
        send(order_paid, order)
        assert statuses() == [REJECTED, APPROVED]


class TestASignal:
    def test_approves_nothing_that_was_rejected_however_late_it_comes(
        self, visitor: Visitor
    ) -> None:
        order = place(visitor)
        for signal in (order_paid, order_refunded, order_paid):
            send(signal, order)
        assert statuses() == [REJECTED]

    def test_approves_what_was_rejected_where_a_payment_may_follow(self, visitor: Visitor) -> None:
        order = place(visitor)
        send(card_declined, order)
        assert statuses() == [REJECTED]
        send(order_paid, order)
        assert statuses() == [APPROVED]
        send(order_refunded, order)
        send(order_paid, order)
        assert statuses() == [REJECTED]

    def test_makes_a_rejection_final_after_which_a_payment_might_have_followed(
        self, visitor: Visitor
    ) -> None:
        order = place(visitor)
        for signal in (card_declined, order_refunded, card_declined, order_paid):
            send(signal, order)
        assert statuses() == [REJECTED]

    def test_approves_nothing_in_a_place_that_is_taken(self, visitor: Visitor) -> None:
        first = place(visitor)
        send(card_declined, first)
        place(visitor)
        send(order_paid, first)
        assert statuses() == [REJECTED, PENDING]

    def test_approves_nothing_that_needs_review_after_a_declined_card(
        self, visitor: Visitor
    ) -> None:
        order = place(visitor)
        Conversion.objects.update(review_reason="screened")
        send(card_declined, order)
        send(order_paid, order)
        assert statuses() == [REJECTED]

    @pytest.mark.parametrize("how", ["staff", "signal"])
    def test_rejects_what_was_approved_whoever_did(self, visitor: Visitor, how: str) -> None:
        order = place(visitor)
        if how == "staff":
            decide(APPROVED, by=UserFactory())
        else:
            send(order_paid, order)
        send(order_refunded, order)
        assert statuses() == [REJECTED]

    def test_changes_no_rejection_by_staff(self, visitor: Visitor) -> None:
        order = place(visitor)
        send(card_declined, order)
        decide(APPROVED)
        decide(REJECTED)
        send(card_declined, order)
        send(order_paid, order)
        assert statuses() == [REJECTED]

    @pytest.mark.parametrize("steps", [[PENDING], [APPROVED], [PENDING, APPROVED]])
    def test_rejects_nothing_that_staff_have_reopened_and_says_so(
        self, visitor: Visitor, steps: list[str], django_capture_on_commit_callbacks: Any
    ) -> None:
        order = place(visitor)
        send(order_refunded, order)
        for status in steps:
            decide(status)
        with django_capture_on_commit_callbacks(execute=True):
            send(order_refunded, order)
        assert statuses() == steps[-1:]
        assert UncreditedTrigger.objects.get().reason == "decided_by_staff"


class TestWhatIsKeptOfADecision:
    def test_is_by_what_it_was_made(self, visitor: Visitor) -> None:
        def via() -> str:
            return Conversion.objects.get().decided_via

        order = place(visitor)
        assert via() == ""
        decide(APPROVED)
        assert via() == "person"
        send(order_refunded, order)
        assert via() == "signal"
        decide(PENDING)
        assert via() == "person"

    def test_is_that_nobody_made_it(self) -> None:
        recording.record(referred(TRIGGER), TRIGGER)
        waiting = recording.record(referred(TRIGGER, approve_after=14), TRIGGER)
        assert decisions.approve_due(timezone.now() + timedelta(days=15)) == 1
        ways = Conversion.objects.order_by("pk").values_list("decided_via", flat=True)
        assert list(ways) == ["at_once", "schedule"]
        assert waiting.decided_via == ""

    def test_is_no_name_of_a_customer_whose_request_sent_the_signal(self, visitor: Visitor) -> None:
        customer = UserFactory()
        order = place(visitor)
        Conversion.objects.update(payout=1, payout_currency="EUR", payout_type="fixed")
        decide(APPROVED)
        adjustments.adjust(Conversion.objects.get(), payout=Decimal(1), reason="Bonus")
        send(order_refunded, order, request_of(None, customer))
        assert Conversion.objects.get().decided_by == customer
        assert Adjustment.objects.get(kind="rejected").created_by == customer
        customer.delete()
        assert Conversion.objects.get().decided_by_display == ""
        assert Adjustment.objects.get(kind="rejected").created_by_display == ""

    def test_is_the_name_of_staff(self, visitor: Visitor) -> None:
        place(visitor)
        colleague = UserFactory()
        name = colleague.get_username()
        decide(APPROVED, by=colleague)
        colleague.delete()
        assert Conversion.objects.get().decided_by_display == name


class TestTheReferral:
    def closed(self, visitor: Visitor) -> bool:
        visitor.refresh_from_db()
        return visitor.closed_on is not None

    def test_is_open_again_in_the_browser_that_it_came_with(self, visitor: Visitor) -> None:
        order = place(visitor)
        assert Conversion.objects.get().closes
        assert self.closed(visitor)
        assert visitors.current_visitor(request_of(visitor)) is None
        first = visitor.successful_on
        send(order_refunded, order)
        assert visitors.current_visitor(request_of(visitor)) == visitor
        visitor.refresh_from_db()
        assert visitor.successful_on == first is not None

    def test_is_closed_again_with_what_is_reopened(self, visitor: Visitor) -> None:
        place(visitor)
        decide(REJECTED)
        assert not self.closed(visitor)
        decide(PENDING)
        assert self.closed(visitor)

    def test_stays_closed_while_another_conversion_closes_it(self, visitor: Visitor) -> None:
        SubscriptionFactory(partner=visitor.partner, trigger="Signed up", closes_referral=True)
        place(visitor)
        other = recording.record(Visitor.objects.get(), "Signed up", reference="x", manual=True)
        assert other.closes
        decisions.decide(Conversion.objects.get(trigger=TRIGGER), REJECTED)
        assert self.closed(visitor)
        decisions.decide(other, REJECTED)
        assert not self.closed(visitor)

    @pytest.mark.parametrize("how", ["signal", "manual"])
    def test_is_closed_by_what_staff_credit_too(self, visitor: Visitor, how: str) -> None:
        recording.record(visitor, TRIGGER, reference="17", manual=how == "manual")
        assert self.closed(visitor)
        decide(REJECTED)
        assert not self.closed(visitor)

    def test_of_an_earlier_version_stays_closed(self, visitor: Visitor) -> None:
        Visitor.objects.update(closed_on=timezone.now())
        visitor.refresh_from_db()
        conversion = recording.record(visitor, TRIGGER, reference="17", manual=True)
        assert not conversion.closes
        decide(REJECTED)
        assert self.closed(visitor)
        decide(PENDING)
        decide(REJECTED)
        assert self.closed(visitor)

    def test_of_a_stop_for_fraud_stays_closed(self, visitor: Visitor) -> None:
        place(visitor)
        decisions.stop_for_fraud(visitor.partner, reason="Own orders")
        assert Conversion.objects.get().released
        assert self.closed(visitor)
        # Nor do later decisions open it, until staff trust the partner again.
        decide(APPROVED)
        decide(REJECTED)
        assert self.closed(visitor)
        Partner.objects.update(stopped_on=None, active=True)
        decide(APPROVED)
        decide(REJECTED)
        assert not self.closed(visitor)

    def test_that_no_conversion_closes_is_left_alone(self) -> None:
        visitor = referred(TRIGGER, approval="manual", closes_referral=False)
        place(visitor)
        Visitor.objects.update(closed_on=timezone.now())
        decide(REJECTED)
        assert self.closed(visitor)


class TestWhoWasNotified:
    """Before staff reject, or credit the order to another partner."""

    @pytest.fixture
    def notified(self, visitor: Visitor) -> Conversion:
        conversion = recording.record(visitor, TRIGGER, reference="17")
        sent = claim(1)
        ok = Result(duration_ms=7, status_code=200)
        results.record([AttemptResult(callback, timezone.now(), ok) for callback in sent])
        return conversion

    def page(self, staff: Client, row: Any, name: str, **sent: str) -> str:
        address = reverse(f"admin:affiliations_{row._meta.model_name}_{name}", args=[row.pk])
        return shown(staff.post(address, sent, follow=True) if sent else staff.get(address))

    @pytest.mark.parametrize("is_told", [True, False])
    def test_is_said_where_it_is_rejected(
        self, staff: Client, notified: Conversion, is_told: bool
    ) -> None:
        Subscription.objects.update(call_on_rejection=is_told)
        page = self.page(staff, notified, "reject")
        partner = notified.partner
        assert f"{partner} was notified of conversion {notified.pk}: conversion." in page
        will = "will be" if is_told else "will not be"
        assert f"{partner} {will} notified of the rejection." in page

    def test_is_said_of_what_was_purged_too(self, staff: Client, notified: Conversion) -> None:
        sum(maintenance.purge(timezone.now() + timedelta(days=1)))
        assert "was notified of conversion" in self.page(staff, notified, "reject")

    def test_is_not_said_where_nobody_was(self, staff: Client, visitor: Visitor) -> None:
        conversion = recording.record(visitor, TRIGGER, reference="17")
        assert "notified of" not in self.page(staff, conversion, "reject")

    @pytest.mark.parametrize("of", ["visitor", "partner"])
    @pytest.mark.parametrize("url", ["https://partner.example/?v={visitor_id}", ""])
    def test_is_said_where_another_is_credited_and_must_be_confirmed(
        self, staff: Client, notified: Conversion, of: str, url: str
    ) -> None:
        decisions.decide(notified, REJECTED)
        right = referred(TRIGGER, callback_url=url)
        row = right if of == "visitor" else right.partner
        sent = {"trigger": TRIGGER, "reference": "17", "reason": "Theirs"}
        page = self.page(staff, row, "credit", **sent)
        assert f"{notified.partner} was notified of conversion {notified.pk}: conversion." in page
        assert f"{notified.partner} will not be notified that another partner" in page
        will = "will be" if url else "will not be"
        assert f"{right.partner} {will} notified of the new conversion." in page
        assert statuses() == [REJECTED]
        self.page(staff, row, "credit", **sent, confirmed="on")
        assert statuses() == [REJECTED, APPROVED]

    def test_is_not_asked_where_the_order_is_another(
        self, staff: Client, notified: Conversion
    ) -> None:
        decisions.decide(notified, REJECTED)
        right = referred(TRIGGER)
        self.page(staff, right, "credit", trigger=TRIGGER, reference="18", reason="Theirs")
        assert statuses() == [REJECTED, APPROVED]


@pytest.mark.django_db
def test_nobody_who_heard_nothing_is_named_before_a_credit(visitor: Visitor) -> None:
    place(visitor)
    conversion = Conversion.objects.get()
    assert notes.of_credit(PartnerFactory(), TRIGGER, [conversion]) == []


@pytest.mark.django_db
def test_a_partner_who_is_credited_again_is_not_told_of_another(visitor: Visitor) -> None:
    place(visitor)
    conversion = Conversion.objects.get()
    Callback.objects.update(attempt_count=1)
    said = notes.of_credit(visitor.partner, TRIGGER, [conversion])
    assert not [text for text in said if "another partner" in text]


@pytest.mark.django_db
def test_an_error_of_the_database_that_is_not_about_the_place_is_raised(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(visitor)
    conversion = Conversion.objects.get()

    def failing(*args: object, **kwargs: object) -> None:
        raise IntegrityError("something else")

    monkeypatch.setattr(decisions, "_follow", failing)
    with pytest.raises(IntegrityError, match="something else"), transaction.atomic():
        decisions.decide(conversion, REJECTED)


def test_a_final_rejection_makes_no_other_final() -> None:
    one, other = (ConversionFactory(status=REJECTED, may_be_paid=True) for _ in range(2))
    assert by_reference._make_final(one)
    assert list(Conversion.objects.filter(may_be_paid=True)) == [other]
