"""The tables that migrations make: from 0.12 to today, and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from datetime import timezone as fixed
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from affiliations import privacy
from affiliations.callbacks import suspension
from affiliations.conversions import decisions, recording, settlements
from affiliations.dates import Interval, Period
from affiliations.exceptions import NotCredited
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    DailyClicks,
    Partner,
    Settlement,
    Subscription,
    Visitor,
)
from affiliations.models.conversion_queries import reference_key
from affiliations.reports import rollups
from affiliations.reports.numbers import Dimension
from affiliations.reports.queries import arrivals, report
from tests import old_site
from tests.claiming import claim
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.old_site import EXPECTED, LONGEST, OURS, Tables, user_key

pytestmark = pytest.mark.slow

AUTO_FIELDS = ["django.db.models.AutoField", "django.db.models.BigAutoField"]
USER_MODELS = ["", "testapp_user.User"]

CHANGES = """
import sys
from django.conf import settings
settings.DEFAULT_AUTO_FIELD = sys.argv[1]
import django
django.setup()
from django.core.management import call_command
call_command("makemigrations", "affiliations", check_changes=True, dry_run=True)
"""


@pytest.mark.server
@pytest.mark.parametrize("user_model", USER_MODELS, ids=["auth.User", "testapp_user.User"])
@pytest.mark.parametrize("auto_field", AUTO_FIELDS)
def test_a_host_is_never_told_to_make_migrations_of_ours(
    auto_field: str, user_model: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHANGES, auto_field],
        env=os.environ
        | {
            "AFFILIATIONS_TEST_DATABASE": "sqlite",
            "TMPDIR": str(tmp_path),  # where the database is
            "AFFILIATIONS_TEST_USER_MODEL": user_model,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
        },
        cwd=old_site.DATA.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (
        0,
        "No changes detected in app 'affiliations'",
    ), done.stderr


def test_the_keys_of_the_old_tables_do_not_depend_on_the_host() -> None:
    """For ever: the tables of 0.12 have such keys."""
    app = apps.get_app_config("affiliations")
    assert app.default_auto_field == "django.db.models.AutoField"


def shape() -> dict[str, Any]:
    """Describe the tables that 0.12 had: columns, keys, indexes."""
    described = {}
    introspection = connection.introspection
    with connection.cursor() as cursor:
        for table in OURS:
            columns = {
                column.name: (
                    introspection.get_field_type(column.type_code, column),
                    # The second of MariaDB is the longest value's, the others have but this one.
                    column.internal_size or column.display_size,
                    column.null_ok,
                )
                for column in introspection.get_table_description(cursor, table)
            }
            constraints = {
                (
                    tuple(constraint["columns"]),
                    constraint["primary_key"],
                    constraint["unique"],
                    constraint["foreign_key"],
                    bool(constraint["index"]),
                )
                for constraint in introspection.get_constraints(cursor, table).values()
                if not constraint["check"]
            }
            described[table] = {"columns": columns, "constraints": constraints}
    return described


@pytest.fixture(scope="module")
def made_by_0001(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> dict[str, Any]:
    with django_db_blocker.unblock(), old_site.empty_database():
        call_command("migrate", "affiliations", "0001_initial", verbosity=0)
        return shape()


@pytest.fixture(scope="module")
def made_by_0_12(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> dict[str, Any]:
    with django_db_blocker.unblock(), old_site.empty_database():
        old_site.make()
        return shape()


def test_the_first_migration_describes_the_tables_of_0_12(
    made_by_0001: dict[str, Any], made_by_0_12: dict[str, Any]
) -> None:
    """Column by column, since a site that is upgraded has it recorded as applied."""
    assert made_by_0001 == made_by_0_12
    assert set(made_by_0001["affiliations_visitor"]["columns"]) == {
        "id",
        "referred_on",
        "entry_point",
        "successful_on",
        "partner_id",
        "user_id",
    }


@pytest.fixture
def site(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Tables]:
    """Upgrade a site of 0.12; return what was in its tables before."""
    with django_db_blocker.unblock(), old_site.empty_database():
        old_site.make()
        before = old_site.read(COLUMNS)
        call_command("migrate", verbosity=0)
        yield before


COLUMNS = {
    "affiliations_partner": ["id", "uid", "name", "active"],
    "affiliations_subscription": ["id", "trigger", "callback_url", "partner_id"],
    "affiliations_visitor": [
        "id",
        "referred_on",
        "entry_point",
        "successful_on",
        "partner_id",
        "user_id",
    ],
}


def applied() -> set[str]:
    migrations = MigrationRecorder(connection).applied_migrations()
    return {name for app, name in migrations if app == "affiliations"}


def test_the_way_back_to_0_12_loses_nothing_that_it_had(
    site: Tables, made_by_0_12: dict[str, Any]
) -> None:
    # Everything that 1.0 adds to the rows, and that the old tables have no column for.
    visitor = VisitorFactory(user_id=user_key(1), successful_on=timezone.now(), click_id="1")
    added = CallbackFactory(conversion__visitor=visitor, conversion__user_id=user_key(1))
    call_command("migrate", "affiliations", "0001_initial", verbosity=0)
    assert applied() == {"0001_initial"}
    assert shape() == made_by_0_12
    after = old_site.read(COLUMNS)
    for table in OURS:
        assert set(site[table][1]) < set(after[table][1])
    # And forward again.
    call_command("migrate", verbosity=0)
    assert old_site.read(COLUMNS) == after
    assert Visitor.objects.exclude(closed_on=None).count() == 15
    assert Visitor.objects.filter(successful_on=None, closed_on=None).count() == 36
    assert not Conversion.objects.exists()
    assert SubscriptionFactory().pk > added.subscription.pk


@pytest.mark.only_on("mariadb")
def test_a_table_from_mysql_5_5_gets_fractions_of_a_second(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), old_site.empty_database(), connection.cursor() as cursor:
        old_site.make()
        cursor.execute("ALTER TABLE affiliations_visitor MODIFY referred_on datetime NOT NULL")
        call_command("migrate", verbosity=0)
        visitor = VisitorFactory(referred_on=timezone.now().replace(microsecond=123456))
        assert Visitor.objects.get(pk=visitor.pk).fingerprint == visitor.fingerprint


@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize("row_format", ["COMPACT", "REDUNDANT"])
@pytest.mark.parametrize("charset", ["utf8mb3", "utf8mb4"])
@pytest.mark.parametrize("since", [None, "0016_floods"])
def test_a_table_from_mysql_5_5_has_space_for_long_click_ids(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    row_format: str,
    charset: str,
    since: str | None,
) -> None:
    """Its rows have 767 bytes for an index: 255 characters of three bytes, and none of 500."""
    with django_db_blocker.unblock(), old_site.empty_database(), connection.cursor() as cursor:
        old_site.make()
        if since:
            call_command("migrate", "affiliations", since, verbosity=0)
        else:
            cursor.execute(
                f"ALTER TABLE affiliations_visitor CONVERT TO CHARACTER SET {charset},"
                f" ROW_FORMAT={row_format}"
            )
        if since and charset == "utf8mb3":  # no migration has got further with utf8mb4
            cursor.execute(f"ALTER TABLE affiliations_visitor ROW_FORMAT={row_format}")
        call_command("migrate", verbosity=0)
        visitor = VisitorFactory(click_id="x" * 500)
        assert Visitor.objects.get(click_id="x" * 500) == visitor


def test_on_the_way_back_a_click_id_that_is_too_long_is_no_other_one(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), old_site.empty_database():
        old_site.make()
        call_command("migrate", verbosity=0)
        visitors = [VisitorFactory(user_id=user_key(1), click_id="x" * n) for n in (255, 256, 500)]
        call_command("migrate", "affiliations", "0016_floods", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT click_id FROM affiliations_visitor WHERE id >= {visitors[0].pk}"
                " ORDER BY id"
            )
            assert [row[0] for row in cursor.fetchall()] == ["x" * 255, "", ""]
        call_command("migrate", "affiliations", verbosity=0)


def test_the_way_back_is_refused_where_0_12_had_no_room(site: Tables) -> None:
    callback = CallbackFactory(conversion__visitor__user=None)
    ConversionFactory(
        visitor__user_id=user_key(1), payout=10, payout_currency="EUR", status="pending"
    )
    VisitorFactory(user_id=user_key(1), entry_point="https://shop.example/".ljust(201, "x"))
    SubscriptionFactory(callback_url="https://partner.example/{visitor_id}".ljust(201, "x"))
    found = ["1 visitors without a user", "1 conversions that earn something"]
    if LONGEST:
        found += ["1 entry points of over 200 characters", "1 callback URLs of over 200 characters"]
    before, everything = applied(), old_site.everything()
    with pytest.raises(IrreversibleError) as caught:
        call_command("migrate", "affiliations", "0001_initial", verbosity=0)
    assert str(caught.value) == (
        f"The tables of 0.12 have no room for these rows: {', '.join(found)}. Nothing has been "
        "changed. To go back all the same, change or delete them first."
    )
    # Nothing has been changed, the conversion and its callback are there.
    assert applied() == before
    assert old_site.everything() == everything
    callback.refresh_from_db()


def test_the_way_back_is_refused_where_what_is_paid_would_be_paid_again(site: Tables) -> None:
    visitor = VisitorFactory(user_id=user_key(1), successful_on=timezone.now())
    conversion = ConversionFactory(visitor=visitor, payout=10, payout_currency="EUR")
    Conversion.objects.update(decided_on=timezone.now())
    settlement = settlements.settle(conversion.partner, "EUR", timezone.now())
    assert settlement is not None
    before, everything = applied(), old_site.everything()
    for target in ("0005_attribution", "0001_initial"):
        with pytest.raises(IrreversibleError, match="There are 1 settlements, and without them"):
            call_command("migrate", "affiliations", target, verbosity=0)
    assert applied() == before
    assert old_site.everything() == everything


def test_rows_that_0_12_could_not_have_had_migrate_too(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    """Several subscriptions to one trigger, and texts as long as the columns."""
    with django_db_blocker.unblock(), old_site.empty_database():
        old_site.make()
        quote = connection.ops.quote_name
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO affiliations_subscription ({quote('trigger')}, callback_url,"
                " partner_id) VALUES (%s, %s, 2)",
                ["Order placed", "https://partner.example/{visitor_id}".ljust(200, "x")],
            )
            cursor.execute(
                "INSERT INTO affiliations_visitor (referred_on, entry_point, successful_on,"
                " partner_id, user_id) VALUES (%s, %s, NULL, 2, %s)",
                [timezone.now(), "/".ljust(200, "ø"), old_site.as_stored(user_key(1))],
            )
        call_command("migrate", verbosity=0)
        partner = Partner.objects.get(pk=2)
        assert [row.pk for row in partner.subscriptions.to_trigger("Order placed")] == [2, 5]
        assert Subscription.objects.count() == EXPECTED["counts"]["subscriptions"] + 1
        assert Visitor.objects.latest("pk").entry_point == "/".ljust(200, "ø")


def test_purged_clicks_move_into_the_daily_totals(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), old_site.empty_database():
        before = ("affiliations", "0010_plain_names")
        call_command("migrate", *before, verbosity=0)
        old = MigrationExecutor(connection).loader.project_state(before).apps
        partner = old.get_model("affiliations.Partner").objects.create(name="A", uid="aaaaaaaa")
        rows = [("2026-03-02", "mail", 3), ("2026-03-02", "", 2), ("2026-03-03", "mail", 4)]
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO affiliations_purgedclicks (partner_id, day, sub1, sub2, sub3, sub4,"
                f" sub5, {connection.ops.quote_name('count')})"
                " VALUES (%s, %s, %s, '', '', '', 'x', %s)",
                [(partner.pk, *row) for row in rows],
            )
            cursor.execute(
                "INSERT INTO affiliations_dailyclicks"
                f" (partner_id, day, sub_id, label, {connection.ops.quote_name('count')})"
                " VALUES (%s, '2026-03-02', 0, '', 5)",
                [partner.pk],
            )
        call_command("migrate", "affiliations", verbosity=0)
        assert "affiliations_purgedclicks" not in connection.introspection.table_names()
        march = Period(date(2026, 3, 1), date(2026, 3, 31))
        by_day = report(march, interval=Interval.DAY)
        clicks = {day: numbers.clicks for (day, _), numbers in by_day.rows.items()}
        assert clicks[date(2026, 3, 2)] == 10
        assert clicks[date(2026, 3, 3)] == 4
        by_label = report(march, dimension=Dimension.SUB1).rows
        assert {label: numbers.clicks for (_, label), numbers in by_label.items()} == {
            "mail": 7,
            "": 2,
        }
        assert report(march, dimension=Dimension.SUB5).rows[None, "x"].clicks == 9
        list(rollups.rebuild())
        assert report(march).total.clicks == 9
        # On the way back they stay in the totals.
        call_command("migrate", "affiliations", "0010_plain_names", verbosity=0)
        call_command("migrate", "affiliations", verbosity=0)
        assert report(march).total.clicks == 9


def test_rejected_conversions_free_their_place_and_are_of_staff(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    """And the referrals that they had closed stay closed."""
    with django_db_blocker.unblock(), old_site.empty_database():
        before = ("affiliations", "0012_plain_words")
        call_command("migrate", *before, verbosity=0)
        old = MigrationExecutor(connection).loader.project_state(before).apps
        partner = old.get_model("affiliations.Partner").objects.create(name="A", active=True)
        subscription = old.get_model("affiliations.Subscription").objects.create(
            partner=partner, trigger="Order placed", callback_url=""
        )
        closed = old.get_model("affiliations.Visitor").objects.create(
            partner=partner, entry_point="https://shop.example/", closed_on=timezone.now()
        )
        for status in ("rejected", "pending", "approved"):
            old.get_model("affiliations.Conversion").objects.create(
                partner=partner,
                subscription=subscription,
                visitor=closed,
                trigger="Order placed",
                reference=status,
                reference_key=reference_key(status),
                dedupe_key=f"r:{reference_key(status)}",
                status=status,
                review_reason="screened" if status == "pending" else "",
                reason="Own order" if status == "pending" else "",
            )
        call_command("migrate", verbosity=0)

        rejected, pending, approved = Conversion.objects.order_by("pk")
        assert (rejected.released, rejected.decided_via) == (rejected.pk, "person")
        assert [row.released for row in (pending, approved)] == [0, 0]
        assert [row.decided_via for row in (pending, approved)] == ["", ""]
        assert [row.review_text for row in (rejected, pending)] == ["", "Own order"]
        # No notice tells the partner of the past.
        assert not Conversion.objects.notice_due().exists()
        visitor = Visitor.objects.get()
        assert visitor.closed_on is not None
        # The reference can be credited by staff, and then the old row cannot be reopened.
        recording.record(visitor, "Order placed", reference="rejected", manual=True)
        with pytest.raises(NotCredited):
            decisions.decide(rejected, "pending")
        # What is rejected from now on does not open it either.
        decisions.decide(approved, "rejected")
        visitor.refresh_from_db()
        assert visitor.closed_on is not None


def test_held_callbacks_are_queued_and_go_out_when_their_subscription_is_resumed(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), old_site.empty_database():
        before = ("affiliations", "0014_requests")
        call_command("migrate", *before, verbosity=0)
        old = MigrationExecutor(connection).loader.project_state(before).apps
        partner = old.get_model("affiliations.Partner").objects.create(name="A", active=True)
        suspended, forgotten = (
            old.get_model("affiliations.Subscription").objects.create(
                partner=partner,
                trigger="Order placed",
                callback_url="https://partner.example/?v={visitor_id}",
                callbacks_suspended_on=suspended_on,
            )
            for suspended_on in (timezone.now(), None)
        )
        for subscription, status in (
            (suspended, "held"),
            (forgotten, "held"),
            (forgotten, "exhausted"),
        ):
            old.get_model("affiliations.Callback").objects.create(
                partner=partner,
                subscription=subscription,
                url="https://partner.example/?v=1",
                status=status,
                webhook_id=f"{subscription.pk}{status}",
            )
        call_command("migrate", verbosity=0)

        first, second, gave_up = Callback.objects.order_by("pk")
        assert [row.status for row in (first, second, gave_up)] == ["queued", "queued", "exhausted"]
        assert claim() == [second]
        assert suspension.resume(first.subscription) == 1
        assert claim() == [first]


def test_tests_among_callbacks_and_attempts_are_marked(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = import_module("affiliations.migrations.0018_tests")
    monkeypatch.setattr(migration, "BATCH", 3)
    with django_db_blocker.unblock(), old_site.empty_database():
        before = migration.Migration.dependencies[0]
        call_command("migrate", *before, verbosity=0)
        old = MigrationExecutor(connection).loader.project_state(before).apps
        get = old.get_model
        partner = get("affiliations.Partner").objects.create(name="A", active=True)
        subscription = get("affiliations.Subscription").objects.create(
            partner=partner, trigger="Order placed", callback_url="https://partner.example/"
        )
        visitor = get("affiliations.Visitor").objects.create(partner=partner, entry_point="/")
        tests = [True, False, False, True, False, None, True]
        for number, is_test in enumerate(tests):
            # The callback of staff's test has no conversion.
            conversion = is_test is not None and get("affiliations.Conversion").objects.create(
                partner=partner,
                subscription=subscription,
                visitor=visitor,
                trigger="Order placed",
                dedupe_key=f"{number}",
                is_test=is_test,
            )
            callback = get("affiliations.Callback").objects.create(
                partner=partner,
                subscription=subscription,
                conversion=conversion or None,
                event="conversion" if conversion else "test",
                url="/",
                webhook_id=f"{number}",
            )
            for attempt in (1, 2):
                callback.attempts.create(number=attempt, started_on=timezone.now(), duration_ms=1)
        call_command("migrate", verbosity=0)

        rows = Callback.objects.order_by("pk")
        assert [row.is_test for row in rows] == [is_test is not False for is_test in tests]
        for row in rows:
            assert {attempt.is_test for attempt in row.attempts.all()} == {row.is_test}
        # A process of the old version still runs.
        with connection.cursor() as cursor:
            columns = ", ".join(
                connection.ops.quote_name(field.column)
                for field in CallbackAttempt._meta.fields
                if field.name not in ("id", "is_test", "number")
            )
            cursor.execute(
                f"INSERT INTO affiliations_callbackattempt ({columns}, number)"
                f" SELECT {columns}, 3 FROM affiliations_callbackattempt WHERE number = 1"
            )
        assert {row.is_test for row in CallbackAttempt.objects.filter(number=3)} == {False}


def test_daily_totals_and_filtered_clicks_outlive_their_partner(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), old_site.empty_database():
        before = ("affiliations", "0015_endpoints")
        call_command("migrate", *before, verbosity=0)
        old = MigrationExecutor(connection).loader.project_state(before).apps
        partners = [
            old.get_model("affiliations.Partner").objects.create(name=uid, uid=uid)
            for uid in ("aaaaaaaa", "bbbbbbbb")
        ]
        day = date(2026, 3, 2)
        for partner in partners:
            old.get_model("affiliations.DailyClicks").objects.bulk_create(
                old.get_model("affiliations.DailyClicks")(
                    partner=partner,
                    day=day,
                    sub_id=number,
                    label=f"{index}" if number else "",
                    count=1,
                    purged=1,
                )
                for number in range(6)
                for index in range(50)
            )
        for partner in (*partners, None):
            old.get_model("affiliations.FilteredClicks").objects.create(
                key=f"{partner and partner.pk}", partner=partner, day=day, reason="bot", count=3
            )
        call_command("migrate", verbosity=0)

        march = Period(date(2026, 3, 1), date(2026, 3, 31))
        Partner.objects.filter(uid="aaaaaaaa").delete()
        list(privacy.purge(timezone.now()))
        assert DailyClicks.objects.count() == 2 * 21
        by_partner = report(march, dimension=Dimension.PARTNER).rows
        assert {key: row.clicks for (_, key), row in by_partner.items()} == {
            partner.pk: 50 for partner in partners
        }
        assert report(march, dimension=Dimension.SUB1).total.clicks == 100
        assert arrivals(march).filtered == {"bot": 9}

        # The older tables have no place for the rows of the deleted partner.
        call_command("migrate", *before, verbosity=0)
        call_command("migrate", verbosity=0)
        assert report(march).total.clicks == 50
        assert report(march, dimension=Dimension.SUB1).total.clicks == 50
        assert arrivals(march).filtered == {"bot": 6}


def test_statements_are_numbered_by_the_year_the_oldest_first(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, settings: Any
) -> None:
    settings.TIME_ZONE = "Europe/Copenhagen"
    with django_db_blocker.unblock(), old_site.empty_database():
        before = ("affiliations", "0018_tests")
        call_command("migrate", *before, verbosity=0)
        old = MigrationExecutor(connection).loader.project_state(before).apps
        partner = old.get_model("affiliations.Partner").objects.create(name="A", active=True)
        made_on = [
            datetime(2025, 7, 1, 12, tzinfo=fixed.utc),
            datetime(2024, 5, 1, 12, tzinfo=fixed.utc),
            # The first hour of the year in Copenhagen.
            datetime(2024, 12, 31, 23, 30, tzinfo=fixed.utc),
            datetime(2024, 5, 1, 12, tzinfo=fixed.utc),
        ]
        for created_on in made_on:
            old.get_model("affiliations.Settlement").objects.create(
                partner=partner, currency="EUR", before=created_on, created_on=created_on
            )
        call_command("migrate", verbosity=0)

        numbered = Settlement.objects.order_by("pk").values_list("year", "year_number")
        assert list(numbered) == [(2025, 2), (2024, 1), (2025, 1), (2024, 2)]
        assert [Settlement.objects.next_number(year) for year in (2024, 2025, 2026)] == [3, 3, 1]
