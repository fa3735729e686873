"""The payout by a function of the host's: ``AFFILIATE_PAYOUT``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.checks import run_checks
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import timeline
from affiliations.admin.base import PAYOUT_FUNCTION
from affiliations.conversions import adjustments, by_reference, decisions, payouts, settlements
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Callback, Conversion, Subscription
from affiliations.partner_pages import serializers
from affiliations.signals import conversion_decided
from affiliations.tracking import binding
from affiliations.triggers import complete_trigger
from tests.arrivals import commit, referred, request_of
from tests.factories import ConversionFactory, SubscriptionFactory
from tests.test_adjustments import (
    APPROVED,
    EDITED,
    FIXED,
    NONE,
    ORDER_PLACED,
    PAID,
    PENDING,
    PERCENT,
    REFUNDED,
    adjusted,
    edit,
    now,
    ordered,
    pay,
)
from tests.test_admin import shown, url
from tests.test_admin_review_queue import QUEUE, choices, save
from tests.test_admin_settlements import address, seen
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

Rule = Callable[[Subscription, Any, "Decimal | None", str], object]

#: The function of a test, and what it was called with.
rules: list[Rule] = []
calls: list[tuple[object, ...]] = []


def payout(
    subscription: Subscription, instance: object, amount: Decimal | None, currency: str
) -> object:
    """Be the function of the settings."""
    calls.append((subscription, instance, amount, currency))
    return rules[-1](subscription, instance, amount, currency)


async def payout_later(*args: object) -> None:
    """Be a function that nothing awaits."""


def broken_query(*args: object) -> object:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")
    raise AssertionError("a database that finds something there")


def ending(*args: object) -> object:
    """End the host's transaction, as a deadlock of MariaDB does."""
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
    raise ZeroDivisionError("a deadlock")


@pytest.fixture(autouse=True)
def wired(wire: Any, settings: Any) -> None:
    wire([ORDER_PLACED, PAID, EDITED, REFUNDED])
    settings.AFFILIATE_PAYOUT = "tests.test_custom_payouts.payout"
    calls.clear()


def paying(returned: object, **options: Any) -> tuple[Order, Conversion]:
    """Let a new visitor place an order for which the function returns this."""
    rules.append(lambda *args: returned)
    return ordered(**{"rule": NONE} | options)


def paid(conversion: Conversion) -> tuple[Any, ...]:
    conversion.refresh_from_db()
    return (conversion.payout_type, conversion.payout, conversion.payout_currency)


