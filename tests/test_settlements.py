"""What a partner is paid, once and only once; and what becomes of it afterwards."""

from __future__ import annotations

from datetime import datetime, timedelta
from datetime import timezone as tz
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import ProtectedError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from affiliations import db
from affiliations.conversions import (
    adjustments,
    by_reference,
    decisions,
    settlements,
    statement_lines,
    unpaid,
)
from affiliations.conversions.unpaid import Balance, CutOff, LeftOut
from affiliations.models import (
    Adjustment,
    Conversion,
    Partner,
    Settlement,
    StatementLock,
    Subscription,
)
from affiliations.models.conversion_queries import reference_key
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


def adjusted(conversion: Conversion) -> list[tuple[str, Decimal]]:
    """Return what has been written about a conversion, the oldest first."""
    return list(conversion.adjustments.order_by("pk").values_list("kind", "payout"))


class TestASettlement:
    def test_has_its_currency_in_capitals(self) -> None:
        settlement = settlements.settle(earned().partner, "eur", timezone.now())
        assert settlement is not None
        assert (settlement.currency, settlement.total) == ("EUR", 10)

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
            assert (one.adjustment_count, one.adjusted) == (0, 0)
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
            {"decided_on": datetime.fromisoformat("2100-01-01T00:00+00:00")},
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
        assert unpaid.balance(taken.partner, "EUR", timezone.now()).conversion_count == 1
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
        shown = unpaid.balance(conversion.partner, "EUR", timezone.now())
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
        settlement = Settlement(pk=17, year=2026, year_number=12)
        assert str(settlement) == "Statement 2026-000012"
        settlement.reference = "2026-117"
        assert str(settlement) == "2026-117"
        assert str(StatementLock()) == "1"

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
        assert sum(line.payout for line in statement_lines.statement(settlement)) == 100

    @pytest.mark.django_db(databases=["default", "other"])
    def test_asks_the_database_that_it_writes_to(self, settings: Any) -> None:
        """A replica has not heard yet of what was earned or corrected, nor of what is taken."""
        conversion = earned()
        adjustments.adjust(conversion, payout=Decimal(-4), reason="A part")
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert (settlement.conversion_count, settlement.adjustment_count) == (1, 1)
        assert settlement.total == 6

    @pytest.mark.django_db(databases=["default", "other"])
    def test_is_of_what_was_shown_where_a_replica_is_behind(self, settings: Any) -> None:
        conversion = earned()
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        shown = unpaid.balance(conversion.partner, "EUR", timezone.now())
        assert shown == Balance(conversion_count=1, earned=Decimal(10))
        assert settle(conversion.partner, expected=shown) is not None


class TestTheNumber:
    def test_runs_through_the_year_without_gaps(self) -> None:
        partners = [earned().partner for _ in range(3)]
        assert settle(PartnerFactory()) is None
        numbers = [settle(partner).year_number for partner in partners]
        year = timezone.now().year
        assert numbers == [1, 2, 3]
        assert [one.serial_number for one in Settlement.objects.order_by("pk")] == [
            f"{year}-000001", f"{year}-000002", f"{year}-000003",
        ]  # fmt: skip

    def test_of_what_is_rolled_back_is_used_by_the_next(self) -> None:
        first, second = earned(), earned()
        with transaction.atomic():
            assert settle(first.partner).year_number == 1
            transaction.set_rollback(True)
        assert settle(second.partner).year_number == 1

    def test_begins_again_with_the_year_where_the_site_is(
        self, settings: Any, monkeypatch: Any
    ) -> None:
        settings.TIME_ZONE = "America/New_York"
        partner, found = PartnerFactory(), []
        for hour in (4, 5):
            earned(visitor__partner=partner)
            moment = datetime(2027, 1, 1, hour, tzinfo=tz.utc)
            field = Settlement._meta.get_field("created_on")
            monkeypatch.setattr(field, "_get_default", lambda moment=moment: moment)
            found.append(settle(partner, reference="{year}/{month}/{number}").reference)
        assert found == ["2026/12/000001", "2027/01/000001"]

    def test_stands_in_the_reference_and_other_braces_stay(self) -> None:
        conversion = earned()
        now = timezone.now()
        foreseen = settlements.next_reference("{year}-{month}-{number} {x}")
        made = settle(conversion.partner, reference="{year}-{month}-{number} {x}")
        assert made.reference == foreseen == f"{now:%Y-%m}-000001 {{x}}"
        assert Settlement.objects.get().reference == foreseen
        assert settlements.next_reference("{number}") == "000002"

    def test_creates_the_lock_where_no_migration_has(self) -> None:
        StatementLock.objects.all().delete()
        assert settle(earned().partner).year_number == 1
        assert StatementLock.objects.count() == 1


