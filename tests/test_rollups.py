"""Daily totals: whoever counts and whenever, a report says the same."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import privacy
from affiliations.dates import Interval, Period
from affiliations.models import DailyClicks, Partner, RollupState, Visitor
from affiliations.reports import rollups
from affiliations.reports.numbers import Dimension
from affiliations.reports.queries import report
from tests.factories import ConversionFactory, PartnerFactory, UserFactory, VisitorFactory
from tests.test_races import at_once

pytestmark = pytest.mark.django_db

NOW = timedelta(0)


def came(partner: Partner, days: int, **facts: Any) -> Visitor:
    """Make a visitor who came so many days ago."""
    return VisitorFactory(partner=partner, referred_on=ago(days), **facts)


def ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)


def count_all(batch: int = rollups.BATCH) -> None:
    """Count everybody there is: see them, and come back."""
    list(rollups.count(batch=batch, margin=NOW))
    list(rollups.count(batch=batch, margin=NOW))


def clicks(**question: Any) -> dict[Any, int]:
    """Return the clicks of the last hundred days, by what was asked for."""
    found = report(Period.past(100), **question)
    return {key: numbers.clicks for key, numbers in found.rows.items() if numbers.clicks}


def everything() -> list[dict[Any, int]]:
    """Return the clicks by all that they can be told apart by."""
    partners = list(Partner.objects.order_by("pk"))
    return [
        clicks(),
        clicks(partners=partners[:1]),
        *(
            clicks(interval=interval, dimension=dimension)
            for interval in (None, *Interval)
            for dimension in (None, *Dimension)
        ),
        *(
            clicks(dimension=by, sub_id=(Dimension.SUB1, "mail"))
            for by in (None, Dimension.PARTNER, Dimension.SUB1)
        ),
    ]


def totalled() -> int:
    """Return how many visitors are in the totals and still in their own table."""
    rows = DailyClicks.objects.filter(sub_id=0).values_list("count", "purged")
    return sum(count - purged for count, purged in rows)


@pytest.fixture
def history() -> list[Partner]:
    """Let visitors of two partners come on many days, with labels and without, and a test."""
    partners = [PartnerFactory(), PartnerFactory()]
    for number in range(60):
        came(
            partners[number % 3 == 0],
            number % 20,
            sub1=["mail", "", "blog"][number % 3],
            sub5=f"only-{number}" if number % 10 == 0 else "",
            is_test=number == 17,
            source="api" if number % 7 == 0 else "link",
        )
    visitor = came(partners[0], 3, sub1="mail")
    ConversionFactory(visitor=visitor, created_on=ago(3))
    for number, label in enumerate(("", "mail", "", "", "", "")):
        DailyClicks.objects.create(
            partner=partners[0],
            day=Period.past(2).first,
            sub_id=number,
            label=label,
            count=4,
            purged=4,
        )
    return partners


class TestCounting:
    @pytest.mark.parametrize("batch", [7, rollups.BATCH])
    def test_changes_no_report(self, history: list[Partner], batch: int) -> None:
        before = everything()

        count_all(batch)
        came(history[0], 0, sub1="late")
        Visitor.objects.filter(sub1="late").delete()

        assert totalled() == 60
        assert everything() == before

    def test_takes_as_many_steps_however_far_the_keys_lie_apart(self) -> None:
        partner = PartnerFactory()
        visitors = [came(partner, 1).pk for _ in range(30)]
        Visitor.objects.filter(pk__in=visitors[5:25]).delete()
        list(rollups.count(margin=NOW))

        assert len(list(rollups.count(batch=4, margin=NOW))) == 3
        assert totalled() == 10

    def test_leaves_who_arrives_afterwards_to_the_report(self, history: list[Partner]) -> None:
        count_all()
        before = clicks()[None, None]

        came(history[0], 0)
        # An old referral, which waited for somebody's consent.
        came(history[0], 9)

        assert clicks()[None, None] == before + 2
        count_all()
        assert clicks()[None, None] == before + 2
        assert totalled() == 62

    def test_counts_only_who_was_there_an_hour_ago(self, partner: Partner) -> None:
        came(partner, 0)
        on_its_way, last = came(partner, 0), came(partner, 0)
        # In a transaction that has not ended yet.
        on_its_way.delete()
        assert list(rollups.count()) == []
        RollupState.objects.update(seen_on=ago(0) - rollups.MARGIN)
        assert list(rollups.count()) == []
        assert list(rollups.count()) == []
        assert not DailyClicks.objects.exists()

        Visitor(pk=last.pk - 1, partner=partner, referred_on=ago(0)).save()
        RollupState.objects.update(seen_on=ago(0) - rollups.MARGIN)
        came(partner, 0)

        assert sum(rollups.count()) == last.pk
        assert totalled() == 3
        assert clicks()[None, None] == 4

    def test_is_of_the_days_of_the_site(self, partner: Partner, settings: Any) -> None:
        settings.TIME_ZONE = "Pacific/Auckland"
        moment = datetime.fromisoformat("2026-09-26T12:30:00+00:00")
        VisitorFactory(partner=partner, referred_on=moment)

        with timezone.override("America/New_York"):
            count_all()

        assert set(DailyClicks.objects.values_list("day", flat=True)) == {date(2026, 9, 27)}

    def test_starts_anew_after_the_time_zone_was_changed(
        self, partner: Partner, settings: Any
    ) -> None:
        VisitorFactory(
            partner=partner, referred_on=datetime.fromisoformat("2026-09-26T12:30:00+00:00")
        )
        count_all()
        settings.TIME_ZONE = "Pacific/Auckland"

        assert sum(rollups.rebuild(margin=NOW)) > 0

        assert set(DailyClicks.objects.values_list("day", flat=True)) == {date(2026, 9, 27)}
        assert totalled() == 1

    def test_works_without_time_zones(self, partner: Partner, settings: Any) -> None:
        settings.USE_TZ = False
        RollupState.objects.all().delete()
        moment = datetime(2026, 9, 26, 23, 30)  # noqa: DTZ001 -- without USE_TZ
        VisitorFactory(partner=partner, referred_on=moment)

        count_all()

        assert [str(row) for row in DailyClicks.objects.filter(sub_id=0)] == ["2026-09-26: 1"]
        assert str(RollupState.objects.get()) == str(Visitor.objects.get().pk)

    def test_of_visitors_who_are_all_tests_or_gone_writes_nothing(self, partner: Partner) -> None:
        came(partner, 1, is_test=True)
        came(partner, 1).delete()

        count_all()

        assert not DailyClicks.objects.exists()
        Visitor.objects.all().delete()
        count_all()
        assert RollupState.objects.get().counted > 0


class TestAReport:
    def test_that_is_asked_for_while_somebody_counts_counts_everybody_once(
        self, history: list[Partner]
    ) -> None:
        list(rollups.count(margin=NOW))
        before = clicks(interval=Interval.DAY)
        ran = []

        def counting(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            result = execute(sql, params, many, context)
            if "rollupstate" in sql and not ran:
                ran.append(sql)
                count_all()
            return result

        list(rollups.count(margin=NOW))
        DailyClicks.objects.filter(purged=0).delete()
        RollupState.objects.update(counted=0)
        with connection.execute_wrapper(counting):
            found = clicks(interval=Interval.DAY)

        assert ran
        assert totalled() == 60
        assert found == before

    @pytest.mark.slow
    def test_takes_as_many_queries_whatever_there_is(self, history: list[Partner]) -> None:
        def queries() -> int:
            with CaptureQueriesContext(
                connection,
            ) as captured:
                report(Period.past(100), interval=Interval.DAY, dimension=Dimension.PARTNER)
            return len(captured)

        few = queries()
        count_all()
        Visitor.objects.bulk_create(
            Visitor(partner=history[0], referred_on=ago(number % 50), sub1=str(number))
            for number in range(10_000)
        )

        assert few == queries() == 6


class TestThePurge:
    def test_of_visitors_changes_no_report(self, history: list[Partner]) -> None:
        Partner.objects.update(window=timedelta(days=5))
        count_all()
        came(history[0], 40, sub1="mail", sub2="only-once")
        before = everything()

        assert sum(privacy.purge(ago(10))) > 20

        assert everything() == before
        assert 0 < totalled() < 40

    @pytest.mark.slow
    @pytest.mark.parametrize("is_counted", [False, True])
    def test_and_a_rebuild_change_no_report(self, history: list[Partner], is_counted: bool) -> None:
        before = everything()
        Partner.objects.update(window=timedelta(days=5))
        if is_counted:
            count_all()

        assert sum(privacy.purge(ago(10))) > 20
        assert everything() == before

        for _ in range(2):
            list(rollups.rebuild(margin=NOW))
            assert everything() == before
            count_all()
            assert everything() == before

    @pytest.mark.parametrize("is_counted", [False, True])
    def test_in_the_middle_of_a_report_counts_everybody_once(
        self, history: list[Partner], is_counted: bool
    ) -> None:
        before = clicks(interval=Interval.DAY)
        Partner.objects.update(window=timedelta(days=5))
        if is_counted:
            count_all()
        purged: list[int] = []

        def purging(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            result = execute(sql, params, many, context)
            if "rollupstate" in sql and not purged:
                purged.append(0)
                purged.extend(privacy.purge(ago(10)))
            return result

        with connection.execute_wrapper(purging):
            found = clicks(interval=Interval.DAY)

        assert sum(purged) > 20
        assert found == before == clicks(interval=Interval.DAY)

    def test_of_visitors_in_the_totals_adds_one_row_for_each_kind(self, partner: Partner) -> None:
        for _ in range(3):
            came(partner, 50, sub1="mail")
        count_all()
        assert DailyClicks.objects.count() == 7

        list(privacy.purge(ago(10)))

        rows = DailyClicks.objects.exclude(purged=0)
        assert {(row.count, row.purged) for row in rows} == {(0, 3)}
        assert rows.count() == 7


class TestBlanking:
    def test_takes_the_labels_out_of_the_totals(self, partner: Partner) -> None:
        user = UserFactory()
        came(partner, 1, user=user, sub1="mail", sub2="jane-doe")
        came(partner, 1, user=user, sub1="mail", sub2="jane-doe", is_test=True)
        came(partner, 1, sub1="mail")
        count_all()
        came(partner, 1, user=user, sub2="jane-doe")
        before = clicks(interval=Interval.DAY)

        visitor = Visitor.objects.filter(sub2="jane-doe").latest("pk")
        conversion = ConversionFactory(visitor=visitor)
        assert conversion.sub2 == "jane-doe"

        privacy.blank(user)

        conversion.refresh_from_db()
        assert conversion.sub2 == ""
        assert not DailyClicks.objects.filter(label="jane-doe").exists()
        assert clicks(dimension=Dimension.SUB1) == {(None, "mail"): 1, (None, ""): 2}
        assert clicks(dimension=Dimension.SUB2) == {(None, ""): 3}
        assert clicks(interval=Interval.DAY) == before


@pytest.mark.django_db(transaction=True)
class TestAtTheSameMoment:
    def test_counting_purging_and_arriving_lose_nobody(self) -> None:
        partner = PartnerFactory()
        for number in range(200):
            came(partner, 50 + number % 7, sub1=str(number % 3))
        list(rollups.count(margin=NOW))
        before = clicks(dimension=Dimension.SUB1)

        at_once(
            lambda: list(rollups.count(batch=20, margin=NOW)),
            lambda: list(rollups.count(batch=30, margin=NOW)),
            lambda: list(privacy.purge(ago(40), batch=20)),
        )

        assert clicks(dimension=Dimension.SUB1) == before
        assert sum(before.values()) == 200
        assert not Visitor.objects.exists()

    @pytest.mark.only_on("postgresql", "mariadb")
    def test_nobody_who_arrives_waits_for_the_one_who_counts(self) -> None:
        partner = PartnerFactory()
        came(partner, 1)
        list(rollups.count(margin=NOW))

        with transaction.atomic(), rollups.locked_state():
            (visitor,) = at_once(lambda: came(partner, 0))

        assert Visitor.objects.filter(pk=visitor.pk).exists()

    def test_the_first_to_count_makes_the_one_row(self) -> None:
        RollupState.objects.all().delete()
        came(PartnerFactory(), 0)

        at_once(*[lambda: list(rollups.count(margin=NOW))] * 4)
        count_all()

        assert RollupState.objects.count() == 1
        assert totalled() == 1


class TestTheCommand:
    def test_counts_who_was_there_an_hour_ago(self, history: list[Partner], capsys: Any) -> None:
        call_command("rollup_affiliations")
        RollupState.objects.update(seen_on=ago(1))
        call_command("rollup_affiliations")
        RollupState.objects.update(seen_on=ago(1))
        call_command("rollup_affiliations", batch=10)

        assert totalled() == 60
        first, *_, last = capsys.readouterr().out.splitlines()
        assert first.startswith("0 visitors counted")
        assert not last.startswith("0 visitors counted")

    def test_rebuilds(self, history: list[Partner]) -> None:
        count_all()
        DailyClicks.objects.update(count=99)
        RollupState.objects.update(seen_on=ago(1))

        call_command("rollup_affiliations", rebuild=True)

        assert totalled() == 60

    def test_refuses_to_count_nobody_at_a_time(self) -> None:
        with pytest.raises(CommandError, match="1 or more"):
            call_command("rollup_affiliations", batch=0)

    def test_shows_how_far_it_is(
        self, history: list[Partner], capsys: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        count_all()
        RollupState.objects.update(seen_on=ago(1))

        call_command("rollup_affiliations", rebuild=True)

        assert " counted\n" in capsys.readouterr().out
