"""The earning period in the Admin: what it says, whom a change affects, and who is stopped."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from datetime import timezone as fixed
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from affiliations import timeline
from affiliations.conversions import earning
from affiliations.models import Partner, Subscription, Visitor
from affiliations.triggers import complete_trigger, object_created
from tests.factories import (
    ConversionFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.test_admin import allowed, as_stored, partner_form, shown, told, url
from tests.test_bulk_edit import LIST, confirm, preview
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

PERIOD = {"counting": "every", "earns_for": "months", "earns_months": 12}


def ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)


def customer(rule: Subscription, days: int, **visitor: Any) -> Visitor:
    """Make a customer whose first conversion was some days ago, and another one since."""
    row = VisitorFactory(partner=rule.partner, closed_on=ago(days), **visitor)
    for number, moment in enumerate((ago(days), ago(days // 2))):
        ConversionFactory(
            visitor=row, subscription=rule, created_on=moment, dedupe_key=f"{row.pk} {number}"
        )
    return row


@pytest.fixture
def rule() -> Subscription:
    """Make a deal with customers of 10, 100 and 1,000 days."""
    subscription = SubscriptionFactory(counting="every")
    for days in (10, 100, 1000):
        customer(subscription, days)
    customer(subscription, 5, is_test=True)
    customer(subscription, 5, stopped_on=timezone.now())
    VisitorFactory(partner=subscription.partner)
    ConversionFactory(subscription=SubscriptionFactory(trigger="Lead"))
    return subscription


# Whom a change affects


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        (("window", None), ("months", 12), (2, 0)),
        (("window", None), ("always", None), (3, 0)),
        (("months", 12), ("months", 1), (0, 1)),
        (("months", 1), ("months", 36), (2, 0)),
        (("always", None), ("months", 1), (0, 2)),
        (("always", None), ("window", None), (0, 3)),
        (("always", None), ("always", None), (0, 0)),
    ],
)
def test_it_is_counted_who_gains_and_who_loses(
    rule: Subscription, before: Any, after: Any, counts: Any
) -> None:
    rules = [
        Subscription(
            partner=rule.partner, trigger=rule.trigger, earns_for=name, earns_months=months
        )
        for name, months in (before, after)
    ]
    assert earning.count_changes(*rules, timezone.now()) == counts
    Partner.objects.update(active=False)
    assert earning.count_changes(*rules, timezone.now()) == (0, 0)


def test_who_is_open_earns_without_a_period_too(rule: Subscription) -> None:
    Visitor.objects.update(closed_on=None)
    always = Subscription(partner=rule.partner, trigger=rule.trigger, earns_for="always")
    assert earning.count_changes(rule, always, timezone.now()) == (0, 0)
    Partner.objects.update(window=timedelta(days=50))
    Visitor.objects.update(referred_on=ago(51))
    assert earning.count_changes(rule, always, timezone.now()) == (3, 0)


@pytest.mark.parametrize(
    ("now", "months", "earliest"),
    [
        ((2027, 2, 28), 1, (2027, 2, 1)),
        ((2027, 2, 27), 1, (2027, 1, 28)),
        ((2027, 3, 31), 1, (2027, 3, 1)),
        ((2027, 3, 30), 1, (2027, 3, 1)),
        ((2028, 2, 29), 12, (2027, 3, 1)),
        ((2027, 6, 15), 12, (2026, 6, 16)),
    ],
)
def test_the_earliest_start_is_the_first_day_whose_period_runs(
    now: Any, months: int, earliest: Any
) -> None:
    rule = Subscription(earns_for="months", earns_months=months)
    moment = datetime(*now, 12, tzinfo=fixed.utc)
    start = rule.earliest_running(moment)
    assert start == datetime(*earliest, tzinfo=fixed.utc)
    assert rule.is_earning(start, moment)
    assert not rule.is_earning(start - timedelta(seconds=1), moment)


def test_the_page_of_a_subscription_says_whom_a_change_affects(
    staff: Client, rule: Subscription
) -> None:
    form = as_stored(rule, earns_for="always")
    page = staff.post(url(rule), form, follow=True)
    assert "Later orders of 3 customers are credited from now on." in told(page)
    page = staff.post(url(rule), form | {"earns_for": "months", "earns_months": "1"}, follow=True)
    assert "Later orders of 2 customers are no longer credited." in told(page)
    page = staff.post(url(rule), form | {"earns_for": "months", "earns_months": "2"}, follow=True)
    assert "The new earning period changes nothing for existing customers." in told(page)
    rule.refresh_from_db()
    assert (rule.earns_for, rule.earns_months) == ("months", 2)
    page = staff.post(url(rule), form | {"earns_for": "months", "earns_months": "2",
                                         "approval": "manual"}, follow=True)  # fmt: skip
    assert not re.search("orders of|changes nothing", " ".join(told(page)))


def test_an_inactive_subscription_affects_nobody(staff: Client, rule: Subscription) -> None:
    Subscription.objects.update(active=False)
    rule.refresh_from_db()
    page = staff.post(url(rule), as_stored(rule, earns_for="always"), follow=True)
    assert "The new earning period changes nothing for existing customers." in told(page)


def test_the_page_of_a_partner_says_it_too(staff: Client, rule: Subscription) -> None:
    form = partner_form(as_stored(rule, earns_for="always"), name=rule.partner.name)
    page = staff.post(url(rule.partner), form, follow=True)
    assert "Later orders of 3 customers are credited from now on." in told(page)
    form = partner_form(as_stored(rule, earns_for="window", DELETE="on"), name="x")
    Subscription.objects.filter(pk=rule.pk).update(trigger="Gone")
    assert staff.post(url(rule.partner), form).status_code in (200, 302)


def test_a_removed_subscription_affects_nobody(staff: Client) -> None:
    rule = SubscriptionFactory(counting="every")
    form = partner_form(as_stored(rule, earns_for="always", DELETE="on"), name="x")
    page = staff.post(url(rule.partner), form, follow=True)
    assert not Subscription.objects.exists()
    assert not re.search("orders of|changes nothing", " ".join(told(page)))


def test_a_form_without_the_period_keeps_it(staff: Client) -> None:
    rule = SubscriptionFactory(**PERIOD)
    form = as_stored(rule, earns_months="12", approval="manual")
    assert staff.post(url(rule), form).status_code == 302
    rule.refresh_from_db()
    assert (rule.earns_for, rule.earns_months, rule.approval) == ("months", 12, "manual")


@pytest.mark.parametrize("wrong", ["0", "-1", "1201", "99999999999999999999", "x", "١٢"])
def test_months_that_make_no_sense_are_refused(staff: Client, wrong: str) -> None:
    rule = SubscriptionFactory(counting="every")
    form = as_stored(rule, earns_for="months", earns_months=wrong)
    page = staff.post(url(rule), form)
    if wrong == "١٢":  # Digits, in Arabic.
        assert page.status_code == 302
        return
    assert page.status_code == 200
    assert page.context["adminform"].form.errors.keys() == {"earns_months"}


def test_saving_refuses_a_period_of_what_counts_once(staff: Client) -> None:
    rule = SubscriptionFactory()
    page = staff.post(url(rule), as_stored(rule, earns_for="always"))
    assert "Choose “Every order”" in shown(page)


# Several at once


def test_several_get_a_period(staff: Client, rule: Subscription) -> None:
    other, once = SubscriptionFactory(counting="every"), SubscriptionFactory()
    customer(other, 10)
    rows = (rule, other, once)
    page = preview(staff, *rows, earns_for="months", earns_months="12")
    assert "Later orders of 3 customers are credited from now on." in shown(page)
    assert "because the new values do not fit" in shown(page)
    assert "A number of months after the first conversion" in shown(page)
    done = confirm(staff, page, *rows)
    assert "Later orders of 3 customers are credited from now on." in told(done)
    earns = Subscription.objects.order_by("pk").exclude(trigger="Lead")
    assert list(earns.values_list("earns_for", "earns_months")) == [
        ("months", 12), ("months", 12), ("window", None),
    ]  # fmt: skip
    page = preview(staff, *rows, earns_for="always")
    confirm(staff, page, *rows)
    assert set(earns.values_list("earns_for", "earns_months")) == {
        ("always", None), ("window", None),
    }  # fmt: skip


def test_months_alone_change_those_that_have_months(staff: Client) -> None:
    months, window = SubscriptionFactory(**PERIOD), SubscriptionFactory(counting="every")
    page = preview(staff, months, window, earns_months="6")
    assert "leave this empty" in shown(page)
    confirm(staff, page, months, window)
    values = Subscription.objects.order_by("pk").values_list("earns_for", "earns_months")
    assert list(values) == [("months", 6), ("window", None)]


# Lists and warnings


def test_the_list_shows_and_filters_the_period(staff: Client) -> None:
    SubscriptionFactory(**PERIOD)
    SubscriptionFactory(**PERIOD | {"earns_months": 1})
    SubscriptionFactory(counting="every", earns_for="always")
    text = shown(staff.get(LIST))
    for words in ("12 months", "1 month", "Always, after the first conversion"):
        assert words in text
    text = shown(staff.get(LIST, {"earns_for__exact": "always"}))
    assert "12 months" not in text


@pytest.mark.parametrize("options", [{}, {"user": "user"}, {"visitor": "affiliate_visitor"}])
def test_a_period_without_a_stated_customer_is_a_warning(
    staff: Client, wire: Any, options: dict[str, str]
) -> None:
    wire([("Order placed", "django.db.models.signals.post_save", object_created, Order, options)])
    rule = SubscriptionFactory(**PERIOD)
    text = shown(staff.get(url(rule)))
    assert ("later orders are not recognised" in text) is not options


def test_a_period_keeps_what_the_end_of_tracking_would_lose(staff: Client) -> None:
    rule = SubscriptionFactory(counting="every", closes_referral=True)
    assert rule.partner.subscriptions.closing_too_early() == ["Order placed"]
    Subscription.objects.update(earns_for="always")
    assert rule.partner.subscriptions.closing_too_early() == []
    SubscriptionFactory(partner=rule.partner, trigger="Lead")
    assert "Order placed" in rule.partner.subscriptions.closing_too_early()


# The visitor


def test_staff_stop_tracking_a_visitor(staff: Client) -> None:
    visitor = customer(SubscriptionFactory(**PERIOD), 10)
    page = staff.get(url(visitor, "stop_tracking"))
    assert "It cannot be undone" in shown(page)
    assert "Stop tracking this visitor" in shown(staff.get(url(visitor)))
    assert "This field is required" in shown(staff.post(url(visitor, "stop_tracking")))
    page = staff.post(url(visitor, "stop_tracking"), {"reason": "Left us"}, follow=True)
    assert told(page) == ["Stopped tracking this visitor: Left us"]
    assert "Left us" in LogEntry.objects.get().change_message
    visitor.refresh_from_db()
    assert visitor.stopped_on is not None
    assert url(visitor, "stop_tracking") not in page.text
    assert complete_trigger(None, "Order placed", visitor=visitor, reference="1") is None
    page = staff.post(url(visitor, "stop_tracking"), {"reason": "Again"}, follow=True)
    assert told(page) == ["This visitor was already stopped."]
    assert LogEntry.objects.count() == 1


def test_only_who_may_change_visitors_stops_one() -> None:
    visitor = VisitorFactory()
    client = allowed("view_visitor")
    assert client.post(url(visitor, "stop_tracking"), {"reason": "x"}).status_code == 403
    client = allowed("view_visitor", "change_visitor")
    assert client.post(url(visitor, "stop_tracking"), {"reason": "x"}).status_code == 302
    visitor.refresh_from_db()
    assert visitor.stopped_on is not None


def story(visitor: Visitor) -> str:
    (built,) = timeline.build([visitor.pk])
    return " ".join(entry.text for entry in built.entries)


def test_the_timeline_says_how_long_a_period_runs() -> None:
    rule = SubscriptionFactory(**PERIOD)
    visitor = customer(rule, 10)
    text = story(visitor)
    assert "Tracking ended, apart from the earning period." in text
    assert "The click itself can no longer be credited: tracking ended" in text
    last = rule.earning_ends_on(ago(10)) - timedelta(days=1)
    assert f"The earning period of “Order placed” runs until {last:%b}" in text
    assert f"{last.day}, {last.year} (day included)" in text
    Subscription.objects.update(earns_for="always", earns_months=None)
    assert "The earning period of “Order placed” has no end" in story(visitor)
    Subscription.objects.update(earns_for="months", earns_months=1)
    visitor.conversions.update(created_on=ago(40))
    assert "The earning period of “Order placed” has ended (last day:" in story(visitor)
    Partner.objects.update(active=False)
    assert "The earning period of" not in story(visitor)


def test_the_timeline_says_that_staff_have_stopped_it() -> None:
    visitor = VisitorFactory()
    visitor.stop()
    text = story(visitor)
    assert "Staff stopped tracking this visitor." in text
    assert "Tracking ended" not in text
    assert "staff stopped tracking the visitor" in text
    closed = VisitorFactory(closed_on=ago(1))
    closed.stop()
    assert "Tracking ended: no more conversions" in story(closed)
    assert "Staff stopped tracking this visitor." in story(closed)


def test_the_timeline_names_no_period_of_rejected_or_ended_deals() -> None:
    rule = SubscriptionFactory(**PERIOD)
    visitor = VisitorFactory(partner=rule.partner)
    ConversionFactory(visitor=visitor, subscription=rule, status="rejected", released=1)
    assert "earning period" not in story(visitor)
    customer_of_old = customer(SubscriptionFactory(**PERIOD, active=False), 3)
    assert "earning period" not in story(customer_of_old)