class TestTheCutOff:
    def test_by_the_order_takes_what_was_ordered_before_whenever_it_was_approved(self) -> None:
        moment = timezone.now() - timedelta(days=30)
        taken = earned(created_on=moment - timedelta(seconds=1))
        partner = taken.partner
        earned(created_on=moment, visitor__partner=partner)
        options = {"cut_off": CutOff.ORDERED}
        assert unpaid.balance(partner, "EUR", moment, CutOff.ORDERED) == Balance(1, Decimal(10))
        drafted = statement_lines.draft(partner, "EUR", moment, CutOff.ORDERED)
        assert [line.conversion for line in drafted] == [taken]
        settlement = settlements.settle(partner, "EUR", moment, **options)
        assert list(settlement.conversions.all()) == [taken]
        settlement.refresh_from_db()
        assert (settlement.cut_off, settlement.before) == ("ordered", moment)
        assert settlements.settle(partner, "EUR", moment, **options) is None

    @pytest.mark.parametrize("fields", [{"status": PENDING}, {"decided_on": None}], ids=str)
    def test_by_the_order_takes_nothing_that_is_not_approved(self, fields: Any) -> None:
        moment = timezone.now()
        conversion = earned(created_on=moment - timedelta(days=1), **fields)
        partner = conversion.partner
        assert settlements.settle(partner, "EUR", moment, cut_off=CutOff.ORDERED) is None

    def test_by_the_order_takes_adjustments_with_their_order_whatever_their_date(self) -> None:
        moment = timezone.now() - timedelta(days=30)
        early = settled(created_on=moment - timedelta(days=1))
        partner = early.partner
        late = settled(created_on=moment, visitor__partner=partner)
        along = earned("5", created_on=moment - timedelta(days=2), visitor__partner=partner)
        for conversion in (early, late, along):
            adjustments.adjust(conversion, payout=Decimal(-1), reason="A part came back")
        shown = unpaid.balance(partner, "EUR", moment, CutOff.ORDERED)
        assert shown == Balance(1, Decimal(5), 2, Decimal(-2))
        settlement = settlements.settle(
            partner, "EUR", moment, cut_off=CutOff.ORDERED, expected=shown
        )
        assert {row.conversion for row in settlement.adjustments.all()} == {early, along}
        # By the approval, that of the late order is in time only if it is itself.
        assert settlements.settle(partner, "EUR", moment) is None
        assert settle(partner).adjustment_count == 1


