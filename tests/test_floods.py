"""What a flood of clicks leaves: bounded rows, and nothing in the reports once it is removed."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import Count, Sum
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import privacy
from affiliations.admin import partner_actions
from affiliations.dates import Interval, Period, today
from affiliations.exceptions import Reason
from affiliations.models import (
    DailyClicks,
    FilteredClicks,
    Partner,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.clicks import Report
from affiliations.reports import Dimension, arrivals, rollups
from affiliations.reports.rollups import LABEL_NUMBERS, LABELS
from tests.factories import (
    ConversionFactory,
    PartnerFactory,
    UserFactory,
)
from tests.test_admin import allowed, shown, url
from tests.test_rollups import ago, came, clicks, count_all, everything
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

SUBS = [dimension for dimension in Dimension if dimension.is_sub_id]


def flood(partner: Partner, size: int, days: int = 50, *, subs: int = 5, **facts: Any) -> None:
    """Let visitors come on one day, each with sub ids of its own."""
    chance = random.Random(size)
    Visitor.objects.bulk_create(
        Visitor(
            partner=partner,
            referred_on=ago(days),
            source="link" if number % 3 else "api",
            **{f"sub{number}": f"{chance.random()}" for number in range(1, subs + 1)},
            **facts,
        )
        for number in range(size)
    )


def rows_by_day() -> list[int]:
    """Return how many rows a partner's day has, without those by source."""
    rows = DailyClicks.objects.exclude(sub_id=LABEL_NUMBERS["source"])
    rows = rows.order_by().values_list("partner_id", "day").annotate(Count("pk"))
    return [count for *_, count in rows]


def totals() -> list[dict[Any, int]]:
    """Return the clicks that a purge must not change: all but those by sub id."""
    return [
        clicks(interval=interval, dimension=dimension)
        for interval in (None, *Interval)
        for dimension in (None, Dimension.PARTNER, Dimension.SOURCE)
    ]


def sums() -> set[int]:
    """Return the clicks by each sub id, added up."""
    return {sum(clicks(dimension=dimension).values()) for dimension in SUBS}


