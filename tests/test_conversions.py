from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import connections, transaction
from django.db.models import ProtectedError
from django.db.models.signals import post_save
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from affiliations import amounts
from affiliations.conversions import attempts, decisions, payouts, recording
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import (
    Callback,
    Conversion,
    FailedTrigger,
    Partner,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from affiliations.signals import conversion_recorded, trigger_not_credited
from affiliations.testing import start_referral
from affiliations.tracking import visitors
from affiliations.triggers import object_created
from tests.arrivals import referred
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.testapp.models import Order

User = get_user_model()
pytestmark = pytest.mark.django_db

TRIGGER = "Order placed"


def record(visitor: Visitor, trigger: str = TRIGGER, **stated: Any) -> Conversion:
    """Credit the visitor as they are in the database now."""
    fresh = visitors.find(visitor.pk)
    assert fresh is not None
    return recording.record(fresh, trigger, **stated)


def refusal(visitor: Visitor, trigger: str = TRIGGER, **stated: Any) -> Reason:
    """Try to credit the visitor, and say why nothing was written."""
    before = Visitor.objects.values().get(pk=visitor.pk)
    counted = Conversion.objects.count(), Callback.objects.count()
    with pytest.raises(NotCredited) as caught:
        record(visitor, trigger, **stated)
    assert Visitor.objects.values().get(pk=visitor.pk) == before
    assert (Conversion.objects.count(), Callback.objects.count()) == counted
    return caught.value.reason


# What is written


def test_a_conversion_says_who_did_what_and_when() -> None:
    user = UserFactory()
    visitor = referred()
    before = timezone.now()
    conversion = record(
        visitor, user=user, reference="A-17", amount=Decimal("19.9"), currency="EUR"
    )
    conversion.refresh_from_db()
    assert conversion.visitor == visitor
    assert conversion.partner == visitor.partner
    assert conversion.subscription == visitor.partner.subscriptions.get()
    assert conversion.trigger == TRIGGER
    assert conversion.user == user
    assert conversion.reference == "A-17"
    assert conversion.amount == Decimal("19.9")
    assert conversion.currency == "EUR"
    assert conversion.status == "approved"
    assert before <= conversion.created_on <= timezone.now()


def test_the_visitor_has_succeeded_and_the_referral_is_closed() -> None:
    visitor = referred()
    user = UserFactory()
    conversion = record(visitor, user=user)
    assert conversion.visitor.closed_on == conversion.created_on
    visitor.refresh_from_db()
    assert visitor.successful_on == visitor.closed_on == conversion.created_on
    assert visitor.user == user


def test_the_first_success_and_the_first_user_of_a_visitor_stay() -> None:
    first, second = UserFactory(), UserFactory()
    visitor = referred(counting="every", closes_referral=False)
    conversion = record(visitor, user=first, reference="1")
    assert record(visitor, user=second, reference="2").user == second
    visitor.refresh_from_db()
    assert visitor.user == first
    assert visitor.successful_on == conversion.created_on
    assert visitor.closed_on is None


def test_a_success_without_a_user_leaves_the_visitors_as_it_is() -> None:
    user = UserFactory()
    visitor = referred()
    Visitor.objects.filter(pk=visitor.pk).update(user=user)
    assert record(visitor).user is None
    visitor.refresh_from_db()
    assert visitor.user == user


def test_each_subscription_to_the_trigger_is_called_for_one_conversion() -> None:
    # D25: only one was called, in no defined order.
    visitor = referred(callback_url="https://partner.example/1?v={visitor_id}")
    oldest = visitor.partner.subscriptions.get()
    for number in (2, 3):
        SubscriptionFactory(
            partner=visitor.partner,
            callback_url=f"https://partner.example/{number}?v={{visitor_id}}",
        )
    SubscriptionFactory(partner=visitor.partner, callback_url="")
    SubscriptionFactory(partner=visitor.partner, active=False)
    SubscriptionFactory(partner=visitor.partner, trigger="Another")
    SubscriptionFactory()
    assert record(visitor).subscription == oldest
    urls = Callback.objects.order_by("pk").values_list("url", flat=True)
    assert list(urls) == [
        f"https://partner.example/{number}?v={visitor.pk}" for number in (1, 2, 3)
    ]


def test_a_referral_stays_open_only_if_no_subscription_to_the_trigger_closes_it() -> None:
    visitor = referred(closes_referral=False)
    SubscriptionFactory(partner=visitor.partner, closes_referral=True)
    record(visitor)
    visitor.refresh_from_db()
    assert visitor.closed_on is not None


def test_a_subscription_without_a_url_counts_and_calls_nobody() -> None:
    record(referred(callback_url=""))
    assert Conversion.objects.count() == 1
    assert not Callback.objects.exists()


# What is refused, and why


def test_a_successful_visitor_is_never_called_back_again() -> None:
    # D14
    visitor = referred()
    record(visitor)
    assert refusal(visitor, reference="another order") is Reason.REFERRAL_CLOSED


def test_a_visitor_whom_0_12_saw_succeed_is_never_called_back_again() -> None:
    # D14
    visitor = referred()
    succeeded = timezone.now() - timedelta(days=1)
    Visitor.objects.filter(pk=visitor.pk).update(successful_on=succeeded, closed_on=succeeded)
    assert refusal(visitor) is Reason.REFERRAL_CLOSED


def test_a_success_alone_decides_nothing() -> None:
    visitor = referred()
    Visitor.objects.filter(pk=visitor.pk).update(successful_on=timezone.now())
    assert record(visitor)


def test_a_visitor_who_came_too_long_ago_is_not_counted(settings: Any) -> None:
    visitor = referred()
    came = timezone.now() - timedelta(days=30, seconds=1)
    Visitor.objects.filter(pk=visitor.pk).update(referred_on=came)
    assert refusal(visitor) is Reason.WINDOW_EXPIRED
    settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=31)
    assert record(visitor)


