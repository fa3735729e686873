"""The earning period: for how long later conversions of a customer are credited, and to whom."""

from __future__ import annotations

from datetime import datetime, timedelta
from datetime import timezone as fixed
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import privacy
from affiliations.conversions import decide
from affiliations.exceptions import Reason
from affiliations.models import Conversion, Partner, Subscription, UncreditedTrigger, Visitor
from affiliations.tracking import binding
from affiliations.triggers import acomplete_trigger, complete_trigger, object_created
from tests.arrivals import commit, request_of
from tests.factories import (
    PartnerCodeFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

MONTHS = {"earns_for": "months", "earns_months": 12, "counting": "every"}
ALWAYS = {"earns_for": "always", "counting": "every"}
CLICK = datetime(2026, 1, 1, 12, tzinfo=fixed.utc)


@pytest.fixture(autouse=True)
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the time."""

    class Clock:
        moment = CLICK

        def __call__(self, *date: int) -> datetime:
            self.moment = datetime(*date, tzinfo=fixed.utc)  # type: ignore[misc,arg-type]
            return self.moment

    clock = Clock()
    monkeypatch.setattr("django.utils.timezone.now", lambda: clock.moment)
    return clock


def order(
    reference: str, visitor: Visitor | None = None, user: Any = None, request: Any = None
) -> Conversion | None:
    return complete_trigger(
        request, "Order placed", visitor=visitor, user=user, reference=reference
    )


def arrived(**options: Any) -> Visitor:
    """Make a visitor who arrives now, of a partner with this deal."""
    partner = SubscriptionFactory(**{"counting": "every"} | options).partner
    return VisitorFactory(partner=partner, referred_on=timezone.now())


def refusals() -> list[str]:
    commit()
    return list(UncreditedTrigger.objects.order_by("pk").values_list("reason", flat=True))


# For how long


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("stated", ["visitor", "user"])
def test_a_renewal_is_credited_until_the_months_have_passed(
    at: Any, closes: bool, stated: str
) -> None:
    visitor, user = arrived(**MONTHS, closes_referral=closes), UserFactory()
    who: dict[str, Any] = {"visitor": visitor} if stated == "visitor" else {"user": user}
    assert order("first", visitor, user)
    at(2026, 12, 31, 23, 59)
    renewal = order("last", **who)
    assert renewal is not None
    assert (renewal.visitor, renewal.closes) == (visitor, closes)
    at(2027, 1, 1)
    assert order("late", **who) is None
    at(2027, 1, 2)
    assert order("later", **who) is None


def test_always_has_no_end(at: Any) -> None:
    visitor = arrived(**ALWAYS)
    assert order("first", visitor)
    at(2126, 1, 1)
    assert order("renewal", visitor)


def test_the_days_are_those_of_the_site(at: Any, settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    visitor = arrived(**MONTHS | {"earns_months": 1})
    at(2026, 1, 30, 15)  # The 31st in Tokyo.
    assert order("first", visitor)
    at(2026, 2, 27, 14, 59)
    assert order("last", visitor)
    at(2026, 2, 27, 15)
    assert order("late", visitor) is None


def test_without_a_period_a_closed_referral_earns_nothing() -> None:
    visitor = arrived()
    assert order("first", visitor)
    assert order("second", visitor) is None
    assert refusals() == ["referral_closed"]


def test_the_window_decides_about_the_first_conversion_alone(at: Any) -> None:
    """A long period does not lengthen it, and it does not lengthen a short period."""
    visitor = arrived(**ALWAYS)
    at(2026, 2, 1)
    assert order("first", visitor) is None
    assert refusals() == ["window_expired"]
    Partner.objects.update(window=timedelta(days=90))
    Subscription.objects.update(earns_for="months", earns_months=1, closes_referral=False)
    assert order("second", visitor)
    at(2026, 3, 1)
    assert order("third", visitor) is None
    assert refusals() == ["window_expired", "earning_ended"]


def test_a_period_is_that_of_a_trigger(at: Any) -> None:
    visitor = arrived(**MONTHS)
    SubscriptionFactory(partner=visitor.partner, trigger="Lead", **ALWAYS)
    assert order("first", visitor)
    at(2026, 6, 1)
    assert complete_trigger(None, "Lead", visitor=visitor, reference="1") is None
    assert order("renewal", visitor)


def test_the_setting_is_read_live(at: Any) -> None:
    visitor = arrived()
    assert order("first", visitor)
    at(2026, 6, 1)
    assert order("second", visitor) is None
    Subscription.objects.update(earns_for="months", earns_months=6)
    assert order("third", visitor)
    Subscription.objects.update(earns_months=5)
    assert order("fourth", visitor) is None
    Subscription.objects.update(earns_months=6, active=False)
    assert order("fifth", visitor) is None


def test_of_several_subscriptions_to_a_trigger_the_oldest_active_one_says_how_long(
    at: Any,
) -> None:
    """Only 0.12 allowed several."""
    visitor = arrived()
    SubscriptionFactory(partner=visitor.partner, **ALWAYS)
    assert order("first", visitor)
    at(2026, 6, 1)
    assert order("second", visitor) is None
    Subscription.objects.filter(earns_for="window").update(active=False)
    assert order("third", visitor)


def test_names_of_triggers_are_compared_exactly(at: Any) -> None:
    visitor = arrived()
    SubscriptionFactory(partner=visitor.partner, trigger="order placed", **ALWAYS)
    assert order("first", visitor)
    Subscription.objects.filter(trigger="Order placed").update(active=False)
    at(2026, 6, 1)
    assert order("second", visitor) is None


def test_an_inactive_partner_earns_nothing_meanwhile(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    assert order("first", visitor, user)
    Partner.objects.update(active=False)
    assert order("second", visitor) is None
    assert order("third", user=user) is None
    Partner.objects.update(active=True)
    assert order("fourth", user=user)


# Rejections


def test_a_renewal_after_a_refund_of_the_only_order_is_not_credited(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    first = order("first", visitor, user)
    assert first is not None
    decide(first, "rejected")
    at(2026, 6, 1)
    assert order("second", visitor) is None
    assert refusals() == ["window_expired"]
    assert order("third", user=user) is None
    decide(first, "pending")
    assert order("fourth", user=user)


def test_after_a_refund_of_the_first_order_the_period_begins_with_the_second(at: Any) -> None:
    visitor = arrived(**MONTHS)
    first = order("first", visitor)
    at(2026, 7, 1)
    assert order("second", visitor)
    assert first is not None
    decide(first, "rejected")
    at(2027, 6, 30)
    assert order("third", visitor)
    at(2027, 7, 1)
    assert order("fourth", visitor) is None


def test_a_reopened_referral_can_begin_another_period(at: Any) -> None:
    visitor = arrived(**MONTHS)
    first = order("first", visitor)
    assert first is not None
    decide(first, "rejected")
    at(2026, 1, 20)
    assert order("second", visitor)
    at(2027, 1, 19)
    assert order("third", visitor)
    at(2027, 1, 20)
    assert order("fourth", visitor) is None


def test_rejecting_a_renewal_opens_no_referral_that_something_else_has_closed(at: Any) -> None:
    visitor = arrived(**ALWAYS, closes_referral=False)
    assert order("first", visitor)
    Subscription.objects.update(closes_referral=True)
    visitor.succeed()
    renewal = order("second", visitor)
    assert renewal is not None
    decide(renewal, "rejected")
    visitor.refresh_from_db()
    assert visitor.closed_on is not None


# Staff stop it


def test_a_stopped_visitor_earns_nothing_for_good(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    first = order("first", visitor, user)
    assert first is not None
    assert visitor.stop()
    assert not visitor.stop()
    assert order("second", visitor) is None
    assert order("third", user=user) is None
    assert refusals() == ["stopped"]
    decide(first, "rejected")
    assert order("fourth", visitor) is None
    visitor.refresh_from_db()
    assert visitor.closed_on is not None


def test_a_visitor_who_is_stopped_while_a_renewal_is_credited_earns_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitor = arrived(**ALWAYS)
    assert order("first", visitor)
    find = "affiliations.conversions.earning.find"

    def found_and_stopped(*args: Any, **kwargs: Any) -> Visitor:
        Visitor.objects.get().stop()
        return visitor

    monkeypatch.setattr(find, found_and_stopped)
    assert order("second", visitor) is None
    assert refusals() == ["stopped"]


def test_an_open_visitor_is_closed_by_a_stop() -> None:
    visitor = arrived(**ALWAYS)
    visitor.stop()
    assert visitor.closed_on == visitor.stopped_on == CLICK
    assert not visitor.is_open
    assert order("first", visitor) is None
    assert refusals() == ["stopped"]


# Whose it is


def test_a_period_of_the_stated_user_comes_before_a_later_click(at: Any, settings: Any) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    visitor, user = arrived(**MONTHS), UserFactory()
    assert order("first", visitor, user)
    at(2026, 6, 1)
    other = arrived()
    assert order("by user", user=user, request=request_of(other, user)).visitor == visitor
    assert order("stated", other, user).visitor == visitor
    assert order("not stated", request=request_of(other, user)).visitor == other


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("stated", ["visitor", "user"])
def test_a_running_period_comes_before_a_code(at: Any, closes: bool, stated: str) -> None:
    visitor, user = arrived(**MONTHS, closes_referral=closes), UserFactory()
    code = PartnerCodeFactory(partner=arrived().partner)
    assert order("first", visitor, user)
    who = {"visitor": visitor} if stated == "visitor" else {"user": user}
    second = complete_trigger(None, "Order placed", reference="2", code=code.code, **who)
    assert second is not None
    assert (second.visitor, second.code) == (visitor, "")
    at(2027, 1, 1)
    third = complete_trigger(None, "Order placed", reference="3", code=code.code, **who)
    assert third is not None
    assert third.partner == code.partner


def test_the_later_click_counts_once_the_period_has_passed(at: Any) -> None:
    visitor, user = arrived(**MONTHS), UserFactory()
    assert order("first", visitor, user)
    at(2027, 6, 1)
    other = arrived()
    assert order("second", user=user, request=request_of(other, user)).visitor == other


def test_of_two_running_periods_the_one_that_began_first_earns(at: Any) -> None:
    first, second, user = arrived(**ALWAYS), arrived(**ALWAYS), UserFactory()
    at(2026, 1, 5)
    assert order("1", second)
    at(2026, 1, 6)
    assert order("2", first)
    Visitor.objects.update(user=user)
    assert order("3", first, user).visitor == second
    assert order("4", user=user).visitor == second
    Partner.objects.filter(pk=second.partner_id).update(active=False)
    assert order("5", user=user).visitor == first


def test_of_two_periods_that_began_at_once_that_of_the_earlier_visitor_earns() -> None:
    first, second, user = arrived(**ALWAYS), arrived(**ALWAYS), UserFactory()
    assert order("1", second)
    assert order("2", first)
    Visitor.objects.update(user=user)
    assert order("3", user=user).visitor == first


def test_the_buyer_of_another_users_visitor_is_a_customer_too(at: Any) -> None:
    visitor, owner, buyer = arrived(**ALWAYS), UserFactory(), UserFactory()
    Visitor.objects.update(user=owner)
    assert order("first", visitor, buyer)
    at(2026, 6, 1)
    assert order("second", user=buyer).visitor == visitor
    assert order("third", user=owner).visitor == visitor
    assert order("fourth", user=UserFactory()) is None


def test_a_guest_who_signs_up_later_is_the_same_customer(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    assert order("first", visitor)
    Visitor.objects.update(user=user)
    at(2026, 6, 1)
    assert order("second", user=user).visitor == visitor


@pytest.mark.parametrize("nobody", [None, AnonymousUser(), 0, "unsaved"])
def test_nobody_has_no_period(nobody: Any, at: Any) -> None:
    visitor = arrived(**ALWAYS)
    assert order("first", visitor)
    at(2026, 6, 1)
    user = UserFactory.build() if nobody == "unsaved" else nobody
    assert order("second", user=user, request=request_of(visitor)) is None
    assert Conversion.objects.count() == 1


def test_the_browser_alone_states_nobody(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    assert order("first", user=user, request=request_of(visitor, user))
    assert order("second", request=request_of(visitor, user)) is None
    assert order("third", user=user, request=request_of(visitor, user))
    assert order("fourth", user=user, request=request_of(None, UserFactory()))


def test_the_options_of_the_trigger_state_them_too(wire: Any, at: Any) -> None:
    wire([("Order placed", "django.db.models.signals.post_save", object_created, Order,
           {"user": "user"})])  # fmt: skip
    visitor, user = arrived(**ALWAYS), UserFactory()
    with binding.binding(request_of(visitor, user)):
        Order.objects.create(user=user)
    at(2026, 6, 1)
    Order.objects.create(user=user)
    Order.objects.create(user=UserFactory())
    Order.objects.create()
    assert Conversion.objects.count() == 2


def test_an_async_receiver_states_them_too() -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    complete = async_to_sync(acomplete_trigger)
    assert complete(None, "Order placed", visitor=visitor, user=user, reference="1")
    assert complete(None, "Order placed", user=user, reference="2")
    assert complete(None, "Order placed", reference="3") is None


# Two first orders at once


def test_an_order_whose_referral_another_has_just_closed_is_in_its_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitor = arrived(**ALWAYS)
    stale = Visitor.objects.select_related("partner").get()
    assert order("first", visitor)
    found = iter([stale])
    find = "affiliations.tracking.visitors.find"
    fresh = Visitor.objects.select_related("partner").get
    monkeypatch.setattr(find, lambda pk: next(found, None) or fresh(pk=pk))
    assert order("second", visitor)


def test_without_a_period_it_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = arrived()
    stale = Visitor.objects.select_related("partner").get()
    assert order("first", visitor)
    monkeypatch.setattr("affiliations.tracking.visitors.find", lambda pk: stale)
    assert order("second", visitor) is None
    assert refusals() == ["referral_closed"]


# Tests of a deal


def test_a_test_of_a_deal_has_a_period_too(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    Visitor.objects.update(is_test=True)
    assert order("first", visitor, user)
    at(2026, 6, 1)
    renewal = order("renewal", user=user)
    assert renewal is not None
    assert (renewal.visitor, renewal.is_test) == (visitor, True)


def test_the_period_of_a_test_takes_no_order_from_a_referral(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    Visitor.objects.update(is_test=True)
    assert order("first", visitor, user)
    at(2026, 6, 1)
    other = arrived(closes_referral=False)
    assert order("browser", user=user, request=request_of(other, user)).visitor == other
    assert order("stated", other, user).visitor == other
    real = arrived(**ALWAYS)
    Visitor.objects.filter(pk=real.pk).update(user=user)
    assert order("begins", real, UserFactory()).visitor == real
    assert order("real period", user=user).visitor == real


# What it costs


def queries(*args: Any, **kwargs: Any) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        order(*args, **kwargs)
    return sum("SAVEPOINT" not in query["sql"] for query in captured)


def test_without_a_stated_user_a_site_without_periods_pays_no_query() -> None:
    visitor, user = arrived(closes_referral=False), UserFactory()
    Visitor.objects.update(user=user)
    plain = queries("1", visitor)
    assert queries("2", visitor) == plain
    assert queries("3") == 0
    assert queries("4", visitor, user) == plain + 1
    assert queries("5", user=user) == 1
    assert queries("6", user=AnonymousUser()) == 0


def test_many_customers_and_orders_cost_no_more_queries(at: Any) -> None:
    visitor, user = arrived(**ALWAYS), UserFactory()
    assert order("first", visitor, user)
    few = queries("second", user=user)
    for number in range(5):
        another = arrived(**ALWAYS)
        assert order(f"another {number}", another)
        Visitor.objects.filter(pk=another.pk).update(user=user)
    for number in range(5):
        assert order(f"more {number}", user=user)
    assert queries("last", user=user) == few


# What keeps it


def test_a_purge_keeps_a_visitor_whose_period_runs(at: Any) -> None:
    visitor = arrived(**ALWAYS)
    VisitorFactory(partner=visitor.partner, referred_on=CLICK)
    assert order("first", visitor)
    at(2030, 1, 1)
    assert sum(privacy.purge(at.moment)) == 1
    assert order("second", visitor)


# What is refused


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"earns_for": "months"}, "earns_months", "such as 12"),
        ({"earns_for": "months", "earns_months": 0}, "earns_months", "from 1 to 1200"),
        ({"earns_for": "months", "earns_months": 1201}, "earns_months", "choose “Always”"),
        ({"earns_for": "always", "earns_months": 3}, "earns_months", "leave this empty"),
        ({"earns_months": 3}, "earns_months", "leave this empty"),
        ({"earns_for": "always", "counting": "once"}, "earns_for", "Choose “Every order”"),
        (MONTHS | {"counting": "once"}, "earns_for", "Choose “Every order”"),
    ],
)
def test_saving_refuses(fields: dict[str, Any], field: str, words: str) -> None:
    partner = PartnerFactory()
    subscription = Subscription(
        **{"partner": partner, "trigger": "Order placed", "counting": "every"} | fields
    )
    with pytest.raises(ValidationError) as caught:
        subscription.full_clean()
    assert list(caught.value.message_dict) == [field]
    assert words in caught.value.message_dict[field][0]


@pytest.mark.parametrize("fields", [{}, ALWAYS, MONTHS, MONTHS | {"earns_months": 1200}])
def test_saving_accepts(fields: dict[str, Any]) -> None:
    Subscription(partner=PartnerFactory(), trigger="Order placed", **fields).full_clean()


def test_the_longest_period_has_an_end() -> None:
    rule = Subscription(**MONTHS | {"earns_months": 1200})
    assert str(rule.earning_ends_on(CLICK)) == "2126-01-01"


def test_a_period_that_no_form_has_checked_ends_at_once() -> None:
    rule = Subscription(earns_for="months")
    assert not rule.is_earning(CLICK, CLICK)


def test_the_reasons_say_what_has_happened() -> None:
    assert Reason.EARNING_ENDED.label == "the earning period has ended"
    assert Reason.STOPPED.label == "staff stopped tracking the visitor"
