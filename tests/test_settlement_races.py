"""Many who settle, decide and correct at once: threads with connections of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from affiliations.conversions import adjustments, decisions, settlements, statement_lines
from affiliations.conversions.unpaid import Balance
from affiliations.models import Adjustment, Conversion, Partner, Settlement, StatementLock
from tests.factories import PartnerFactory
from tests.test_races import MANY, at_once
from tests.test_settlements import several

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

Status = Conversion.Status
Job = Callable[[], Any]

PAYOUT = Decimal("0.1")


@pytest.fixture(autouse=True)
def _lock(transactional_db: None) -> None:
    """Create what a migration has created, and the end of the last test removed."""
    StatementLock.objects.get_or_create(pk=1)


@pytest.fixture(params=[True, False], ids=["in_transactions", "in_autocommit"])
def kept(request: pytest.FixtureRequest) -> Callable[[Job], Job]:
    """Do a job as hosts do, in a transaction or in none."""
    return transaction.atomic if request.param else lambda job: job


def settling(partner: Partner) -> Job:
    """Make a job that settles everything of a partner."""
    return lambda: settlements.settle(partner, "EUR", timezone.now())


def deciding(
    conversion: Conversion, *statuses: str, kept: Callable[[Job], Job] = lambda job: job
) -> Job:
    """Make a job that decides, one decision after the other, about what it reads before each."""

    def decide() -> None:
        for status in statuses:
            mine = Conversion.objects.select_related("partner", "visitor").get(pk=conversion.pk)
            kept(lambda: decisions.decide(mine, status))()  # noqa: B023

    return decide


def assert_each_was_paid_once(partner: Partner) -> None:
    """Compare the settlements with their lines, and what was paid with what was decided."""
    for settlement in Settlement.objects.all():
        lines = list(statement_lines.statement(settlement))
        assert lines
        assert settlement.total == sum(line.payout for line in lines)
        assert (settlement.conversion_count, settlement.adjustment_count) == (
            sum(line.adjustment is None for line in lines),
            sum(line.adjustment is not None for line in lines),
        )
    for conversion in Conversion.objects.all():
        due = adjustments.current(conversion).payout
        if conversion.status == Status.PENDING:  # Reopened; it is settled once it is decided.
            assert due == PAYOUT
            assert decisions.decide(conversion, Status.REJECTED)
            due = adjustments.current(conversion).payout
        if conversion.status == Status.REJECTED:
            assert due == (0 if conversion.settlement else PAYOUT)
    # And once everything is settled, which a stop for fraud has held back.
    Partner.objects.update(stopped_on=None)
    settling(partner)()
    paid = sum(settlement.total for settlement in Settlement.objects.all())
    approved = Conversion.objects.filter(status=Status.APPROVED)
    adjusted = Adjustment.objects.filter(kind="adjusted", conversion__in=approved)
    assert paid == approved.count() * PAYOUT + (adjusted.aggregate(sum=Sum("payout"))["sum"] or 0)
    assert not approved.filter(settlement=None).exists()
    assert not Adjustment.objects.filter(settlement=None, conversion__in=approved).exists()


def test_two_people_settle_at_once_and_each_conversion_is_in_one_statement(kept: Any) -> None:
    partner = PartnerFactory()
    several(partner, 600)

    made = [one for one in at_once(*[kept(settling(partner))] * 8) if one]

    assert sum(one.conversion_count for one in made) == 600
    assert sum(one.total for one in made) == 60
    assert len(made) == Settlement.objects.count() == 1
    assert_each_was_paid_once(partner)


def test_a_settlement_waits_for_the_one_that_was_first() -> None:
    """Whatever it had read before."""
    partner = PartnerFactory()
    several(partner, 3)
    first_has_taken, second_is_waiting = threading.Event(), threading.Event()

    def first() -> Settlement | None:
        with transaction.atomic():
            made = settling(partner)()
            first_has_taken.set()
            second_is_waiting.wait(1)
            return made

    def second() -> Settlement | None:
        first_has_taken.wait(60)
        made = settling(partner)()
        second_is_waiting.set()
        return made

    made, nothing = at_once(first, second)
    assert (made.conversion_count, nothing) == (3, None)


def test_settle_against_reject_is_a_conversion_left_out_or_a_correction(kept: Any) -> None:
    for _ in range(3):
        partner = PartnerFactory()
        found = several(partner, MANY)
        at_once(
            *[kept(settling(partner))] * 3,
            *[deciding(one, Status.REJECTED, kept=kept) for one in found[: MANY // 2]],
        )
        for conversion in Conversion.objects.filter(partner=partner):
            entries = list(conversion.adjustments.values_list("kind", "payout"))
            rejected = conversion.status == Status.REJECTED
            assert entries == (
                [("rejected", -PAYOUT)] if rejected and conversion.settlement else []
            )
        assert_each_was_paid_once(partner)
        assert Conversion.objects.filter(partner=partner, settlement=None).count() <= MANY // 2


def test_settle_against_approve_leaves_nothing_behind(kept: Any) -> None:
    partner = PartnerFactory()
    found = several(partner, MANY, status=Status.PENDING)
    several(partner, MANY)
    at_once(
        *[kept(settling(partner))] * 4,
        *[deciding(conversion, Status.APPROVED, kept=kept) for conversion in found],
    )
    assert_each_was_paid_once(partner)
    assert sum(one.total for one in Settlement.objects.all()) == 2 * MANY * PAYOUT


def test_settling_beside_decisions_corrections_and_a_stop_for_fraud_pays_what_is_due(
    kept: Any,
) -> None:
    partner = PartnerFactory()
    found = several(partner, MANY)
    pending = several(partner, 5, status=Status.PENDING)[-5:]
    back_and_forth = [Status.REJECTED, Status.APPROVED, Status.REJECTED, Status.PENDING]

    def correcting(conversion: Conversion) -> Job:
        part = {"payout": Decimal("-0.04"), "reason": "A part came back"}
        return kept(lambda: adjustments.adjust(conversion, **part))

    at_once(
        *[kept(settling(partner))] * 4,
        *[deciding(conversion, *back_and_forth, kept=kept) for conversion in found[:5]],
        *[deciding(conversion, *back_and_forth[:2], kept=kept) for conversion in found[5:10]],
        *[correcting(conversion) for conversion in found[8:12]],
        *[deciding(conversion, Status.APPROVED, kept=kept) for conversion in pending],
        lambda: decisions.stop_for_fraud(partner, reason="Own orders"),
    )
    settling(partner)()
    at_once(
        *[kept(settling(partner))] * 2,
        *[deciding(conversion, *back_and_forth[:3], kept=kept) for conversion in found[::2]],
        *[correcting(conversion) for conversion in found[12:]],
    )
    assert_each_was_paid_once(partner)


def test_a_correction_that_is_being_written_goes_along_with_its_conversion() -> None:
    """However early the moment is until which it is settled."""
    [conversion] = several(PartnerFactory(), 1)
    moment = timezone.now()
    is_written, is_settling = threading.Event(), threading.Event()

    def adjust() -> None:
        with transaction.atomic():
            adjustments.adjust(conversion, payout=Decimal("-0.04"), reason="A part came back")
            is_written.set()
            is_settling.wait(1)

    def settle() -> Settlement | None:
        is_written.wait(60)
        made = settlements.settle(conversion.partner, "EUR", moment)
        is_settling.set()
        return made

    _, made = at_once(adjust, settle)
    assert (made.conversion_count, made.adjustment_count) == (1, 1)
    assert made.total == Decimal("0.06")


def test_corrections_at_once_never_take_more_than_there_is(kept: Any) -> None:
    [conversion] = several(PartnerFactory(), 1)
    settling(conversion.partner)()

    def adjust() -> Adjustment | None:
        try:
            return adjustments.adjust(
                conversion, payout=Decimal("-0.04"), reason="A part came back"
            )
        except adjustments.ValidationError:
            return None

    written = [one for one in at_once(*[kept(adjust)] * 8) if one]
    assert len(written) == Adjustment.objects.count() == 2
    assert adjustments.current(conversion).payout == Decimal("0.02")


def test_two_who_correct_what_they_both_saw_correct_it_once(kept: Any) -> None:
    [conversion] = several(PartnerFactory(), 1)
    part = {"payout": Decimal("-0.01"), "reason": "A part came back", "expected": PAYOUT}
    written = at_once(*[kept(lambda: adjustments.adjust(conversion, **part))] * 8)
    assert sum(one is not None for one in written) == Adjustment.objects.count() == 1
    assert timezone.now() - Adjustment.objects.get().created_on < timedelta(minutes=5)


def test_two_who_create_all_at_once_number_each_statement_once_without_a_gap(
    kept: Any,
) -> None:
    partners = [PartnerFactory() for _ in range(MANY)]
    for partner in partners:
        several(partner, 2)
    before = timezone.now()

    def create(chosen: list[Partner]) -> Job:
        balances = {(one.pk, "EUR"): Balance(2, 2 * PAYOUT) for one in chosen}
        return kept(lambda: settlements.settle_all(before, chosen=balances))

    halves = partners[::2], partners[1::2]
    found = at_once(*map(create, halves), create(partners), create(partners[::-1]))
    made = [one for result in found for one in result.settlements]
    assert sorted(one.partner_id for one in made) == [one.pk for one in partners]
    numbers = Settlement.objects.order_by("year_number").values_list("year_number", flat=True)
    assert list(numbers) == list(range(1, MANY + 1))
    assert len({one.serial_number for one in made}) == MANY


def test_the_first_statements_of_all_are_numbered_apart(kept: Any) -> None:
    partners = [PartnerFactory() for _ in range(8)]
    for partner in partners:
        several(partner, 1)
    made = at_once(*[kept(settling(partner)) for partner in partners])
    assert sorted(one.year_number for one in made) == list(range(1, 9))
