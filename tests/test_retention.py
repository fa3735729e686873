"""What is removed after its time, and what never is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import privacy
from affiliations.callbacks import maintenance, outbox
from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    DailyClicks,
    Partner,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from affiliations.reports import rollups
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

Status = Callback.Status


@contextmanager
def over_and_over(work: Callable[[], object]) -> Iterator[None]:
    """Let two threads do something all the time; fail if one of them fails or does not end."""
    done = threading.Event()

    def do() -> None:
        try:
            while not done.is_set():
                work()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(do) for _ in range(2)]
        try:
            yield
        finally:
            done.set()
            for other in others:
                other.result(timeout=60)


def ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)


def delivered(count: int, subscription: Subscription, *, days: int = 100) -> list[Callback]:
    """Make callbacks that were delivered so many days ago, each with two attempts."""
    Callback.objects.bulk_create(
        Callback(
            subscription=subscription,
            partner=subscription.partner,
            url="https://partner.example/cb",
            status=Status.DELIVERED,
            delivered_on=ago(days),
        )
        for _ in range(count)
    )
    rows = list(Callback.objects.filter(subscription=subscription, status=Status.DELIVERED))
    CallbackAttempt.objects.bulk_create(
        (
            CallbackAttempt(callback=row, number=number, started_on=ago(days), duration_ms=1)
            for row in rows
            for number in (1, 2)
        ),
        ignore_conflicts=True,
    )
    return rows


def purgeable(**fields: Any) -> Callback:
    """Make a callback that tells of a conversion and was delivered 100 days ago."""
    if "subscription" in fields:
        fields["conversion__subscription"] = fields.pop("subscription")
        fields["conversion__visitor__partner"] = fields["conversion__subscription"].partner
    return CallbackFactory(**{"status": Status.DELIVERED, "delivered_on": ago(100)} | fields)


class TestThePurge:
    def test_removes_what_was_delivered_long_ago_with_its_attempts(self) -> None:
        subscription = SubscriptionFactory()
        delivered(3, subscription)
        assert list(maintenance.purge(ago(90))) == [3]
        assert not Callback.objects.exists()
        assert not CallbackAttempt.objects.exists()

    def test_keeps_what_was_delivered_since(self) -> None:
        delivered(1, SubscriptionFactory(), days=89)
        assert sum(maintenance.purge(ago(90))) == 0
        assert CallbackAttempt.objects.count() == 2

    @pytest.mark.parametrize("status", [status for status in Status if status != Status.DELIVERED])
    def test_keeps_what_was_not_delivered_or_is_sent_again_however_old(self, status: str) -> None:
        CallbackFactory(
            status=status, created_on=ago(900), next_attempt_on=ago(900), delivered_on=ago(900)
        )
        assert sum(maintenance.purge(ago(0))) == 0
        assert Callback.objects.exists()

    def test_keeps_the_conversion(self) -> None:
        CallbackFactory(status=Status.DELIVERED, delivered_on=ago(100))
        assert sum(maintenance.purge(ago(90))) == 1
        assert Conversion.objects.exists()

    def test_goes_in_batches(self) -> None:
        delivered(7, SubscriptionFactory())
        assert list(maintenance.purge(ago(90), batch=3)) == [3, 3, 1]

    def test_costs_the_same_for_each_batch_of_any_size(self) -> None:
        counts = []
        for size in (1, 50):
            delivered(size, SubscriptionFactory())
            with CaptureQueriesContext(connection) as queries:
                assert list(maintenance.purge(ago(90), batch=50)) == [size]
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 8

    @pytest.mark.parametrize(("size", "written"), [(1, 1), (30, 2)])
    def test_costs_little_more_where_conversions_keep_what_was_told(
        self, size: int, written: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(maintenance, "_CHUNK", 15)
        subscription = SubscriptionFactory()
        for _ in range(size):
            purgeable(subscription=subscription)
        with CaptureQueriesContext(connection) as queries:
            assert list(maintenance.purge(ago(90), batch=size)) == [size]
        statements = [query["sql"].replace("`", '"') for query in queries]
        kept = [sql for sql in statements if '"notified_events"' in sql]
        assert len([sql for sql in kept if sql.startswith("UPDATE")]) == written
        assert len(queries) <= 10 + written
        told = Conversion.objects.values_list("notified_events", flat=True)
        assert list(told) == [[f"conversion:{subscription.pk}"]] * size

    def test_keeps_of_a_conversion_what_was_told_of_it_once(self) -> None:
        first, other = SubscriptionFactory(), SubscriptionFactory()
        callback = purgeable(subscription=first)
        conversion = callback.conversion
        purgeable(conversion=conversion, version=2)
        purgeable(conversion=conversion, event="approval")
        purgeable(conversion=conversion, subscription_id=other.pk, event="approval")
        late = purgeable(conversion=conversion, event="rejection", delivered_on=ago(80))
        assert sum(maintenance.purge(ago(90), batch=3)) == 4
        conversion.refresh_from_db()
        told = [f"approval:{first.pk}", f"approval:{other.pk}", f"conversion:{first.pk}"]
        assert conversion.notified_events == told
        assert list(Callback.objects.all()) == [late]
        assert sum(maintenance.purge(ago(70))) == 1
        conversion.refresh_from_db()
        assert conversion.notified_events == [*told, f"rejection:{first.pk}"]

    def test_keeps_nothing_of_what_is_not_removed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        again = purgeable()
        atomic = maintenance.transaction.atomic

        def resent_meanwhile(**options: Any) -> Any:
            monkeypatch.undo()
            outbox.resend(again)
            return atomic(**options)

        monkeypatch.setattr(maintenance.transaction, "atomic", resent_meanwhile)
        assert list(maintenance.purge(ago(90))) == [0]
        assert Conversion.objects.get().notified_events == []

    def test_leaves_what_is_sent_again_at_this_moment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again, _ = delivered(2, SubscriptionFactory())
        atomic = maintenance.transaction.atomic

        def resent_meanwhile(**options: Any) -> Any:
            monkeypatch.undo()
            outbox.resend(again)
            return atomic(**options)

        monkeypatch.setattr(maintenance.transaction, "atomic", resent_meanwhile)
        assert list(maintenance.purge(ago(90))) == [1]
        assert Callback.objects.get() == again
        assert again.attempts.count() == 2

    def test_ends_where_all_of_a_batch_were_sent_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (again,) = delivered(1, SubscriptionFactory())
        atomic = maintenance.transaction.atomic

        def resent_meanwhile(**options: Any) -> Any:
            monkeypatch.undo()
            outbox.resend(again)
            return atomic(**options)

        monkeypatch.setattr(maintenance.transaction, "atomic", resent_meanwhile)
        assert list(maintenance.purge(ago(90))) == [0]

    @pytest.mark.django_db(transaction=True)
    def test_works_while_others_write(self) -> None:
        """(SQLite) A transaction that reads before it writes fails beside another writer."""
        subscription = SubscriptionFactory()
        delivered(60, subscription)
        with over_and_over(lambda: Subscription.objects.update(failure_count=1)):
            assert sum(maintenance.purge(ago(90), batch=2)) == 60


class TestTheCommand:
    def test_removes_what_is_older_than_90_days_and_says_how_many(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        delivered(2, SubscriptionFactory(), days=91)
        delivered(1, SubscriptionFactory(), days=89)
        call_command("purge_affiliations")
        assert capsys.readouterr().out == "2 delivered callbacks removed.\n"
        assert Callback.objects.count() == 1

    def test_takes_another_number_of_days(self, capsys: pytest.CaptureFixture[str]) -> None:
        delivered(2, SubscriptionFactory(), days=8)
        call_command("purge_affiliations", days=7, batch=1)
        assert capsys.readouterr().out == "2 delivered callbacks removed.\n"

    def test_removes_nothing_in_a_dry_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        delivered(2, SubscriptionFactory())
        call_command("purge_affiliations", dry_run=True)
        assert capsys.readouterr().out == "2 delivered callbacks would be removed.\n"
        assert Callback.objects.count() == 2

    def test_takes_visitors_only_where_it_is_asked_to(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        came(3, days=500)
        delivered(2, SubscriptionFactory())
        call_command("purge_affiliations", dry_run=True)
        call_command("purge_affiliations", visitors_older_than=400, dry_run=True)
        call_command("purge_affiliations", visitors_older_than=400, days=7, dry_run=True)
        assert Visitor.objects.count() == 3
        call_command("purge_affiliations", visitors_older_than=400)
        call_command("purge_affiliations", visitors_older_than=400, days=7, batch=1)
        assert capsys.readouterr().out.splitlines() == [
            "2 delivered callbacks would be removed.",
            "3 visitors would be removed.",
            "3 visitors would be removed.",
            "2 delivered callbacks would be removed.",
            "3 visitors removed.",
            "0 visitors removed.",
            "2 delivered callbacks removed.",
        ]

    @pytest.mark.parametrize(
        "options",
        [{"days": -1}, {"days": 10**6}, {"batch": 0}, {"visitors_older_than": -1, "days": 3}],
    )
    def test_refuses_what_makes_no_sense(self, options: dict[str, int]) -> None:
        with pytest.raises(CommandError, match="must be from 0 to 36500, and --batch must"):
            call_command("purge_affiliations", **options)


def came(count: int, *, days: int = 100, **fields: Any) -> list[Visitor]:
    """Make visitors who came so many days ago, of one partner unless it is said otherwise."""
    if not {"partner", "partner__window", "partner__active"} & set(fields):
        fields["partner"] = PartnerFactory()
    return [VisitorFactory(referred_on=ago(days), **fields) for _ in range(count)]


def clicks() -> dict[Any, int]:
    """Count the clicks as a report does: by partner, day, sub id, source, with what was purged."""
    found: Counter[Any] = Counter()
    for visitor in Visitor.objects.filter(is_test=False):
        kind = (visitor.partner_id, timezone.localdate(visitor.referred_on))
        found[(*kind, 0, "")] += 1
        found[(*kind, 6, visitor.source)] += 1
        for number in range(1, 6):
            found[(*kind, number, getattr(visitor, f"sub{number}"))] += 1
    for row in DailyClicks.objects.all():
        found[row.partner_id, row.day, row.sub_id, row.label] += row.count
    return dict(found)


def purged() -> DailyClicks:
    """Return the one row of the purged visitors as such."""
    return DailyClicks.objects.get(sub_id=0)


class TestThePurgeOfVisitors:
    def test_removes_who_came_long_ago_and_what_was_not_counted_of_them(self) -> None:
        [visitor, *_] = came(3, days=401)
        UncreditedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "", ago(400))
        kept = came(1, days=399)
        assert list(privacy.purge(ago(400))) == [3]
        assert list(Visitor.objects.all()) == kept
        assert not UncreditedTrigger.objects.exists()

    @pytest.mark.parametrize(
        "kept",
        [
            {"successful_on": ago(90)},
            {"partner__window": timedelta(days=101)},
            {"partner__window": timedelta(days=101), "partner__active": False},
            {"partner__window": timedelta(days=101), "closed_on": ago(90)},
        ],
        ids=["who succeeded", "who is open", "while the partner is inactive", "who is closed"],
    )
    def test_keeps_for_the_facts_and_for_the_window(self, kept: dict[str, Any]) -> None:
        came(1, **kept)
        assert sum(privacy.purge(ago(10))) == 0
        assert not DailyClicks.objects.exists()
        assert Visitor.objects.exists()

    def test_keeps_within_the_window_of_the_settings_and_a_session_long_without_one(
        self, settings: Any
    ) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = None
        settings.SESSION_COOKIE_AGE = timedelta(days=200).total_seconds()
        came(1, days=199)
        gone = came(1, days=201)
        own = came(1, partner__window=timedelta(days=30))
        assert [row for rows in privacy.expired(ago(10)) for row in rows] == [*gone, *own]
        assert not [row for rows in privacy.expired(ago(202)) for row in rows]
        settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=101)
        came(1)
        assert sum(privacy.purge(ago(10))) == 3

    def test_keeps_who_has_a_conversion_whatever_the_visitor_says(self) -> None:
        conversion = ConversionFactory(visitor__referred_on=ago(900))
        CallbackFactory(conversion=conversion)
        assert sum(privacy.purge(ago(0))) == 0

    def test_keeps_whom_a_row_of_the_host_refers_to(self) -> None:
        visitor, _ = came(2)
        Order.objects.create(affiliate_visitor=visitor)
        assert list(privacy.purge(ago(10))) == [1]
        assert Order.objects.get().affiliate_visitor == visitor

    def test_lets_who_came_later_stay_without_whom_they_displaced(self) -> None:
        [first] = came(1)
        later = VisitorFactory(previous=first, referred_on=ago(5))
        assert sum(privacy.purge(ago(10))) == 1
        later.refresh_from_db()
        assert later.previous is None

    def test_changes_no_report(self) -> None:
        for partner in (PartnerFactory(), PartnerFactory()):
            for days in (100, 100, 101, 5):
                came(2, days=days, partner=partner, sub1="mail")
                came(1, days=days, partner=partner, sub1="mail", sub5="Grün")
                came(1, days=days, partner=partner, sub1="Mail", is_test=True)
        before = clicks()
        assert sum(privacy.purge(ago(10), batch=3)) == 24
        assert clicks() == before
        assert Visitor.objects.count() == 8
        came(2, partner=Partner.objects.first(), sub1="mail")
        before = clicks()
        assert sum(privacy.purge(ago(10))) == 2
        assert clicks() == before

    def test_writes_one_row_for_what_a_report_cannot_tell_apart(self) -> None:
        came(5)
        assert list(privacy.purge(ago(10))) == [5]
        assert DailyClicks.objects.count() == 7
        row = purged()
        assert (row.count, row.purged, str(row)) == (5, 5, f"{row.day}: 5")

    def test_counts_by_the_day_of_the_site(self, settings: Any) -> None:
        settings.TIME_ZONE = "Pacific/Auckland"
        noon = ago(100).replace(hour=12)  # the next day there
        VisitorFactory(referred_on=noon)
        with timezone.override("America/New_York"):
            sum(privacy.purge(ago(10)))
        assert purged().day == (noon + timedelta(days=1)).date()

    def test_needs_no_time_zones(self, settings: Any) -> None:
        settings.USE_TZ = False
        visitor = VisitorFactory(referred_on=timezone.now() - timedelta(days=100))
        assert sum(privacy.purge(timezone.now())) == 1
        assert purged().day == visitor.referred_on.date()

    def test_goes_in_batches(self) -> None:
        partner = PartnerFactory()
        came(4, partner=partner)
        came(2)
        assert list(privacy.purge(ago(10), batch=3)) == [3, 1, 2]
        assert clicks()[partner.pk, ago(100).date(), 0, ""] == 4

    def test_costs_the_same_for_each_batch_of_any_size(self) -> None:
        counts = []
        rollups.ensure_state()
        for size in (1, 50):
            came(size)
            with CaptureQueriesContext(connection) as queries:
                assert [count for count in privacy.purge(ago(10), batch=50) if count] == [size]
            counts.append(len(queries))
            Partner.objects.all().delete()
        assert counts[0] == counts[1] <= 22

    def test_takes_nothing_back_that_was_credited_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The window ended between the reading and the writing."""
        credited, _ = came(2)
        atomic = privacy.transaction.atomic

        def meanwhile(**options: Any) -> Any:
            monkeypatch.undo()
            assert credited.credit(timezone.now(), None, close=False)
            return atomic(**options)

        monkeypatch.setattr(privacy.transaction, "atomic", meanwhile)
        assert list(privacy.purge(ago(10))) == [1]
        assert Visitor.objects.get() == credited
        assert purged().count == 1

    def test_removes_nobody_where_the_number_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        came(2)
        nobody = rollups._TotalKey(partner_id=None, day=ago(100).date(), sub_id=0, label="")  # type: ignore[arg-type]
        monkeypatch.setattr(rollups, "_count_by_key", lambda visitors: Counter({nobody: 1}))
        with pytest.raises(IntegrityError):
            list(privacy.purge(ago(10)))
        assert Visitor.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_two_purges_at_once_count_each_visitor_once() -> None:
    partners = [PartnerFactory() for _ in range(3)]
    Visitor.objects.bulk_create(
        Visitor(partner=partner, referred_on=ago(100), sub1=f"{number % 3}", entry_point="")
        for partner in partners
        for number in range(60)
    )
    before = clicks()
    started = threading.Barrier(4, timeout=60)

    def purge() -> int:
        try:
            connection.ensure_connection()
            started.wait()
            return sum(privacy.purge(ago(10), batch=7))
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        removed = [purge.result(120) for purge in [pool.submit(purge) for _ in range(4)]]
    assert sum(removed) == 180
    assert not Visitor.objects.exists()
    assert clicks() == before


@pytest.mark.django_db(transaction=True)
def test_a_purge_of_visitors_works_while_others_arrive() -> None:
    """(SQLite) A transaction that reads before it writes fails beside another writer."""
    partner = PartnerFactory()
    came(40, partner=partner)
    with over_and_over(lambda: VisitorFactory(partner=partner)):
        assert sum(privacy.purge(ago(10), batch=2)) == 40
