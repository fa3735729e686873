from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import tls
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.db import connections, models, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils import timezone

from affiliations import triggers
from affiliations.exceptions import Reason
from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware
from affiliations.models import Callback, Conversion, Visitor
from affiliations.models.conversion_queries import reference_key
from affiliations.testing import start_referral
from affiliations.tracking import binding
from affiliations.triggers import (
    acomplete_trigger,
    approve_conversions,
    complete_trigger,
    object_created,
    object_saved,
    reject_conversions,
)
from tests.arrivals import referred, request_of
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.testapp.models import (
    Booking,
    Elsewhere,
    GroupBooking,
    Newsletter,
    Order,
    PhoneBooking,
)
from tests.testapp.signals import something_happened

User = get_user_model()
pytestmark = pytest.mark.django_db


def of_ours(queries: CaptureQueriesContext) -> list[str]:
    return [query["sql"] for query in queries if "affiliations_" in query["sql"]]


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Say why triggers were not counted, as the log has it, but for the users that tests make."""
    caplog.set_level(logging.DEBUG, logger="affiliations")
    yield lambda: [
        record.reason
        for record in caplog.records
        if "had no effect: %s%s (" in record.msg and record.args[0] != "User registered"
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# What fires, and for whom


def test_signing_up_behind_a_partners_link_credits_the_partner_with_the_new_user(
    client: Client,
) -> None:
    # D12: the README's own "User registered" sent the callback and then crashed.
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner, trigger="User registered")
    visitor = start_referral(client, partner)

    response = client.post("/sign-up/", {"name": "somebody@shop.example"})

    assert response.status_code == 200
    conversion = Conversion.objects.get()
    assert conversion.visitor == visitor
    assert conversion.partner == partner
    assert conversion.user == User.objects.get()
    assert conversion.reference == f"{User._meta.label_lower}:{conversion.user.pk}"
    visitor.refresh_from_db()
    assert visitor.user == conversion.user
    assert visitor.successful_on is not None
    assert Callback.objects.get().url == f"https://partner.example/cb?v={visitor.pk}"


def test_changing_what_was_created_credits_nobody() -> None:
    order = Order.objects.create(note="before the visit")
    visitor = referred()
    with binding.binding(request_of(visitor)):
        order.note = "changed"
        order.save()
    assert not Conversion.objects.exists()


def test_object_saved_credits_at_a_change_too(wire: Any) -> None:
    order = Order.objects.create(note="before the visit")
    wire([("Order changed", post_save, object_saved, Order)])
    visitor = referred("Order changed")
    with binding.binding(request_of(visitor)):
        order.save()
    assert Conversion.objects.get().reference == f"testapp.order:{order.pk}"


def test_an_order_that_is_saved_again_behind_another_partners_link_is_not_paid_twice(
    wire: Any, reasons: Any
) -> None:
    wire([("Order changed", post_save, object_saved, Order)])
    buyer, staff = referred("Order changed"), referred("Order changed")
    with binding.binding(request_of(buyer)):
        order = Order.objects.create()
    with binding.binding(request_of(staff)):
        order.save()
        assert reasons() == [Reason.ALREADY_COUNTED.value]
        Order.objects.create()
    assert [one.visitor for one in Conversion.objects.order_by("pk")] == [buyer, staff]


def test_what_has_no_reference_on_purpose_counts_for_each_visitor(wire: Any) -> None:
    wire([("Came back", something_happened, object_saved, User, {"reference": lambda user: ""})])
    user = UserFactory()
    for _ in range(2):
        with binding.binding(request_of(referred("Came back"))):
            something_happened.send(sender=User, instance=user)
    assert Conversion.objects.filter(user=user, reference="").count() == 2


def test_a_signal_of_the_host_credits_with_whatever_instance_it_sends(wire: Any) -> None:
    wire([("Something", something_happened, object_saved, None)])
    visitor = referred("Something", counting="every", closes_referral=False)
    order = Order.objects.create()
    with binding.binding(request_of(visitor)):
        something_happened.send(sender=None, instance=order)
        something_happened.send(sender="anything", instance=Newsletter(pk=7))
    references = Conversion.objects.order_by("pk").values_list("reference", flat=True)
    assert list(references) == [f"testapp.order:{order.pk}", "testapp.newsletter:7"]


def test_a_deletion_can_be_a_trigger_inside_the_transaction_that_deletes(wire: Any) -> None:
    wire([("Cancelled", post_delete, object_saved, Order)])
    visitor = referred("Cancelled")
    order = Order.objects.create()
    pk = order.pk
    with binding.binding(request_of(visitor)):
        order.delete()
    assert Conversion.objects.get().reference == f"testapp.order:{pk}"


def test_a_relation_can_be_a_trigger(wire: Any) -> None:
    through = User._meta.get_field("groups").remote_field.through
    wire([("Joined a group", m2m_changed, object_saved, through)])
    visitor = referred("Joined a group")
    user = UserFactory()
    group = User._meta.get_field("groups").related_model.objects.create(name="Club")
    with binding.binding(request_of(visitor)):
        user.groups.add(group)
    assert Conversion.objects.get().user == user


def test_loading_a_fixture_credits_nobody(tmp_path: Any, wire: Any) -> None:
    # D26: 0.12 fired at every row that loaddata wrote.
    wire(
        [
            ("Order placed", post_save, object_created, Order),
            ("Order saved", post_save, object_saved, Order),
        ]
    )
    visitor = referred()
    SubscriptionFactory(partner=visitor.partner, trigger="Order saved")
    Order.objects.create(note="in the fixture")
    fixture = tmp_path / "orders.json"
    call_command("dumpdata", "testapp.Order", output=fixture, verbosity=0)
    Order.objects.all().delete()
    with binding.binding(request_of(visitor)):
        call_command("loaddata", fixture, verbosity=0)
    assert Order.objects.get().note == "in the fixture"
    assert not Conversion.objects.exists()


def test_two_orders_in_one_request_are_one_conversion_where_a_visitor_counts_once() -> None:
    # D13: 0.12 called the partner twice and then answered 500.
    visitor = referred()
    with binding.binding(request_of(visitor)):
        Order.objects.create()
        Order.objects.create()
    assert Conversion.objects.count() == Callback.objects.count() == 1


def test_two_orders_in_one_request_are_two_conversions_where_every_order_counts() -> None:
    visitor = referred(counting="every", closes_referral=False)
    with binding.binding(request_of(visitor)):
        Order.objects.create()
        Order.objects.create()
    assert Conversion.objects.count() == Callback.objects.count() == 2


def test_two_triggers_on_one_save_are_one_conversion_each_while_none_closes_the_referral(
    wire: Any,
) -> None:
    # D13
    wire(
        [
            ("Order placed", post_save, object_created, Order),
            ("Anything saved", post_save, object_saved, Order),
        ]
    )
    visitor = referred("Order placed", closes_referral=False)
    SubscriptionFactory(partner=visitor.partner, trigger="Anything saved")
    with binding.binding(request_of(visitor)):
        Order.objects.create()
    triggers = Conversion.objects.order_by("pk").values_list("trigger", flat=True)
    assert list(triggers) == ["Order placed", "Anything saved"]


def test_of_two_triggers_on_one_save_the_first_that_closes_the_referral_is_the_last(
    wire: Any, reasons: Any
) -> None:
    wire(
        [
            ("Order placed", post_save, object_created, Order),
            ("Anything saved", post_save, object_saved, Order),
        ]
    )
    visitor = referred("Order placed")
    SubscriptionFactory(partner=visitor.partner, trigger="Anything saved")
    with binding.binding(request_of(visitor)):
        Order.objects.create()
    assert Conversion.objects.get().trigger == "Order placed"
    assert reasons() == [Reason.REFERRAL_CLOSED.value]


# Nobody to credit


def test_somebody_who_came_by_themselves_signs_up_and_nothing_of_ours_is_asked(
    client: Client,
) -> None:
    # D4: saving a trigger's model with no visitor was a 500; nobody could sign up.
    with CaptureQueriesContext(connections["default"]) as queries:
        response = client.post("/sign-up/", {"name": "somebody@shop.example"})
    assert response.status_code == 200
    assert User.objects.count() == 1
    assert of_ours(queries) == []
    assert not [query for query in queries if "django_session" in query["sql"]]
    assert not response.has_header("Vary")


def test_a_session_without_a_visitor_costs_its_reading_and_nothing_of_ours(client: Client) -> None:
    # D4
    session = client.session
    session["basket"] = [1, 2]
    session.save()
    with CaptureQueriesContext(connections["default"]) as queries:
        response = client.post("/order/")
    assert response.status_code == 200
    assert of_ours(queries) == []
    assert len([query for query in queries if "django_session" in query["sql"]]) == 1


@pytest.mark.parametrize("session_middleware", [True, False])
def test_a_site_without_sessions_goes_on_as_ever(
    client: Client, settings: Any, session_middleware: bool
) -> None:
    if not session_middleware:
        settings.MIDDLEWARE = ["affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"]
    referred()
    assert client.post("/order/").status_code == 200
    assert not Conversion.objects.exists()


def test_a_save_in_a_shell_or_a_worker_credits_nobody_and_asks_nothing() -> None:
    # D5: it raised RuntimeError.
    referred()
    with CaptureQueriesContext(connections["default"]) as queries:
        Order.objects.create()
    assert of_ours(queries) == []
    assert len(queries) == 1


def test_a_management_command_can_create_users() -> None:
    # D5: createsuperuser could not.
    names = {"email": "boss@shop.example", User.USERNAME_FIELD: "boss@shop.example"}
    with override_settings(AFFILIATE_ATTRIBUTE_BY_USER=True):
        call_command("createsuperuser", interactive=False, **names)
    assert User.objects.get().is_superuser


def test_a_referral_that_is_gone_from_the_database_is_nobody(reasons: Any) -> None:
    request = request_of(VisitorFactory())
    Visitor.objects.all().delete()
    assert complete_trigger(request, "Order placed") is None
    assert reasons() == [Reason.NO_VISITOR.value]


@pytest.mark.parametrize("rubbish", ["not a number", "", {"no": "id"}, [1], 10**30, -1, True])
def test_rubbish_in_the_session_does_not_break_the_hosts_save(rubbish: object) -> None:
    request = request_of(None)
    request.session["affiliate_visitor_id"] = rubbish
    with binding.binding(request), transaction.atomic():
        Order.objects.create()
    assert Order.objects.count() == 1
    assert not Conversion.objects.exists()


# complete_trigger as a 0.12 custom trigger calls it


def test_a_custom_trigger_of_0_12_hands_on_tls_request_and_a_name() -> None:
    visitor = referred("Newsletter")
    with binding.binding(request_of(visitor)):
        conversion = complete_trigger(tls.request, "Newsletter")
    assert conversion == Conversion.objects.get()
    assert conversion.visitor == visitor
    assert conversion.reference == ""


def test_a_custom_trigger_of_0_12_outside_a_request_credits_nobody(
    django_assert_num_queries: Any,
) -> None:
    with django_assert_num_queries(0):
        assert complete_trigger(tls.request, "Newsletter") is None


async def test_an_async_custom_trigger_outside_a_request_credits_nobody(
    django_assert_num_queries: Any,
) -> None:
    assert await acomplete_trigger(tls.request, "Newsletter") is None
    assert await acomplete_trigger(None, "Newsletter", instance=Order()) is None


def test_a_receiver_of_the_host_gets_the_triggers_name_and_asks_what_it_wants(wire: Any) -> None:
    def big_order(
        sender: object, instance: Order, affiliate_trigger_name: str, **kwargs: object
    ) -> None:
        if instance.total is not None and instance.total > 100:
            complete_trigger(tls.request, affiliate_trigger_name, instance=instance)

    wire([("Big order", post_save, big_order, Order)])
    visitor = referred("Big order")
    with binding.binding(request_of(visitor)):
        Order.objects.create(total=99)
        assert not Conversion.objects.exists()
        Order.objects.create(total=101)
    assert Conversion.objects.get().trigger == "Big order"


def test_an_argument_that_does_not_exist_is_said_at_once() -> None:
    with pytest.raises(TypeError, match="buyer"):
        complete_trigger(None, "Order placed", buyer=None)  # type: ignore[call-arg]


async def test_an_argument_that_does_not_exist_is_said_at_once_to_async_callers_too() -> None:
    with pytest.raises(TypeError, match="buyer"):
        await acomplete_trigger(None, "Order placed", buyer=None)


# Whose referral it is


def test_a_payment_by_webhook_is_credited_to_the_visitor_that_the_order_keeps(wire: Any) -> None:
    path = {"visitor": "affiliate_visitor"}
    wire([("Order paid", something_happened, object_saved, Order, path)])
    buyer, somebody_else = referred("Order paid"), referred("Order paid")
    order = Order.objects.create(affiliate_visitor=buyer)
    with binding.binding(request_of(somebody_else)):
        something_happened.send(sender=Order, instance=order)
    assert Conversion.objects.get().visitor == buyer


def test_a_visitor_is_stated_by_a_path_to_their_id_as_well(wire: Any) -> None:
    wire([("Order paid", post_save, object_saved, Order, {"visitor": "affiliate_visitor_id"})])
    visitor = referred("Order paid")
    Order.objects.create(affiliate_visitor=visitor)  # outside of any request
    assert Conversion.objects.get().visitor == visitor


def test_a_visitor_is_stated_by_a_callable_too(wire: Any) -> None:
    visitor = referred("Order paid")
    options = {"visitor": lambda order: visitor if order.note == "referred" else None}
    wire([("Order paid", post_save, object_created, Order, options)])
    Order.objects.create(note="by itself")
    assert not Conversion.objects.exists()
    Order.objects.create(note="referred")
    assert Conversion.objects.get().visitor == visitor


@pytest.mark.parametrize("by_id", [True, False])
def test_a_stated_visitor_needs_no_request(by_id: bool) -> None:
    visitor = referred()
    conversion = complete_trigger(
        None, "Order placed", visitor=visitor.pk if by_id else visitor, reference="17"
    )
    assert conversion is not None
    assert conversion.visitor == visitor
    assert conversion.reference == "17"


def test_a_stated_visitor_needs_no_request_in_async_code_either() -> None:
    visitor = referred()
    complete = async_to_sync(acomplete_trigger)
    conversion = complete(None, "Order placed", visitor=visitor, reference="17")
    assert conversion is not None
    assert conversion.visitor == visitor


def test_a_stated_visitor_wins_over_the_path_and_the_path_over_the_request(wire: Any) -> None:
    path = {"visitor": "affiliate_visitor"}
    wire([("Order paid", post_save, object_saved, Newsletter), ("Other", *ORDERS, path)])
    stated, kept, requests = referred("Other"), referred("Other"), referred("Other")
    one, other = (Order(pk=pk, affiliate_visitor=kept) for pk in (1, 2))
    request = request_of(requests)
    first = complete_trigger(request, "Other", instance=one, visitor=stated)
    second = complete_trigger(request, "Other", instance=other)
    third = complete_trigger(request, "Other")
    assert [first.visitor, second.visitor, third.visitor] == [stated, kept, requests]


ORDERS = (something_happened, object_saved, Order)


@pytest.mark.parametrize("by_user", [True, False])
def test_an_order_that_kept_no_visitor_is_not_credited_to_whoever_opens_it(
    wire: Any, settings: Any, reasons: Any, by_user: bool
) -> None:
    # A stated one that finds nobody ends the search.
    settings.AFFILIATE_ATTRIBUTE_BY_USER = by_user
    wire([("Order paid", *ORDERS, {"visitor": "affiliate_visitor"})])
    visitor = referred("Order paid")
    user = UserFactory()
    VisitorFactory(partner=visitor.partner, user=user)
    with binding.binding(request_of(visitor, user)):
        something_happened.send(sender=Order, instance=Order.objects.create())
    assert not Conversion.objects.exists()
    assert reasons() == [Reason.NO_VISITOR.value]


def test_a_stated_visitor_who_is_deleted_ends_the_search(reasons: Any) -> None:
    gone, requests = referred(), referred()
    pk = gone.pk
    gone.delete()
    assert complete_trigger(request_of(requests), "Order placed", visitor=pk) is None
    assert reasons() == [Reason.NO_VISITOR.value]


def test_a_path_that_breaks_off_at_a_missing_relation_states_nobody(
    wire: Any, reasons: Any
) -> None:
    wire([("Order paid", *ORDERS, {"visitor": "affiliate_visitor.previous.previous"})])
    visitor = referred("Order paid")
    with binding.binding(request_of(visitor)):
        something_happened.send(sender=Order, instance=Order())
    assert reasons() == [Reason.NO_VISITOR.value]


def test_a_path_over_a_one_to_one_relation_that_is_not_there_states_nobody(reasons: Any) -> None:
    class Shop:
        @property
        def account(self) -> object:
            raise Visitor.DoesNotExist

    options = {"visitor": "account.visitor"}
    with override_settings(AFFILIATE_TRIGGERS=[("Paid", *ORDERS, options)]):
        assert complete_trigger(request_of(referred("Paid")), "Paid", instance=Shop()) is None
    assert reasons() == [Reason.NO_VISITOR.value]


@pytest.mark.parametrize("found", [True, False])
def test_the_requests_lazy_visitor_can_be_handed_on(reasons: Any, found: bool) -> None:
    visitor = referred()

    def view(request: Any) -> HttpResponse:
        complete_trigger(None, "Order placed", visitor=request.affiliate_visitor)
        return HttpResponse()

    AffiliateVisitorsRegistrationMiddleware(view)(request_of(visitor if found else None))
    assert Conversion.objects.exists() == found
    assert reasons() == ([] if found else [Reason.NO_VISITOR.value])


def test_something_else_where_a_visitor_is_wanted_is_said_in_the_log(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Their keys may be the same number.
    wire([("Order paid", *ORDERS, {"visitor": "user"})])
    visitor = referred("Order paid")
    order = Order(user=User(pk=visitor.pk))
    assert complete_trigger(None, "Order paid", instance=order) is None
    assert "needs a visitor, not <User" in caplog.text


def test_staff_who_save_a_customers_order_are_not_credited_with_it(wire: Any, reasons: Any) -> None:
    wire([("Order placed", post_save, object_created, Order, {"user": "user"})])
    staff, customer = UserFactory(), UserFactory()
    visitor = referred()
    with binding.binding(request_of(visitor, staff)):
        Order.objects.create(user=customer)
        Order.objects.create(user=None)
    assert not Conversion.objects.exists()
    assert reasons() == [Reason.NOT_THE_BUYER.value] * 2


def test_the_buyer_themself_is_credited(wire: Any) -> None:
    wire([("Order placed", post_save, object_created, Order, {"user": "user"})])
    customer = UserFactory()
    visitor = referred()
    with binding.binding(request_of(visitor, customer)):
        Order.objects.create(user=User.objects.get(pk=customer.pk))
    assert Conversion.objects.get().user == customer


def test_a_stated_buyer_whose_browser_is_not_logged_in_is_credited() -> None:
    visitor, buyer = referred(), UserFactory()
    conversion = complete_trigger(request_of(visitor), "Order placed", user=buyer)
    assert conversion is not None
    assert conversion.user == buyer


def test_a_stated_buyer_is_nobody_without_a_request_unless_the_settings_say_so(
    settings: Any,
) -> None:
    buyer = UserFactory()
    visitor = referred()
    Visitor.objects.filter(pk=visitor.pk).update(user=buyer)
    assert complete_trigger(None, "Order placed", user=buyer) is None
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    conversion = complete_trigger(None, "Order placed", user=buyer)
    assert conversion is not None
    assert conversion.visitor == visitor


@pytest.mark.usefixtures("by_user")
class TestByUser:
    """AFFILIATE_ATTRIBUTE_BY_USER: the buyer's own referral, whatever browser it came to."""

    @pytest.fixture
    def by_user(self, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTE_BY_USER = True

    def test_the_latest_open_referral_of_the_buyer_is_credited(self) -> None:
        buyer = UserFactory()
        older, latest = (VisitorFactory(user=buyer) for _ in range(2))
        for visitor in (older, latest):
            SubscriptionFactory(partner=visitor.partner)
        VisitorFactory(user=UserFactory())
        VisitorFactory(user=buyer, closed_on=timezone.now())
        VisitorFactory(user=buyer, partner__active=False)
        expired = VisitorFactory(user=buyer)
        Visitor.objects.filter(pk=older.pk).update(referred_on=timezone.now() - timedelta(days=2))
        Visitor.objects.filter(pk=expired.pk).update(
            referred_on=timezone.now() - timedelta(days=31)
        )
        conversion = complete_trigger(None, "Order placed", user=buyer)
        assert conversion is not None
        assert conversion.visitor == latest

    def test_the_user_who_is_logged_in_is_the_buyer(self) -> None:
        buyer, visitor = UserFactory(), referred()
        Visitor.objects.filter(pk=visitor.pk).update(user=buyer)
        with binding.binding(request_of(None, buyer)):
            Order.objects.create()
        assert Conversion.objects.get().visitor == visitor

    def test_the_referral_of_this_browser_comes_first(self) -> None:
        buyer, theirs = UserFactory(), referred()
        Visitor.objects.filter(pk=theirs.pk).update(user=buyer)
        here = referred()
        with binding.binding(request_of(here, buyer)):
            Order.objects.create()
        assert Conversion.objects.get().visitor == here

    def test_a_closed_referral_of_this_browser_counts_as_absent(self) -> None:
        buyer, theirs = UserFactory(), referred()
        Visitor.objects.filter(pk=theirs.pk).update(user=buyer)
        here = referred()
        Visitor.objects.filter(pk=here.pk).update(closed_on=timezone.now())
        with binding.binding(request_of(here, buyer)):
            Order.objects.create()
        assert Conversion.objects.get().visitor == theirs

    def test_a_buyer_without_any_keeps_the_reason_of_this_browsers(self, reasons: Any) -> None:
        here = referred()
        Visitor.objects.filter(pk=here.pk).update(closed_on=timezone.now())
        assert complete_trigger(request_of(here, UserFactory()), "Order placed") is None
        assert reasons() == [Reason.REFERRAL_CLOSED.value]

    def test_staff_who_save_a_customers_order_credit_the_customers_referral(
        self, wire: Any
    ) -> None:
        wire([("Order placed", post_save, object_created, Order, {"user": "user"})])
        customer, visitor = UserFactory(), referred()
        Visitor.objects.filter(pk=visitor.pk).update(user=customer)
        with binding.binding(request_of(referred(), UserFactory())):
            Order.objects.create(user=customer)
        assert Conversion.objects.get().visitor == visitor

    def test_a_stated_buyer_without_referral_ends_the_search(self, reasons: Any) -> None:
        staff = UserFactory()
        VisitorFactory(user=staff)
        request = request_of(None, staff)
        assert complete_trigger(request, "Order placed", user=UserFactory()) is None
        assert complete_trigger(None, "Order placed", user=UserFactory()) is None
        assert reasons() == [Reason.NOT_THE_BUYER.value, Reason.NO_VISITOR.value]

    def test_nobody_in_particular_has_no_referral(self, reasons: Any) -> None:
        VisitorFactory(user=None)
        Order.objects.create()
        assert reasons() == [Reason.NO_VISITOR.value]


# Who bought


def test_the_request_s_user_is_the_buyer_where_none_is_stated() -> None:
    visitor, user = referred(), UserFactory()
    with binding.binding(request_of(visitor, user)):
        Order.objects.create()
    assert Conversion.objects.get().user == user


def test_a_stated_buyer_comes_before_the_path_and_the_path_before_the_request(wire: Any) -> None:
    wire([("Order placed", post_save, object_created, Order, {"user": "user"})])
    stated, kept = UserFactory(), UserFactory()
    one, other = (Order(pk=pk, user=kept) for pk in (1, 2))
    first = complete_trigger(None, "Order placed", instance=one, visitor=referred(), user=stated)
    second = complete_trigger(None, "Order placed", instance=other, visitor=referred())
    assert [first.user, second.user] == [stated, kept]


def test_somebody_who_registers_others_is_the_buyer_themself() -> None:
    # Rule 10: the request's user comes before the instance.
    visitor = referred("User registered")
    agent = UserFactory()
    with binding.binding(request_of(visitor, agent)):
        UserFactory()
    assert Conversion.objects.get().user == agent


def test_an_anonymous_buyer_may_be_stated_as_the_request_has_them() -> None:
    visitor = referred()
    conversion = complete_trigger(request_of(visitor), "Order placed", user=AnonymousUser())
    assert conversion is not None
    assert conversion.user is None


def test_the_key_of_a_user_stands_for_the_user(wire: Any) -> None:
    wire([("Order placed", *ORDERS, {"user": "user_id"})])
    visitor, user = referred(), UserFactory()
    with binding.binding(request_of(visitor, user)):
        something_happened.send(sender=Order, instance=Order(pk=1, user=user))
    assert Conversion.objects.get().user == user


def test_another_object_where_a_user_is_wanted_is_said_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()
    request = request_of(visitor, UserFactory())
    assert complete_trigger(request, "Order placed", user=visitor) is None  # type: ignore[arg-type]
    assert f"Trigger “Order placed” needs a user, not {visitor!r}." in caplog.text


def test_a_user_who_is_about_to_be_saved_is_not_yet_the_buyer(wire: Any) -> None:
    wire([("User registers", pre_save, object_saved, User)])
    visitor = referred("User registers")
    with binding.binding(request_of(visitor)):
        UserFactory()
    conversion = Conversion.objects.get()
    assert conversion.user is None


# Reference, amount, currency


def test_the_fifth_item_states_reference_amount_and_currency(wire: Any) -> None:
    options = {"reference": "note", "amount": "total", "currency": "currency"}
    wire([("Order placed", post_save, object_created, Order, options)])
    visitor = referred()
    with binding.binding(request_of(visitor)):
        Order.objects.create(note="A-17", total=Decimal("19.90"), currency="EUR")
    conversion = Conversion.objects.get()
    assert conversion.reference == "A-17"
    assert conversion.amount == Decimal("19.90")
    assert conversion.currency == "EUR"


def test_arguments_come_before_the_fifth_item(wire: Any) -> None:
    options = {"reference": "note", "amount": "total", "currency": "currency"}
    wire([("Order placed", post_save, object_created, Newsletter), ("Paid", *ORDERS, options)])
    conversion = complete_trigger(
        None,
        "Paid",
        instance=Order(pk=1, note="A-17", total=Decimal("19.90"), currency="EUR"),
        visitor=referred("Paid"),
        reference=18,
        amount="5.00",
        currency="USD",
    )
    assert conversion is not None
    assert conversion.reference == "18"
    assert conversion.amount == Decimal("5.00")
    assert conversion.currency == "USD"


def test_a_stated_reference_that_is_not_there_yet_is_none_and_no_other(
    wire: Any, reasons: Any
) -> None:
    """The order would be counted a second time once it has its number."""
    wire([("Order placed", *ORDERS, {"reference": "note"})])
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner, counting="every", closes_referral=False)
    order, visitor = Order(pk=17, note=None), VisitorFactory(partner=partner)
    assert complete_trigger(None, "Order placed", instance=order, visitor=visitor) is None
    assert reasons() == [Reason.NO_REFERENCE.value]
    order.note = "A-17"
    for _ in range(2):
        complete_trigger(None, "Order placed", instance=order, visitor=visitor)
    assert [one.reference for one in Conversion.objects.all()] == ["A-17"]


