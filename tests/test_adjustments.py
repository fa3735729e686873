"""What an order amounts to after it was counted, and what its partner is paid then."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.utils import timezone

from affiliations import timeline
from affiliations.callbacks import outbox
from affiliations.conversions import adjustments, decisions, payouts, recording, settlements, unpaid
from affiliations.models import (
    Adjustment,
    Callback,
    Conversion,
    FollowedTestLink,
    Settlement,
    Subscription,
)
from affiliations.signals import trigger_not_credited
from affiliations.tracking import binding
from affiliations.triggers import (
    adjust_conversions,
    approve_conversions,
    complete_trigger,
    object_created,
    object_saved,
    reject_conversions,
)
from tests.arrivals import commit, referred, request_of
from tests.factories import ConversionFactory, SubscriptionFactory, UserFactory
from tests.testapp.models import Newsletter, Order

pytestmark = pytest.mark.django_db

Status = Conversion.Status
PENDING, APPROVED, REJECTED = Status.PENDING, Status.APPROVED, Status.REJECTED

order_paid, order_edited, order_refunded = Signal(), Signal(), Signal()

AMOUNT = {"amount": "total", "currency": "currency"}
ORDER_PLACED = ("Order placed", post_save, object_created, Order, AMOUNT)
PAID = ("Order paid", order_paid, approve_conversions, Order, {"of": "Order placed"})
EDITED = (
    "Order edited",
    order_edited,
    adjust_conversions,
    Order,
    {"of": "Order placed", "new_amount": "total", "currency": "currency"},
)
REFUNDED = ("Order refunded", order_refunded, reject_conversions, Order, {"of": "Order placed"})

PERCENT = {"payout_type": "percent", "payout_value": Decimal(10)}
FIXED = {"payout_type": "fixed", "payout_value": Decimal(10), "payout_currency": "EUR"}
NONE: dict[str, Any] = {}
CALLBACK = "https://partner.example/cb?v={visitor_id}&a={amount}&p={payout}&s={status}"


@pytest.fixture(autouse=True)
def wired(wire: Any) -> None:
    """Count orders, and decide and adjust by signals of the host's."""
    wire([ORDER_PLACED, PAID, EDITED, REFUNDED])


@pytest.fixture
def reasons() -> Any:
    """Return the triggers that had no effect, and why, as far as they are known by now."""
    heard: list[tuple[str, str]] = []

    def hear(trigger: str, reason: Any, **kwargs: Any) -> None:
        heard.append((trigger, reason.value))

    def known() -> list[tuple[str, str]]:
        commit()
        return heard

    trigger_not_credited.connect(hear)
    yield known
    trigger_not_credited.disconnect(hear)


def ordered(
    rule: dict[str, Any] = PERCENT,
    total: Any = Decimal(100),
    currency: str = "EUR",
    **subscription: Any,
) -> tuple[Order, Conversion]:
    """Let a new visitor place an order that is counted."""
    options = {"approval": "manual", "counting": "every", "closes_referral": False}
    visitor = referred(**options | {"call_on_approval": True} | rule | subscription)
    with binding.binding(request_of(visitor)):
        order = Order.objects.create(total=total, currency=currency)
    return order, Conversion.objects.latest("pk")


def pay(order: Order, total: Any = None, currency: str | None = None) -> None:
    """Report the payment of an order, which may have been edited."""
    send(order_paid, order, total, currency)


def edit(order: Order, total: Any = None, currency: str | None = None) -> None:
    """Report what an order amounts to now."""
    send(order_edited, order, total, currency)


def send(signal: Signal, order: Order, total: Any, currency: str | None) -> None:
    order.total = order.total if total is None else total
    order.currency = order.currency if currency is None else currency
    signal.send(sender=Order, instance=order)


def now(conversion: Conversion) -> tuple[str, Decimal | None, Decimal | None]:
    """Return the status, the amount and the payout as they are now."""
    conversion = Conversion.objects.get(pk=conversion.pk)
    return conversion.status, conversion.current_amount, conversion.current_payout


def adjusted(conversion: Conversion) -> list[tuple[str, Decimal | None, Decimal]]:
    rows = conversion.adjustments.order_by("pk")
    return list(rows.values_list("kind", "amount", "payout"))


def settle(conversion: Conversion) -> Settlement | None:
    return settlements.settle(conversion.partner, "EUR", timezone.now())


def earned(conversion: Conversion) -> Decimal:
    """Return the sum of all statements, once all is settled."""
    settle(conversion)
    return sum((row.total for row in conversion.partner.settlements.all()), Decimal(0))