def test_without_a_window_a_visitor_counts_for_ever(settings: Any) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = None
    visitor = referred()
    Visitor.objects.filter(pk=visitor.pk).update(referred_on=timezone.now() - timedelta(days=9999))
    assert record(visitor)


def test_a_partner_without_a_deal_earns_nothing_more() -> None:
    visitor = referred()
    Partner.objects.update(active=False)
    assert refusal(visitor) is Reason.PARTNER_INACTIVE


@pytest.mark.parametrize(
    "subscribed",
    [
        {"trigger": "User registered"},
        {"trigger": "order placed"},
        {"trigger": "Ordér placed"},
        {"active": False},
        {"partner": None},
    ],
)
def test_a_partner_earns_nothing_from_a_trigger_they_do_not_subscribe_to(
    subscribed: dict[str, Any],
) -> None:
    visitor = VisitorFactory()
    other_partner = {} if "partner" in subscribed else {"partner": visitor.partner}
    subscribed.pop("partner", None)
    SubscriptionFactory(**other_partner, **subscribed)
    assert refusal(visitor) is Reason.NOT_SUBSCRIBED


# Exactly once


def test_a_double_submit_is_one_conversion_and_one_callback() -> None:
    # D28; the simultaneous ones are in test_races.py.
    visitor = referred(closes_referral=False)
    record(visitor, reference="17")
    assert refusal(visitor, reference="17") is Reason.ALREADY_COUNTED
    assert refusal(visitor, reference="18") is Reason.ALREADY_COUNTED


def test_an_order_that_another_process_has_just_recorded_is_one_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = referred(closes_referral=False), referred(closes_referral=False)
    screen = recording._screen

    def meanwhile(*arguments: Any) -> str:
        monkeypatch.undo()
        record(other, reference="17")
        return screen(*arguments)

    monkeypatch.setattr(recording, "_screen", meanwhile)
    with pytest.raises(NotCredited) as caught:
        record(one, reference="17")
    assert caught.value.reason is Reason.ALREADY_COUNTED
    assert Conversion.objects.get().visitor == other


def test_counting_every_order_counts_each_once_whoever_it_is_credited_to() -> None:
    one = referred(counting="every", closes_referral=False)
    other = referred(counting="every", closes_referral=False)
    record(one, reference="17")
    assert refusal(one, reference="17") is Reason.ALREADY_COUNTED
    assert refusal(other, reference="17") is Reason.ALREADY_COUNTED
    record(one, reference="18")
    record(other, reference="19")
    assert Conversion.objects.count() == 3


@pytest.mark.parametrize("counting", ["once", "every"])
def test_one_order_is_never_paid_to_two_partners(counting: str) -> None:
    one = referred(counting=counting, closes_referral=False)
    other = referred(counting=counting, closes_referral=False)
    record(one, reference="17")
    assert refusal(other, reference="17") is Reason.ALREADY_COUNTED
    assert record(other, reference="18")


