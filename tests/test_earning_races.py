"""Renewals, first orders, refunds and stops at the same moment, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from affiliations.models import Conversion, UncreditedTrigger, Visitor
from affiliations.triggers import complete_trigger
from tests.arrivals import referred
from tests.factories import UserFactory
from tests.test_adjustment_races import Job, pool, run

__all__ = ["pool"]  # the fixture

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.only_on("postgresql", "mariadb"),
    pytest.mark.server,
    pytest.mark.slow,
]

ROUNDS = 12


def renew(customer: str, reference: str) -> Any:
    """Report an order of a customer, as a webhook does, that states the user."""
    visitor = Visitor.objects.get(pk=customer)
    return complete_trigger(None, "Order placed", user=visitor.user_id, reference=reference)


def place(customer: str, reference: str) -> Any:
    """Report an order that states the visitor."""
    visitor = Visitor.objects.get(pk=customer)
    return complete_trigger(None, "Order placed", visitor=visitor, reference=reference)


def stop(customer: str, reference: str) -> Any:
    return Visitor.objects.get(pk=customer).stop()


def refund(customer: str, reference: str) -> Any:
    from affiliations.conversions import decide

    conversion = Conversion.objects.select_related("visitor", "partner").get(reference=reference)
    return decide(conversion, "rejected")


@pytest.fixture
def race(pool: ProcessPoolExecutor) -> Callable[..., Iterator[Visitor]]:
    """Run two jobs about a customer at once, again and again, and yield the visitor."""

    def races(first: Job, second: Job, *, is_customer: bool = True) -> Iterator[Visitor]:
        for number in range(ROUNDS):
            visitor = referred(counting="every", earns_for="months", earns_months=12)
            Visitor.objects.filter(pk=visitor.pk).update(user=UserFactory())
            if is_customer:
                place(str(visitor.pk), f"{number} first")
                past = timezone.now() - timedelta(days=90)
                visitor.conversions.update(created_on=past)
                Visitor.objects.filter(pk=visitor.pk).update(referred_on=past)
            at = time.time() + 0.05
            running = [
                pool.submit(run, job, at, number % 2 == 0, str(visitor.pk), f"{number} {reference}")
                for job, reference in (first, second)
            ]
            for one in running:
                one.result(60)
            yield Visitor.objects.get(pk=visitor.pk)

    return races


def references(visitor: Visitor) -> list[str]:
    rows = visitor.conversions.order_by("reference").values_list("reference", flat=True)
    return [reference.partition(" ")[2] for reference in rows]


@pytest.mark.parametrize("second", [renew, place])
def test_two_renewals_are_both_credited(race: Any, second: Any) -> None:
    for visitor in race((renew, "one"), (second, "two")):
        assert references(visitor) == ["first", "one", "two"]


@pytest.mark.parametrize("second", [renew, place])
def test_a_renewal_that_is_reported_twice_is_credited_once(race: Any, second: Any) -> None:
    for visitor in race((renew, "one"), (second, "one")):
        assert references(visitor) == ["first", "one"]


def test_two_first_orders_are_both_credited(race: Any) -> None:
    """The first of them closes the referral and begins the period of the other."""
    for visitor in race((place, "one"), (place, "two"), is_customer=False):
        assert references(visitor) == ["one", "two"]
        assert visitor.closed_on is not None


@pytest.mark.parametrize("renewal", [renew, place])
def test_a_renewal_beside_a_stop_is_credited_before_it_or_not_at_all(
    race: Any, renewal: Any
) -> None:
    for visitor in race((renewal, "one"), (stop, "")):
        assert visitor.stopped_on is not None
        assert references(visitor) in (["first"], ["first", "one"])
        before = visitor.conversions.count()
        renew(str(visitor.pk), f"{visitor.pk} afterwards")
        place(str(visitor.pk), f"{visitor.pk} afterwards")
        assert visitor.conversions.count() == before
    reasons = set(UncreditedTrigger.objects.values_list("reason", flat=True))
    # The visitor may have been read before the stop, and the period after it.
    assert {"stopped"} <= reasons <= {"stopped", "referral_closed"}


def test_a_renewal_beside_the_refund_of_the_first_order_is_credited_before_it_or_not_at_all(
    race: Any,
) -> None:
    for visitor in race((renew, "one"), (refund, "first")):
        first = visitor.conversions.get(reference__endswith="first")
        assert first.status == "rejected"
        # What was credited begins a period of its own.
        is_customer = len(references(visitor)) == 2
        renew(str(visitor.pk), f"{visitor.pk} afterwards")
        assert visitor.conversions.filter(reference__endswith="afterwards").exists() is is_customer