class TestAnApprovalBySignal:
    def test_of_an_order_that_was_edited_down_pays_for_what_is_left(self) -> None:
        order, conversion = ordered(total=Decimal(10000))
        pay(order, Decimal(1))
        assert now(conversion) == (APPROVED, 1, Decimal("0.10"))
        assert adjusted(conversion) == [("adjusted", -9999, Decimal("-999.90"))]
        assert earned(conversion) == Decimal("0.10")

    def test_tells_the_partner_the_payout_after_the_adjustment(self) -> None:
        order, _ = ordered(callback_url=CALLBACK)
        pay(order, Decimal(60))
        urls = dict(Callback.objects.values_list("event", "url"))
        assert urls["conversion"].endswith("&a=100.00&p=10.00&s=pending")
        assert urls["approval"].endswith("&a=60.00&p=6.00&s=approved")
        commit()
        again = outbox.resend_anew(Callback.objects.get(event="conversion"))
        assert again is not None
        assert again.url.endswith("&a=60.00&p=6.00&s=approved")

    def test_of_an_order_that_was_edited_up_pays_for_what_was_counted_and_says_so(self) -> None:
        order, conversion = ordered()
        pay(order, Decimal(150))
        assert now(conversion) == (APPROVED, 100, 10)
        assert adjusted(conversion) == []
        [story] = timeline.build([conversion.visitor_id])
        assert any("The order amount was higher" in entry.text for entry in story.entries)

    def test_of_an_order_without_an_amount_pays_a_fixed_payout(self) -> None:
        order, conversion = ordered(FIXED, total=None, currency="")
        pay(order)
        assert now(conversion) == (APPROVED, None, 10)

    def test_of_an_order_as_it_was_counted_says_nothing(self) -> None:
        order, conversion = ordered()
        pay(order)
        assert now(conversion) == (APPROVED, 100, 10)
        conversion.refresh_from_db()
        assert (conversion.reason, conversion.adjustments.count()) == ("", 0)

    @pytest.mark.parametrize(
        ("edited", "why"),
        [
            ({"total": ""}, "The amount is not a valid number."),
            ({"total": 0}, payouts.NO_AMOUNT),
            ({"total": -1}, "The amount is negative."),
            ({"currency": "USD"}, decisions.OTHER_CURRENCY),
            ({"total": 1, "currency": "USD"}, decisions.OTHER_CURRENCY),
            ({"currency": ""}, "The currency of the amount is missing or unknown."),
        ],
        ids=str,
    )
    def test_of_what_cannot_be_compared_is_left_to_staff(
        self, edited: dict[str, Any], why: str, reasons: Any
    ) -> None:
        order, conversion = ordered(approval="automatic", approve_after=1)
        pay(order, **edited)
        assert now(conversion) == (PENDING, 100, 10)
        conversion.refresh_from_db()
        assert (conversion.review_reason, conversion.review_text) == ("no_amount", why)
        assert reasons() == [("Order paid", "no_amount")]
        # Neither the hold period nor another payment approves it.
        assert decisions.approve_due(timezone.now() + timedelta(days=2)) == 0
        pay(order, 100, "EUR")
        assert now(conversion)[0] == PENDING

    def test_of_an_order_without_an_amount_now_is_left_to_staff(self) -> None:
        order, conversion = ordered()
        order.total = None
        order_paid.send(sender=Order, instance=order)
        assert now(conversion) == (PENDING, 100, 10)

    @pytest.mark.parametrize(("rule", "payout"), [(FIXED, 10), (NONE, None)])
    def test_of_a_lower_amount_that_no_payout_depends_on_keeps_the_amount(
        self, rule: dict[str, Any], payout: Any
    ) -> None:
        order, conversion = ordered(rule)
        pay(order, Decimal(60))
        assert now(conversion) == (APPROVED, 60, payout)
        assert adjusted(conversion) == [("adjusted", -40, 0)]

    @pytest.mark.parametrize(
        "edited", [{"total": ""}, {"currency": "USD"}, {"total": 150}], ids=str
    )
    def test_is_given_whatever_the_amount_if_no_payout_depends_on_it(
        self, edited: dict[str, Any]
    ) -> None:
        order, conversion = ordered(FIXED)
        pay(order, **edited)
        assert now(conversion) == (APPROVED, 100, 10)

    def test_by_another_kind_of_object_compares_nothing(self, wire: Any) -> None:
        """Newsletters have no total; their own amount would be another's."""
        newsletter_read = Signal()
        options = {"of": "Order placed", "reference": lambda letter: letter.email}
        placed = (*ORDER_PLACED[:4], AMOUNT | {"reference": "note"})
        wire([placed, ("Read", newsletter_read, approve_conversions, Newsletter, options)])
        visitor = referred(approval="manual", counting="every", **PERCENT)
        with binding.binding(request_of(visitor)):
            Order.objects.create(note="A1", total=100, currency="EUR")
        letter = Newsletter(email="A1")
        letter.total, letter.currency = Decimal(1), "EUR"  # type: ignore[attr-defined]
        newsletter_read.send(sender=Newsletter, instance=letter)
        assert now(Conversion.objects.get()) == (APPROVED, 100, 10)

    @pytest.mark.parametrize("sender", ["testapp.Order", "tests.testapp.models.Order"])
    def test_knows_the_kind_of_object_however_the_sender_is_written(
        self, wire: Any, sender: str
    ) -> None:
        wire([(*ORDER_PLACED[:3], sender, AMOUNT), PAID])
        order, conversion = ordered()
        pay(order, Decimal(60))
        assert now(conversion) == (APPROVED, 60, 6)

    def test_without_an_amount_among_the_options_compares_nothing(self, wire: Any) -> None:
        wire([ORDER_PLACED[:4], PAID])
        visitor = referred(approval="manual", counting="every", **PERCENT)
        order = Order.objects.create(total=1, currency="EUR")
        reference = f"testapp.order:{order.pk}"
        complete_trigger(
            None, "Order placed", visitor=visitor, reference=reference, amount=100, currency="EUR"
        )
        order_paid.send(sender=Order, instance=order)
        assert now(Conversion.objects.get()) == (APPROVED, 100, 10)

    def test_after_a_partial_return_pays_for_what_was_kept(self) -> None:
        order, conversion = ordered()
        edit(order, Decimal(60))
        pay(order, Decimal(100))  # Its total was not changed by the return.
        assert now(conversion) == (APPROVED, 60, 6)

    def test_twice_is_one(self, reasons: Any) -> None:
        order, conversion = ordered()
        pay(order, Decimal(60))
        pay(order, Decimal(50))
        assert now(conversion) == (APPROVED, 60, 6)
        assert reasons() == [("Order paid", "already_counted")]

    @pytest.mark.parametrize("state", ["pending", "settled"])
    def test_after_a_declined_card_compares_the_amount_too(self, wire: Any, state: str) -> None:
        declined = (*REFUNDED[:4], {"of": "Order placed", "may_be_paid": True})
        wire([ORDER_PLACED, PAID, declined])
        order, conversion = in_state(state)
        order_refunded.send(sender=Order, instance=order)
        assert now(conversion)[0] == REJECTED
        pay(order, Decimal(60))
        assert now(conversion) == (APPROVED, 60, 6)
        assert earned(conversion) == 6

    def test_after_a_declined_card_is_left_to_staff_if_it_cannot_be_compared(
        self, wire: Any
    ) -> None:
        declined = (*REFUNDED[:4], {"of": "Order placed", "may_be_paid": True})
        wire([ORDER_PLACED, PAID, declined])
        order, conversion = in_state("settled")
        order_refunded.send(sender=Order, instance=order)
        pay(order, currency="USD")
        assert now(conversion) == (PENDING, 100, 10)
        assert earned(conversion) == 10

    def test_by_the_hold_period_compares_nothing(self) -> None:
        order, conversion = ordered(approval="automatic", approve_after=1)
        Order.objects.filter(pk=order.pk).update(total=1)
        assert decisions.approve_due(timezone.now() + timedelta(days=2)) == 1
        assert now(conversion) == (APPROVED, 100, 10)