class TestToSettleAll:
    def test_creates_a_statement_of_each_balance_and_says_what_it_left_out(self) -> None:
        euros, other = earned("10").partner, earned("4.99").partner
        earned("7", "SEK", visitor__partner=euros)
        for partner in (euros, other):
            partner.minimum_payout, partner.minimum_payout_currency = Decimal(5), "EUR"
            partner.save()
        owing = settled()
        decide(owing, REJECTED)
        stopped = earned("3").partner
        decisions.stop_for_fraud(stopped, reason="Own orders")
        nothing = earned("0").partner
        staff = UserFactory()
        made, left_out = settlements.settle_all(timezone.now(), by=staff, reference="{number}")
        assert {(one.partner, one.currency, one.total) for one in made} == {
            (euros, "EUR", Decimal(10)), (euros, "SEK", Decimal(7)),
        }  # fmt: skip
        assert {one.created_by for one in made} == {staff}
        assert sorted(one.reference for one in made) == ["000002", "000003"]
        assert {(row.partner, reason) for row, reason in left_out} == {
            (other, LeftOut.BELOW_MINIMUM),
            (owing.partner, LeftOut.OWES),
            (stopped, LeftOut.STOPPED),
            (nothing, LeftOut.NOTHING),
        }

    def test_has_a_minimum_in_its_own_currency_only_and_what_is_equal_is_paid(self) -> None:
        partner = earned("5").partner
        earned("1", "SEK", visitor__partner=partner)
        partner.minimum_payout, partner.minimum_payout_currency = Decimal(5), "EUR"
        partner.save()
        rows = unpaid.unpaid_balances(timezone.now())
        assert [(row.currency, row.minimum, row.left_out) for row in rows] == [
            ("EUR", 5, None), ("SEK", None, None),
        ]  # fmt: skip

    def test_creates_what_was_chosen_as_it_was_shown(self) -> None:
        before = timezone.now()
        as_shown, changed, gone, below, unchosen, stopped = (earned().partner for _ in range(6))
        below.minimum_payout, below.minimum_payout_currency = Decimal(50), "EUR"
        below.save()
        chosen = {
            (partner.pk, "EUR"): Balance(1, Decimal(10))
            for partner in (as_shown, changed, gone, below, stopped)
        }
        chosen[0, "EUR"] = Balance(1, Decimal(10))
        Conversion.objects.filter(partner=changed).update(payout=9)
        assert settlements.settle(gone, "EUR", before) is not None
        decisions.stop_for_fraud(stopped, reason="Own orders")
        made, left_out = settlements.settle_all(before, chosen=chosen)
        assert {one.partner for one in made} == {as_shown, below}
        assert {row.partner: reason for row, reason in left_out} == {
            changed: LeftOut.CHANGED,
            gone: LeftOut.NOTHING,
            unchosen: LeftOut.NOT_CHOSEN,
            stopped: LeftOut.STOPPED,
        }

    @pytest.mark.django_db(transaction=True)
    def test_has_a_transaction_for_each(self, monkeypatch: Any) -> None:
        partners = [earned(visitor__partner__name=name).partner for name in "AB"]
        real = settlements.settle

        def fail(partner: Partner, *args: Any, **options: Any) -> Settlement | None:
            assert not connection.in_atomic_block
            if partner == partners[1]:
                raise RuntimeError
            return real(partner, *args, **options)

        monkeypatch.setattr(settlements, "settle", fail)
        with pytest.raises(RuntimeError):
            settlements.settle_all(timezone.now())
        assert Settlement.objects.get().partner == partners[0]