def test_a_method_where_a_reference_is_wanted_is_said_in_the_log(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The next order would have the same one, or this one another tomorrow."""
    wire([("Order placed", *ORDERS, {"reference": "total.as_integer_ratio"})])
    order = Order(pk=17, total=Decimal(1))
    assert complete_trigger(None, "Order placed", instance=order, visitor=referred()) is None
    assert "Trigger “Order placed” needs a reference, not <built-in method" in caplog.text


def test_an_instance_without_a_key_gives_no_reference() -> None:
    conversion = complete_trigger(None, "Order placed", instance=Order(), visitor=referred())
    assert conversion is not None
    assert conversion.reference == ""


def test_an_instance_that_is_no_model_gives_no_reference() -> None:
    conversion = complete_trigger(None, "Order placed", instance=object(), visitor=referred())
    assert conversion is not None
    assert conversion.reference == ""


def test_an_option_that_raises_does_not_break_the_hosts_save(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire([("Order placed", post_save, object_created, Order, {"amount": lambda order: 1 / 0})])
    visitor = referred()
    with binding.binding(request_of(visitor)), transaction.atomic():
        Order.objects.create()
    assert Order.objects.count() == 1
    assert "ZeroDivisionError" in caplog.text
    assert "“Order placed”" in caplog.text


# Objects in another database


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
class TestAnotherDatabase:
    """What the trigger is about is kept in the database "other", conversions in "default"."""

    @pytest.fixture(autouse=True)
    def _wired(self, wire: Any) -> None:
        wire([("Something", post_save, object_created, Elsewhere)])

    def test_it_waits_for_that_commit(self) -> None:
        visitor = referred("Something")
        with binding.binding(request_of(visitor)):
            with transaction.atomic(using="other"):
                something = Elsewhere.objects.create()
                assert not Conversion.objects.exists()
            assert Conversion.objects.get().reference == f"testapp.elsewhere:{something.pk}"

    def test_it_is_nothing_where_that_rolls_back(self) -> None:
        visitor = referred("Something")
        with binding.binding(request_of(visitor)), transaction.atomic(using="other"):
            Elsewhere.objects.create()
            transaction.set_rollback(True, using="other")
        assert not Elsewhere.objects.exists()
        assert not Conversion.objects.exists()
        visitor.refresh_from_db()
        assert visitor.closed_on is None

    def test_a_savepoint_of_it_that_rolls_back_takes_its_own_along(self) -> None:
        visitor = referred("Something", counting="every", closes_referral=False)
        with binding.binding(request_of(visitor)), transaction.atomic(using="other"):
            kept = Elsewhere.objects.create()
            with transaction.atomic(using="other"):
                Elsewhere.objects.create()
                transaction.set_rollback(True, using="other")
        assert Conversion.objects.get().reference == f"testapp.elsewhere:{kept.pk}"

    def test_it_is_credited_at_once_where_no_transaction_is_open(self) -> None:
        visitor = referred("Something")
        with binding.binding(request_of(visitor)):
            Elsewhere.objects.create()
        assert Conversion.objects.count() == 1

    def test_it_belongs_to_the_transaction_of_ours_that_is_open_at_that_commit(self) -> None:
        visitor = referred("Something")
        with binding.binding(request_of(visitor)), transaction.atomic():
            with transaction.atomic(using="other"):
                Elsewhere.objects.create()
            assert Conversion.objects.count() == 1
            transaction.set_rollback(True)
        assert not Conversion.objects.exists()

    def test_a_failure_of_ours_then_is_only_logged(
        self, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"amount": lambda instance: 1 / 0}
        wire([("Something", post_save, object_created, Elsewhere, options)])
        visitor = referred("Something")
        with binding.binding(request_of(visitor)), transaction.atomic(using="other"):
            Elsewhere.objects.create()
        assert Elsewhere.objects.count() == 1
        assert "ZeroDivisionError" in caplog.text

    def test_nobody_to_credit_leaves_nothing_to_do_at_commit(self) -> None:
        with transaction.atomic(using="other"):
            Elsewhere.objects.create()
            assert connections["other"].run_on_commit == []


def test_request_factory_requests_without_session_or_user_credit_nobody() -> None:
    assert complete_trigger(RequestFactory().get("/"), "Order placed") is None


# Signals of other packages


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_option_names_the_argument_of_the_signal_that_holds_the_object(wire: Any) -> None:
    options = {"instance": "order", "reference": "note", "amount": "total", "currency": "currency"}
    wire([("Order placed", something_happened, object_saved, None, options)])
    visitor = referred()
    order = Order(note="W17", total=Decimal(40), currency="EUR")
    with binding.binding(request_of(visitor)):
        something_happened.send(sender=None, order=order, request=object())
    conversion = Conversion.objects.get()
    assert (conversion.reference, conversion.amount, conversion.currency) == ("W17", 40, "EUR")


def test_the_default_reference_is_that_of_the_object_which_the_option_names(wire: Any) -> None:
    wire([("Order placed", something_happened, object_saved, None, {"instance": "order"})])
    with binding.binding(request_of(referred())):
        something_happened.send(sender=None, order=Order(pk=17))
    assert Conversion.objects.get().reference == "testapp.order:17"


def test_the_sender_may_be_the_object(wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As in django-paypal."""
    options = {"instance": "sender", "reference": "note"}
    wire(
        [
            ("Order placed", something_happened, object_saved, None, options),
            ("Newsletter", something_happened, object_saved, None, {"reference": "note"}),
        ]
    )
    with binding.binding(request_of(referred())):
        something_happened.send(sender=Order(pk=1, note="W17"), flag=True)
    assert Conversion.objects.get().reference == "W17"
    [told] = errors(caplog)
    assert told.endswith('{"instance": "sender", …}')


def test_two_signals_of_one_trigger_may_name_the_object_differently(wire: Any) -> None:
    options = {"instance": "order", "reference": "note"}
    wire(
        [
            ("Order placed", something_happened, object_saved, None, options),
            ("Order placed", post_save, object_created, Order, options),
        ]
    )
    visitor = referred(counting="every", closes_referral=False)
    with binding.binding(request_of(visitor)):
        order = Order.objects.create(note="W17")
        something_happened.send(sender=None, order=order)
        something_happened.send(sender=None, order=Order(note="W18"))
    assert list(Conversion.objects.values_list("reference", flat=True)) == ["W17", "W18"]


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        ({"request": "r", "order": Order()}, "request, order"),
        ({"order": Order(), "instance": None}, "order"),
        ({"order": None}, "order"),
        ({}, "nothing else"),
    ],
)
@pytest.mark.parametrize("option", [{}, {"instance": "purchase"}])
def test_options_without_an_object_credit_nobody_and_the_log_says_what_to_write(
    wire: Any, caplog: pytest.LogCaptureFixture, sent: Any, names: str, option: Any
) -> None:
    options = option | {"amount": "total"}
    wire([("Order placed", something_happened, object_saved, None, options)])
    with binding.binding(request_of(referred())):
        something_happened.send(sender=None, **sent)
    assert not Conversion.objects.exists()
    [told] = errors(caplog)
    keyword = option.get("instance", "instance")
    assert told.startswith("Trigger “Order placed” has no effect: its signal was sent without an ")
    assert f"object as “{keyword}”, but with {names}. " in told
    assert told.endswith('{"instance": "order", …}')