class TestAPurgeAfterAFlood:
    @pytest.mark.parametrize("is_counted", [False, True], ids=["at once", "counted before"])
    def test_leaves_few_rows_and_changes_no_total(self, is_counted: bool) -> None:
        partner, other = PartnerFactory(), PartnerFactory()
        flood(partner, 300)
        flood(partner, 60, days=51, subs=2)
        for _ in range(40):
            came(partner, 50, sub1="mail", sub2="summer")
        came(other, 50, sub1="mail")
        flood(partner, 10, days=0)
        if is_counted:
            count_all()
        before = totals()

        assert sum(privacy.purge(ago(40), batch=90)) == 401

        assert totals() == before
        assert sums() == {411}
        assert clicks(dimension=Dimension.SUB1)[None, "mail"] == 41
        assert clicks(dimension=Dimension.SUB2)[None, "summer"] == 40
        # Of the other partner's day, and of today, whose visitors are still there.
        others = [12, 51] if is_counted else [6]
        assert sorted(rows_by_day()) == sorted([*others, 21, 21])

        for _ in range(2):
            list(rollups.rebuild(margin=timedelta(0)))
            assert totals() == before
            assert sums() == {411}
            assert sum(privacy.purge(ago(40))) == 0
            count_all()

    def test_keeps_the_most_frequent_sub_ids_and_adds_up_the_others(self) -> None:
        partner = PartnerFactory()
        for number in range(30):
            for _ in range(number + 1):
                came(partner, 50, sub1=f"label-{number:02}")

        list(privacy.purge(ago(40)))

        found = clicks(dimension=Dimension.SUB1)
        # The other four sub ids have one row each, without a label.
        kept = {(None, f"label-{number:02}"): number + 1 for number in range(15, 30)}
        assert found == kept | {(None, None): sum(range(1, 16))}
        assert rows_by_day() == [1 + LABELS]

    def test_keeps_all_labels_where_they_are_few(self) -> None:
        partner = PartnerFactory()
        for number in range(16):
            came(partner, 50, sub1=f"label-{number}")
        before = everything()
        list(privacy.purge(ago(40), batch=1))
        assert rows_by_day() == [1 + LABELS]
        assert everything() == before

    def test_adds_up_what_an_earlier_version_has_left(self) -> None:
        partner, day = PartnerFactory(), ago(60).date()
        DailyClicks.objects.bulk_create(
            DailyClicks(
                partner=partner,
                day=day,
                sub_id=number,
                label=f"{index}" if number else "",
                count=count,
                purged=1 - count,
            )
            for index in range(100)
            for number in range(6)
            for count in (0, 1)
        )
        before = totals()

        assert sum(privacy.purge(ago(40))) == 0

        assert rows_by_day() == [21]
        assert totals() == before
        assert sums() == {100}
        rows = DailyClicks.objects.order_by("sub_id").values_list("sub_id")
        assert list(rows.annotate(Sum("purged"))) == [(number, 100) for number in range(6)]

    def test_leaves_days_alone_of_which_no_visitor_was_purged(self) -> None:
        flood(PartnerFactory(), 30, days=1)
        count_all()
        list(privacy.purge(ago(40)))
        assert rows_by_day() == [1 + 5 * 30]

    def test_leaves_nothing_where_nothing_is_counted(self) -> None:
        partner = PartnerFactory()
        for count in (1, -1):
            for number in range(30):
                DailyClicks.objects.create(
                    partner=partner, day=today(), sub_id=1, label=f"{number}", count=count
                )
        rollups.tidy(partner, Period(today(), today()))
        assert not DailyClicks.objects.exists()

    def test_takes_as_many_queries_whatever_the_size_of_the_flood(self) -> None:
        counts = []
        for size in (50, 500):
            partner = PartnerFactory()
            flood(partner, size)
            count_all()
            DailyClicks.objects.update(purged=1)
            with CaptureQueriesContext(connection) as queries:
                rollups.compact()
            assert rows_by_day() == [21]
            counts.append(len(queries))
            DailyClicks.objects.all().delete()
        assert counts[0] == counts[1] <= 13

    def test_adds_up_the_slots_of_filtered_clicks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        partner = PartnerFactory()
        for slot in range(8):
            monkeypatch.setattr("random.randrange", lambda stop, slot=slot: slot)
            for day in (ago(50).date(), today()):
                FilteredClicks.objects.add(partner, Reason.BOT, day=day, count=slot + 1)
                FilteredClicks.objects.add(None, Reason.UNKNOWN_PARTNER, day=day)
        FilteredClicks.objects.add(partner, Reason.HEAD, day=ago(50).date())
        before = arrivals(Period.past(100)).filtered

        list(privacy.purge(ago(40)))

        assert arrivals(Period.past(100)).filtered == before
        assert FilteredClicks.objects.filter(day=ago(50).date()).count() == 3
        assert FilteredClicks.objects.filter(day=today()).count() == 16
        list(privacy.purge(ago(40)))
        FilteredClicks.objects.add(partner, Reason.BOT, day=ago(50).date())
        by_reason = before + Counter(bot=1)
        assert arrivals(Period.past(100)).filtered == by_reason


class TestAnErasureAfterAPurge:
    def test_of_a_label_that_was_added_up_leaves_the_totals(self) -> None:
        """The visitor has ordered, and so is still there."""
        partner, user = PartnerFactory(), UserFactory()
        flood(partner, 100)
        visitor = came(partner, 50, user=user, sub1="jane-doe")
        ConversionFactory(visitor=visitor)
        count_all()
        list(privacy.purge(ago(40)))
        assert not DailyClicks.objects.filter(label="jane-doe").exists()
        before = totals()

        privacy.blank(user)

        assert not DailyClicks.objects.filter(label="jane-doe").exists()
        assert totals() == before
        assert sums() == {101}
        found = clicks(dimension=Dimension.SUB1)
        assert all(count > 0 for count in found.values())
        list(rollups.rebuild(margin=timedelta(0)))
        assert sums() == {101}


def removed_on(days: int) -> int:
    day = ago(days).date()
    return arrivals(Period(day, day)).filtered["removed"]