def in_state(state: str, rule: dict[str, Any] = PERCENT) -> tuple[Order, Conversion]:
    order, conversion = ordered(rule)
    if state != "pending":
        pay(order)
    if state == "settled":
        assert settle(conversion) is not None
    return order, conversion


STATES = pytest.mark.parametrize("state", ["pending", "approved", "settled"])


class TestAnApprovalByASignalWithoutAModel:
    """Packages send their signals with any sender, and the object under a name of their own."""

    OPTIONS = {"instance": "order", "reference": "pk"}

    @pytest.mark.parametrize(
        ("options", "payout"),
        [({}, "0.10"), ({"reference": "order.pk", "instance": "payment"}, "1000.00")],
        ids=["same object", "another object"],
    )
    def test_compares_the_amount_of_the_same_kind_of_object(
        self, wire: Any, options: dict[str, Any], payout: str
    ) -> None:
        paid = {"of": "Order placed"} | self.OPTIONS | options
        wire(
            [
                ("Order placed", order_edited, object_saved, None, self.OPTIONS | AMOUNT),
                ("Order paid", order_paid, approve_conversions, None, paid),
            ]
        )
        visitor = referred(approval="manual", **PERCENT)
        order = Order.objects.create(total=Decimal(10000), currency="EUR")
        with binding.binding(request_of(visitor)):
            order_edited.send(sender=None, order=order)
        order.total = Decimal(1)
        order_paid.send(sender=None, order=order, payment=SimpleNamespace(order=order, total=2))
        conversion = Conversion.objects.get()
        assert now(conversion)[::2] == (APPROVED, Decimal(payout))


