"""Rejections at the same moment as orders, reopenings and each other, each with a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from affiliations.conversions import attempts, by_reference, decisions, recording
from affiliations.exceptions import NotCredited
from affiliations.models import Callback, Conversion, FailedTrigger, Partner, Visitor
from affiliations.triggers import complete_trigger
from tests.arrivals import referred
from tests.factories import UserFactory, VisitorFactory
from tests.settings import LONG
from tests.test_admin import url
from tests.test_admin_conversions import choose, confirmed
from tests.test_races import at_once, atomic_requests, errors
from tests.testapp.models import Newsletter

__all__ = ["atomic_requests", "errors"]  # the fixtures

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.usefixtures("errors"),
]

TRIGGER = "Order placed"
ROUNDS = 40 if LONG else 10
Job = Callable[[], Any]


@pytest.fixture(params=[True, False], ids=["in_transactions", "in_autocommit"])
def kept(request: pytest.FixtureRequest) -> Callable[[Job], Job]:
    """Do a job as hosts do: behind work of their own in a transaction, or in none."""

    def in_transaction(job: Job) -> Job:
        def do() -> Any:
            with transaction.atomic():
                Newsletter.objects.create()
                return job()

        return do

    return in_transaction if request.param else lambda job: job


def order(visitor: Visitor, reference: str, *, manual: bool = False) -> Conversion:
    """Record an order of a visitor, who may be closed by now."""
    conversion = recording.record(visitor, TRIGGER, reference=reference, manual=manual)
    assert conversion is not None
    return conversion


def rejecting(reference: str) -> Job:
    return lambda: attempts.attempt(
        "Order refunded",
        lambda: by_reference.decide(TRIGGER, reference, "rejected"),
        lambda: FailedTrigger(trigger="Order refunded"),
    )


def completing(visitor: Visitor, reference: str) -> Job:
    return lambda: complete_trigger(None, TRIGGER, visitor=visitor, reference=reference)


def reopening(conversion: Conversion, status: str = "pending") -> Job:
    def reopen() -> bool:
        try:
            return decisions.decide(Conversion.objects.get(pk=conversion.pk), status)
        except NotCredited:
            return False

    return reopen


def assert_one_place(visitor: Visitor, *, stands: int) -> None:
    """Look for what stands in the visitor's place, and whether it keeps the referral closed."""
    assert visitor.conversions.standing().count() == stands
    visitor.refresh_from_db()
    assert (visitor.closed_on is not None) == bool(stands)


def test_two_orders_of_one_visitor_against_a_rejection_are_one_at_most(kept: Any) -> None:
    visitor = referred(TRIGGER, approval="manual")
    for number in range(ROUNDS):
        first = order(visitor, f"first {number}")
        at_once(
            kept(rejecting(first.reference)),
            *[kept(completing(visitor, f"{n} of {number}")) for n in range(4)],
        )
        first.refresh_from_db()
        assert first.released == first.pk
        standing = list(visitor.conversions.standing())
        assert_one_place(visitor, stands=len(standing))
        assert len(standing) <= 1
        # Whoever came too early comes again.
        if not standing:
            completing(visitor, f"later of {number}")()
        assert_one_place(visitor, stands=1)
        decisions.decide(visitor.conversions.standing().get(), "rejected")
        visitor.refresh_from_db()


@pytest.mark.parametrize("same", ["visitor", "reference"])
def test_of_two_reopenings_one_wins(same: str, kept: Any) -> None:
    visitor = referred(TRIGGER, approval="manual")
    rejected = []
    for number in range(4):
        whose = visitor if same == "visitor" else VisitorFactory(partner=visitor.partner)
        reference = str(number) if same == "visitor" else "17"
        rejected.append(order(whose, reference, manual=True))
        decisions.decide(rejected[-1], "rejected")
    for _ in range(ROUNDS):
        won = at_once(
            *[
                kept(reopening(conversion, status))
                for conversion, status in zip(rejected, ["pending", "approved"] * 2, strict=True)
            ]
        )
        assert won.count(True) == 1
        [standing] = Conversion.objects.standing()
        assert standing == rejected[won.index(True)]
        assert_one_place(standing.visitor, stands=1)
        assert decisions.decide(standing, "rejected")


def test_a_reopening_against_a_new_order_is_one(kept: Any) -> None:
    visitor = referred(TRIGGER, approval="manual")
    first = order(visitor, "first")
    decisions.decide(first, "rejected")
    for number in range(ROUNDS):
        at_once(
            kept(reopening(first)),
            *[kept(completing(visitor, f"{n} of {number}")) for n in range(3)],
        )
        assert_one_place(visitor, stands=1)
        decisions.decide(visitor.conversions.standing().get(), "rejected")


def test_a_rejection_against_the_order_being_recorded_never_counts_it_again(kept: Any) -> None:
    """Each save of the order is a signal, of whichever visitor."""
    first = referred(TRIGGER, approval="manual", counting="every", closes_referral=False)
    others = [VisitorFactory(partner=first.partner) for _ in range(5)]
    for number in range(ROUNDS):
        reference = f"order {number}"
        at_once(
            *[kept(completing(visitor, reference)) for visitor in (first, *others)],
            *[kept(rejecting(reference)) for _ in range(4)],
        )
        rejecting(reference)()
        completing(first, reference)()
        [conversion] = Conversion.objects.filter(reference=reference)
        assert conversion.status == "rejected"


@pytest.mark.only_on("postgresql", "mariadb")  # SQLite refuses a transaction that reads first.
@pytest.mark.usefixtures("atomic_requests")
def test_bulk_rejections_beside_orders_decisions_and_a_stop_for_fraud_end_without_a_deadlock() -> (
    None
):
    staff = Client()
    staff.force_login(UserFactory(is_staff=True, is_superuser=True))
    rest = [Client() for _ in range(3)]
    for client in rest:
        client.cookies = staff.cookies
    visitor = referred(TRIGGER, approval="manual", counting="every", closes_referral=False)
    partner = visitor.partner
    visitors = [visitor, *[VisitorFactory(partner=partner) for _ in range(5)]]
    for number in range(ROUNDS):
        # In another order than that of the visitors.
        found = [order(one, f"{number}: {one.pk}") for one in reversed(visitors)]

        def bulk(client: Client, action: str, rows: list[Conversion]) -> Job:
            address = url(Conversion, "changelist")
            asked = confirmed(client.post(address, choose(rows, f"{action}_selected")))
            sent = asked | {"reason": "Fake", "confirmed": "yes"}
            return lambda: client.post(address, sent)

        def approving(conversion: Conversion) -> Job:
            return lambda: decisions.decide(Conversion.objects.get(pk=conversion.pk), "approved")

        responses = at_once(
            bulk(rest[0], "reject", found),
            bulk(rest[1], "reject", found[::-1]),
            bulk(rest[2], "approve", found),
            lambda: decisions.stop_for_fraud(Partner.objects.get(), reason="Own orders"),
            *[completing(one, f"late {number}: {one.pk}") for one in visitors],
            *[rejecting(one.reference) for one in found],
            *[approving(one) for one in found if one.status == "pending"][:2],
        )
        assert {response.status_code for response in responses[:3]} == {302}
        decisions.stop_for_fraud(Partner.objects.get(), reason="Own orders")
        assert not Conversion.objects.pending().exists()
        assert not Callback.objects.filter(status="queued").exists()
        Partner.objects.update(active=True, stopped_on=None)
