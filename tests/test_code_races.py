"""Orders with a partner's code, placed at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.db import transaction

from affiliations.models import Conversion, FailedTrigger, PartnerCode, Visitor
from affiliations.retries import retry_due
from affiliations.triggers import complete_trigger
from tests.factories import PartnerCodeFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.test_races import at_once, errors

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
__all__ = ["errors"]

ROUNDS, MANY = 5, 6


@pytest.fixture(params=[True, False], ids=["in_a_transaction", "in_autocommit"])
def in_transaction(request: pytest.FixtureRequest) -> bool:
    is_atomic: bool = request.param
    return is_atomic


def order(is_atomic: bool, **arguments: Any) -> Conversion | None:
    if not is_atomic:
        return complete_trigger(None, "Order placed", **arguments)
    with transaction.atomic():
        return complete_trigger(None, "Order placed", **arguments)


def retry() -> None:
    for _ in range(3):
        list(retry_due())


@pytest.mark.parametrize("counting", ["once", "every"])
def test_orders_of_a_buyer_with_one_code_at_once_make_one_visitor(
    in_transaction: bool, counting: str, errors: None
) -> None:
    for _ in range(ROUNDS):
        code, user = PartnerCodeFactory(), UserFactory()
        SubscriptionFactory(partner=code.partner, counting=counting, closes_referral=False)
        at_once(
            *[
                partial(order, in_transaction, user=user, code=code.code, reference=f"{code} {n}")
                for n in range(MANY)
            ]
        )
        retry()
        visitor = Visitor.objects.get(partner=code.partner)
        expected = 1 if counting == "once" else MANY
        assert visitor.conversions.count() == expected


def test_one_order_of_a_guest_that_is_reported_at_once_is_credited_once(
    in_transaction: bool, errors: None
) -> None:
    for _ in range(ROUNDS):
        code = PartnerCodeFactory()
        SubscriptionFactory(partner=code.partner, counting="every")
        at_once(*[partial(order, in_transaction, code=code.code, reference=f"{code}")] * MANY)
        retry()
        assert Visitor.objects.get(partner=code.partner).conversions.count() == 1


def test_two_codes_that_beat_each_other_in_one_browser_do_not_block(
    in_transaction: bool, errors: None
) -> None:
    user = UserFactory()
    codes = [PartnerCodeFactory(), PartnerCodeFactory()]
    visitors = [VisitorFactory(partner=code.partner, user=user) for code in codes]
    for code in codes:
        SubscriptionFactory(partner=code.partner, counting="every", closes_referral=False)
    at_once(
        *[
            partial(
                order,
                in_transaction,
                visitor=visitors[n % 2],
                user=user,
                code=codes[(n + 1) % 2].code,
                reference=f"cross {n}",
            )
            for n in range(2 * MANY)
        ]
    )
    retry()
    assert Conversion.objects.count() == 2 * MANY
    assert Visitor.objects.count() == 2


def test_an_order_with_a_code_that_is_deactivated_meanwhile_is_credited_once(
    in_transaction: bool, errors: None
) -> None:
    for _ in range(ROUNDS):
        code = PartnerCodeFactory()
        other = VisitorFactory()
        for partner in (code.partner, other.partner):
            SubscriptionFactory(partner=partner, counting="every", closes_referral=False)
        at_once(
            partial(PartnerCode.objects.filter(pk=code.pk).update, active=False),
            *[
                partial(
                    order, in_transaction, visitor=other, code=code.code, reference=f"{code} {n}"
                )
                for n in range(MANY)
            ],
        )
        retry()
        rows = Conversion.objects.filter(reference__startswith=f"{code} ")
        assert rows.count() == MANY
        # Each is the other partner's, or that of the code with a visitor of its own.
        by_code = rows.filter(partner=code.partner, code=code.code, instead_of=other)
        assert by_code.count() + rows.filter(visitor=other, code="").count() == MANY
        assert Visitor.objects.filter(partner=code.partner).count() == by_code.count()
    assert not FailedTrigger.objects.exists()


def test_a_code_that_two_users_add_at_once_is_added_once() -> None:
    partners = [PartnerCodeFactory().partner for _ in range(MANY)]

    def add(partner: Any, text: str) -> bool:
        try:
            PartnerCode.objects.create(partner=partner, code=text)
        except Exception:
            return False
        return True

    texts = ["SteepNotes", "steepnotes", "STEEPNOTES"] * 2
    done = at_once(*[partial(add, *pair) for pair in zip(partners, texts, strict=True)])
    assert sum(done) == 1