class TestRemovingClicks:
    @pytest.mark.parametrize("is_counted", [False, True], ids=["not counted", "counted before"])
    @pytest.mark.parametrize("batch", [7, 1000])
    def test_moves_them_to_the_filtered_clicks(self, is_counted: bool, batch: int) -> None:
        partner, other = PartnerFactory(), PartnerFactory()
        flood(partner, 40, days=5)
        flood(partner, 3, days=6)
        for days in (4, 7):
            came(partner, days, sub1="mail")
        came(other, 5, sub1="mail")
        kept = [came(partner, 5, sub1="sold"), came(partner, 5, sub1="order")]
        ConversionFactory(visitor=kept[0])
        Order.objects.create(affiliate_visitor=kept[1])
        came(partner, 5, is_test=True)
        UncreditedTrigger.objects.add(
            Visitor.objects.earliest("pk"), "Order placed", Reason.NO_REFERENCE, "", ago(5)
        )
        if is_counted:
            count_all()
        before = clicks()[None, None]
        period = Period(ago(6).date(), ago(5).date())
        arrived = arrivals(period, partner).total
        assert privacy.unconverted(partner, period).count() == 43

        assert sum(privacy.remove(partner, period, batch=batch)) == 43

        assert clicks()[None, None] == before - 43
        assert arrivals(period, partner).total == arrived == 45
        assert sums() == {before - 43}
        assert (removed_on(5), removed_on(6), removed_on(4)) == (40, 3, 0)
        assert clicks(dimension=Dimension.SUB1) == {
            (None, "mail"): 3, (None, "sold"): 1, (None, "order"): 1
        }  # fmt: skip
        assert Visitor.objects.filter(partner=partner, is_test=False).count() == 4
        assert Visitor.objects.filter(is_test=True).count() == 1
        assert not DailyClicks.objects.filter(count__lt=0).exists()
        assert sum(privacy.remove(partner, period)) == 0
        count_all()
        assert clicks()[None, None] == before - 43

    def test_after_a_purge_of_the_same_day_keeps_the_purged_clicks(self) -> None:
        partner = PartnerFactory()
        flood(partner, 100, days=50)
        count_all()
        list(privacy.purge(ago(40), batch=30))
        flood(partner, 60, days=50)
        kept = came(partner, 50, sub1="x")
        ConversionFactory(visitor=kept)
        count_all()
        list(privacy.purge(ago(400)))

        period = Period(ago(50).date(), ago(50).date())
        assert sum(privacy.remove(partner, period)) == 60

        assert clicks()[None, None] == 101
        assert sums() == {101}
        assert removed_on(50) == 60
        list(rollups.rebuild(margin=timedelta(0)))
        assert sums() == {101}

    def test_costs_the_same_for_each_batch_of_any_size(self) -> None:
        counts = []
        period = Period(ago(5).date(), ago(5).date())
        rollups.ensure_state()
        for size in (1, 80):
            partner = PartnerFactory()
            flood(partner, size, days=5)
            FilteredClicks.objects.all().delete()
            with CaptureQueriesContext(connection) as queries:
                assert list(privacy.remove(partner, period, batch=80)) == [size]
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 25

    def test_keeps_who_was_credited_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        partner = PartnerFactory()
        credited, ordered, gone = (came(partner, 5) for _ in range(3))
        locked_state = rollups.locked_state

        def meanwhile() -> Any:
            monkeypatch.undo()
            assert credited.credit(timezone.now(), None, close=False)
            Order.objects.create(affiliate_visitor=ordered)
            return locked_state()

        monkeypatch.setattr(rollups, "locked_state", meanwhile)
        period = Period(ago(5).date(), ago(5).date())
        assert list(privacy.remove(partner, period)) == [1]
        assert set(Visitor.objects.all()) == {credited, ordered}
        assert not Visitor.objects.filter(pk=gone.pk).exists()
        assert removed_on(5) == 1


@pytest.mark.django_db(transaction=True)
class TestAtTheSameMoment:
    def test_clicks_arrive_and_are_removed_once(self) -> None:
        partner = PartnerFactory(active=True)
        flood(partner, 120, days=0)
        list(rollups.count(margin=timedelta(0)))
        list(rollups.count(batch=60, margin=timedelta(0)))
        period, done = Period(today(), today()), threading.Event()

        def arrive() -> int:
            count = 0
            try:
                while not done.is_set():
                    assert Client().get(partner.link("/")).status_code == 302
                    count += 1
            finally:
                connection.close()
            return count

        def remove() -> int:
            try:
                return sum(privacy.remove(partner, period, batch=10))
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            arriving = [pool.submit(arrive) for _ in range(2)]
            removing = [pool.submit(remove) for _ in range(2)]
            try:
                removed = sum(one.result(60) for one in removing)
            finally:
                done.set()
            arrived = sum(one.result(60) for one in arriving)
        assert 120 <= removed <= 120 + arrived
        assert clicks().get((None, None), 0) == 120 + arrived - removed
        assert arrivals(period).filtered["removed"] == removed
        assert Visitor.objects.count() == 120 + arrived - removed

    @pytest.mark.only_on("postgresql", "mariadb")
    def test_a_conversion_that_is_not_committed_yet_keeps_its_visitor(self) -> None:
        partner = PartnerFactory()
        visitor = came(partner, 5)
        came(partner, 5)
        rollups.ensure_state()

        def remove() -> int:
            try:
                return sum(privacy.remove(partner, Period.past(10)))
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                assert visitor.credit(timezone.now(), None, close=False)
                removing = pool.submit(remove)
                assert wait([removing], timeout=0.5).not_done
            assert removing.result(60) == 1
        assert Visitor.objects.get() == visitor

    def test_a_removal_ends_while_the_flood_goes_on(self) -> None:
        partner = PartnerFactory()
        flood(partner, 3, days=0)
        for _ in privacy.remove(partner, Period.past(1), batch=1):
            came(partner, 0)
        assert Visitor.objects.count() == 3