class TestAnAdjustmentBySignal:
    @STATES
    def test_lowers_the_amount_and_the_payout(self, state: str) -> None:
        order, conversion = in_state(state)
        edit(order, Decimal(60))
        status = PENDING if state == "pending" else APPROVED
        assert now(conversion) == (status, 60, 6)
        adjustment = Adjustment.objects.get()
        assert (adjustment.amount, adjustment.payout, adjustment.currency) == (-40, -4, "EUR")
        assert (adjustment.reason, adjustment.created_by) == ("Order edited", None)
        conversion.refresh_from_db()
        assert (conversion.amount, conversion.payout) == (100, 10)
        pay(order)
        assert earned(conversion) == 6

    @STATES
    def test_twice_and_out_of_order_is_the_lowest(self, state: str, reasons: Any) -> None:
        order, conversion = in_state(state)
        for total in (80, 50, 50, 80, 100):
            edit(order, Decimal(total))
        assert now(conversion)[1:] == (50, 5)
        assert [payout for _, _, payout in adjusted(conversion)] == [-2, -3]
        assert reasons() == [("Order edited", "already_counted")] * 3

    @STATES
    def test_of_nothing_left_is_a_rejection(self, state: str) -> None:
        order, conversion = in_state(state)
        edit(order, Decimal(0))
        conversion.refresh_from_db()
        assert (conversion.status, conversion.reason) == (REJECTED, "Order edited")
        assert earned(conversion) == 0
        edit(order, Decimal(60))
        pay(order)
        assert now(conversion)[0] == REJECTED
        assert earned(conversion) == 0

    @pytest.mark.parametrize(
        ("state", "rule", "payout"),
        [("pending", FIXED, 10), ("approved", FIXED, 10), ("settled", FIXED, 10),
         ("pending", NONE, None), ("approved", NONE, None)],
    )  # fmt: skip
    def test_of_what_no_payout_depends_on_changes_the_amount_alone(
        self, state: str, rule: dict[str, Any], payout: Any
    ) -> None:
        order, conversion = in_state(state, rule)
        edit(order, Decimal(60))
        assert now(conversion)[1:] == (60, payout)
        assert adjusted(conversion) == [("adjusted", -40, 0)]
        if state == "settled":
            assert not unpaid.balances(timezone.now(), conversion.partner)

    @STATES
    def test_keeps_what_staff_have_added_and_takes_no_more_than_there_is(self, state: str) -> None:
        order, conversion = in_state(state)
        adjustments.adjust(conversion, payout=Decimal(7), reason="A bonus")
        edit(order, Decimal(60))
        assert now(conversion)[1:] == (60, 13)
        adjustments.adjust(conversion, payout=Decimal(-12), reason="A mistake")
        edit(order, Decimal(10))
        assert now(conversion)[1:] == (10, 0)
        pay(order)
        assert earned(conversion) == 0

    @pytest.mark.parametrize(
        "edited", [{"currency": "USD"}, {"total": -5}, {"total": "x"}, {"currency": "XXX"}], ids=str
    )
    def test_that_cannot_be_compared_changes_nothing_and_logs_an_error(
        self, edited: dict[str, Any], caplog: pytest.LogCaptureFixture, reasons: Any
    ) -> None:
        order, conversion = in_state("approved")
        edit(order, **{"total": 60} | edited)
        assert now(conversion) == (APPROVED, 100, 10)
        [record] = caplog.records
        assert record.levelname == "ERROR"
        assert f"Conversion {conversion.pk} of trigger “Order placed”" in record.getMessage()
        assert reasons() == [("Order edited", "no_amount")]

    def test_without_a_currency_among_the_options_is_in_that_of_the_conversion(
        self, wire: Any
    ) -> None:
        wire([ORDER_PLACED, (*EDITED[:4], {"of": "Order placed", "new_amount": "total"})])
        order, conversion = ordered(currency="USD")
        edit(order, Decimal(60), currency="EUR")
        assert now(conversion) == (PENDING, 60, 6)

    def test_fills_in_no_amount(self, reasons: Any) -> None:
        order, conversion = ordered(total=None)
        commit()
        edit(order, Decimal(60))
        assert now(conversion) == (PENDING, None, None)
        assert reasons() == [("Order edited", "no_amount")]

    def test_of_an_order_that_was_never_counted_changes_nothing(self, reasons: Any) -> None:
        edit(Order.objects.create(total=60, currency="EUR"))
        assert reasons() == [("Order edited", "no_conversion")]

    def test_follows_the_rule_that_the_order_was_counted_by(self) -> None:
        order, conversion = in_state("approved")
        Subscription.objects.update(payout_value=Decimal(50))
        edit(order, Decimal(60))
        assert now(conversion)[1:] == (60, 6)

    def test_is_rounded_with_the_rest_of_the_payout(self) -> None:
        """Ten times a tenth of a cent makes a cent, and never more than the rule pays."""
        order, conversion = ordered(total=Decimal("1.00"))
        for cents in range(95, 0, -5):
            edit(order, Decimal(cents) / 100)
            expected = (Decimal(cents) / 1000).quantize(Decimal("0.01"), "ROUND_HALF_UP")
            assert now(conversion)[2] == expected

    def test_that_has_no_new_amount_in_its_options_stops_the_start(self, wire: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="'new_amount' is missing"):
            wire([ORDER_PLACED, (*EDITED[:4], {"of": "Order placed"})])


