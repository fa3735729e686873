"""Orders with a partner's code: whose they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import IntegrityError, OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve
from django.utils import timezone

from affiliations import events, privacy
from affiliations import timeline as timelines
from affiliations.conversions import recording
from affiliations.exceptions import Reason
from affiliations.models import (
    Conversion,
    FailedTrigger,
    Partner,
    PartnerCode,
    RecentFilteredClick,
    UncreditedTrigger,
    Visitor,
)
from affiliations.retries import retry_due
from affiliations.signals import trigger_not_credited
from affiliations.testing import start_referral
from affiliations.tracking import refer
from affiliations.triggers import acomplete_trigger, complete_trigger
from tests.arrivals import commit, referred, request_of
from tests.factories import PartnerCodeFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

PLACED = "Order placed"


@pytest.fixture
def code() -> PartnerCode:
    """Make the code of a partner who subscribes to every order."""
    code = PartnerCodeFactory(code="SteepNotes")
    SubscriptionFactory(partner=code.partner, counting="every", closes_referral=False)
    return code


@pytest.fixture
def other() -> Visitor:
    """Make an open referral of another partner."""
    return referred(counting="every", closes_referral=False)


def order(request: Any = None, /, **arguments: Any) -> Conversion | None:
    return complete_trigger(request, PLACED, reference=arguments.pop("reference", 1), **arguments)


# Without a referral


def test_an_order_with_a_code_alone_makes_a_visitor_by_code(code: PartnerCode) -> None:
    conversion = order(code="SteepNotes")
    assert conversion is not None
    visitor = Visitor.objects.get()
    assert (conversion.visitor, conversion.partner) == (visitor, code.partner)
    assert (conversion.code, conversion.instead_of, conversion.has_click) == (
        "SteepNotes",
        None,
        False,
    )
    assert (visitor.source, visitor.previous, visitor.user) == ("code", None, None)
    assert visitor.successful_on is not None


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (" steepnotes\n", "steepnotes"),
        ("STEEPNOTES", "STEEPNOTES"),
        (["nobody", None, "", "steepnotes"], "steepnotes"),
        (("steepnotes", "other-1"), "steepnotes"),
        ({"steepnotes"}, "steepnotes"),
        ((text for text in ["steepnotes"]), "steepnotes"),
    ],
    ids=["blanks", "case", "list", "first of two", "set", "generator"],
)
def test_a_code_is_found_as_it_is_typed(code: PartnerCode, value: Any, typed: str) -> None:
    SubscriptionFactory(
        partner=PartnerCodeFactory(code="other-1").partner, counting="every", closes_referral=False
    )
    conversion = order(code=value)
    assert conversion is not None
    assert (conversion.partner, conversion.code) == (code.partner, typed)


def test_of_two_codes_the_first_of_an_active_partner_counts(code: PartnerCode) -> None:
    inactive = PartnerCodeFactory(code="gone-1", partner__active=False)
    off = PartnerCodeFactory(code="gone-2", active=False)
    with CaptureQueriesContext(connection) as queries:
        conversion = order(code=["10-percent", inactive.code, off.code, "steepnotes"])
    assert conversion is not None
    assert conversion.partner == code.partner
    assert sum("affiliations_partnercode" in query["sql"] for query in queries) == 1


def test_the_id_of_an_earlier_system_may_be_a_number(code: PartnerCode) -> None:
    PartnerCode.objects.create(partner=code.partner, code="10042")
    conversion = order(code=10042)
    assert conversion is not None
    assert conversion.code == "10042"


@pytest.mark.parametrize(
    "value",
    [None, "", "  ", "ab", "\0", "steep\0notes", "nobody", "x" * 10_000_000, " " * 10_000_000,
     [], [None], ["x" * 5_000_000] * 2, -1, 10**5000, True, float("nan"), 1.5, b"steepnotes",
     object(), {"code": "steepnotes"}, [["steepnotes"]], "\ud800steep"],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, int) else str(value.bit_length()),
)  # fmt: skip
def test_what_is_no_code_is_ignored(code: PartnerCode, other: Visitor, value: Any) -> None:
    assert order(code=value) is None
    conversion = order(visitor=other, code=value)
    assert conversion is not None
    assert (conversion.visitor, conversion.code, conversion.instead_of) == (other, "", None)
    assert Visitor.objects.count() == 1


@pytest.mark.parametrize("value", [None, "", "  ", "ab", "x" * 10_000, [], ["", None]])
def test_an_order_without_a_code_costs_no_query(
    code: PartnerCode, value: Any, django_assert_num_queries: Any
) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert order(code=value) is None
    assert [query for query in queries if "SAVEPOINT" not in query["sql"]] == []
    if value in (None, ""):
        assert len(queries) == 0


@pytest.mark.parametrize("value", [1.5, b"steepnotes", object(), [PartnerCode()], {"a": "b"}])
def test_what_can_never_be_a_code_is_logged(
    code: PartnerCode, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    order(code=value)
    assert "needs the text of a code, or several, not a" in caplog.text
    assert '"coupon.code"' in caplog.text


@pytest.mark.parametrize("whose", ["code", "partner"])
def test_the_code_of_no_active_partner_is_ignored(
    code: PartnerCode, other: Visitor, whose: str
) -> None:
    model = PartnerCode if whose == "code" else Partner
    model._default_manager.filter(pk=(code if whose == "code" else code.partner).pk).update(
        active=False
    )
    conversion = order(visitor=other, code="steepnotes")
    assert conversion is not None
    assert (conversion.visitor, conversion.code) == (other, "")


def test_a_code_that_is_somebodys_uid_counts_for_its_own_partner(other: Visitor) -> None:
    # The form refuses it; a bulk operation does not.
    code = PartnerCodeFactory(code=other.partner.uid.upper())
    SubscriptionFactory(partner=code.partner)
    conversion = order(code=other.partner.uid)
    assert conversion is not None
    assert conversion.partner == code.partner


def test_an_order_saved_twice_makes_one_visitor(code: PartnerCode) -> None:
    heard = []

    def listen(**kwargs: Any) -> None:
        heard.append((kwargs["reason"], kwargs["visitor"]))

    trigger_not_credited.connect(listen)
    try:
        order(code="steepnotes")
        order(code="steepnotes")
        commit()
    finally:
        trigger_not_credited.disconnect(listen)
    assert Visitor.objects.count() == Conversion.objects.count() == 1
    assert heard == [(Reason.ALREADY_COUNTED, None)]


def test_a_code_without_a_subscription_leaves_no_visitor(code: PartnerCode, other: Visitor) -> None:
    code.partner.subscriptions.update(active=False)
    assert order(visitor=other, code="steepnotes") is None
    commit()
    assert Visitor.objects.count() == 1
    assert not UncreditedTrigger.objects.exists()


def test_async_code_states_a_code(code: PartnerCode) -> None:
    complete = async_to_sync(acomplete_trigger)
    conversion = complete(None, PLACED, reference=1, code="steepnotes")
    assert conversion is not None
    assert conversion.partner == code.partner
    assert complete(None, PLACED, reference=2, code="") is None


# Against a click


@pytest.mark.parametrize("how", ["stated", "browser", "buyer"])
def test_a_code_beats_a_click(code: PartnerCode, other: Visitor, settings: Any, how: str) -> None:
    user = UserFactory()
    if how == "stated":
        conversion = order(visitor=other, code="steepnotes")
    elif how == "browser":
        conversion = order(request_of(other), code="steepnotes")
    else:
        settings.AFFILIATE_ATTRIBUTE_BY_USER = True
        Visitor.objects.update(user=user)
        conversion = order(user=user, code="steepnotes")
    assert conversion is not None
    assert (conversion.partner, conversion.instead_of) == (code.partner, other)
    assert conversion.visitor.previous == other
    other.refresh_from_db()
    assert other.is_open


@pytest.mark.parametrize("model", ["last_click", "first_click"])
@pytest.mark.parametrize("first", ["click", "code"])
def test_the_next_order_without_a_code_is_that_of_the_click(
    code: PartnerCode, other: Visitor, settings: Any, first: str, model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    user, request = UserFactory(), request_of(None)
    if first == "click":
        Visitor.objects.update(user=user)
    else:
        other.delete()
    assert order(user=user, code="steepnotes") is not None
    alone = order(user=user, reference=2)
    assert alone is not None
    assert (alone.partner == code.partner) is (first == "code")
    if first == "code":
        click = refer(other.partner, user=user, request=request)
        assert click is not None
        other = click
        assert click.previous == alone.visitor
    for number, browser in enumerate([None, request, request_of(other)], 3):
        conversion = order(browser, user=user, reference=number)
        assert conversion is not None
        assert conversion.visitor == other


def test_a_click_that_would_not_be_credited_is_not_beaten(
    code: PartnerCode, other: Visitor
) -> None:
    Visitor.objects.update(closed_on=timezone.now())
    conversion = order(visitor=other, code="steepnotes")
    assert conversion is not None
    assert (conversion.instead_of, conversion.visitor.previous) == (None, None)


def test_the_browser_does_not_remember_a_visitor_by_code(code: PartnerCode, other: Visitor) -> None:
    request = request_of(other)
    order(request, code="steepnotes")
    conversion = order(request, reference=2)
    assert conversion is not None
    assert (conversion.visitor, conversion.code) == (other, "")


# The partner's own referral


@pytest.mark.parametrize("how", ["stated", "browser", "buyer"])
def test_an_order_whose_code_and_visitor_are_the_same_partners_keeps_the_visitor(
    code: PartnerCode, how: str
) -> None:
    user = UserFactory()
    visitor = VisitorFactory(
        partner=code.partner, click_id="abc", user=user if how == "buyer" else None
    )
    arguments: dict[str, Any] = {"stated": {"visitor": visitor}, "buyer": {"user": user}}.get(
        how, {}
    )
    request = request_of(visitor) if how == "browser" else None
    conversion = order(request, code="steepnotes", **arguments)
    assert conversion is not None
    assert (conversion.visitor, conversion.code) == (visitor, "steepnotes")
    assert (conversion.instead_of, conversion.has_click) == (None, True)
    assert Visitor.objects.count() == 1


def test_a_referral_of_the_buyer_beats_the_click_of_another_partner(
    code: PartnerCode, other: Visitor
) -> None:
    user = UserFactory()
    visitor = VisitorFactory(partner=code.partner, user=user, click_id="abc")
    conversion = order(request_of(other, user), code="steepnotes")
    assert conversion is not None
    assert (conversion.visitor, conversion.instead_of) == (visitor, other)


def test_the_next_order_of_a_coupon_customer_is_no_first_order(code: PartnerCode) -> None:
    user = UserFactory()
    first, second = (order(user=user, code="steepnotes", reference=n) for n in (1, 2))
    assert first is not None
    assert second is not None
    assert first.visitor == second.visitor
    code.partner.subscriptions.update(counting="once")
    assert order(user=user, code="steepnotes", reference=3) is not None
    assert order(user=user, code="steepnotes", reference=4) is None
    assert Visitor.objects.count() == 1


def test_a_closed_referral_is_used_and_refuses(code: PartnerCode) -> None:
    user = UserFactory()
    visitor = VisitorFactory(partner=code.partner, user=user, closed_on=timezone.now())
    assert order(user=user, code="steepnotes") is None
    commit()
    row = UncreditedTrigger.objects.get()
    assert (row.visitor, row.reason) == (visitor, Reason.REFERRAL_CLOSED)


@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "merged"])
def test_a_buyer_may_have_the_key_of_an_earlier_account(
    code: PartnerCode, is_deleted: bool
) -> None:
    user, merged = UserFactory(), UserFactory()
    first = order(user=user, code="steepnotes")
    Visitor.objects.update(user=None if is_deleted else merged)
    second = order(user=user, code="steepnotes", reference=2)
    third = order(user=user, code="steepnotes", reference=3)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.visitor != second.visitor == third.visitor


def test_a_guest_is_looked_up_again_after_a_conflict(
    code: PartnerCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    VisitorFactory(user=UserFactory())
    record = recording.record

    def conflict(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(recording, "record", record)
        raise IntegrityError

    monkeypatch.setattr(recording, "record", conflict)
    conversion = order(code="steepnotes")
    assert conversion is not None
    assert conversion.visitor.is_by_code


def test_an_open_referral_comes_before_a_closed_one(code: PartnerCode) -> None:
    user = UserFactory()
    visitor = VisitorFactory(partner=code.partner, user=user)
    VisitorFactory(partner=code.partner, user=user, closed_on=timezone.now())
    conversion = order(user=user, code="steepnotes")
    assert conversion is not None
    assert conversion.visitor == visitor


@pytest.mark.parametrize(("model", "expected"), [("last_click", 1), ("first_click", 0)])
def test_of_several_referrals_of_the_buyer_the_model_chooses(
    code: PartnerCode, settings: Any, model: str, expected: int
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    user = UserFactory()
    found = [VisitorFactory(partner=code.partner, user=user) for _ in range(2)]
    conversion = order(user=user, code="steepnotes")
    assert conversion is not None
    assert conversion.visitor == found[expected]


def test_after_the_window_the_code_makes_another_visitor_each_time(code: PartnerCode) -> None:
    user = UserFactory()
    for reference in range(3):
        assert order(user=user, code="steepnotes", reference=reference) is not None
        Visitor.objects.update(referred_on=timezone.now() - timedelta(days=31))
    assert Visitor.objects.filter(source="code", user=user).count() == 3


def test_without_a_window_an_old_referral_is_used(code: PartnerCode, settings: Any) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = None
    old = timezone.now() - timedelta(days=3000)
    visitor = VisitorFactory(partner=code.partner, referred_on=old)
    conversion = order(request_of(visitor), code="steepnotes")
    assert conversion is not None
    assert conversion.visitor == visitor


# Tests


def test_if_the_browser_carries_a_test_of_the_partner_the_order_is_a_test(
    code: PartnerCode,
) -> None:
    user = UserFactory()
    VisitorFactory(partner=code.partner, user=user)
    test = VisitorFactory(partner=code.partner, is_test=True)
    conversion = order(request_of(test, user), code="steepnotes")
    assert conversion is not None
    assert (conversion.visitor, conversion.is_test) == (test, True)


def test_the_test_of_another_partner_makes_no_test(code: PartnerCode, other: Visitor) -> None:
    Visitor.objects.update(is_test=True)
    conversion = order(request_of(other), code="steepnotes")
    assert conversion is not None
    assert (conversion.is_test, conversion.partner) == (False, code.partner)


# Who buys, and where


def test_an_order_on_a_page_of_staff_counts_by_its_code_alone(
    code: PartnerCode, other: Visitor, settings: Any
) -> None:
    settings.AFFILIATE_STAFF_NAMESPACES = ["admin"]
    request = request_of(other, UserFactory())
    request.resolver_match = resolve("/admin/")
    conversion = order(request, code="steepnotes")
    assert conversion is not None
    assert (conversion.partner, conversion.instead_of) == (code.partner, None)
    assert (conversion.user, conversion.visitor.user) == (None, None)


def test_an_order_for_another_user_uses_no_referral_of_the_browser(code: PartnerCode) -> None:
    visitor = VisitorFactory(partner=code.partner)
    conversion = order(request_of(visitor, UserFactory()), user=UserFactory(), code="steepnotes")
    assert conversion is not None
    assert conversion.visitor != visitor


@pytest.mark.parametrize("arguments", [{"visitor": 10**6}, {"user": 10**6}])
def test_a_code_counts_if_the_stated_visitor_or_user_is_gone(
    code: PartnerCode, arguments: dict[str, Any]
) -> None:
    conversion = order(code="steepnotes", **arguments)
    assert conversion is not None
    assert conversion.partner == code.partner


def test_a_partner_who_uses_the_own_code_needs_review(code: PartnerCode) -> None:
    user = UserFactory()
    code.partner.users.add(user)
    conversion = order(user=user, code="steepnotes")
    assert conversion is not None
    assert (conversion.status, conversion.review_reason) == ("pending", Reason.SCREENED)


def test_a_function_that_screens_gets_a_visitor_that_is_stored(
    code: PartnerCode, settings: Any
) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_code_orders.screen"
    conversion = order(code="steepnotes")
    assert conversion is not None
    assert conversion.reason == "0 before"


def screen(visitor: Visitor, user: object, instance: object) -> str:
    return f"{visitor.conversions.count()} before"


def test_a_running_earning_period_comes_before_a_code(code: PartnerCode, other: Visitor) -> None:
    user = UserFactory()
    other.partner.subscriptions.update(earns_for="always")
    Visitor.objects.update(user=user)
    assert order(visitor=other, user=user) is not None
    conversion = order(user=user, code="steepnotes", reference=2)
    assert conversion is not None
    assert (conversion.visitor, conversion.code) == (other, "")


def test_a_closed_referral_that_a_code_finds_earns_in_its_period(
    code: PartnerCode, other: Visitor
) -> None:
    code.partner.subscriptions.update(earns_for="always", closes_referral=True)
    user = UserFactory()
    first = order(request_of(None, user), code="steepnotes")
    renewal = order(request_of(other, user), code="steepnotes", reference=2)
    assert first is not None
    assert renewal is not None
    assert (renewal.visitor, renewal.code) == (first.visitor, "steepnotes")
    assert renewal.instead_of == other
    Visitor.objects.update(stopped_on=timezone.now())
    assert order(request_of(None, user), code="steepnotes", reference=3) is None


# By the fifth item


def test_a_trigger_reads_the_code_of_an_order(code: PartnerCode, wire: Any) -> None:
    wire([(PLACED, "django.db.models.signals.post_save", "affiliations.triggers.object_created",
           "testapp.Order", {"code": "note"})])  # fmt: skip
    Order.objects.create(note="steepnotes ")
    Order.objects.create(note="")
    assert Conversion.objects.get().partner == code.partner


def test_a_trigger_reads_the_codes_of_an_order_with_several(code: PartnerCode, wire: Any) -> None:
    wire([(PLACED, "django.db.models.signals.post_save", "affiliations.triggers.object_created",
           "testapp.Order", {"code": lambda order: order.note.split()})])  # fmt: skip
    Order.objects.create(note="10-percent steepnotes")
    assert Conversion.objects.get().code == "steepnotes"


def test_a_code_that_is_neither_read_nor_stated_is_reported(
    code: PartnerCode, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire([(PLACED, "django.db.models.signals.post_save", "affiliations.triggers.object_created",
           "testapp.Order", {"code": "note"})])  # fmt: skip
    order(visitor=VisitorFactory())
    assert "Pass instance=, or state: code." in caplog.text


# When the database fails


def fail(*args: Any, **kwargs: Any) -> None:
    raise OperationalError("database is locked")


@pytest.mark.parametrize("is_known", [False, True])
def test_an_order_with_a_code_is_credited_later_if_the_database_fails(
    code: PartnerCode, other: Visitor, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    own = VisitorFactory(partner=code.partner) if is_known else None
    with monkeypatch.context() as context:
        context.setattr(recording, "record", fail)
        order(visitor=own or other, code=["nobody", " SteepNotes "])
    failed = FailedTrigger.objects.get()
    assert (failed.codes, failed.visitor) == ("nobody SteepNotes", own or other)
    assert "code nobody SteepNotes" in failed.summary
    assert list(retry_due(timezone.now() + timedelta(hours=1))) == [1]
    conversion = Conversion.objects.get()
    assert (conversion.partner, conversion.code) == (code.partner, "SteepNotes")
    assert conversion.instead_of == (None if own else other)


@pytest.mark.parametrize("is_stated", [False, True])
def test_a_later_try_decides_between_a_code_and_a_period_as_the_first_one_did(
    code: PartnerCode, other: Visitor, monkeypatch: pytest.MonkeyPatch, is_stated: bool
) -> None:
    other.partner.subscriptions.update(earns_for="always")
    assert order(visitor=other) is not None
    with monkeypatch.context() as context:
        context.setattr(recording, "record", fail)
        order(request_of(other), visitor=other if is_stated else None, code=["x", "steepnotes"],
              reference=2)  # fmt: skip
    failed = FailedTrigger.objects.get()
    assert (failed.codes, failed.visitor) == ("" if is_stated else "steepnotes", other)
    assert list(retry_due(timezone.now() + timedelta(hours=1))) == [1]
    conversion = Conversion.objects.get(reference=2)
    assert conversion.partner == (other.partner if is_stated else code.partner)


def test_a_later_try_asks_for_no_period_of_a_user_who_was_not_stated(
    code: PartnerCode, other: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = UserFactory()
    other.partner.subscriptions.update(earns_for="always")
    assert order(visitor=other, user=user) is not None
    with monkeypatch.context() as context:
        context.setattr(recording, "record", fail)
        order(request_of(None, user), code="steepnotes", reference=2)
    failed = FailedTrigger.objects.get()
    assert (failed.codes, failed.visitor, failed.user) == ("steepnotes", None, user)
    assert list(retry_due(timezone.now() + timedelta(hours=1))) == [1]
    assert Conversion.objects.get(reference=2).partner == code.partner


def test_a_code_of_an_order_alone_is_credited_later(
    code: PartnerCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(recording, "record", fail)
        order(code="steepnotes")
    assert FailedTrigger.objects.get().visitor is None
    assert list(retry_due(timezone.now() + timedelta(hours=1))) == [1]
    assert Conversion.objects.get().partner == code.partner


@pytest.mark.parametrize("times", [1, 2])
def test_a_visitor_whom_another_order_has_just_made_is_used(
    code: PartnerCode, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    user = UserFactory()
    find = events.TriggerEvent._whose
    stale = [
        find(events.TriggerEvent(None, PLACED, user=user, code="steepnotes")) for _ in range(times)
    ]
    assert order(user=user, code="steepnotes") is not None
    with monkeypatch.context() as context:
        context.setattr(
            events.TriggerEvent, "_whose", lambda self: stale.pop() if stale else find(self)
        )
        conversion = order(user=user, code="steepnotes", reference=2)
    assert Visitor.objects.count() == 1
    if times == 2:  # As in a transaction that sees no newer rows: it is tried again after it.
        assert conversion is None
        assert list(retry_due(timezone.now() + timedelta(hours=1))) == [1]
    assert Conversion.objects.count() == 2


# Readable links


def test_a_readable_link_is_a_click(client: Client, code: PartnerCode) -> None:
    response = client.get("/?affiliate_id=steepNotes&click_id=abc&x=1")
    assert (response.status_code, response["Location"]) == (302, "/?click_id=abc&x=1")
    visitor = Visitor.objects.get()
    assert (visitor.partner, visitor.source, visitor.click_id) == (code.partner, "link", "abc")


def test_a_readable_link_of_an_inactive_code_is_unknown(client: Client, code: PartnerCode) -> None:
    PartnerCode.objects.update(active=False)
    assert client.get("/?affiliate_id=steepnotes").status_code == 302
    commit()
    assert not Visitor.objects.exists()
    assert RecentFilteredClick.objects.get().reason == Reason.UNKNOWN_PARTNER


def test_a_click_through_a_link_and_the_same_code_are_one_visitor(
    client: Client, code: PartnerCode
) -> None:
    visitor = start_referral(client, code.partner)
    conversion = order(request_of(visitor), code="steepnotes")
    assert conversion is not None
    assert conversion.visitor == visitor


# Timelines


def told(visitor: Visitor) -> str:
    [timeline] = timelines.build([visitor.pk])
    return "\n".join(entry.text for entry in timeline.entries)


@pytest.mark.parametrize("is_known", [False, True])
def test_the_timelines_of_both_partners_say_that_the_code_beat_the_click(
    code: PartnerCode, other: Visitor, is_known: bool
) -> None:
    user = UserFactory()
    if is_known:
        VisitorFactory(partner=code.partner, user=user)
    conversion = order(visitor=other, user=user, code="steepnotes", reference="A-7")
    assert conversion is not None
    assert (
        f"“Order placed” was credited to {code.partner} as conversion {conversion.pk}, by the code "
        "steepnotes on the order, which takes precedence over this click. The reference is A-7."
    ) in told(other)
    assert "No trigger has fired" not in told(other)
    winner = told(conversion.visitor)
    assert (
        "It was credited by the code steepnotes on the order, which takes precedence over the "
        f"click of visitor {other} from {other.partner}."
    ) in winner
    assert ("by a code on an order, without a click." in winner) is not is_known
    assert "replaced" not in told(other) + winner


def test_the_timeline_says_by_which_code_an_order_is_credited(code: PartnerCode) -> None:
    conversion = order(code="STEEPNOTES")
    assert conversion is not None
    text = told(conversion.visitor)
    assert "It was credited by the code STEEPNOTES on the order." in text
    assert "click id" not in text


# Retention


def test_a_click_that_a_code_has_beaten_stays_no_longer_than_others(
    code: PartnerCode, other: Visitor
) -> None:
    conversion = order(visitor=other, code="steepnotes")
    assert conversion is not None
    Visitor.objects.update(referred_on=timezone.now() - timedelta(days=400))
    assert sum(privacy.purge(timezone.now() - timedelta(days=365))) == 1
    conversion.refresh_from_db()
    assert (conversion.instead_of, conversion.visitor.previous) == (None, None)
