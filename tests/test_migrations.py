"""The tables that migrations make: from 0.12 to today, and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from affiliations.conversions import settlements
from affiliations.models import (
    Conversion,
    Partner,
    Subscription,
    Visitor,
)
from tests import old_site
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.old_site import COLUMNS, EXPECTED, LONGEST, OURS, Tables, user_key

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


def shape(tables: Iterable[str] = OURS) -> dict[str, Any]:
    """Describe tables: columns, keys, indexes. By default those that 0.12 had."""
    described = {}
    introspection = connection.introspection
    with connection.cursor() as cursor:
        for table in tables:
            columns = {
                column.name: (
                    introspection.get_field_type(column.type_code, column),
                    # The second of MariaDB is the longest value's, the others have but this one.
                    column.internal_size or column.display_size,
                    column.null_ok,
                    # PostgreSQL gets keys from a sequence or, in later tables, otherwise.
                    None if column.name == "id" else column.default,
                    column.collation,
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
                    constraint["check"],
                )
                for constraint in introspection.get_constraints(cursor, table).values()
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


def test_migrations_make_the_tables_that_the_models_describe(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, settings: Any
) -> None:
    tables = {model._meta.db_table for model in apps.get_app_config("affiliations").get_models()}
    with django_db_blocker.unblock(), old_site.empty_database():
        call_command("migrate", verbosity=0)
        migrated = shape(tables)
    settings.MIGRATION_MODULES = {app.label: None for app in apps.get_app_configs()}
    with django_db_blocker.unblock(), old_site.empty_database():
        call_command("migrate", run_syncdb=True, verbosity=0)
        assert shape(tables) == migrated


@pytest.fixture
def site(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Tables]:
    """Upgrade a site of 0.12; return what was in its tables before."""
    with django_db_blocker.unblock(), old_site.empty_database():
        old_site.make()
        before = old_site.read(COLUMNS)
        call_command("migrate", verbosity=0)
        yield before


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


@pytest.mark.only_on("postgresql")
def test_the_table_of_users_is_not_locked_while_that_of_visitors_changes(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    """As it would be by a new foreign key in the place of the one of 0.12."""
    keys = (
        "SELECT oid FROM pg_constraint WHERE contype = 'f' AND conrelid = 'affiliations_visitor'"
        "::regclass AND conname LIKE '%user_id%'"
    )
    with django_db_blocker.unblock(), old_site.empty_database(), connection.cursor() as cursor:
        old_site.make()
        cursor.execute(keys)
        [before] = cursor.fetchall()
        call_command("migrate", "affiliations", "0004", verbosity=0)
        cursor.execute(keys)
        assert cursor.fetchall() == [before]


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
def test_a_table_from_mysql_5_5_has_space_for_long_click_ids(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    row_format: str,
    charset: str,
) -> None:
    """Its rows have 767 bytes for an index: 255 characters of three bytes, and none of 500."""
    with django_db_blocker.unblock(), old_site.empty_database(), connection.cursor() as cursor:
        old_site.make()
        cursor.execute(
            f"ALTER TABLE affiliations_visitor CONVERT TO CHARACTER SET {charset},"
            f" ROW_FORMAT={row_format}"
        )
        call_command("migrate", verbosity=0)
        visitor = VisitorFactory(click_id="x" * 500)
        assert Visitor.objects.get(click_id="x" * 500) == visitor


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
    for target in ("0008_forms_and_notices", "0001_initial"):
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
