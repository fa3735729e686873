from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from affiliations.conversions import recording, screening
from affiliations.models import Callback, Conversion, Visitor
from affiliations.tracking import visitors
from affiliations.triggers import complete_trigger
from tests.arrivals import referred, request_of
from tests.factories import PartnerFactory, UserFactory
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

TRIGGER = "Order placed"

asked: list[tuple[object, ...]] = []


def asking(visitor: Visitor, user: Any, instance: object) -> str | None:
    """Be a rule that finds nothing, and write down what it was asked."""
    asked.append((visitor, user, instance))
    return None


def suspicious(visitor: Visitor, user: Any, instance: object) -> str | None:
    return "The same parcel shop again. " * 20


def broken(visitor: Visitor, user: Any, instance: object) -> str | None:
    raise ZeroDivisionError("the rule is broken")


def broken_query(visitor: Visitor, user: Any, instance: object) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")
    raise AssertionError("a database that finds something there")


def ending(visitor: Visitor, user: Any, instance: object) -> str | None:
    """End the host's transaction, as a deadlock of MariaDB does."""
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
    raise ZeroDivisionError("a deadlock")


def record(visitor: Visitor, **stated: Any) -> Conversion:
    fresh = visitors.find(visitor.pk)
    assert fresh is not None
    return recording.record(fresh, TRIGGER, **stated)


# The default


def test_what_the_partner_buys_waits_for_somebody_to_look() -> None:
    visitor, user = referred(), UserFactory()
    visitor.partner.users.add(user)
    conversion = record(visitor, user=user)
    assert (conversion.status, conversion.reason) == ("pending", screening.OWN_ACCOUNT)
    assert (conversion.approve_on, conversion.decided_on) == (None, None)
    # It is counted, and the partner hears of it.
    assert Callback.objects.get().status == "queued"
    visitor.refresh_from_db()
    assert visitor.closed_on is not None


def test_what_somebody_else_buys_does_not() -> None:
    visitor = referred(closes_referral=False, counting="every")
    visitor.partner.users.add(UserFactory())
    PartnerFactory().users.add(other := UserFactory())
    assert record(visitor, user=other, reference="1").status == "approved"
    assert record(visitor, user=None, reference="2").status == "approved"


def test_it_waits_where_it_would_have_been_approved_after_some_days() -> None:
    visitor, user = referred(approve_after=14), UserFactory()
    visitor.partner.users.add(user)
    conversion = record(visitor, user=user)
    assert (conversion.status, conversion.approve_on) == ("pending", None)


def test_a_partner_who_buys_through_a_request_is_found_too() -> None:
    visitor, user = referred(), UserFactory()
    visitor.partner.users.add(user)
    conversion = complete_trigger(request_of(visitor, user), TRIGGER)
    assert conversion is not None
    assert conversion.reason == screening.OWN_ACCOUNT


def test_a_partner_who_orders_as_a_guest_is_known_by_the_visitor() -> None:
    """They came while they were logged in, and were not when they ordered."""
    visitor, user = referred(counting="every", closes_referral=False), UserFactory()
    Visitor.objects.update(user=user)
    assert record(visitor, reference="1").status == "approved"
    visitor.partner.users.add(user)
    assert record(visitor, reference="2").reason == screening.OWN_VISITOR
    assert record(visitor, user=UserFactory(), reference="3").reason == screening.OWN_VISITOR


def test_who_is_not_logged_in_is_nobody() -> None:
    assert screening.own_account(referred(), None, None) is None


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.django_db(transaction=True)
def test_it_costs_one_query_where_there_is_a_buyer_and_none_where_there_is_not(
    atomic: bool,
) -> None:
    def queries(user: Any) -> list[str]:
        visitor = referred()
        with CaptureQueriesContext(connections["default"]) as captured:
            if atomic:
                with transaction.atomic():
                    record(visitor, user=user)
            else:
                record(visitor, user=user)
        return [query["sql"].split()[0] for query in captured]

    without, with_buyer = queries(None), queries(UserFactory())
    assert with_buyer.count("SELECT") == without.count("SELECT") + 1
    assert len(with_buyer) == len(without) + 1


# A rule of the host's


def test_the_hosts_rule_is_asked_of_the_visitor_the_buyer_and_what_was_bought(
    settings: Any,
) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_screening.asking"
    asked.clear()
    visitor, user, order = referred(), UserFactory(), Order(pk=17)
    visitor.partner.users.add(user)
    assert record(visitor, user=user, instance=order).status == "approved"
    assert asked == [(visitor, user, order)]


def test_a_trigger_hands_on_what_it_was_completed_by(settings: Any) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_screening.asking"
    asked.clear()
    visitor, order = referred(), Order(pk=17)
    complete_trigger(None, TRIGGER, instance=order, visitor=visitor, user=AnonymousUser())
    assert asked == [(visitor, None, order)]


def test_the_hosts_reason_is_kept_as_far_as_there_is_room(settings: Any) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_screening.suspicious"
    conversion = record(referred())
    conversion.refresh_from_db()
    assert conversion.status == "pending"
    assert conversion.reason == ("The same parcel shop again. " * 20)[:255]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize(
    "path",
    ["tests.test_screening.broken", "tests.test_screening.broken_query", "tests.nowhere.at_all"],
)
def test_a_rule_that_fails_loses_nothing(
    path: str, atomic: bool, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.AFFILIATE_SCREEN = path
    visitor = referred()
    if atomic:
        with transaction.atomic():
            Order.objects.create(note="the host's work")
            complete_trigger(None, TRIGGER, visitor=visitor)
    else:
        Order.objects.create(note="the host's work")
        complete_trigger(None, TRIGGER, visitor=visitor)
    conversion = Conversion.objects.get()
    assert (conversion.status, conversion.reason) == ("pending", screening.FAILED)
    assert Order.objects.exists()
    assert "Trigger “Order placed” could not be screened." in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_rule_that_takes_the_hosts_transaction_along_is_not_hushed_up(settings: Any) -> None:
    settings.AFFILIATE_SCREEN = "tests.test_screening.ending"
    visitor = referred()

    def host() -> None:
        with transaction.atomic():
            Order.objects.create(note="the host's work")
            complete_trigger(None, TRIGGER, visitor=visitor)

    with pytest.raises(ZeroDivisionError):
        host()
    assert not Order.objects.exists()
    assert not Conversion.objects.exists()