class TestAReopenedConversion:
    @STATES
    def test_has_its_adjustments_at_once(self, state: str) -> None:
        order, conversion = in_state(state)
        edit(order, Decimal(60))
        conversion.refresh_from_db()
        assert decisions.decide(conversion, REJECTED)
        assert decisions.decide(conversion, PENDING)
        assert adjustments.current(conversion) == (60, 6)
        assert now(conversion) == (PENDING, 60, 6)
        edit(order, Decimal(50))
        assert now(conversion) == (PENDING, 50, 5)
        assert decisions.decide(conversion, APPROVED)
        assert adjustments.current(conversion) == (50, 5)
        assert earned(conversion) == 5

    def test_is_paid_nothing_while_it_is_pending(self) -> None:
        order, conversion = in_state("settled")
        order_refunded.send(sender=Order, instance=order)
        assert earned(conversion) == 0
        conversion.refresh_from_db()
        assert decisions.decide(conversion, PENDING, reason="Perhaps it was paid")
        edit(order, Decimal(60))
        assert adjustments.current(conversion) == (60, 6)
        assert earned(conversion) == 0
        assert decisions.decide(conversion, APPROVED)
        assert earned(conversion) == 6
        reasons = Adjustment.objects.order_by("pk").values_list("reason", flat=True)
        assert list(reasons) == [
            "Order refunded",
            "Approved again after it was rejected.",
            "Order edited",
        ]

    def test_is_paid_nothing_if_its_partner_is_stopped_then(self) -> None:
        order, conversion = in_state("settled")
        order_refunded.send(sender=Order, instance=order)
        conversion.refresh_from_db()
        assert decisions.decide(conversion, PENDING)
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        assert adjustments.current(conversion) == (0, 0)


