"""
A site of 0.12 in a database of its own, for the tests that upgrade it.

``data/affiliations-0.12.sql`` is a real one: made on SQLite by 0.12's own code, on Django 1.11.
Other databases, and sites with another user model, get its rows in tables as 0.12 made them there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection

DATA = Path(__file__).parent / "data"
DUMP = (DATA / "affiliations-0.12.sql").read_text(encoding="utf-8")
EXPECTED: dict[str, Any] = json.loads((DATA / "affiliations-0.12.json").read_text(encoding="utf-8"))
#: The tables of 0.12 and their columns.
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
OURS = list(COLUMNS)

DJANGOS_USER = get_user_model()._meta.label == "auth.User"
#: Everywhere else than on SQLite the rows have to be loaded, and entry points end here.
LONGEST = None if connection.vendor == "sqlite" else 200

#: The rows of tables, by name: the columns and what stands in them.
Tables = dict[str, tuple[list[str], list[tuple[Any, ...]]]]


@contextmanager
def empty_database() -> Iterator[None]:
    """Let the default connection lead to a new and empty database, which is dropped at the end."""
    usual = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = f"{usual}_0_12"
    _drop()
    if connection.vendor == "postgresql":
        _execute_outside("CREATE DATABASE {}")
    elif connection.vendor == "mysql":
        # What Django recommended then: three bytes a character.
        _execute_outside("CREATE DATABASE {} CHARACTER SET utf8mb3")
    ContentType.objects.clear_cache()
    try:
        yield
    finally:
        connection.close()
        _drop()
        connection.settings_dict["NAME"] = usual
        ContentType.objects.clear_cache()


def _drop() -> None:
    if connection.vendor == "sqlite":
        Path(connection.settings_dict["NAME"]).unlink(missing_ok=True)
    else:
        _execute_outside("DROP DATABASE IF EXISTS {}")


def _execute_outside(statement: str) -> None:
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection._nodb_cursor() as cursor:
        cursor.execute(statement.format(name))


def make() -> None:
    """Make the site of 0.12 in an empty database."""
    if connection.vendor == "sqlite" and DJANGOS_USER:
        connection.ensure_connection()
        connection.connection.executescript(DUMP)
        connection.close()  # The dump has switched foreign keys off.
        return
    latest = dict(label.split(".") for label in EXPECTED["migrations"])
    del latest["shop"]
    for app, name in latest.items():
        call_command("migrate", app, name, verbosity=0)
    with closing(sqlite3.connect(":memory:")) as dump:
        dump.executescript(DUMP)
        if DJANGOS_USER:
            make_tables_of_0_12()
            _load(dump, "auth_user")
            _load(dump, "django_session")
        else:
            _make_users()
        for table in OURS:
            _load(dump, table)


def make_tables_of_0_12() -> None:
    """Put the tables that 0.12 made with Django 1.11 in the place of ours."""
    vendor = {"postgresql": "postgresql", "mysql": "mariadb"}[connection.vendor]
    statements = (DATA / f"affiliations-0.12-{vendor}.sql").read_text(encoding="utf-8")
    with connection.cursor() as cursor:
        for table in reversed(OURS):
            cursor.execute(f"DROP TABLE {table}")
        for statement in statements.splitlines():
            if not statement.startswith("--"):
                cursor.execute(statement)


class RunningProcess:
    """
    What a process of 0.12 writes that still runs after the migration, in its own statements.

    They were recorded from 0.12 itself, on Django 1.11, in a database that had been migrated.
    """

    def __init__(self, callback_url: str, now: datetime) -> None:
        self.uid = "N3ucyaXD"
        partner = (self.uid, "Late", False)
        self.partner_id = self._insert("partner", ["uid", "name", "active"], partner)
        partner = (self.uid, "Late", True)
        self._update("partner", ["uid", "name", "active"], partner, self.partner_id)
        columns = ["trigger", "partner_id", "callback_url"]
        subscription = ("Order placed", self.partner_id, callback_url)
        self.subscription_id = self._insert("subscription", columns, subscription)
        self._update("subscription", columns, subscription, self.subscription_id)
        self.user_id = user_key(1)
        visitor = [self.partner_id, as_stored(self.user_id), now, "/teas/", None]
        columns = ["partner_id", "user_id", "referred_on", "entry_point", "successful_on"]
        self.visitor_id = self._insert("visitor", columns, visitor)
        self.successful_id = self._insert("visitor", columns, visitor)
        self._update("visitor", columns, [*visitor[:-1], now], self.successful_id)

    def delete_partner(self) -> None:
        columns = {"subscription": "partner_id", "visitor": "partner_id", "partner": "id"}
        for table, column in columns.items():
            self._execute("DELETE FROM {} WHERE {} IN (%s)", [self.partner_id], table, column)

    def _insert(self, table: str, columns: list[str], values: Sequence[Any]) -> int:
        places = ", ".join(["%s"] * len(columns))
        statement = f"INSERT INTO {{}} ({', '.join(['{}'] * len(columns))}) VALUES ({places})"
        self._execute(statement, values, table, *columns)
        newest = f"SELECT MAX(id) FROM affiliations_{table}"
        with connection.cursor() as cursor:
            cursor.execute(newest)
            return int(cursor.fetchone()[0])

    def _update(self, table: str, columns: list[str], values: Sequence[Any], key: int) -> None:
        changes = ", ".join(["{} = %s"] * len(columns))
        self._execute(f"UPDATE {{}} SET {changes} WHERE id = %s", [*values, key], table, *columns)

    def _execute(self, statement: str, values: Sequence[Any], table: str, *columns: str) -> None:
        names = map(connection.ops.quote_name, (f"affiliations_{table}", *columns))
        with connection.cursor() as cursor:
            cursor.execute(statement.format(*names), values)


def user_key(number: int) -> Any:
    """Return the key that the user of this number in the dump has here."""
    return number if DJANGOS_USER else UUID(int=number)


def as_stored(key: Any) -> Any:
    """Return the key of a user as a statement takes it."""
    return get_user_model()._meta.pk.get_db_prep_value(key, connection)


def _make_users() -> None:
    User = get_user_model()
    password = make_password(EXPECTED["admin_password"])
    User.objects.bulk_create(
        User(
            pk=user_key(number),
            password=password,
            is_staff=name == "admin",
            is_superuser=name == "admin",
            **{User.USERNAME_FIELD: f"{name}@shop.example"},
        )
        for name, number in EXPECTED["users"].items()
    )


def _load(dump: sqlite3.Connection, table: str) -> None:
    rows = dump.execute(f"SELECT * FROM {table}")
    columns = [column[0] for column in rows.description]
    names = ", ".join(map(connection.ops.quote_name, columns))
    places = ", ".join(["%s"] * len(columns))
    with connection.cursor() as cursor:
        for row in rows:
            values = [_value(*pair) for pair in zip(columns, row, strict=True)]
            cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values)
        if connection.vendor == "postgresql" and "id" in columns:
            # As pg_restore does.
            sequence = f"pg_get_serial_sequence('{table}', 'id')"
            cursor.execute(f"SELECT setval({sequence}, (SELECT max(id) FROM {table}))")


def _value(column: str, value: Any) -> Any:
    """Return a value of the dump as another database takes it."""
    if column == "active" or column.startswith("is_"):
        return bool(value)
    if column == "entry_point":
        return value[:LONGEST]
    if column == "user_id":
        return as_stored(user_key(value))
    return value


def everything() -> Tables:
    """Read every row of every table."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        columns = {
            table: [
                column.name
                for column in connection.introspection.get_table_description(cursor, table)
            ]
            for table in tables
        }
    return read(columns)


def read(columns: dict[str, list[str]]) -> Tables:
    """Read these columns of these tables."""
    quoted = connection.ops.quote_name
    found: Tables = {}
    with connection.cursor() as cursor:
        for table, names in columns.items():
            cursor.execute(f"SELECT {', '.join(map(quoted, names))} FROM {quoted(table)}")
            found[table] = (names, sorted(cursor.fetchall(), key=repr))
    return found
