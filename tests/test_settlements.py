"""What a partner is paid, once and only once; and what becomes of it afterwards."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import ProtectedError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from affiliations import batches, corrections, decisions, settlements
from affiliations.models import Conversion, Correction, Partner, Settlement, Subscription
from affiliations.models.conversion import reference_key
from affiliations.settlements import Balance
from tests.factories import (
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)

pytestmark = pytest.mark.django_db

Status = Conversion.Status
PENDING, APPROVED, REJECTED = Status.PENDING, Status.APPROVED, Status.REJECTED


def earned(payout: str = "10", paid_in: str = "EUR", **fields: Any) -> Conversion:
    """Make a conversion that was approved an hour ago."""
    fields.setdefault("decided_on", timezone.now() - timedelta(hours=1))
    return ConversionFactory(
        payout=Decimal(payout), payout_currency=paid_in, payout_type="fixed", **fields
    )


def several(partner: Partner, number: int, **fields: Any) -> list[Conversion]:
    """Make many of a partner at once."""
    subscription = Subscription.objects.filter(partner=partner).first()
    subscription = subscription or SubscriptionFactory(partner=partner)
    visitor = VisitorFactory(partner=partner)
    first = Conversion.objects.count()
    Conversion.objects.bulk_create(
        Conversion(
            visitor=visitor,
            partner=partner,
            subscription=subscription,
            trigger="Order placed",
            reference=f"A{n}",
            dedupe_key=f"r:{n}",
            amount=100,
            currency="EUR",
            payout=Decimal("0.1"),
            payout_currency="EUR",
            decided_on=timezone.now() - timedelta(hours=1),
            **fields,
        )
        for n in range(first, first + number)
    )
    return list(Conversion.objects.filter(visitor=visitor).order_by("pk"))


def settle(partner: Partner, currency: str = "EUR", **options: Any) -> Settlement | None:
    return settlements.settle(partner, currency, timezone.now(), **options)


def settled(payout: str = "10", **fields: Any) -> Conversion:
    """Make a conversion, and settle it."""
    conversion = earned(payout, **fields)
    assert settle(conversion.partner, conversion.payout_currency) is not None
    conversion.refresh_from_db()
    return conversion


def decide(conversion: Conversion, *statuses: str, **options: Any) -> None:
    for status in statuses:
        assert decisions.decide(conversion, status, **options)


def corrected(conversion: Conversion) -> list[tuple[str, Decimal]]:
    """Return what has been written about a conversion, the oldest first."""
    return list(conversion.corrections.order_by("pk").values_list("kind", "payout"))


class TestASettlement:
    def test_takes_what_is_approved_and_says_how_much_it_is(self) -> None:
        first = earned("10.50")
        second = earned("0.0001", visitor__partner=first.partner)
        staff = UserFactory()
        before = timezone.now()
        settlement = settlements.settle(
            first.partner, "EUR", before, by=staff, reference="2026-117"
        )
        assert settlement is not None
        for one in (settlement, Settlement.objects.get()):
            assert (one.partner, one.currency, one.reference) == (first.partner, "EUR", "2026-117")
            assert (one.conversion_count, one.earned) == (2, Decimal("10.5001"))
            assert (one.correction_count, one.corrected) == (0, 0)
            assert (one.total, one.before, one.created_by) == (one.earned, before, staff)
            assert before <= one.created_on <= timezone.now()
        assert list(settlement.conversions.order_by("pk")) == [first, second]

    @pytest.mark.parametrize(
        "other",
        [
            {"status": PENDING},
            {"status": REJECTED},
            {"is_test": True},
            {"paid_in": "SEK"},
            {"decided_on": None},
            {"decided_on": timezone.now() + timedelta(days=400)},
            {"visitor__partner": None},
        ],
        ids=str,
    )
    def test_takes_nothing_else(self, other: dict[str, Any]) -> None:
        taken = earned()
        partner = other.pop("visitor__partner", taken.partner) or PartnerFactory()
        left = earned(**{"visitor__partner": partner} | other)
        settlement = settle(taken.partner)
        assert settlement is not None
        assert list(settlement.conversions.all()) == [taken]
        left.refresh_from_db()
        assert left.settlement is None

    def test_takes_what_was_decided_before_the_moment_and_nothing_of_it_or_after(self) -> None:
        moment = timezone.now() - timedelta(days=1)
        taken = earned(decided_on=moment - timedelta(microseconds=1))
        left = earned(decided_on=moment, visitor__partner=taken.partner)
        settlement = settlements.settle(taken.partner, "EUR", moment)
        assert settlement is not None
        assert list(settlement.conversions.all()) == [taken]
        assert settlements.balance(taken.partner, "EUR", timezone.now()).conversion_count == 1
        left.refresh_from_db()
        assert left.settlement is None

    def test_until_a_moment_to_come_is_one_until_now(self) -> None:
        conversion = earned()
        after = timezone.now() + timedelta(days=1)
        settlement = settlements.settle(conversion.partner, "EUR", after)
        assert settlement is not None
        assert settlement.before == Settlement.objects.get().before <= timezone.now()

    def test_has_nothing_to_do_with_what_pays_nothing(self) -> None:
        conversion = ConversionFactory(decided_on=timezone.now() - timedelta(hours=1))
        for currency in ("EUR", ""):
            assert settle(conversion.partner, currency) is None

    def test_takes_a_payout_of_zero_which_would_wait_for_ever(self) -> None:
        conversion = settled("0")
        assert conversion.settlement.total == 0

    def test_of_nothing_is_none(self) -> None:
        assert settle(PartnerFactory()) is None
        assert not Settlement.objects.exists()

    def test_of_nothing_leaves_the_hosts_transaction_as_it_was(self) -> None:
        with transaction.atomic():
            partner = PartnerFactory()
            assert settle(partner) is None
            PartnerFactory(name="Another")
        assert Partner.objects.count() == 2

    def test_takes_nothing_a_second_time(self) -> None:
        conversion = settled()
        assert settle(conversion.partner) is None
        assert Settlement.objects.count() == 1

    def test_is_of_what_was_shown_or_of_nothing(self) -> None:
        conversion = earned()
        shown = settlements.balance(conversion.partner, "EUR", timezone.now())
        assert shown == Balance(conversion_count=1, earned=Decimal(10))
        late = earned(visitor__partner=conversion.partner)
        assert settle(conversion.partner, expected=shown) is None
        conversion.refresh_from_db()
        assert conversion.settlement is None
        decide(late, REJECTED)
        assert settle(conversion.partner, expected=shown) is not None

    def test_keeps_of_a_long_reference_what_there_is_room_for(self) -> None:
        settlement = settle(earned().partner, reference="x" * 300)
        assert settlement is not None
        assert Settlement.objects.get().reference == "x" * 255

    def test_is_called_by_its_reference_or_by_its_number(self) -> None:
        settlement = Settlement(pk=17)
        assert str(settlement) == "Settlement 17"
        settlement.reference = "2026-117"
        assert str(settlement) == "2026-117"

    def test_cannot_be_deleted_nor_what_is_in_it(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED)
        for row in (conversion.settlement, conversion, conversion.partner):
            with pytest.raises(ProtectedError):
                row.delete()

    def test_of_many_is_the_sum_of_its_lines(self) -> None:
        """And 0.1 a thousand times is a hundred, on SQLite too."""
        partner = PartnerFactory()
        several(partner, 1000)
        settlement = settle(partner)
        assert settlement is not None
        assert settlement.total == 100
        assert sum(line.payout for line in settlements.statement(settlement)) == 100

    @pytest.mark.django_db(databases=["default", "other"])
    def test_asks_the_database_that_it_writes_to(self, settings: Any) -> None:
        """A replica has not heard yet of what was earned or corrected, nor of what is taken."""
        conversion = earned()
        corrections.correct(conversion, payout=Decimal(-4), reason="A part")
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert (settlement.conversion_count, settlement.correction_count) == (1, 1)
        assert settlement.total == 6

    @pytest.mark.django_db(databases=["default", "other"])
    def test_is_of_what_was_shown_where_a_replica_is_behind(self, settings: Any) -> None:
        conversion = earned()
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        shown = settlements.balance(conversion.partner, "EUR", timezone.now())
        assert shown == Balance(conversion_count=1, earned=Decimal(10))
        assert settle(conversion.partner, expected=shown) is not None


class TestTheBalance:
    def test_is_one_for_each_partner_and_currency(self, django_assert_num_queries: Any) -> None:
        euros = earned()
        crowns = earned("7", "SEK", visitor__partner=euros.partner)
        other = earned("3")
        with django_assert_num_queries(2):
            found = settlements.balances(timezone.now())
        assert found == {
            (euros.partner.pk, "EUR"): Balance(1, Decimal(10)),
            (crowns.partner.pk, "SEK"): Balance(1, Decimal(7)),
            (other.partner.pk, "EUR"): Balance(1, Decimal(3)),
        }
        assert set(settlements.balances(timezone.now(), other.partner)) == {
            (other.partner.pk, "EUR")
        }

    def test_is_what_the_settlement_takes(self) -> None:
        first = settled("10")
        second = earned("5", visitor__partner=first.partner)
        third = earned("1", visitor__partner=first.partner)
        decide(first, REJECTED)
        corrections.correct(second, payout=Decimal(-2), reason="One of three came back")
        corrections.correct(third, payout=Decimal(-1), reason="All of it came back")
        decide(third, REJECTED)
        shown = settlements.balance(first.partner, "EUR", timezone.now())
        assert shown == Balance(1, Decimal(5), 2, Decimal(-12))
        assert shown.total == -7
        settlement = settle(first.partner, expected=shown)
        assert settlement is not None
        assert settlement.total == -7

    def test_of_nothing_is_false(self) -> None:
        assert not settlements.balance(PartnerFactory(), "EUR", timezone.now())
        assert Balance(correction_count=1)


class TestTheStatement:
    def test_has_a_line_for_each_conversion_and_correction(self) -> None:
        partner = settled("10", amount=100, currency="EUR").partner
        earlier = Conversion.objects.get()
        decide(earlier, REJECTED, reason="Returned")
        later = earned("5", visitor__partner=partner)
        settlement = settle(partner)
        assert settlement is not None
        [first, second] = settlements.statement(settlement)
        assert (first.correction, first.conversion) == (None, later)
        assert (first.amount, first.payout, first.created_on) == (None, 5, later.created_on)
        correction = Correction.objects.get()
        assert (second.correction, second.conversion) == (correction, earlier)
        assert (second.amount, second.payout) == (-100, -10)
        assert second.created_on == correction.created_on

    def test_never_changes_whatever_is_decided_later(self) -> None:
        conversion = settled(visitor__partner=PartnerFactory())

        def shown() -> tuple[Any, ...]:
            settlement = Settlement.objects.earliest("pk")
            lines = [
                (line.conversion.pk, line.payout) for line in settlements.statement(settlement)
            ]
            return vars(settlement) | {"_state": None}, lines

        before = shown()
        decide(conversion, REJECTED)
        assert shown() == before
        settle(conversion.partner)
        decide(conversion, APPROVED)
        corrections.correct(conversion, payout=Decimal(-1), reason="A part came back")
        settle(conversion.partner)
        assert shown() == before
        assert [one.total for one in Settlement.objects.order_by("pk")] == [10, -10, 9]

    @pytest.mark.parametrize("number", [10, 1000])
    def test_costs_as_much_for_many_lines_as_for_few(
        self, number: int, django_assert_num_queries: Any
    ) -> None:
        partner = PartnerFactory()
        several(partner, number)
        settlement = settle(partner)
        assert settlement is not None
        for conversion in several(partner, number)[-number:]:
            Correction.objects.create(
                conversion=conversion,
                partner=partner,
                kind="adjusted",
                payout=1,
                currency="EUR",
                settlement=settlement,
            )
        with django_assert_num_queries(2):
            lines = [
                (line.click_id, line.conversion.reference, line.payout)
                for line in settlements.statement(settlement)
            ]
        assert len(lines) == 2 * number

    @pytest.mark.parametrize(("number", "queries"), [(0, 1), (1, 1), (9, 4), (10, 4)])
    def test_is_read_a_few_lines_at_a_time(
        self, number: int, queries: int, django_assert_num_queries: Any
    ) -> None:
        several(PartnerFactory(), number)
        with django_assert_num_queries(queries):
            found = list(batches.by_key(Conversion.objects.order_by("-reference"), 3))
        assert found == list(Conversion.objects.order_by("pk"))


@pytest.mark.parametrize("number", [10, 1000])
def test_to_settle_costs_few_queries_more_for_five_hundred_conversions_more(number: int) -> None:
    partner = PartnerFactory()
    several(partner, number)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert settle(partner) is not None
    statements = [query["sql"].split()[0] for query in queries.captured_queries]
    assert statements.count("UPDATE") == {10: 2, 1000: 3}[number]
    # Where rows are locked, that is one more for each five hundred.
    locks = int(connection.features.has_select_for_update)
    assert len(statements) == {10: 9 + locks, 1000: 10 + 2 * locks}[number]
    # SQLite cannot turn a reading transaction into a writing one while another writes.
    assert next(word for word in statements if word != "SAVEPOINT") == "INSERT"


class TestADecisionAboutWhatIsSettled:
    def test_takes_the_payout_back_with_the_reason_and_who_said_so(self) -> None:
        conversion, staff = settled(amount=99, currency="SEK"), UserFactory()
        decide(conversion, REJECTED, reason="Returned", by=staff)
        correction = Correction.objects.get()
        assert (correction.conversion, correction.partner) == (conversion, conversion.partner)
        assert (correction.kind, correction.payout, correction.currency) == ("rejected", -10, "EUR")
        assert (correction.amount, correction.reason) == (-99, "Returned")
        assert (correction.created_by, correction.settlement) == (staff, None)
        conversion.refresh_from_db()
        assert (conversion.payout, conversion.amount) == (10, 99)
        assert conversion.settlement is not None

    def test_that_gives_no_reason_has_one_on_the_statement(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED, APPROVED)
        assert list(Correction.objects.order_by("pk").values_list("reason", flat=True)) == [
            "Rejected after it was settled.",
            "Brought back after it was rejected.",
        ]

    def test_goes_into_the_next_settlement_as_what_the_partner_owes(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED)
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert (settlement.conversion_count, settlement.earned) == (0, 0)
        assert (settlement.correction_count, settlement.corrected) == (1, -10)
        assert settlement.total == -10
        assert Correction.objects.get().settlement == settlement
        assert settle(conversion.partner) is None

    def test_is_carried_over_where_more_was_earned(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED)
        earned("25", visitor__partner=conversion.partner)
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert settlement.total == 15

    def test_that_was_made_after_the_moment_goes_into_a_later_one(self) -> None:
        conversion = settled()
        moment = timezone.now()
        decide(conversion, REJECTED)
        assert settlements.settle(conversion.partner, "EUR", moment) is None
        assert settle(conversion.partner) is not None

    def test_that_brings_it_back_pays_it_again(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED, PENDING)
        assert corrected(conversion) == [("rejected", -10)]
        decide(conversion, APPROVED)
        assert corrected(conversion) == [("rejected", -10), ("brought_back", 10)]
        decide(conversion, REJECTED, APPROVED, REJECTED)
        assert sum(payout for _, payout in corrected(conversion)) == -10

    def test_that_rejects_what_was_brought_back_to_pending_takes_nothing_again(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED, PENDING)
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        conversion.refresh_from_db()
        assert conversion.status == REJECTED
        assert corrected(conversion) == [("rejected", -10)]

    def test_counts_where_it_was_settled_since_it_was_read(self) -> None:
        conversion = earned()
        assert settle(conversion.partner) is not None
        assert conversion.settlement is None
        decide(conversion, REJECTED)
        assert corrected(conversion) == [("rejected", -10)]

    def test_is_undone_with_the_transaction(self) -> None:
        conversion = settled()
        with transaction.atomic():
            decide(conversion, REJECTED)
            transaction.set_rollback(True)
        assert not Correction.objects.exists()

    def test_by_a_signal_is_corrected_as_well(self) -> None:
        conversion = settled(
            reference="17", reference_key=reference_key("17"), trigger="Order placed"
        )
        decisions.decide_by_reference("Order placed", "17", REJECTED, reason="Order refunded")
        assert corrected(conversion) == [("rejected", -10)]
        assert Correction.objects.get().reason == "Order refunded"

    @pytest.mark.parametrize("fields", [{}, {"payout": "0"}])
    def test_writes_nothing_where_nothing_was_paid(self, fields: dict[str, Any]) -> None:
        conversion = settled(**fields) if fields else ConversionFactory()
        decide(conversion, REJECTED, APPROVED)
        assert not Correction.objects.exists()

    def test_about_what_is_not_settled_writes_nothing(self) -> None:
        conversion = earned()
        decide(conversion, REJECTED, APPROVED, REJECTED)
        assert not Correction.objects.exists()

    def test_costs_one_query_more(self) -> None:
        with CaptureQueriesContext(connection) as paid:
            decide(earned(), REJECTED)
        with CaptureQueriesContext(connection) as unpaid:
            decide(ConversionFactory(decided_on=timezone.now()), REJECTED)
        assert len(paid) == len(unpaid) + 1


class TestACorrection:
    def test_of_a_part_is_taken_from_what_is_left(self) -> None:
        conversion, staff = settled(amount=100, currency="SEK"), UserFactory()
        correction = corrections.correct(
            conversion,
            payout=Decimal("-3.50"),
            amount=Decimal(-35),
            reason=" One of three came back ",
            by=staff,
        )
        assert correction is not None
        stored = Correction.objects.get()
        for one in (correction, stored):
            assert (one.kind, one.payout, one.currency) == ("adjusted", Decimal("-3.5"), "EUR")
            assert (one.amount, one.reason) == (-35, "One of three came back")
            assert (one.partner, one.created_by) == (conversion.partner, staff)
        assert corrections.left(conversion) == Decimal("6.5")
        conversion.refresh_from_db()
        assert (conversion.payout, conversion.amount) == (10, 100)

    def test_can_add_as_well(self) -> None:
        conversion = settled()
        corrections.correct(conversion, payout=Decimal(5), reason="The wrong rule")
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert settlement.total == 5

    def test_before_a_rejection_leaves_less_to_take_back(self) -> None:
        conversion = settled(amount=100, currency="EUR")
        corrections.correct(conversion, payout=Decimal(-4), amount=Decimal(-40), reason="A part")
        decide(conversion, REJECTED)
        assert corrected(conversion) == [("adjusted", -4), ("rejected", -6)]
        assert corrections.left(conversion) == 0
        decide(conversion, APPROVED)
        assert corrections.left(conversion) == 6
        amounts = conversion.corrections.order_by("pk").values_list("amount", flat=True)
        assert list(amounts) == [-40, -60, 60]

    def test_of_what_is_not_settled_is_settled_with_it(self) -> None:
        conversion = earned()
        corrections.correct(conversion, payout=Decimal(-4), reason="A part")
        early = settlements.settle(conversion.partner, "EUR", conversion.decided_on)
        assert early is None
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert (settlement.earned, settlement.corrected) == (10, -4)

    def test_before_it_is_settled_goes_along_whatever_the_moment(self) -> None:
        """An order of October that is corrected in November, and settled with October."""
        conversion, moment = earned(), timezone.now()
        correction = corrections.correct(conversion, payout=Decimal(-4), reason="A part")
        shown = settlements.balance(conversion.partner, "EUR", moment)
        assert shown == Balance(1, Decimal(10), 1, Decimal(-4))
        drafted = settlements.draft(conversion.partner, "EUR", moment)
        assert [line.correction for line in drafted] == [None, correction]
        settlement = settlements.settle(conversion.partner, "EUR", moment, expected=shown)
        assert settlement is not None
        assert (settlement.before, settlement.total) == (moment, 6)
        assert settle(conversion.partner) is None

    def test_between_what_was_shown_and_the_settlement_is_shown_first(self) -> None:
        conversion, moment = earned(), timezone.now()
        shown = settlements.balance(conversion.partner, "EUR", moment)
        corrections.correct(conversion, payout=Decimal(-4), reason="A part")
        assert settlements.settle(conversion.partner, "EUR", moment, expected=shown) is None
        conversion.refresh_from_db()
        assert conversion.settlement is None

    def test_of_what_is_settled_later_stays_with_it(self) -> None:
        """Whether it waits, was rejected, or was approved after the moment; another's goes."""
        partner = PartnerFactory()
        other = earned("5", visitor__partner=partner)
        waiting, rejected = (earned(visitor__partner=partner) for _ in range(2))
        for conversion in (waiting, rejected):
            corrections.correct(conversion, payout=Decimal(-4), reason="A part")
            decide(conversion, REJECTED)
        decide(waiting, PENDING)
        moment = timezone.now()
        late = earned(visitor__partner=partner, decided_on=moment)
        corrections.correct(late, payout=Decimal(-3), reason="A part")
        corrections.correct(other, payout=Decimal(-1), reason="A part")
        assert settlements.balance(partner, "EUR", moment) == Balance(1, Decimal(5), 1, Decimal(-1))
        lines = list(settlements.draft(partner, "EUR", moment))
        assert [line.conversion for line in lines] == [other, other]
        settlement = settlements.settle(partner, "EUR", moment)
        assert settlement is not None
        assert (settlement.earned, settlement.corrected) == (5, -1)
        decide(waiting, APPROVED)
        settlement = settle(partner)
        assert settlement is not None
        # 6 of what waited, 7 of what was approved late.
        assert settlement.total == 13

    def test_of_what_is_then_not_paid_is_taken_by_no_settlement(self) -> None:
        conversion = earned()
        corrections.correct(conversion, payout=Decimal(-4), reason="A part")
        decide(conversion, REJECTED)
        assert corrected(conversion) == [("adjusted", -4), ("rejected", 4)]
        assert settle(conversion.partner) is None
        decide(conversion, APPROVED)
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert settlement.total == 6

    def test_of_what_is_not_approved_is_none(self) -> None:
        conversion = settled()
        decide(Conversion.objects.get(), REJECTED)
        assert corrections.correct(conversion, payout=Decimal(-4), reason="A part") is None
        assert corrected(conversion) == [("rejected", -10)]

    def test_twice_by_two_who_saw_the_same_is_one(self) -> None:
        conversion = settled()
        part: dict[str, Any] = {
            "payout": Decimal(-4),
            "reason": "A part",
            "expected": corrections.left(conversion),
        }
        assert corrections.correct(conversion, **part) is not None
        assert corrections.correct(conversion, **part) is None
        assert corrections.left(conversion) == 6

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"payout": Decimal("-10.01")}, "Only 10.00 EUR are left of this payout."),
            ({"payout": Decimal("-0.001")}, "EUR has no such small unit."),
            ({"payout": Decimal(0)}, "A correction of nothing changes nothing."),
            ({"payout": Decimal("NaN")}, "That is too much."),
            ({"payout": Decimal("Infinity")}, "That is too much."),
            ({"payout": Decimal("1E+14")}, "That is too much."),
            ({"amount": Decimal("1E+400")}, "That is too much."),
            ({"amount": Decimal("0.5")}, "JPY has no such small unit."),
            ({"reason": " "}, "Say why: the partner reads it on the statement."),
        ],
        ids=str,
    )
    def test_that_is_none_says_so(self, wrong: dict[str, Any], message: str) -> None:
        conversion = settled(amount=100, currency="JPY")
        right: dict[str, Any] = {"payout": Decimal(-1), "reason": "A part"}
        with pytest.raises(ValidationError) as caught:
            corrections.correct(conversion, **right | wrong)
        [field] = wrong
        assert caught.value.message_dict == {field: [message]}
        assert not Correction.objects.exists()

    @pytest.mark.parametrize("fields", [{}, {"is_test": True, "payout": 10}])
    def test_of_what_is_not_paid_says_so(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match="Nothing is paid for it"):
            corrections.correct(ConversionFactory(**fields), payout=Decimal(1), reason="A part")

    def test_is_called_by_its_conversion(self) -> None:
        correction = Correction(conversion_id=17, payout=Decimal("-4.50"), currency="EUR")
        assert str(correction) == "17: -4.50 EUR"
        correction.payout = Decimal("-3.4500")
        with translation.override("da"):
            assert str(correction) == "17: -3,45 EUR"