def test_an_order_that_was_counted_is_not_counted_anew_when_the_deal_counts_otherwise() -> None:
    visitor, other = (referred(closes_referral=False) for _ in range(2))
    record(visitor, reference="17")
    record(other, reference="18")
    Subscription.objects.update(counting="every")
    assert refusal(visitor, reference="17") is Reason.ALREADY_COUNTED
    record(visitor, reference="19")
    Subscription.objects.update(counting="once")
    third = referred()
    for reference in ("17", "18", "19"):
        assert refusal(third, reference=reference) is Reason.ALREADY_COUNTED


def test_visitors_who_have_done_something_that_has_no_reference_are_each_counted_once() -> None:
    one, other = referred(closes_referral=False), referred(closes_referral=False)
    record(one)
    record(other)
    assert refusal(one) is refusal(other) is Reason.ALREADY_COUNTED


@pytest.mark.parametrize("counting", ["once", "every"])
@pytest.mark.parametrize(
    ("reference", "other"),
    [("a1", "A1"), ("a", "á"), ("1", "1 "), ("x" * 300, "x" * 299 + "y"), ("ß", "ss")],
)
def test_references_that_a_database_may_take_for_one_are_two(
    reference: str, other: str, counting: str
) -> None:
    for each in (reference, other):
        record(referred(counting=counting), reference=each)
    assert Conversion.objects.count() == 2
    kept = Conversion.objects.order_by("pk").values_list("reference", flat=True)
    assert list(kept) == [reference[:255], other[:255]]


def test_one_order_counts_for_each_trigger() -> None:
    visitor = referred(counting="every", closes_referral=False)
    SubscriptionFactory(
        partner=visitor.partner, trigger="Order paid", counting="every", closes_referral=False
    )
    record(visitor, reference="17")
    record(visitor, "Order paid", reference="17")
    assert Conversion.objects.count() == 2


def test_every_order_cannot_be_counted_where_none_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert refusal(referred(counting="every")) is Reason.NO_REFERENCE
    assert "Give complete_trigger() an instance or a reference." in caplog.text


def test_the_oldest_subscription_says_how_often_one_visitor_counts() -> None:
    visitor = referred(closes_referral=False)
    SubscriptionFactory(partner=visitor.partner, counting="every", closes_referral=False)
    record(visitor, reference="17")
    assert refusal(visitor, reference="18") is Reason.ALREADY_COUNTED


# Money


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Decimal("19.9"), Decimal("19.9")),
        (20, Decimal(20)),
        (0.1, Decimal("0.1")),
        ("-5.00", Decimal(-5)),
        (Decimal("1.23456"), Decimal("1.2346")),
        (Decimal("-99999999999.9999"), Decimal("-99999999999.9999")),
        (None, None),
    ],
)
def test_an_amount_is_kept_as_it_was_given(given: object, kept: Decimal | None) -> None:
    conversion = record(referred(), amount=given)
    assert conversion.amount == kept
    conversion.refresh_from_db()
    assert conversion.amount == kept


@pytest.mark.parametrize(
    "given",
    [
        "ten",
        "1,50",
        "",
        float("nan"),
        "Infinity",
        Decimal("sNaN"),
        10**14,
        -(10**14),
        Decimal("99999999999999.99996"),
        Decimal("1e999999"),
        object(),
    ],
)
def test_what_is_no_amount_is_left_out_and_said(
    given: object, caplog: pytest.LogCaptureFixture
) -> None:
    conversion = record(referred(), amount=given, currency="EUR")
    conversion.refresh_from_db()
    assert (conversion.amount, conversion.currency) == (None, "EUR")
    assert (conversion.status, conversion.reason) == ("pending", amounts.NOT_AN_AMOUNT)
    [message] = caplog.messages
    assert message.startswith("Trigger “Order placed” was completed with the amount ")
    assert message.endswith(amounts.NOT_AN_AMOUNT)


def test_a_currency_is_never_cut_into_another(caplog: pytest.LogCaptureFixture) -> None:
    conversion = record(referred(), amount=5, currency="USDT")
    conversion.refresh_from_db()
    assert (conversion.amount, conversion.currency) == (5, "")
    assert (conversion.status, conversion.reason) == ("pending", amounts.NO_CURRENCY)
    assert "with the amount 5 and the currency 'USDT'" in caplog.text