class TestWhatItReturns:
    @pytest.mark.parametrize(
        ("returned", "amount", "currency"),
        [
            (Decimal("7.50"), "7.50", "EUR"),
            (Decimal("7.505"), "7.51", "EUR"),
            (Decimal("0"), "0", "EUR"),
            (Decimal("-0.0"), "0", "EUR"),
            (7, "7", "EUR"),
            ((Decimal("7.50"), "USD"), "7.50", "USD"),
            ((Decimal("7.50"), " usd"), "7.50", "USD"),
            ((Decimal("7.5"), "JPY"), "8", "JPY"),
            (Decimal("1E-999999"), "0", "EUR"),
            (Decimal(10**14 - 1), str(10**14 - 1), "EUR"),
        ],
        ids=str,
    )
    def test_is_the_payout(self, returned: object, amount: str, currency: str) -> None:
        _, conversion = paying(returned, approval="automatic")
        assert paid(conversion) == ("custom", Decimal(amount), currency)
        assert (conversion.status, conversion.payout_value) == (APPROVED, None)

    def test_has_no_minus_before_a_zero_in_a_callback(self) -> None:
        url = "https://partner.example/cb?v={visitor_id}&p={payout}"
        paying(Decimal("-0.0"), callback_url=url)
        assert Callback.objects.get().url.endswith("&p=0.00")

    @pytest.mark.parametrize("rule", [NONE, FIXED, PERCENT])
    def test_if_it_is_nothing_is_left_to_the_subscription(self, rule: Any) -> None:
        _, conversion = paying(None, rule=rule)
        expected = ("none", None, "") if rule is NONE else (rule["payout_type"], 10, "EUR")
        assert paid(conversion) == expected
        assert conversion.payout_value == rule.get("payout_value")

    @pytest.mark.parametrize(
        ("returned", "problem"),
        [
            ("7.50", payouts.NOT_A_DECIMAL),
            (7.5, payouts.NOT_A_DECIMAL),
            (True, payouts.NOT_A_DECIMAL),
            (False, payouts.NOT_A_DECIMAL),
            (b"7", payouts.NOT_A_DECIMAL),
            ([Decimal(7), "EUR"], payouts.NOT_A_DECIMAL),
            (10**40, payouts.NOT_FINITE),
            (("7.50", "EUR"), payouts.NOT_A_DECIMAL),
            ((None, "EUR"), payouts.NOT_A_DECIMAL),
            ((), payouts.NOT_A_PAIR),
            ((Decimal(7),), payouts.NOT_A_PAIR),
            ((Decimal(7), None), payouts.NOT_A_PAIR),
            ((Decimal(7), "EUR", "of 10"), payouts.NOT_A_PAIR),
            ((Decimal(7), b"EUR"), payouts.NOT_A_PAIR),
            (Decimal("NaN"), payouts.NOT_FINITE),
            (Decimal("sNaN"), payouts.NOT_FINITE),
            (Decimal("Infinity"), payouts.NOT_FINITE),
            (Decimal("-Infinity"), payouts.NOT_FINITE),
            (Decimal(10**14), payouts.NOT_FINITE),
            (-Decimal(10**14), payouts.NOT_FINITE),
            (Decimal("99999999999999.999"), payouts.NOT_FINITE),
            (Decimal("1E999999"), payouts.NOT_FINITE),
            (Decimal("-0.001"), payouts.NEGATIVE),
            (-7, payouts.NEGATIVE),
            ((Decimal(7), "XXX"), payouts.UNKNOWN_CURRENCY),
            ((Decimal(7), ""), payouts.UNKNOWN_CURRENCY),
            ((Decimal(7), "€" * 10_000), payouts.UNKNOWN_CURRENCY),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_if_it_is_no_money_needs_review(
        self, returned: object, problem: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, conversion = paying(returned, rule=PERCENT, approval="automatic")
        assert paid(conversion) == ("custom", None, "")
        assert (conversion.status, conversion.reason) == (PENDING, problem)
        assert (conversion.review_reason, conversion.needs_payout) == ("no_payout", True)
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "AFFILIATE_PAYOUT returned" in record.getMessage()
        assert problem in record.getMessage()
        assert len(record.getMessage()) < 400

    def test_needs_a_currency_which_the_order_may_not_have(self) -> None:
        rules.append(lambda *args: Decimal(7))
        visitor = referred(counting="every", closes_referral=False)
        conversion = complete_trigger(None, "Order placed", visitor=visitor, reference="1")
        assert conversion is not None
        assert (conversion.payout, conversion.reason) == (None, payouts.NO_CURRENCY)
        rules.append(lambda *args: (Decimal(7), "EUR"))
        conversion = complete_trigger(None, "Order placed", visitor=visitor, reference="2")
        assert conversion is not None
        assert (conversion.payout, conversion.status) == (7, APPROVED)


class TestWhatItGets:
    def test_is_the_subscription_the_object_the_amount_and_the_currency(self) -> None:
        order, conversion = paying(Decimal(7), currency="eur")
        [(subscription, instance, amount, currency)] = calls
        assert (subscription, instance) == (conversion.subscription, order)
        assert (repr(amount), currency) == ("Decimal('100.0000')", "EUR")

    def test_knows_the_partner_without_a_query(self, django_assert_num_queries: Any) -> None:
        def rule(subscription: Subscription, *args: object) -> Decimal:
            with django_assert_num_queries(0):
                assert subscription.partner.name
            return Decimal(7)

        rules.append(rule)
        assert paid(ordered()[1])[1] == 7

    @pytest.mark.parametrize(("total", "currency"), [("-5", "EUR"), ("5", "XXX")])
    def test_is_no_amount_if_that_is_not_valid(self, total: str, currency: str) -> None:
        _, conversion = paying((Decimal(7), "EUR"), total=Decimal(total), currency=currency)
        assert calls[0][2] is None
        assert (conversion.payout, conversion.review_reason) == (7, "no_amount")
        assert conversion.depends_on_amount == (total == "5")

    def test_is_the_stored_object_once_its_amount_is_known(self) -> None:
        rules.append(lambda _, order, amount, currency: amount / 10)
        visitor = referred(counting="every", approval="automatic", call_on_approval=True)
        with binding.binding(request_of(visitor)):
            order = Order.objects.create(total=0, currency="EUR")
        conversion = Conversion.objects.get()
        assert calls == []
        assert (conversion.status, conversion.review_reason) == (PENDING, "no_amount")
        Order.objects.filter(pk=order.pk).update(total=80, note="with its lines")
        commit()
        [(_, instance, amount, _)] = calls
        assert (instance, amount) == (order, 80)
        assert instance is not order
        assert paid(conversion) == ("custom", 8, "EUR")
        assert (conversion.status, conversion.review_reason) == (APPROVED, "")
        assert Callback.objects.filter(event="approval").exists()

    def test_is_the_rule_of_the_subscription_once_the_amount_is_known(self) -> None:
        rules.append(lambda *args: None)
        visitor = referred(counting="every", **PERCENT)
        with binding.binding(request_of(visitor)):
            order = Order.objects.create(total=0, currency="EUR")
        Order.objects.filter(pk=order.pk).update(total=80)
        commit()
        conversion = Conversion.objects.get()
        assert paid(conversion) == ("percent", 8, "EUR")
        assert conversion.payout_value == 10

    def test_is_no_object_where_there_is_none(self) -> None:
        """Of a trigger that is tried again by the sweep, and of what staff credit."""
        rules.append(lambda _, order, *rest: order.total / 10)
        visitor = referred(counting="every")
        conversion = complete_trigger(
            None, "Order placed", visitor=visitor, reference="1", amount=5, currency="EUR"
        )
        assert conversion is not None
        assert (calls[0][1], conversion.reason) == (None, payouts.FAILED)

    def test_is_asked_of_a_test_too(self) -> None:
        rules.append(lambda *args: Decimal(7))
        visitor = referred(counting="every")
        visitor.is_test = True
        visitor.save()
        with binding.binding(request_of(visitor)):
            Order.objects.create(total=100, currency="EUR")
        assert Conversion.objects.get().payout == 7


class TestAFunctionThatFails:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("atomic", [True, False])
    @pytest.mark.parametrize("rule", [lambda *args: 1 / 0, broken_query], ids=["error", "query"])
    def test_loses_nothing(
        self, rule: Rule, atomic: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        rules.append(rule)
        visitor = referred(**PERCENT)
        if atomic:
            with transaction.atomic():
                order = Order.objects.create(note="the host's work")
                complete_trigger(
                    None, "Order placed", visitor=visitor, instance=order, amount=5, currency="EUR"
                )
        else:
            order = Order.objects.create(note="the host's work")
            complete_trigger(
                None, "Order placed", visitor=visitor, instance=order, amount=5, currency="EUR"
            )
        conversion = Conversion.objects.get()
        assert (conversion.status, conversion.reason) == (PENDING, payouts.FAILED)
        assert paid(conversion) == ("custom", None, "")
        assert Order.objects.exists()
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.exc_info
        assert record.getMessage() == (
            "AFFILIATE_PAYOUT could not calculate the payout of trigger “Order placed”."
        )

    def test_or_returns_what_cannot_be_shown_loses_nothing(self) -> None:
        class Hidden:
            def __repr__(self) -> str:
                raise ZeroDivisionError

        _, conversion = paying(Hidden())
        assert (conversion.payout, conversion.reason) == (None, payouts.FAILED)

    def test_or_is_not_there_loses_nothing(self, settings: Any) -> None:
        settings.AFFILIATE_PAYOUT = "tests.nowhere.at_all"
        assert paid(ordered(PERCENT)[1]) == ("custom", None, "")

    @pytest.mark.django_db(transaction=True)
    def test_with_the_hosts_transaction_is_not_hushed_up(self) -> None:
        rules.append(ending)
        visitor = referred()

        def host() -> None:
            with transaction.atomic():
                Order.objects.create(note="the host's work")
                complete_trigger(None, "Order placed", visitor=visitor)

        with pytest.raises(ZeroDivisionError):
            host()
        assert not Order.objects.exists()
        assert not Conversion.objects.exists()

    def test_is_named_after_the_screening_and_still_needs_a_payout(self, settings: Any) -> None:
        settings.AFFILIATE_SCREEN = "tests.test_adjustments.suspicious"
        _, conversion = paying("nonsense")
        assert (conversion.review_reason, conversion.reason) == ("screened", "Suspicious")
        assert conversion.needs_payout

    def test_is_no_conversion_that_a_signal_approves(self) -> None:
        order, conversion = paying("nonsense")
        pay(order)
        assert now(conversion) == (PENDING, 100, None)
        with pytest.raises(NotCredited) as caught:
            by_reference.decide("Order placed", conversion.reference, APPROVED)
        assert caught.value.reason is Reason.NO_PAYOUT


class TestWithoutAFunction:
    def test_nothing_is_queried_in_addition(self, settings: Any) -> None:
        def queries(path: str | None) -> int:
            settings.AFFILIATE_PAYOUT = path
            with CaptureQueriesContext(connection) as captured, transaction.atomic():
                ordered(PERCENT)
            return len([row for row in captured if "SAVEPOINT" not in row["sql"]])

        rules.append(lambda *args: Decimal(7))
        assert queries(None) == queries("tests.test_custom_payouts.payout")

    def test_the_type_is_not_offered_and_not_valid_for_a_subscription(self) -> None:
        assert Conversion.CUSTOM not in Subscription.PayoutType.values
        with pytest.raises(ValidationError, match="custom"):
            SubscriptionFactory(payout_type=Conversion.CUSTOM).full_clean()


class TestItsAdjustment:
    def test_is_in_proportion(self) -> None:
        order, conversion = paying(Decimal("7.00"))
        edit(order, Decimal(50))
        edit(order, Decimal(50))
        assert now(conversion) == (PENDING, 50, Decimal("3.50"))
        edit(order, Decimal("33.33"))
        assert now(conversion)[1:] == (Decimal("33.33"), Decimal("2.33"))
        assert adjusted(conversion)[0] == ("adjusted", -50, Decimal("-3.50"))
        assert len(adjusted(conversion)) == 2

    def test_keeps_a_bonus_and_does_not_drop_below_zero(self) -> None:
        order, conversion = paying(Decimal(7))
        adjustments.adjust(conversion, payout=Decimal(5), reason="A bonus")
        edit(order, Decimal(50))
        assert now(conversion)[1:] == (50, Decimal("8.50"))
        adjustments.adjust(conversion, payout=Decimal(-8), reason="A mistake")
        edit(order, Decimal(1))
        assert now(conversion)[1:] == (1, 0)

    def test_follows_the_payout_of_then_and_not_the_function(self) -> None:
        order, conversion = paying(Decimal(7))
        rules.append(lambda *args: Decimal(90))
        Subscription.objects.update(payout_type="percent", payout_value=50)
        edit(order, Decimal(50))
        assert now(conversion)[2] == Decimal("3.50")
        assert len(calls) == 1

    def test_comes_before_the_approval(self) -> None:
        order, conversion = paying(Decimal(7))
        pay(order, Decimal(50))
        assert now(conversion) == (APPROVED, 50, Decimal("3.50"))

    @pytest.mark.parametrize(
        ("total", "currency"), [(0, "EUR"), (None, None), (50, "USD"), (-5, "EUR")]
    )
    @pytest.mark.parametrize("returned", [Decimal(7), (Decimal(7), "USD")], ids=["own", "other"])
    def test_needs_an_amount_that_can_be_compared(
        self, total: Any, currency: Any, returned: object
    ) -> None:
        order, conversion = paying(returned)
        order.total = None
        pay(order, total, currency)
        commit()
        assert now(conversion) == (PENDING, 100, 7)
        conversion.refresh_from_db()
        assert conversion.review_reason == "no_amount"

    @pytest.mark.parametrize("state", ["pending", "waiting", "approved", "settled"])
    def test_of_another_currency_is_left_to_staff(self, state: str) -> None:
        heard: list[str] = []

        def hear(conversion: Conversion, **kwargs: Any) -> None:
            heard.append(conversion.status)

        waits = {"approval": "automatic", "approve_after": 14} if state == "waiting" else {}
        order, conversion = paying((Decimal(7), "USD"), **waits)
        if state in ("approved", "settled"):
            pay(order)
        if state == "settled":
            settlement = settlements.settle(conversion.partner, "USD", timezone.now())
            assert settlement is not None
            assert settlement.total == 7
        commit()
        conversion_decided.connect(hear)
        try:
            edit(order, Decimal(50))
            edit(order, Decimal(50))
            commit()
        finally:
            conversion_decided.disconnect(hear)
        assert now(conversion) == (PENDING, 50, 7)
        assert adjusted(conversion) == [("adjusted", -50, 0)]
        conversion.refresh_from_db()
        assert (conversion.review_reason, conversion.approve_on) == ("no_payout", None)
        assert conversion.reason == conversion.review_text == payouts.NOT_ADJUSTED
        assert (conversion.decided_on, conversion.decided_via) == (None, "")
        assert heard == ([PENDING] if state in ("approved", "settled") else [])
        # The partner is not told of an approval that waits again.
        assert not Callback.objects.filter(event="approval", status="queued").exists()
        # Only staff go on.
        pay(order)
        assert now(conversion)[0] == PENDING
        adjustments.adjust(conversion, payout=Decimal("-3.50"), reason="Half came back")
        conversion.refresh_from_db()
        assert decisions.decide(conversion, APPROVED)
        assert now(conversion) == (APPROVED, 50, Decimal("3.50"))
        assert Callback.objects.filter(event="approval", status="queued").count() == 1
        rest = settlements.settle(conversion.partner, "USD", timezone.now())
        assert rest is not None
        assert rest.total == Decimal("-3.50" if state == "settled" else "3.50")

    def test_of_another_currency_is_left_to_staff_at_the_approval(self) -> None:
        order, conversion = paying((Decimal(7), "USD"))
        pay(order, Decimal(50))
        assert now(conversion) == (PENDING, 50, 7)
        conversion.refresh_from_db()
        assert conversion.review_reason == "no_payout"
        assert not Callback.objects.filter(event="approval").exists()

    def test_of_another_currency_is_not_needed_if_nothing_is_paid(self) -> None:
        order, conversion = paying((Decimal(0), "USD"))
        pay(order, Decimal(50))
        assert now(conversion) == (APPROVED, 50, 0)

    def test_of_a_payout_that_is_missing_waits_for_it(self) -> None:
        order, conversion = paying("nonsense")
        edit(order, Decimal(50))
        assert now(conversion) == (PENDING, 50, None)
        assert conversion.needs_payout

    def test_of_an_amount_that_is_filled_in_keeps_the_payout(self) -> None:
        _, conversion = paying(Decimal(7), total=0)
        commit()
        assert paid(conversion) == ("custom", 7, "EUR")
        assert conversion.may_get_amount
        assert adjustments.fill_in(conversion, Decimal(80), "EUR")
        assert now(conversion) == (PENDING, 80, 7)
        edit(Order.objects.get(), Decimal(40))
        assert now(conversion)[1:] == (40, Decimal("3.50"))


class TestInTheAdmin:
    def test_the_missing_payout_is_entered_at_the_approval(self, staff: Client) -> None:
        _, conversion = paying("nonsense")
        page = staff.get(address(conversion, "approve"))
        assert "This site could not calculate the payout." in shown(page)
        assert "enter_amount" not in staff.get(url(conversion)).text
        answer = staff.post(
            address(conversion, "approve"),
            seen(page, amount="7.505", currency="EUR", reason="") | {"confirmed": "yes"},
        )
        assert "Enter fewer decimals" in shown(answer)
        page = staff.post(
            address(conversion, "approve"),
            seen(page, amount="7.50", currency="usd", reason="By telephone"),
            follow=True,
        )
        assert now(conversion) == (APPROVED, 100, Decimal("7.50"))
        assert paid(conversion) == ("custom", Decimal("7.50"), "USD")
        texts = [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")]
        assert "The payout is 7.50\xa0USD, entered manually. By telephone" in texts

    @pytest.mark.parametrize(("amount", "is_done"), [("", False), ("0", True), ("7.50", True)])
    def test_the_missing_payout_is_entered_in_the_queue(
        self, staff: Client, amount: str, is_done: bool
    ) -> None:
        _, conversion = paying("nonsense")
        chosen = choices(conversion, decision="approve", amount=amount, currency="EUR")
        page = save(staff, staff.get(QUEUE), chosen)
        if is_done:
            assert now(conversion) == (APPROVED, 100, Decimal(amount))
            texts = [entry.get_change_message() for entry in LogEntry.objects.all()]
            assert any("entered manually" in text for text in texts)
        else:
            assert "Enter the payout. This site could not calculate it." in shown(page)
            assert now(conversion)[0] == PENDING

    def test_a_payout_is_filled_in_once_and_only_while_it_is_pending(self) -> None:
        _, conversion = paying("nonsense")
        stale = Conversion.objects.get()
        assert adjustments.fill_in(conversion, Decimal(7), "EUR")
        assert not adjustments.fill_in(stale, Decimal(9), "EUR")
        assert now(conversion)[2] == 7
        with pytest.raises(ValidationError):
            adjustments.fill_in(conversion, Decimal(-1), "EUR")

    def test_a_missing_payout_is_entered_if_a_rejected_conversion_is_approved(
        self, staff: Client
    ) -> None:
        _, conversion = paying("nonsense")
        assert decisions.decide(conversion, "rejected")
        page = staff.get(address(conversion, "approve"))
        form = seen(page, amount="7.50", currency="EUR", reason="")
        staff.post(address(conversion, "approve"), form)
        assert now(conversion) == (APPROVED, 100, Decimal("7.50"))

    def test_many_are_not_approved_without_their_payout(self, staff: Client) -> None:
        _, conversion = paying("nonsense")
        page = staff.post(
            url(Conversion), {"action": "approve_selected", "_selected_action": [conversion.pk]}
        )
        assert "1 conversion needs review and is left out:" in shown(page)

    def test_the_payout_follows_the_amount_that_staff_enter(self, staff: Client) -> None:
        _, conversion = paying(Decimal(7))
        page = staff.get(address(conversion, "adjust"))
        assert "The payout changes in proportion to the amount." in shown(page)
        form = seen(page, amount="150", reason="More", confirmed="yes")
        staff.post(address(conversion, "adjust"), form)
        assert now(conversion)[1:] == (150, Decimal("10.50"))

    def test_a_payout_in_another_currency_is_entered_too(self, staff: Client) -> None:
        _, conversion = paying((Decimal(7), "USD"))
        page = staff.get(address(conversion, "adjust"))
        form = seen(page, amount="50", reason="Half came back", confirmed="yes")
        answer = shown(staff.post(address(conversion, "adjust"), form))
        assert answer.count(str(adjustments.PAYOUT_TOO)) == 2
        assert now(conversion)[1:] == (100, 7)
        staff.post(address(conversion, "adjust"), form | {"payout": "3.50"})
        assert now(conversion)[1:] == (50, Decimal("3.50"))

    def test_a_payout_in_another_currency_is_no_line_of_a_list(self, staff: Client) -> None:
        _, conversion = paying((Decimal(7), "USD"))
        page = staff.post(
            "/admin/affiliations/conversion/adjust-list/",
            {"text": f"{conversion.reference}, 50", "reason": "Came back"},
        )
        assert "has a payout in another currency, calculated by this site." in shown(page)

    def test_the_rule_is_named_and_no_amount_shown_to_the_partner(self, staff: Client) -> None:
        order, conversion = paying(Decimal(7))
        edit(order, Decimal(50))
        assert "Calculated by this site" in shown(staff.get(url(conversion)))
        [story] = timeline.build([conversion.visitor_id])
        texts = " ".join(entry.text for entry in story.entries)
        assert "The payout is 7.00\xa0EUR, calculated by this site." in texts
        row = serializers.conversion_row(Conversion.objects.get())
        assert (row.amount, row.currency, row.payout) == (None, "", Decimal("3.50"))

    def test_a_missing_payout_is_named_in_the_timeline(self) -> None:
        _, conversion = paying("nonsense")
        [story] = timeline.build([conversion.visitor_id])
        texts = " ".join(entry.text for entry in story.entries)
        assert "The payout could not be calculated." in texts

    @pytest.mark.parametrize("is_set", [True, False])
    def test_forms_say_that_the_payout_may_be_another(
        self, staff: Client, is_set: bool, settings: Any
    ) -> None:
        if not is_set:
            settings.AFFILIATE_PAYOUT = None
        subscription = SubscriptionFactory()
        bulk = {"action": "edit_selected", "_selected_action": [subscription.pk]}
        pages = [
            staff.get(url(subscription)),
            staff.get(address(subscription.partner, "deal")),
            staff.post(url(Subscription), bulk),
        ]
        assert {str(PAYOUT_FUNCTION) in shown(page) for page in pages} == {is_set}
        page = staff.get(address(subscription.partner, "credit"))
        assert ("If it cannot do so without the order" in shown(page)) == is_set

    def test_a_manual_credit_is_asked_of_the_function(self, staff: Client) -> None:
        rules.append(lambda _, order, amount, currency: amount / 5)
        partner = SubscriptionFactory(trigger="Order placed", payout_type="none").partner
        fields = {"trigger": "Order placed", "amount": "50", "currency": "EUR"}
        page = staff.get(address(partner, "credit"))
        staff.post(address(partner, "credit"), seen(page, **fields, reason="By telephone"))
        conversion = Conversion.objects.get()
        assert paid(conversion) == ("custom", 10, "EUR")
        assert calls[0][1] is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("tests.nowhere.at_all", "cannot be imported"),
        ("tests.test_custom_payouts.rules", "cannot be called"),
        ("tests.test_custom_payouts.payout_later", "is async"),
        (payout, "must be the dotted path of a function, or None"),
    ],
)
def test_a_check_tells_what_is_no_function(path: Any, problem: str, settings: Any) -> None:
    settings.AFFILIATE_PAYOUT = path
    [error] = [error for error in run_checks(tags=["affiliations"]) if "PAYOUT" in error.msg]
    assert problem in error.msg


def test_a_conversion_of_no_function_has_no_custom_payout() -> None:
    assert not ConversionFactory().is_custom
