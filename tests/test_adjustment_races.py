"""Payments, refunds and statements at the same moment: processes, each with its connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from decimal import Decimal
from multiprocessing import get_context
from typing import Any

import django
import pytest
from django.db import transaction
from django.utils import timezone

from affiliations.models import Adjustment, Conversion
from affiliations.triggers import complete_trigger
from tests.arrivals import referred

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.only_on("postgresql", "mariadb"),
    pytest.mark.server,
    pytest.mark.slow,
]

ROUNDS = 15
Job = tuple[Callable[..., Any], Any]


def pay(reference: str, amount: str) -> Any:
    from affiliations.amounts import parse
    from affiliations.conversions.by_reference import decide

    now = parse(amount, "EUR")
    return decide("Order placed", reference, "approved", order=lambda: now)


def edit(reference: str, amount: str) -> Any:
    from affiliations.conversions.by_reference import adjust

    return adjust("Order placed", reference, amount, reason="Order edited")


def settle(reference: str, currency: str) -> Any:
    from affiliations.conversions import settlements

    conversion = Conversion.objects.select_related("partner").get(reference=reference)
    return settlements.settle(conversion.partner, currency, timezone.now())


def run(job: Callable[..., Any], at: float, is_atomic: bool, reference: str, value: str) -> None:
    """Do a job at this time, in a process of its own; that there is nothing to do is no failure."""
    from affiliations.exceptions import NotCredited

    Conversion.objects.exists()  # Connect.
    time.sleep(max(at - time.time(), 0))
    try:
        with transaction.atomic() if is_atomic else nullcontext():
            job(reference, value)
    except NotCredited:
        pass


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn"), django.setup) as executor:
        yield executor


@pytest.fixture
def race(pool: ProcessPoolExecutor) -> Callable[..., Iterator[Conversion]]:
    """Run two jobs about an order at once, again and again, and yield its conversion."""

    def races(first: Job, second: Job, **subscription: Any) -> Iterator[Conversion]:
        rule = {"payout_type": "percent", "payout_value": Decimal(10), "counting": "every"}
        visitor = referred(closes_referral=False, **rule | {"approval": "manual"} | subscription)
        for number in range(ROUNDS):
            complete_trigger(
                None,
                "Order placed",
                visitor=visitor,
                reference=str(number),
                amount=100,
                currency="EUR",
            )
            at = time.time() + 0.05
            running = [
                pool.submit(run, job, at, number % 2 == 0, str(number), value)
                for job, value in (first, second)
            ]
            for one in running:
                one.result(60)
            yield Conversion.objects.get(reference=str(number))

    return races


def test_a_payment_and_a_partial_refund_end_with_what_is_left(race: Any) -> None:
    for conversion in race((pay, "100"), (edit, "60")):
        assert (conversion.status, conversion.current_payout) == ("approved", 6)


def test_a_payment_and_a_whole_refund_end_with_nothing(race: Any) -> None:
    for conversion in race((pay, "60"), (edit, "0")):
        assert conversion.status == "rejected"


def test_two_refunds_end_with_the_lowest_amount(race: Any) -> None:
    for conversion in race((edit, "60"), (edit, "50")):
        assert (conversion.current_amount, conversion.current_payout) == (50, 5)


def test_the_same_refund_twice_is_one(race: Any) -> None:
    for conversion in race((edit, "60"), (edit, "60")):
        assert Adjustment.objects.filter(conversion=conversion).count() == 1


def test_a_refund_beside_a_statement_is_in_it_or_in_the_next(race: Any) -> None:
    for number, conversion in enumerate(
        race((edit, "60"), (settle, "EUR"), approval="automatic"), start=1
    ):
        settle(conversion.reference, "EUR")
        assert sum(row.total for row in conversion.partner.settlements.all()) == 6 * number
        assert not Adjustment.objects.filter(settlement=None).exists()