@pytest.mark.parametrize(("amount", "currency"), [(-5, "EUR"), (5, ""), ("five", "EUR")])
@pytest.mark.parametrize("payout_type", ["none", "fixed", "percent"])
def test_whatever_is_wrong_with_the_amount_somebody_looks_at_it_first(
    payout_type: str, amount: object, currency: str
) -> None:
    rule = {
        "none": {},
        "fixed": {"payout_value": 3, "payout_currency": "EUR"},
        "percent": {"payout_value": 10},
    }
    visitor = referred(payout_type=payout_type, approve_after=14, **rule[payout_type])
    conversion = record(visitor, amount=amount, currency=currency)
    conversion.refresh_from_db()
    assert conversion.status == "pending"
    assert conversion.reason
    assert conversion.approve_on is conversion.decided_on is None
    # What does not depend on the amount is known all the same.
    assert conversion.payout == (3 if payout_type == "fixed" else None)


def test_an_order_without_an_amount_waits_where_a_percentage_is_paid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    conversion = record(referred(payout_type="percent", payout_value=10))
    assert (conversion.status, conversion.reason) == ("pending", payouts.NO_AMOUNT)
    assert "with the amount None" in caplog.text
    assert record(referred()).status == "approved"


def test_a_rule_that_no_form_would_have_taken_is_looked_at_first() -> None:
    conversion = record(referred(payout_type="fixed", payout_value=3))
    assert (conversion.status, conversion.reason) == ("pending", payouts.NO_RULE)
    assert (conversion.payout, conversion.payout_currency) == (None, "")


@pytest.mark.parametrize(
    ("rule", "amount", "currency", "earned"),
    [
        ({"payout_type": "none"}, "49.90", "EUR", (None, "")),
        (
            {"payout_type": "fixed", "payout_value": "2.50", "payout_currency": "USD"},
            "49.90",
            "EUR",
            (Decimal("2.50"), "USD"),
        ),
        (
            {"payout_type": "percent", "payout_value": "7.5"},
            "49.90",
            "eur",
            (Decimal("3.74"), "EUR"),
        ),
        ({"payout_type": "percent", "payout_value": "7.5"}, "4990", "JPY", (Decimal(374), "JPY")),
    ],
    ids=["none", "fixed", "percent", "yen"],
)
def test_the_payout_and_its_rule_are_frozen(
    rule: dict[str, str], amount: str, currency: str, earned: tuple[Decimal | None, str]
) -> None:
    visitor = referred(**rule)
    conversion = record(visitor, amount=Decimal(amount), currency=currency)
    Subscription.objects.update(payout_type="percent", payout_value=50, payout_currency="")
    conversion.refresh_from_db()
    assert (conversion.payout, conversion.payout_currency) == earned
    assert conversion.payout_type == rule["payout_type"]
    value = rule.get("payout_value")
    assert conversion.payout_value == (None if value is None else Decimal(value))
    assert conversion.status == "approved"


def test_the_oldest_subscription_says_what_is_paid() -> None:
    visitor = referred(payout_type="fixed", payout_value=3, payout_currency="EUR")
    SubscriptionFactory(
        partner=visitor.partner, payout_type="fixed", payout_value=9, payout_currency="EUR"
    )
    assert record(visitor).payout == 3


# Who decides


def test_what_is_approved_by_itself_was_decided_at_that_moment() -> None:
    conversion = record(referred())
    assert (conversion.status, conversion.reason) == ("approved", "")
    assert conversion.decided_on == conversion.created_on
    assert conversion.approve_on is conversion.decided_by is None


def test_what_is_approved_by_hand_waits_for_somebody() -> None:
    conversion = record(referred(approval="manual"))
    assert (conversion.status, conversion.reason) == ("pending", "")
    assert conversion.approve_on is conversion.decided_on is None


def test_what_is_approved_after_some_days_waits_for_its_day() -> None:
    conversion = record(referred(approve_after=14))
    assert (conversion.status, conversion.reason) == ("pending", "")
    assert conversion.approve_on == conversion.created_on + timedelta(days=14)
    assert conversion.decided_on is None


def test_what_waits_no_day_is_approved_at_once() -> None:
    assert record(referred(approve_after=0)).status == "approved"