class TestTheCommand:
    def run(self, partner: Partner, **options: Any) -> None:
        days = {"since": ago(6).date().isoformat(), "until": ago(5).date().isoformat()}
        call_command("remove_clicks", partner.uid, **days | options)

    def test_counts_and_removes(self, capsys: pytest.CaptureFixture[str]) -> None:
        partner = PartnerFactory()
        flood(partner, 5, days=5)
        came(partner, 4)
        self.run(partner, dry_run=True)
        assert Visitor.objects.count() == 6
        self.run(partner, batch=2)
        assert Visitor.objects.count() == 1
        self.run(partner, batch=2)
        assert capsys.readouterr().out.splitlines() == [
            "5 clicks would be removed.",
            "5 clicks removed.",
            "0 clicks removed.",
        ]

    @pytest.mark.parametrize(
        "options",
        [{"batch": 0}, {"since": "2026-11-03", "until": "2026-11-02"}, {"since": "0001-01-01"}],
    )
    def test_refuses_what_makes_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(CommandError, match="must not be after"):
            self.run(PartnerFactory(), **options)

    def test_refuses_what_is_no_day(self) -> None:
        with pytest.raises(CommandError, match="such as 2026-11-30"):
            self.run(PartnerFactory(), until="yesterday")

    def test_knows_the_partner(self) -> None:
        with pytest.raises(CommandError, match="no partner with the uid 'unknown1'"):
            self.run(Partner(uid="unknown1"))