class TestAnAdjustmentByStaff:
    @STATES
    def test_raises_and_lowers_in_every_state(self, state: str) -> None:
        order, conversion = in_state(state)
        change = {"payout": Decimal(5), "amount": Decimal(50), "reason": "One more piece"}
        assert adjustments.adjust(conversion, **change)
        assert now(conversion)[1:] == (150, 15)
        assert adjustments.adjust(conversion, payout=Decimal(-3), reason="One came back")
        pay(order, Decimal(150))
        assert now(conversion)[1:] == (150, 12)
        assert earned(conversion) == 12

    def test_may_change_the_amount_alone(self) -> None:
        _, conversion = ordered(NONE)
        assert adjustments.adjust(conversion, amount=Decimal(-40), reason="A part")
        assert now(conversion)[1:] == (60, None)

    @pytest.mark.parametrize(
        "change", [{"payout": Decimal("-2.3456")}, {"amount": Decimal("-33.3333")}], ids=str
    )
    def test_may_round_what_has_more_decimals_than_its_currency(
        self, change: dict[str, Any]
    ) -> None:
        _, conversion = ordered()
        Conversion.objects.update(amount=Decimal("83.3333"), payout=Decimal("12.3456"))
        conversion.refresh_from_db()
        finer = {name: value + Decimal("0.001") for name, value in change.items()}
        with pytest.raises(ValidationError, match="Enter fewer decimals"):
            adjustments.adjust(conversion, reason="A part", **finer)
        assert adjustments.adjust(conversion, reason="A part", **change)
        assert now(conversion)[1] in (50, Decimal("83.3333"))
        assert now(conversion)[2] in (10, Decimal("12.3456"))

    def test_is_of_the_amount_that_was_shown(self) -> None:
        order, conversion = ordered(FIXED)
        edit(order, Decimal(60))
        shown = {"expected": Decimal(10), "expected_amount": Decimal(100)}
        change = {"amount": Decimal(-40), "reason": "A part"}
        assert adjustments.adjust(conversion, **change, **shown) is None
        assert now(conversion)[1:] == (60, 10)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"amount": Decimal(-101)}, "The amount cannot be below zero."),
            ({}, "The payout does not change."),
            ({"payout": Decimal(-11)}, "Only 10.00\\\\xa0EUR of this payout can be taken back."),
        ],
        ids=str,
    )
    def test_says_what_is_wrong(self, change: dict[str, Any], why: str) -> None:
        _, conversion = ordered()
        with pytest.raises(ValidationError, match=why):
            adjustments.adjust(conversion, reason="A part", **change)

    def test_of_an_amount_that_is_missing_says_so(self) -> None:
        _, conversion = ordered(FIXED, total=None)
        with pytest.raises(ValidationError, match="This conversion has no amount"):
            adjustments.adjust(conversion, amount=Decimal(1), reason="A part")


class TestAMissingAmount:
    @pytest.mark.parametrize("total", [None, Decimal(0)])
    def test_is_filled_in_once_by_the_rule_of_then(self, total: Any) -> None:
        _, conversion = ordered(total=total)
        commit()
        conversion.refresh_from_db()
        assert conversion.needs_amount
        Subscription.objects.update(payout_value=Decimal(50))
        assert adjustments.fill_in(conversion, Decimal(80), "EUR")
        assert now(conversion) == (PENDING, 80, 8)
        assert not conversion.may_get_amount
        assert not adjustments.fill_in(conversion, Decimal(90), "EUR")
        assert now(conversion) == (PENDING, 80, 8)

    def test_of_a_fixed_payout_is_filled_in_with_that_payout(self) -> None:
        _, conversion = ordered(FIXED, total=None)
        assert adjustments.fill_in(conversion, Decimal(80), "SEK")
        assert now(conversion) == (PENDING, 80, 10)
        assert conversion.payout_currency == "EUR"

    def test_is_filled_in_only_while_it_is_pending(self) -> None:
        _, conversion = ordered(FIXED, total=None)
        stale = Conversion.objects.get()
        assert decisions.decide(conversion, APPROVED)
        assert not adjustments.fill_in(stale, Decimal(80), "EUR")
        assert now(conversion) == (APPROVED, None, 10)

    def test_of_zero_that_was_adjusted_is_the_amount_that_is_filled_in(self) -> None:
        _, conversion = ordered(total=0)
        adjustments.adjust(conversion, amount=Decimal(50), reason="By telephone")
        assert adjustments.fill_in(conversion, Decimal(50), "EUR")
        assert now(conversion) == (PENDING, 50, 5)
        assert not adjustments.fill_in(conversion, Decimal(60), "EUR")

    @pytest.mark.parametrize(
        ("amount", "currency", "field"),
        [(Decimal(0), "EUR", "amount"), (Decimal(-1), "EUR", "amount"),
         (Decimal(5), "XXX", "currency"), (Decimal(5), "", "currency")],
    )  # fmt: skip
    def test_is_not_filled_in_with_what_is_none(
        self, amount: Decimal, currency: str, field: str
    ) -> None:
        _, conversion = ordered(total=None)
        with pytest.raises(ValidationError) as caught:
            adjustments.fill_in(conversion, amount, currency)
        assert list(caught.value.message_dict) == [field]

    def test_is_not_adjusted_before_it_is_filled_in(self, reasons: Any) -> None:
        order, conversion = ordered(currency="")
        edit(order, Decimal(40))
        assert reasons() == [("Order edited", "no_amount")]
        conversion.refresh_from_db()
        assert adjustments.fill_in(conversion, Decimal(40), "EUR")
        assert now(conversion)[1:] == (40, 4)
        edit(order, Decimal(20), "EUR")
        assert now(conversion)[1:] == (20, 2)

    def test_of_a_rule_that_cannot_be_used_is_filled_in_without_a_payout(self) -> None:
        _, conversion = ordered(PERCENT | {"payout_value": None}, total=None)
        assert adjustments.fill_in(conversion, Decimal(80), "EUR")
        assert now(conversion) == (PENDING, 80, None)