class TestTheBalance:
    def test_is_one_for_each_partner_and_currency(self, django_assert_num_queries: Any) -> None:
        euros = earned()
        crowns = earned("7", "SEK", visitor__partner=euros.partner)
        other = earned("3")
        with django_assert_num_queries(2):
            found = unpaid.balances(timezone.now())
        assert found == {
            (euros.partner.pk, "EUR"): Balance(1, Decimal(10)),
            (crowns.partner.pk, "SEK"): Balance(1, Decimal(7)),
            (other.partner.pk, "EUR"): Balance(1, Decimal(3)),
        }
        assert set(unpaid.balances(timezone.now(), other.partner)) == {(other.partner.pk, "EUR")}

    def test_of_a_stopped_partner_is_what_is_held_back(self) -> None:
        partner = earned("10").partner
        decisions.stop_for_fraud(partner, reason="Own orders")
        assert unpaid.balance(partner, "EUR", timezone.now()) == Balance(1, Decimal(10))

    def test_is_what_the_settlement_takes(self) -> None:
        first = settled("10")
        second = earned("5", visitor__partner=first.partner)
        third = earned("1", visitor__partner=first.partner)
        decide(first, REJECTED)
        adjustments.adjust(second, payout=Decimal(-2), reason="One of three came back")
        adjustments.adjust(third, payout=Decimal(-1), reason="All of it came back")
        decide(third, REJECTED)
        shown = unpaid.balance(first.partner, "EUR", timezone.now())
        assert shown == Balance(1, Decimal(5), 2, Decimal(-12))
        assert shown.total == -7
        assert not unpaid.balances(timezone.now(), PartnerFactory())
        settlement = settle(first.partner, expected=shown)
        assert settlement is not None
        assert settlement.total == -7

    def test_of_nothing_is_false(self) -> None:
        assert not unpaid.balance(PartnerFactory(), "EUR", timezone.now())
        assert Balance(adjustment_count=1)


class TestTheStatement:
    def test_has_a_line_for_each_conversion_and_correction(self) -> None:
        partner = settled("10", amount=100, currency="EUR").partner
        earlier = Conversion.objects.get()
        decide(earlier, REJECTED, reason="Returned")
        later = earned("5", visitor__partner=partner)
        settlement = settle(partner)
        assert settlement is not None
        [first, second] = statement_lines.statement(settlement)
        assert (first.adjustment, first.conversion) == (None, later)
        assert (first.amount, first.payout, first.created_on) == (None, 5, later.created_on)
        adjustment = Adjustment.objects.get()
        assert (second.adjustment, second.conversion) == (adjustment, earlier)
        assert (second.amount, second.payout) == (-100, -10)
        assert second.created_on == adjustment.created_on

    def test_never_changes_whatever_is_decided_later(self) -> None:
        conversion = settled(visitor__partner=PartnerFactory())

        def shown() -> tuple[Any, ...]:
            settlement = Settlement.objects.earliest("pk")
            lines = [
                (line.conversion.pk, line.payout) for line in statement_lines.statement(settlement)
            ]
            return vars(settlement) | {"_state": None}, lines

        before = shown()
        decide(conversion, REJECTED)
        assert shown() == before
        settle(conversion.partner)
        decide(conversion, APPROVED)
        adjustments.adjust(conversion, payout=Decimal(-1), reason="A part came back")
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
            Adjustment.objects.create(
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
                for line in statement_lines.statement(settlement)
            ]
        assert len(lines) == 2 * number

    @pytest.mark.parametrize(("number", "queries"), [(0, 1), (1, 1), (9, 4), (10, 4)])
    def test_is_read_a_few_lines_at_a_time(
        self, number: int, queries: int, django_assert_num_queries: Any
    ) -> None:
        several(PartnerFactory(), number)
        with django_assert_num_queries(queries):
            found = list(db.by_key(Conversion.objects.order_by("-reference"), 3))
        assert found == list(Conversion.objects.order_by("pk"))


@pytest.mark.parametrize("number", [10, 1000])
def test_to_settle_costs_few_queries_more_for_five_hundred_conversions_more(number: int) -> None:
    partner = PartnerFactory()
    several(partner, number)
    StatementLock.objects.get_or_create(pk=1)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert settle(partner) is not None
    statements = [query["sql"].split()[0] for query in queries.captured_queries]
    assert statements.count("UPDATE") == {10: 3, 1000: 4}[number]
    # Where rows are locked, that is one more for each five hundred.
    locks = int(connection.features.has_select_for_update)
    # Two for the number: an update locks, the other reads.
    assert len(statements) == {10: 11 + locks, 1000: 12 + 2 * locks}[number]
    # SQLite cannot turn a reading transaction into a writing one while another writes.
    assert next(word for word in statements if word != "SAVEPOINT") == "INSERT"