class TestThePage:
    @pytest.fixture
    def partner(self) -> Partner:
        partner = PartnerFactory(name="Steep Notes")
        flood(partner, 5, days=5)
        ConversionFactory(visitor=came(partner, 5))
        return partner

    @pytest.fixture
    def days(self) -> dict[str, str]:
        day = ago(5).date().isoformat()
        return {"since": day, "until": day}

    def test_asks_for_days_shows_the_facts_and_removes(
        self, staff: Client, partner: Partner, days: dict[str, str]
    ) -> None:
        address = url(partner, "remove_clicks")
        assert address in staff.get(url(partner)).text
        page = staff.get(address)
        assert 'name="since"' in page.text
        assert "form_token" not in page.text

        page = staff.get(address, days)
        text = shown(page)
        for fact in ("Clicks 6", "Clicks that are removed 5", "Clicks that stay 1"):
            assert fact in text
        assert Visitor.objects.count() == 6
        token = page.context["form_token"]
        answer = staff.post(address, days | {"form_token": token})
        assert answer["Location"] == url(partner)
        assert "Removed 5 clicks: " in shown(staff.get(url(partner)))
        assert Visitor.objects.count() == 1
        assert "Removed 5 clicks: " in LogEntry.objects.get().get_change_message()
        assert "Removed later, such as a flood of clicks 5" in shown(staff.get(url(Report)))

        flood(partner, 5, days=5)
        staff.post(address, days | {"form_token": token})
        assert Visitor.objects.count() == 6

    def test_says_that_there_is_nothing(self, staff: Client, partner: Partner) -> None:
        day = ago(9).date().isoformat()
        page = staff.get(url(partner, "remove_clicks"), {"since": day, "until": day})
        assert "There are no clicks to remove in this period." in page.text
        assert 'method="get"' in page.text

    @pytest.mark.parametrize(
        ("since", "until"),
        [("", ""), ("x", "2026-11-02"), ("2026-11-03", "2026-11-02"), ("0001-01-01", "9999-12-31")],
    )
    def test_shows_what_is_wrong_with_the_days(
        self, staff: Client, partner: Partner, since: str, until: str
    ) -> None:
        address, days = url(partner, "remove_clicks"), {"since": since, "until": until}
        for page in (staff.get(address, days), staff.post(address, days)):
            assert page.status_code == 200
            assert "errorlist" in page.text
        assert Visitor.objects.count() == 6

    def test_removes_no_more_than_a_request_can_and_goes_on(
        self,
        staff: Client,
        partner: Partner,
        days: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(partner_actions, "_REMOVED_AT_ONCE", 2)
        monkeypatch.setattr(privacy.remove, "__kwdefaults__", {"batch": 2})
        count_all()
        address = url(partner, "remove_clicks")
        for left in (4, 2):
            answer = staff.post(address, days)
            assert answer.status_code == 302
            assert Visitor.objects.count() == left
            page = staff.get(answer["Location"])
            assert "There are more. Remove them too." in page.text
            assert f"Clicks that are removed {left - 1}" in shown(page)
        assert staff.post(address, days)["Location"] == url(partner)
        assert Visitor.objects.count() == 1
        assert clicks()[None, None] == 1
        assert removed_on(5) == 5

    def test_is_for_users_who_may_delete_visitors(
        self, partner: Partner, days: dict[str, str]
    ) -> None:
        address = url(partner, "remove_clicks")
        for permissions in (["change_partner"], ["view_partner", "delete_visitor"]):
            client = allowed(*permissions)
            assert address not in client.get(url(partner)).text
            assert client.get(address, days).status_code == 403
            assert client.post(address, days).status_code == 403
        assert Visitor.objects.count() == 6
        client = allowed("change_partner", "delete_visitor")
        assert address in client.get(url(partner)).text
        assert client.post(address, days).status_code == 302
        assert Visitor.objects.count() == 1

    def test_costs_as_many_queries_whatever_the_number_of_clicks(
        self, staff: Client, partner: Partner, days: dict[str, str]
    ) -> None:
        counts = []
        for size in (1, 100):
            flood(partner, size, days=5)
            with CaptureQueriesContext(connection) as queries:
                staff.get(url(partner, "remove_clicks"), days)
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 6


class TestADeletedPartner:
    @pytest.fixture
    def partners(self) -> list[Partner]:
        """Delete two of three partners whose clicks were purged; return all three."""
        partners = [PartnerFactory(name=f"Partner {number}") for number in range(3)]
        for number, partner in enumerate(partners):
            for _ in range(number + 1):
                came(partner, 50, sub1=f"label-{number}")
            FilteredClicks.objects.add(partner, Reason.BOT)
        count_all()
        list(privacy.purge(ago(40)))
        self.before = [
            totals(), clicks(dimension=Dimension.SUB1), arrivals(Period.past(100))
        ]  # fmt: skip
        return partners

    def test_changes_no_report(self, partners: list[Partner], staff: Client) -> None:
        for partner in partners[:2]:
            answer = staff.post(url(partner, "delete"), {"post": "yes"})
            assert answer.status_code == 302
        assert Partner.objects.count() == 1
        assert self.before == [
            totals(), clicks(dimension=Dimension.SUB1), arrivals(Period.past(100))
        ]  # fmt: skip
        list(rollups.rebuild(margin=timedelta(0)))
        list(privacy.purge(ago(40)))
        assert self.before[0] == totals()

    def test_has_a_row_of_its_own_and_no_link(self, partners: list[Partner], staff: Client) -> None:
        keys = [partner.pk for partner in partners]
        Partner.objects.filter(pk__in=keys[:2]).delete()
        query = {"since": ago(90).date().isoformat(), "until": today().isoformat(),
                 "interval": "month"}  # fmt: skip
        page = staff.get(url(Report), query)
        for key, count in zip(keys[:2], (1, 2), strict=True):
            assert f"deleted partner ({key}) {count}" in shown(page)
            assert not re.search(rf'partner={key}["&]', page.text)
        assert "Partner 2 3" in shown(page)
        file = staff.get(url(Report, "csv"), query | {"rows": "groups"})
        text = b"".join(file.streaming_content).decode()
        assert f"deleted partner ({keys[0]}),1," in text

    def test_is_kept_apart_from_later_ones(self, partners: list[Partner]) -> None:
        keys = [partner.pk for partner in partners]
        partners[2].delete()
        assert PartnerFactory().pk not in keys


def test_sub_ids_that_were_added_up_are_named(staff: Client) -> None:
    partner = PartnerFactory()
    flood(partner, 30, subs=1)
    came(partner, 50, sub1="None")
    list(privacy.purge(ago(40)))
    query = {"since": ago(90).date().isoformat(), "until": today().isoformat(),
             "interval": "month", "dimension": "sub1"}  # fmt: skip
    page = staff.get(url(Report), query)
    assert "(less frequent) 16" in shown(page)
    file = staff.get(url(Report, "csv"), query | {"rows": "groups"})
    assert "(less frequent),16," in b"".join(file.streaming_content).decode()