class TestATotalThatIsSavedLater:
    def place(
        self,
        first: Any,
        total: Any,
        paid: Signal | None = None,
        currency: str = "EUR",
        **subscription: Any,
    ) -> Conversion:
        """Save an order, and then its total, in one transaction; commit."""
        rule = {"payout_type": "percent", "payout_value": Decimal(10), "counting": "every"}
        visitor = referred(**rule | {"callback_url": CALLBACK} | subscription)
        with binding.binding(request_of(visitor)), transaction.atomic():
            order = Order.objects.create(total=first, currency=currency)
            order.total = total
            order.save()
            if paid is not None:
                paid.send(sender=Order, instance=order)
        commit()
        return Conversion.objects.get()

    @pytest.mark.parametrize("first", [None, Decimal(0)])
    def test_is_what_is_paid_and_told(
        self, first: Any, handed_over: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        conversion = self.place(first, Decimal(100), call_on_approval=True)
        assert now(conversion) == (APPROVED, 100, 10)
        assert (conversion.review_reason, conversion.reason) == ("", "")
        assert conversion.decided_on == conversion.created_on
        urls = Callback.objects.order_by("pk").values_list("event", "url")
        assert [(event, url.partition("&")[2]) for event, url in urls] == [
            ("conversion", "a=100.00&p=10.00&s=approved"),
            ("approval", "a=100.00&p=10.00&s=approved"),
        ]
        assert sorted(handed_over) == sorted(Callback.objects.values_list("pk", flat=True))
        assert Callback.objects.due(timezone.now()).count() == 2
        assert not caplog.records

    @pytest.mark.parametrize(
        ("approval", "status"), [({"approval": "manual"}, PENDING), ({"approve_after": 1}, PENDING)]
    )
    def test_waits_as_its_subscription_says(self, approval: dict[str, Any], status: str) -> None:
        conversion = self.place(0, Decimal(100), **approval)
        assert now(conversion) == (status, 100, 10)
        assert not conversion.needs_review
        assert (conversion.approve_on is not None) == ("approve_after" in approval)

    def test_that_is_none_is_left_to_staff_and_told(
        self, handed_over: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        conversion = self.place(0, 0)
        assert now(conversion) == (PENDING, 0, None)
        assert conversion.review_reason == "no_amount"
        [callback] = Callback.objects.due(timezone.now())
        assert handed_over == [callback.pk]
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    def test_changes_the_callbacks_of_its_own_conversion_only(self) -> None:
        own = SubscriptionFactory()
        other = Callback.objects.create(subscription=own, partner=own.partner, url="/other")
        self.place(0, Decimal(100))
        assert Callback.objects.get(pk=other.pk).url == other.url

    def test_that_no_payout_depends_on_is_told_too(self) -> None:
        conversion = self.place(0, Decimal(100), **FIXED | {"call_on_approval": True})
        assert now(conversion) == (APPROVED, 100, 10)
        for url in Callback.objects.values_list("url", flat=True):
            assert "a=100.00&p=10.00" in url

    def test_is_what_a_resend_tells_where_the_site_sent_no_callbacks(self, settings: Any) -> None:
        settings.AFFILIATE_SEND_CALLBACKS = False
        self.place(0, Decimal(100))
        callback = Callback.objects.get()
        assert (callback.status, callback.reason) == ("cancelled", outbox.SENDING_IS_OFF)
        assert "a=100.00&p=10.00" in callback.url

    def test_that_cannot_be_used_takes_the_approval_back_before_it_is_told(self) -> None:
        rule = FIXED | {"call_on_approval": True}
        conversion = self.place(0, Decimal(-1), **rule)
        assert (now(conversion)[0], conversion.review_reason) == (PENDING, "no_amount")
        assert [row.event for row in Callback.objects.all()] == ["conversion"]
        assert decisions.decide(conversion, APPROVED)
        assert [row.event for row in Callback.objects.order_by("pk")] == ["conversion", "approval"]

    def test_and_paid_in_the_same_transaction_is_approved(self, reasons: Any) -> None:
        conversion = self.place(0, Decimal(100), order_paid, approval="manual")
        assert now(conversion) == (APPROVED, 100, 10)
        assert reasons() == []

    def test_and_paid_in_the_same_transaction_is_known_where_no_payout_depends_on_it(self) -> None:
        conversion = self.place(0, Decimal(100), order_paid, **FIXED | {"approval": "manual"})
        assert now(conversion) == (APPROVED, 100, 10)

    @pytest.mark.parametrize("days", [None, 1])
    def test_in_no_currency_needs_review_although_it_was_approved_before(
        self, days: int | None
    ) -> None:
        options = FIXED | {"approve_after": days, "call_on_approval": True}
        conversion = self.place(None, Decimal(100), currency="", **options)
        assert conversion.needs_review
        assert (conversion.approve_on, conversion.decided_on) == (None, None)
        [callback] = Callback.objects.due(timezone.now())
        assert callback.event == "conversion"
        assert "s=pending" in callback.url

    def test_and_refunded_in_the_same_transaction_stays_rejected(self) -> None:
        conversion = self.place(0, Decimal(100), order_refunded)
        assert now(conversion) == (REJECTED, 100, 10)
        assert conversion.review_reason == ""
        assert not Callback.objects.due(timezone.now()).exists()

    def test_does_not_hide_that_the_partner_is_the_buyer(self, settings: Any) -> None:
        settings.AFFILIATE_SCREEN = f"{__name__}.suspicious"
        conversion = self.place(0, Decimal(100))
        assert now(conversion) == (PENDING, 100, 10)
        assert (conversion.review_reason, conversion.reason) == ("screened", "Suspicious")

    def test_that_cannot_be_read_leaves_it_in_review_and_tells_a_minute_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred(**PERCENT, callback_url=CALLBACK)
        with binding.binding(request_of(visitor)):
            Order.objects.create(total=0, currency="EUR")
        # The process dies before the commit is heard of.
        conversion, callback = Conversion.objects.get(), Callback.objects.get()
        assert (conversion.status, conversion.review_reason) == (PENDING, "no_amount")
        assert not Callback.objects.due(timezone.now()).exists()
        assert Callback.objects.due(timezone.now() + timedelta(minutes=1)).get() == callback

    def test_is_not_read_again_if_the_host_has_stated_it(self) -> None:
        visitor = referred(**PERCENT)
        order = Order.objects.create(total=100, currency="EUR")
        complete_trigger(
            None, "Order placed", visitor=visitor, instance=order, amount=0, currency="EUR"
        )
        commit()
        assert now(Conversion.objects.get()) == (PENDING, 0, None)

    def test_of_an_order_that_is_gone_is_missing(self) -> None:
        visitor = referred(**PERCENT)
        with binding.binding(request_of(visitor)):
            order = Order.objects.create(total=0, currency="EUR")
        Order.objects.filter(pk=order.pk).delete()
        commit()
        assert now(Conversion.objects.get())[0] == PENDING


def suspicious(visitor: Any, user: Any, instance: Any) -> str:
    return "Suspicious"


def test_an_adjustment_is_in_the_story_with_its_amount() -> None:
    order, conversion = ordered(FIXED)
    edit(order, Decimal(60))
    adjustments.adjust(conversion, payout=Decimal(1), reason="A bonus", by=UserFactory())
    [story] = timeline.build([conversion.visitor_id])
    texts = [entry.text for entry in story.entries]
    assert any("The amount changed by -40.00\xa0EUR." in text for text in texts)


@pytest.mark.django_db
def test_an_amount_that_does_not_change_is_refused_where_there_is_no_payout() -> None:
    conversion = ConversionFactory(amount=10, currency="EUR")
    with pytest.raises(ValidationError, match="Enter a different amount"):
        adjustments.adjust(conversion, amount=Decimal(0), reason="Nothing")


@pytest.mark.django_db
def test_a_fixture_adjusts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    adjust_conversions(object(), instance=object(), affiliate_trigger_name="Edited", raw=True)
    assert caplog.records == []


@pytest.mark.django_db
def test_an_amount_that_is_there_by_then_is_not_read_again(
    wire: Any, django_capture_on_commit_callbacks: Any
) -> None:
    visitor = referred("Order placed", payout_type="percent", payout_value=10)
    with django_capture_on_commit_callbacks(execute=True):
        conversion = recording.record(
            visitor,
            "Order placed",
            reference="17",
            amount=0,
            currency="EUR",
            read_amount=lambda: (99, "EUR", None),
        )
        Conversion.objects.filter(pk=conversion.pk).update(amount=5)
    assert Conversion.objects.get().amount == 5


@pytest.mark.django_db(transaction=True)
def test_visitors_are_locked_within_a_transaction_only() -> None:
    decisions.lock_visitors(Conversion.objects.all())


@pytest.mark.django_db
def test_a_followed_test_link_is_named_in_a_log() -> None:
    assert str(FollowedTestLink(nonce="ab12", reason="bot")) == "ab12: bot"