class TestADecisionAboutWhatIsSettled:
    def test_takes_the_payout_back_with_the_reason_and_who_said_so(self) -> None:
        conversion, staff = settled(amount=99, currency="SEK"), UserFactory()
        decide(conversion, REJECTED, reason="Returned", by=staff)
        adjustment = Adjustment.objects.get()
        assert (adjustment.conversion, adjustment.partner) == (conversion, conversion.partner)
        assert (adjustment.kind, adjustment.payout, adjustment.currency) == ("rejected", -10, "EUR")
        assert (adjustment.amount, adjustment.reason) == (-99, "Returned")
        assert (adjustment.created_by, adjustment.settlement) == (staff, None)
        conversion.refresh_from_db()
        assert (conversion.payout, conversion.amount) == (10, 99)
        assert conversion.settlement is not None

    def test_that_gives_no_reason_has_one_on_the_statement(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED, APPROVED)
        assert list(Adjustment.objects.order_by("pk").values_list("reason", flat=True)) == [
            "Rejected after it was in a statement.",
            "Approved again after it was rejected.",
        ]

    def test_goes_into_the_next_settlement_as_what_the_partner_owes(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED)
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert (settlement.conversion_count, settlement.earned) == (0, 0)
        assert (settlement.adjustment_count, settlement.adjusted) == (1, -10)
        assert settlement.total == -10
        assert Adjustment.objects.get().settlement == settlement
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
        assert adjusted(conversion) == [("rejected", -10), ("brought_back", 10)]
        decide(conversion, APPROVED)
        assert adjusted(conversion) == [("rejected", -10), ("brought_back", 10)]
        decide(conversion, REJECTED, APPROVED, REJECTED)
        assert sum(payout for _, payout in adjusted(conversion)) == -10

    def test_that_rejects_what_was_brought_back_to_pending_takes_it_again(self) -> None:
        conversion = settled()
        decide(conversion, REJECTED, PENDING)
        decisions.stop_for_fraud(conversion.partner, reason="Own orders")
        conversion.refresh_from_db()
        assert conversion.status == REJECTED
        back_and_forth = [("rejected", -10), ("brought_back", 10), ("rejected", -10)]
        assert adjusted(conversion) == back_and_forth

    def test_counts_where_it_was_settled_since_it_was_read(self) -> None:
        conversion = earned()
        assert settle(conversion.partner) is not None
        assert conversion.settlement is None
        decide(conversion, REJECTED)
        assert adjusted(conversion) == [("rejected", -10)]

    def test_is_undone_with_the_transaction(self) -> None:
        conversion = settled()
        with transaction.atomic():
            decide(conversion, REJECTED)
            transaction.set_rollback(True)
        assert not Adjustment.objects.exists()

    def test_by_a_signal_is_corrected_as_well(self) -> None:
        conversion = settled(
            reference="17", reference_key=reference_key("17"), trigger="Order placed"
        )
        by_reference.decide("Order placed", "17", REJECTED, reason="Order refunded")
        assert adjusted(conversion) == [("rejected", -10)]
        assert Adjustment.objects.get().reason == "Order refunded"

    @pytest.mark.parametrize("fields", [{}, {"payout": "0"}])
    def test_writes_nothing_where_nothing_was_paid(self, fields: dict[str, Any]) -> None:
        conversion = settled(**fields) if fields else ConversionFactory()
        decide(conversion, REJECTED, APPROVED)
        assert not Adjustment.objects.exists()

    def test_about_what_is_not_settled_writes_nothing(self) -> None:
        conversion = earned()
        decide(conversion, REJECTED, APPROVED, REJECTED)
        assert not Adjustment.objects.exists()

    def test_costs_one_query_more(self) -> None:
        with CaptureQueriesContext(connection) as paid:
            decide(earned(), REJECTED)
        with CaptureQueriesContext(connection) as unpaid:
            decide(ConversionFactory(decided_on=timezone.now()), REJECTED)
        assert len(paid) == len(unpaid) + 1