@pytest.mark.parametrize(
    ("rule", "events"),
    [
        ({}, ["conversion"]),
        ({"call_on_approval": True}, ["conversion", "approval"]),
        ({"call_on_approval": True, "call_on_conversion": False}, ["approval"]),
        ({"call_on_approval": True, "approval": "manual"}, ["conversion"]),
        ({"call_on_approval": True, "approve_after": 1}, ["conversion"]),
        ({"call_on_rejection": True}, ["conversion"]),
        ({"call_on_conversion": False}, []),
    ],
    ids=str,
)
def test_the_partner_hears_of_what_the_subscription_says(
    rule: dict[str, Any], events: list[str]
) -> None:
    record(referred(**rule))
    assert list(Callback.objects.order_by("pk").values_list("event", flat=True)) == events


def test_the_codes_of_what_waits_are_logged(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_screening.suspicious"
    caplog.set_level(logging.DEBUG, logger="affiliations")
    conversion = record(referred(), amount=-5, currency="EUR")
    assert conversion.reason.startswith("The same parcel shop again.")
    assert conversion.review_reason == "screened"
    assert (
        "The conversion of trigger “Order placed” needs review: screened, no_amount." in caplog.text
    )


def test_why_it_needs_review_stays_in_the_row_whatever_is_decided(settings: Any) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_screening.suspicious"
    conversion = record(referred())
    why = conversion.reason
    decisions.decide(conversion, "rejected", reason="Returned")
    decisions.decide(conversion, "approved")
    stored = Conversion.objects.get()
    assert (stored.reason, stored.review_text) == ("", why)
    assert why.startswith("The same parcel shop again.")


# A test of the deal


def test_what_a_test_visitor_does_is_a_test() -> None:
    visitor = referred(payout_type="percent", payout_value=10)
    assert not record(visitor, amount=5, currency="EUR").is_test
    visitor = referred(payout_type="percent", payout_value=10, call_on_approval=True)
    Visitor.objects.filter(pk=visitor.pk).update(is_test=True)
    conversion = record(visitor, amount=50, currency="EUR")
    conversion.refresh_from_db()
    assert conversion.is_test
    assert (conversion.payout, conversion.status) == (5, "approved")
    told = Callback.objects.filter(conversion=conversion).order_by("pk")
    assert [(one.event, one.status) for one in told] == [
        ("conversion", "cancelled"),
        ("approval", "cancelled"),
    ]


@pytest.mark.parametrize("counting", ["once", "every"])
@pytest.mark.parametrize("test_is_first", [True, False])
def test_a_test_and_an_order_never_use_up_each_others_reference(
    counting: str, test_is_first: bool
) -> None:
    visitors = [referred(counting=counting), referred(counting=counting)]
    Visitor.objects.filter(pk=visitors[not test_is_first].pk).update(is_test=True)
    recorded = [record(visitor, reference="17") for visitor in visitors]
    assert [conversion.is_test for conversion in recorded] == [test_is_first, not test_is_first]
    for visitor in visitors:
        Visitor.objects.filter(pk=visitor.pk).update(closed_on=None)
        assert refusal(visitor, reference="17") is Reason.ALREADY_COUNTED


# What it costs


def attempt(visitor: Visitor, **stated: Any) -> Conversion | None:
    return attempts.attempt(
        TRIGGER, lambda: record(visitor, **stated), lambda: FailedTrigger(trigger=TRIGGER)
    )


def statements(queries: CaptureQueriesContext) -> list[str]:
    return [query["sql"].split()[0].rstrip(";") for query in queries]


@pytest.mark.django_db(transaction=True)
def test_a_conversion_in_autocommit_reads_three_times_and_begins_with_a_write() -> None:
    # SQLite cannot turn a reading transaction into a writing one while another writes.
    visitor = referred()
    with CaptureQueriesContext(connections["default"]) as queries:
        attempt(visitor)
    reads, writes = ["SELECT"] * 3, ["UPDATE", "INSERT", "SELECT", "INSERT"]
    assert statements(queries) == [*reads, "BEGIN", *writes, "COMMIT"]


def test_a_conversion_inside_a_transaction_costs_the_same_within_two_savepoints() -> None:
    visitor = referred()
    with CaptureQueriesContext(connections["default"]) as queries:
        attempt(visitor)
    reads, writes = ["SELECT"] * 3, ["UPDATE", "INSERT", "SELECT", "INSERT"]
    assert statements(queries) == [
        "SAVEPOINT",
        *reads,
        "SAVEPOINT",
        *writes,
        "RELEASE",
        "RELEASE",
    ]


@pytest.mark.parametrize(("orders", "subscriptions", "more"), [(1, 1, 0), (50, 1, 0), (1, 3, 2)])
def test_a_conversion_costs_the_same_however_much_there_is_already(
    django_assert_num_queries: Any, orders: int, subscriptions: int, more: int
) -> None:
    visitor = referred(counting="every", closes_referral=False)
    for _ in range(subscriptions - 1):
        SubscriptionFactory(partner=visitor.partner)
    Subscription.objects.update(closes_referral=False)
    for number in range(orders):
        record(visitor, reference=f"before {number}")
    with django_assert_num_queries(11 + more):
        attempt(visitor, reference="now")


def test_a_refusal_inside_a_transaction_costs_its_reads_and_one_savepoint(
    django_assert_num_queries: Any,
) -> None:
    visitor = referred()
    record(visitor)
    with django_assert_num_queries(3):
        attempt(visitor)


# Facts stay


def test_what_was_earned_stays_whatever_becomes_of_the_deal() -> None:
    # Rule 11
    user = UserFactory()
    visitor = referred()
    conversion = record(visitor, user=user, reference="17", amount=5, currency="EUR")
    before = Conversion.objects.values().get()
    Partner.objects.update(active=False, name="Renamed")
    Subscription.objects.update(trigger="Renamed", active=False, callback_url="")
    assert Conversion.objects.values().get() == before
    user.delete()
    conversion.refresh_from_db()
    visitor.refresh_from_db()
    assert conversion.user is None
    assert visitor.user is None
    assert conversion.reference == "17"
    assert Callback.objects.get().url == f"https://partner.example/cb?v={visitor.pk}"


@pytest.mark.parametrize("model", [Visitor, Subscription, Partner])
def test_what_a_conversion_rests_on_cannot_be_deleted(model: Any) -> None:
    record(referred())
    with pytest.raises(ProtectedError):
        model.objects.get().delete()


# Nothing leaves the site before the commit


@pytest.fixture
def told(settings: Any) -> Iterator[list[Any]]:
    """Collect what the dispatcher and the host's receivers are told."""
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_conversions.dispatch"
    dispatched.clear()

    def receiver(sender: object, conversion: Conversion, **kwargs: object) -> None:
        dispatched.append((sender, conversion))

    conversion_recorded.connect(receiver)
    yield dispatched
    conversion_recorded.disconnect(receiver)


dispatched: list[Any] = []


def dispatch(callback_ids: Any) -> None:
    dispatched.append(list(callback_ids))


@pytest.mark.django_db(transaction=True)
def test_the_dispatcher_and_the_hosts_receivers_hear_of_it_after_the_commit(told: Any) -> None:
    with transaction.atomic():
        conversion = record(referred())
        assert told == []
    assert told == [[Callback.objects.get().pk], (Conversion, conversion)]


@pytest.mark.django_db(transaction=True)
def test_in_autocommit_they_hear_of_it_at_once(told: Any) -> None:
    conversion = record(referred())
    assert told == [[Callback.objects.get().pk], (Conversion, conversion)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("savepoint", [True, False])
def test_what_is_rolled_back_is_never_heard_of(told: Any, savepoint: bool) -> None:
    # D15
    visitor = referred()
    with transaction.atomic():
        Order.objects.create(note="before")
        with transaction.atomic():
            record(visitor)
            transaction.set_rollback(True)
        if not savepoint:
            transaction.set_rollback(True)
    assert told == []
    assert Order.objects.filter(note="before").exists() == savepoint
    assert not Conversion.objects.exists()
    assert not Callback.objects.exists()
    visitor.refresh_from_db()
    assert visitor.closed_on is visitor.successful_on is None


@pytest.mark.django_db(transaction=True)
def test_a_savepoint_that_the_host_rolled_back_can_be_tried_again(told: Any) -> None:
    visitor = referred()
    with transaction.atomic():
        with transaction.atomic():
            record(visitor)
            transaction.set_rollback(True)
        conversion = record(visitor)
    assert told == [[Callback.objects.get().pk], (Conversion, conversion)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_receiver_or_a_dispatcher_that_raises_breaks_nothing(
    settings: Any, caplog: pytest.LogCaptureFixture, in_transaction: bool
) -> None:
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_conversions.broken"

    def receiver(**kwargs: object) -> None:
        raise ZeroDivisionError("a receiver of the host")

    conversion_recorded.connect(receiver)
    visitor = referred()
    try:
        if in_transaction:
            with transaction.atomic():
                record(visitor)
        else:
            record(visitor)
    finally:
        conversion_recorded.disconnect(receiver)
    assert Callback.objects.get().status == "queued"
    assert "a receiver of the host" in caplog.text
    assert "the dispatcher is broken" in caplog.text


def broken(callback_ids: Any) -> None:
    raise RuntimeError("the dispatcher is broken")


# A rollback of the host's request (D15)


@csrf_exempt
def order_and_fail(request: HttpRequest, how: str) -> HttpResponse:
    Order.objects.create(note=how)
    assert Conversion.objects.count() == 1
    if how == "404":
        raise Http404
    if how == "exception":
        raise ZeroDivisionError
    transaction.set_rollback(True)
    return HttpResponse("rolled back")


urlpatterns = [path("fail/<how>/", order_and_fail), path("", include("tests.urls"))]

ENGINES = {
    "db": "django.contrib.sessions.backends.db",
    "cache": "django.contrib.sessions.backends.cache",
    "cached_db": "django.contrib.sessions.backends.cached_db",
    "file": "django.contrib.sessions.backends.file",
    "signed_cookies": "django.contrib.sessions.backends.signed_cookies",
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls("tests.test_conversions")
@pytest.mark.parametrize("engine", ENGINES)
class TestTheSessionKey:
    """The session keeps a referral, whatever becomes of it."""

    @pytest.fixture(autouse=True)
    def _engine(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str
    ) -> Iterator[None]:
        settings.SESSION_ENGINE = ENGINES[engine]
        settings.SESSION_FILE_PATH = str(tmp_path)
        settings.SESSION_SAVE_EVERY_REQUEST = False
        monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
        yield
        cache.clear()

    @pytest.mark.parametrize("how", ["404", "exception", "set_rollback"])
    def test_it_is_still_there_after_a_request_that_was_rolled_back(
        self, told: Any, how: str
    ) -> None:
        client = Client(raise_request_exception=False)
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner)
        visitor = start_referral(client, partner)

        response = client.post(f"/fail/{how}/")

        assert response.status_code == {"404": 404, "exception": 500, "set_rollback": 200}[how]
        assert not Order.objects.exists()
        assert not Conversion.objects.exists()
        assert not Callback.objects.exists()
        assert told == []
        assert client.session["affiliate_visitor_id"] == visitor.pk
        visitor.refresh_from_db()
        assert visitor.closed_on is visitor.successful_on is None

        assert client.post("/order/").status_code == 200
        assert Conversion.objects.get().visitor == visitor
        assert len(told) == 2
        assert client.session["affiliate_visitor_id"] == visitor.pk

    def test_it_is_still_there_after_a_conversion_that_leaves_the_referral_open(self) -> None:
        client = Client()
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner, counting="every", closes_referral=False)
        visitor = start_referral(client, partner)
        for count in (1, 2):
            assert client.post("/order/").status_code == 200
            assert client.session["affiliate_visitor_id"] == visitor.pk
            assert Conversion.objects.count() == count


@pytest.mark.django_db(transaction=True)
def test_a_newer_referral_of_the_same_browser_is_not_forgotten_with_an_older_one(
    client: Client, wire: Any
) -> None:
    options = {"visitor": lambda order: int(order.note)}
    wire([(TRIGGER, post_save, object_created, Order, options)])
    older = referred()
    newer = start_referral(client, older.partner)
    assert client.post("/order/", {"note": str(older.pk)}).status_code == 200
    assert Conversion.objects.get().visitor == older
    assert client.session["affiliate_visitor_id"] == newer.pk


# Read replicas


@pytest.mark.django_db(databases=["default", "other"])
def test_crediting_asks_the_database_that_it_writes_to(settings: Any) -> None:
    visitor = referred()
    fresh = visitors.find(visitor.pk)
    assert fresh is not None
    settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
    assert recording.record(fresh, TRIGGER).visitor == visitor
    assert Conversion.objects.using("default").count() == 1


def test_a_buyer_whose_key_is_a_text_is_credited() -> None:
    user = UserFactory()
    user.pk = str(user.pk)
    visitor = referred()
    assert recording.record(visitor, TRIGGER, user=user).user == user
    visitor.refresh_from_db()
    assert str(visitor.user_id) == user.pk


def test_nothing_but_reasons_and_keys_is_logged_of_what_is_not_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="affiliations")
    visitor = VisitorFactory()
    attempt(visitor)
    [message] = caplog.messages
    assert message == (
        "“Order placed” had no effect: the partner has no active subscription to this trigger "
        f"(visitor {visitor}, reference “”). {Reason.NOT_SUBSCRIBED.cure}"
    )


@pytest.fixture
def refused() -> Iterator[list[dict[str, Any]]]:
    """Collect what the host's receivers are told of what was not counted."""
    heard: list[dict[str, Any]] = []

    def receiver(signal: object, **told: Any) -> None:
        heard.append(told)

    trigger_not_credited.connect(receiver)
    yield heard
    trigger_not_credited.disconnect(receiver)


@pytest.mark.django_db(transaction=True)
def test_what_is_not_counted_is_told_after_the_commit_and_kept_for_the_story(
    refused: list[dict[str, Any]],
) -> None:
    visitor = VisitorFactory()
    told = {
        "sender": Conversion,
        "trigger": TRIGGER,
        "reason": Reason.NOT_SUBSCRIBED,
        "visitor": visitor,
        "reference": "17",
    }
    with transaction.atomic():
        attempt(visitor, reference="17")
        assert refused == []
    assert refused == [told]
    attempt(visitor, reference="18")
    assert refused == [told, told | {"reference": "18"}]
    kept = UncreditedTrigger.objects.get()
    assert (kept.visitor, kept.trigger, kept.reason) == (visitor, TRIGGER, "not_subscribed")
    assert (kept.count, kept.reference) == (2, "18")
    assert kept.first_on < kept.last_on


@pytest.mark.django_db(transaction=True)
def test_what_was_counted_before_is_told_and_no_part_of_the_story(
    refused: list[dict[str, Any]],
) -> None:
    visitor = referred(closes_referral=False)
    attempt(visitor)
    attempt(visitor)
    assert [told["reason"] for told in refused] == [Reason.ALREADY_COUNTED]
    assert not UncreditedTrigger.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_was_counted_for_another_visitor_is_a_part_of_the_story() -> None:
    winner, loser = referred(), referred()
    attempt(winner, reference="17")
    attempt(loser, reference="17")
    told = UncreditedTrigger.objects.get()
    assert (told.visitor, told.reason, told.reference) == (loser, "already_counted", "17")


@pytest.mark.django_db(transaction=True)
def test_what_the_host_rolls_back_was_never_refused(refused: list[dict[str, Any]]) -> None:
    visitor = VisitorFactory()
    with transaction.atomic():
        attempt(visitor)
        transaction.set_rollback(True)
    assert refused == []
    assert not UncreditedTrigger.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("atomic", [True, False])
def test_a_story_that_cannot_be_kept_breaks_nothing(
    atomic: bool, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = VisitorFactory()
    what = "\ud800"  # which no database stores
    if atomic:
        with transaction.atomic():
            Order.objects.create(note="the host's work")
            assert attempt(visitor, reference=what) is None
    else:
        Order.objects.create(note="the host's work")
        assert attempt(visitor, reference=what) is None
    assert Order.objects.exists()
    assert not UncreditedTrigger.objects.exists()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# By hand


@pytest.mark.parametrize("wrong", ["closed", "expired", "inactive"])
def test_a_partner_who_was_wronged_is_credited_though_the_referral_is_not_open(wrong: str) -> None:
    now = timezone.now()
    subscription = SubscriptionFactory(partner__active=wrong != "inactive")
    closed_on = now - timedelta(hours=1) if wrong == "closed" else None
    visitor = VisitorFactory(
        partner=subscription.partner,
        closed_on=closed_on,
        referred_on=now - timedelta(days=90 if wrong == "expired" else 1),
    )
    assert refusal(visitor) in set(Reason)
    conversion = record(visitor, manual=True)
    assert Callback.objects.get().conversion == conversion
    visitor.refresh_from_db()
    # Closed since when it was, or by this one.
    assert visitor.closed_on == (closed_on or conversion.created_on)


def test_by_hand_nothing_is_credited_twice() -> None:
    subscription = SubscriptionFactory()
    visitor = VisitorFactory(partner=subscription.partner)
    record(visitor)
    assert refusal(visitor, manual=True) is Reason.ALREADY_COUNTED


def test_by_hand_a_partner_is_credited_for_what_they_subscribe_to_only() -> None:
    subscription = SubscriptionFactory(active=False)
    visitor = VisitorFactory(partner=subscription.partner)
    assert refusal(visitor, manual=True) is Reason.NOT_SUBSCRIBED