@pytest.mark.parametrize("receiver", [approve_conversions, reject_conversions])
def test_a_decision_without_an_object_is_never_silent(
    wire: Any, caplog: pytest.LogCaptureFixture, receiver: Any
) -> None:
    wire(
        [
            ("Order placed", post_save, object_created, Order),
            ("Decided", something_happened, receiver, None, {"of": "Order placed"}),
        ]
    )
    something_happened.send(sender=None, order=Order(pk=5), old_status="Pending")
    [told] = errors(caplog)
    assert "Trigger “Decided” has no effect" in told
    assert "but with order, old_status. " in told
    assert told.endswith('{"instance": "order", …}')


def test_a_trigger_without_options_needs_no_object(wire: Any) -> None:
    wire([("Came back", something_happened, object_saved, None)])
    visitor = referred("Came back")
    with binding.binding(request_of(visitor)):
        something_happened.send(sender=None)
    assert Conversion.objects.get().visitor == visitor


def test_a_call_without_the_object_says_which_options_of_our_receiver_it_drops(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = "affiliations.triggers.object_saved"
    options = {"instance": "order", "user": "user", "reference": "note", "amount": "total"}
    wire([("Order placed", something_happened, receiver, None, options)])
    conversion = complete_trigger(request_of(referred()), "Order placed", reference="W17")
    assert conversion is not None
    assert conversion.reference == "W17"
    assert "trigger “Order placed” without an instance" in caplog.text
    assert "Pass instance=, or state: user, amount." in caplog.text


def test_a_call_that_states_all_that_the_options_say_needs_no_object(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"instance": "order", "reference": "note"}
    wire([("Order placed", something_happened, object_saved, None, options)])
    assert complete_trigger(request_of(referred()), "Order placed", reference="W17") is not None
    assert caplog.text == ""


def test_a_receiver_of_the_host_may_leave_the_object_out_as_ever(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def newsletter(sender: object, affiliate_trigger_name: str, **kwargs: object) -> None:
        complete_trigger(tls.request, affiliate_trigger_name)

    wire([("Newsletter", something_happened, newsletter, None, {"reference": "email"})])
    with binding.binding(request_of(referred("Newsletter"))):
        something_happened.send(sender=None)
    assert Conversion.objects.get().reference == ""
    assert caplog.text == ""


def test_object_created_on_a_signal_that_does_not_say_what_is_new_names_object_saved(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire([("Order placed", something_happened, object_created, Order)])
    with binding.binding(request_of(referred())):
        something_happened.send(sender=Order, instance=Order(pk=5))
        something_happened.send(sender=Order, instance=Order(pk=5), raw=True)
    assert not Conversion.objects.exists()
    [told] = errors(caplog)
    assert "Trigger “Order placed” credits nobody" in told
    assert '"affiliations.triggers.object_saved"' in told


# Proxies of a sender, and its children of other tables

BOOKED = ("Booked", post_save, object_created, Booking)


def references(trigger: str) -> list[str]:
    conversions = Conversion.objects.filter(trigger=trigger).order_by("pk")
    return list(conversions.values_list("reference", flat=True))


@pytest.mark.parametrize("model", [Booking, PhoneBooking, GroupBooking])
def test_a_trigger_hears_of_proxies_and_children_and_counts_each_object_once(
    wire: Any, model: type[Booking]
) -> None:
    wire([BOOKED, ("Booked", post_save, object_saved, Booking)])
    with binding.binding(request_of(referred("Booked", counting="every", closes_referral=False))):
        booking = model.objects.create()
        assert references("Booked") == [f"testapp.booking:{booking.pk}"]
        booking.save()
        Booking.objects.get(pk=booking.pk).save()
        PhoneBooking.objects.get(pk=booking.pk).save()
    assert references("Booked") == [f"testapp.booking:{booking.pk}"]


def test_the_deletion_of_a_child_which_deletes_its_parent_counts_once(wire: Any) -> None:
    wire([("Cancelled", post_delete, object_saved, Booking)])
    booking = GroupBooking.objects.create()
    pk = booking.pk
    with binding.binding(
        request_of(referred("Cancelled", counting="every", closes_referral=False))
    ):
        booking.delete()
    assert references("Cancelled") == [f"testapp.booking:{pk}"]


@pytest.mark.parametrize(
    ("sender", "label"), [(PhoneBooking, "phonebooking"), (GroupBooking, "groupbooking")]
)
@pytest.mark.parametrize("path", ["testapp.{}", "tests.testapp.models.{}"])
def test_a_trigger_on_a_proxy_or_child_hears_of_that_alone_and_names_it(
    wire: Any, sender: type[Booking], label: str, path: str
) -> None:
    wire([("Booked", post_save, object_created, path.format(sender.__name__))])
    with binding.binding(request_of(referred("Booked", counting="every", closes_referral=False))):
        booking = sender.objects.create()
        Booking.objects.create()
    assert references("Booked") == [f"testapp.{label}:{booking.pk}"]


@pytest.mark.parametrize("counted", [Booking, PhoneBooking, GroupBooking])
@pytest.mark.parametrize("decided", [Booking, PhoneBooking, GroupBooking, None])
@pytest.mark.parametrize(
    ("receiver", "status"), [(approve_conversions, "approved"), (reject_conversions, "rejected")]
)
def test_a_decision_finds_the_conversion_by_whichever_class_of_the_object(
    wire: Any, counted: type[Booking], decided: type[Booking] | None, receiver: Any, status: str
) -> None:
    wire(
        [
            ("Booked", post_save, object_created, counted),
            ("Decided", something_happened, receiver, decided, {"of": "Booked"}),
        ]
    )
    with binding.binding(request_of(referred("Booked", approval="manual"))):
        booking = counted.objects.create()
    if decided is GroupBooking:
        booking = GroupBooking(booking_ptr_id=booking.pk)
    elif decided is not None:
        booking = decided.objects.get(pk=booking.pk)
    something_happened.send(sender=type(booking), instance=booking)
    assert Conversion.objects.get().status == status


def test_a_trigger_without_a_sender_takes_a_child_and_its_parent_for_one(wire: Any) -> None:
    wire([("Anything saved", something_happened, object_saved, None)])
    visitor = referred("Anything saved", counting="every", closes_referral=False)
    with binding.binding(request_of(visitor)):
        for model in (GroupBooking, PhoneBooking, Booking):
            something_happened.send(sender=None, instance=model(pk=5, id=5))
    assert references("Anything saved") == ["testapp.booking:5"]


def test_an_entry_that_names_the_child_takes_it_from_the_entry_of_its_parent(wire: Any) -> None:
    wire([BOOKED, ("Group booked", post_save, object_created, GroupBooking)])
    visitor = referred("Booked", counting="every", closes_referral=False)
    SubscriptionFactory(
        partner=visitor.partner, trigger="Group booked", counting="every", closes_referral=False
    )
    with binding.binding(request_of(visitor)):
        group, phone = GroupBooking.objects.create(), PhoneBooking.objects.create()
    assert references("Group booked") == [f"testapp.groupbooking:{group.pk}"]
    assert references("Booked") == [f"testapp.booking:{phone.pk}"]


def test_entries_of_parent_and_child_under_one_name_count_an_object_once(wire: Any) -> None:
    wire([BOOKED, ("Booked", post_save, object_created, GroupBooking)])
    with binding.binding(request_of(referred("Booked", counting="every", closes_referral=False))):
        group = GroupBooking.objects.create()
        something = Booking.objects.get(pk=group.pk)
        post_save.send(sender=Booking, instance=something, created=True)
    assert references("Booked") == [f"testapp.booking:{group.pk}"]


@isolate_apps("tests.testapp")
def test_a_child_with_a_key_of_its_own_is_named_by_that_of_its_parent(wire: Any) -> None:
    wire([BOOKED])

    class GiftBooking(Booking):
        code = models.BigAutoField(primary_key=True)
        booking = models.OneToOneField(Booking, models.CASCADE, parent_link=True)

        class Meta:
            app_label = "testapp"

    with binding.binding(request_of(referred("Booked"))):
        post_save.send(sender=GiftBooking, instance=GiftBooking(code=7, id=5), created=True)
    assert references("Booked") == ["testapp.booking:5"]


class TestPaused:
    @pytest.fixture
    def order(self, wire: Any, db: None) -> Any:
        """Return a function that saves an order of a visitor."""
        stated, of = {"visitor": "affiliate_visitor"}, {"of": "Order placed"}
        wire(
            [
                ("Order placed", post_save, object_created, Order, stated),
                ("Order paid", post_save, approve_conversions, Order, of),
            ]
        )

        def save(visitor: Visitor) -> Order:
            return Order.objects.create(affiliate_visitor=visitor)

        return save

    def test_nothing_is_credited_or_approved_in_the_block(self, order: Any) -> None:
        visitor = referred(approval="manual")
        with triggers.paused():
            with triggers.paused():
                order(visitor)
            old = order(visitor)
        assert not Conversion.objects.exists()
        new = order(visitor)
        conversion = Conversion.objects.get()
        assert conversion.reference == f"testapp.order:{new.pk}"
        assert conversion.status == "approved"
        key = reference_key(f"testapp.order:{old.pk}")
        Conversion.objects.update(status="pending", reference_key=key)
        with triggers.paused():
            old.save()
        assert Conversion.objects.get().status == "pending"
        old.save()
        assert Conversion.objects.get().status == "approved"

    def test_an_error_ends_the_block(self, order: Any) -> None:
        @triggers.paused()
        def fail() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            fail()
        order(referred())
        assert Conversion.objects.count() == 1

    def test_other_tasks_are_not_paused(self, order: Any) -> None:
        first, second = referred(), referred()

        async def imports(paused: asyncio.Event, done: asyncio.Event) -> None:
            with triggers.paused():
                paused.set()
                await done.wait()
                await acomplete_trigger(None, "Order placed", visitor=first)
                await sync_to_async(order)(first)

        async def shop() -> None:
            paused, done = asyncio.Event(), asyncio.Event()
            importing = asyncio.create_task(imports(paused, done))
            await paused.wait()
            await acomplete_trigger(None, "Order placed", visitor=second)
            done.set()
            await importing

        async_to_sync(shop)()
        assert [one.visitor for one in Conversion.objects.all()] == [second]


@pytest.mark.django_db
@pytest.mark.parametrize("is_in_request", [False, True])
def test_a_save_without_a_visitor_creates_no_event(
    is_in_request: bool, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    """It would take longer than the question whether there is a visitor."""
    monkeypatch.delattr("affiliations.triggers.TriggerEvent")
    request = RequestFactory().post("/")
    request.session = SessionStore()
    with binding.binding(request) if is_in_request else nullcontext():
        with django_assert_num_queries(1):
            Order.objects.create()
        assert complete_trigger(request, "Order placed", reference="A17") is None