class TestACorrection:
    def test_of_a_part_is_taken_from_what_is_left(self) -> None:
        conversion, staff = settled(amount=100, currency="SEK"), UserFactory()
        adjustment = adjustments.adjust(
            conversion,
            payout=Decimal("-3.50"),
            amount=Decimal(-35),
            reason=" One of three came back ",
            by=staff,
        )
        assert adjustment is not None
        stored = Adjustment.objects.get()
        for one in (adjustment, stored):
            assert (one.kind, one.payout, one.currency) == ("adjusted", Decimal("-3.5"), "EUR")
            assert (one.amount, one.reason) == (-35, "One of three came back")
            assert (one.partner, one.created_by) == (conversion.partner, staff)
        assert adjustments.current(conversion).payout == Decimal("6.5")
        conversion.refresh_from_db()
        assert (conversion.payout, conversion.amount) == (10, 100)

    def test_can_add_as_well(self) -> None:
        conversion = settled()
        adjustments.adjust(conversion, payout=Decimal(5), reason="The wrong rule")
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert settlement.total == 5

    def test_before_a_rejection_leaves_less_to_take_back(self) -> None:
        conversion = settled(amount=100, currency="EUR")
        adjustments.adjust(conversion, payout=Decimal(-4), amount=Decimal(-40), reason="A part")
        decide(conversion, REJECTED)
        assert adjusted(conversion) == [("adjusted", -4), ("rejected", -6)]
        assert adjustments.current(conversion).payout == 0
        decide(conversion, APPROVED)
        assert adjustments.current(conversion).payout == 6
        amounts = conversion.adjustments.order_by("pk").values_list("amount", flat=True)
        assert list(amounts) == [-40, -60, 60]

    def test_of_what_is_not_settled_is_settled_with_it(self) -> None:
        conversion = earned()
        adjustments.adjust(conversion, payout=Decimal(-4), reason="A part")
        early = settlements.settle(conversion.partner, "EUR", conversion.decided_on)
        assert early is None
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert (settlement.earned, settlement.adjusted) == (10, -4)

    def test_before_it_is_settled_goes_along_whatever_the_moment(self) -> None:
        """An order of October that is corrected in November, and settled with October."""
        conversion, moment = earned(), timezone.now()
        adjustment = adjustments.adjust(conversion, payout=Decimal(-4), reason="A part")
        shown = unpaid.balance(conversion.partner, "EUR", moment)
        assert shown == Balance(1, Decimal(10), 1, Decimal(-4))
        drafted = statement_lines.draft(conversion.partner, "EUR", moment)
        assert [line.adjustment for line in drafted] == [None, adjustment]
        settlement = settlements.settle(conversion.partner, "EUR", moment, expected=shown)
        assert settlement is not None
        assert (settlement.before, settlement.total) == (moment, 6)
        assert settle(conversion.partner) is None

    def test_between_what_was_shown_and_the_settlement_is_shown_first(self) -> None:
        conversion, moment = earned(), timezone.now()
        shown = unpaid.balance(conversion.partner, "EUR", moment)
        adjustments.adjust(conversion, payout=Decimal(-4), reason="A part")
        assert settlements.settle(conversion.partner, "EUR", moment, expected=shown) is None
        conversion.refresh_from_db()
        assert conversion.settlement is None

    def test_of_what_is_settled_later_stays_with_it(self) -> None:
        """Whether it waits, was rejected, or was approved after the moment; another's goes."""
        partner = PartnerFactory()
        other = earned("5", visitor__partner=partner)
        waiting, rejected = (earned(visitor__partner=partner) for _ in range(2))
        for conversion in (waiting, rejected):
            adjustments.adjust(conversion, payout=Decimal(-4), reason="A part")
            decide(conversion, REJECTED)
        decide(waiting, PENDING)
        moment = timezone.now()
        late = earned(visitor__partner=partner, decided_on=moment)
        adjustments.adjust(late, payout=Decimal(-3), reason="A part")
        adjustments.adjust(other, payout=Decimal(-1), reason="A part")
        assert unpaid.balance(partner, "EUR", moment) == Balance(1, Decimal(5), 1, Decimal(-1))
        lines = list(statement_lines.draft(partner, "EUR", moment))
        assert [line.conversion for line in lines] == [other, other]
        settlement = settlements.settle(partner, "EUR", moment)
        assert settlement is not None
        assert (settlement.earned, settlement.adjusted) == (5, -1)
        decide(waiting, APPROVED)
        settlement = settle(partner)
        assert settlement is not None
        # 6 of what waited, 7 of what was approved late.
        assert settlement.total == 13

    def test_of_what_is_then_not_paid_is_taken_by_no_settlement(self) -> None:
        conversion = earned()
        adjustments.adjust(conversion, payout=Decimal(-4), reason="A part")
        decide(conversion, REJECTED)
        assert adjusted(conversion) == [("adjusted", -4), ("rejected", 4)]
        assert settle(conversion.partner) is None
        decide(conversion, APPROVED)
        settlement = settle(conversion.partner)
        assert settlement is not None
        assert settlement.total == 6

    def test_of_what_is_not_approved_is_none(self) -> None:
        conversion = settled()
        decide(Conversion.objects.get(), REJECTED)
        assert adjustments.adjust(conversion, payout=Decimal(-4), reason="A part") is None
        assert adjusted(conversion) == [("rejected", -10)]

    def test_twice_by_two_who_saw_the_same_is_one(self) -> None:
        conversion = settled()
        part: dict[str, Any] = {
            "payout": Decimal(-4),
            "reason": "A part",
            "expected": adjustments.current(conversion).payout,
        }
        assert adjustments.adjust(conversion, **part) is not None
        assert adjustments.adjust(conversion, **part) is None
        assert adjustments.current(conversion).payout == 6

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"payout": Decimal("-10.01")}, "Only 10.00\xa0EUR of this payout can be taken back."),
            ({"payout": Decimal("-0.001")}, "Enter fewer decimals: EUR has no smaller unit."),
            ({"payout": Decimal(0)}, "The payout does not change. Enter a different payout."),
            ({"payout": Decimal("NaN")}, "Enter a smaller number."),
            ({"payout": Decimal("Infinity")}, "Enter a smaller number."),
            ({"payout": Decimal("1E+14")}, "Enter a smaller number."),
            ({"amount": Decimal("1E+400")}, "Enter a smaller number."),
            ({"amount": Decimal("0.5")}, "Enter fewer decimals: JPY has no smaller unit."),
            ({"reason": " "}, "Enter a reason. The partner sees it on the payout statement."),
        ],
        ids=str,
    )
    def test_that_is_none_says_so(self, wrong: dict[str, Any], message: str) -> None:
        conversion = settled(amount=100, currency="JPY")
        right: dict[str, Any] = {"payout": Decimal(-1), "reason": "A part"}
        with pytest.raises(ValidationError) as caught:
            adjustments.adjust(conversion, **right | wrong)
        [field] = wrong
        assert caught.value.message_dict == {field: [message]}
        assert not Adjustment.objects.exists()

    @pytest.mark.parametrize("fields", [{}, {"is_test": True, "payout": 10}])
    def test_of_what_is_not_paid_says_so(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match="This conversion has no payout"):
            adjustments.adjust(ConversionFactory(**fields), payout=Decimal(1), reason="A part")

    def test_is_called_by_its_conversion(self) -> None:
        adjustment = Adjustment(conversion_id=17, payout=Decimal("-4.50"), currency="EUR")
        assert str(adjustment) == "17: -4.50\xa0EUR"
        adjustment.payout = Decimal("-3.4500")
        with translation.override("da"):
            assert str(adjustment) == "17: -3,45\xa0EUR"
