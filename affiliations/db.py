"""Helpers for the differences between databases: aliases, savepoints, batches and locks."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

from django.apps import apps
from django.conf import settings
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.models import F, Model, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.db.models.lookups import In
from django.utils import timezone

BATCH_SIZE = 2000

#: Characters that PostgreSQL cannot store (NUL), that ``dumpdata --format xml`` refuses or that
#: ``loaddata`` cannot read from its XML.
UNSTORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

M = TypeVar("M", bound=Model)


def write_alias() -> str:
    """
    Return the alias of the database for writes.

    Reads that a decision depends on use it as well, since a replica may lag behind.
    """
    return router.db_for_write(apps.get_model("affiliations", "Visitor"))


#: The query for the time in UTC. Other databases, such as SQLite, have the clock of this host.
_CLOCKS = {
    "postgresql": "SELECT CLOCK_TIMESTAMP() AT TIME ZONE 'UTC'",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
}
#: Seconds after which the clock of a database is read again.
_CLOCK_SECONDS = 60.0
#: The last readings by alias: a time, and the monotonic time at which it was read.
_readings: dict[str, tuple[datetime.datetime, float]] = {}


def now() -> datetime.datetime:
    """
    Return the time by the database's clock.

    Leases and due times are compared between hosts, whose own clocks may differ by minutes. The
    clock is read once a minute. In between, the seconds are counted by a monotonic clock, which a
    change of this host's time does not affect.
    """
    alias = write_alias()
    if connections[alias].vendor not in _CLOCKS:
        return timezone.now()
    moment, read_at = _readings.get(alias) or _read_clock(alias)
    if time.monotonic() - read_at >= _CLOCK_SECONDS:
        moment, read_at = _read_clock(alias)
    moment += datetime.timedelta(seconds=time.monotonic() - read_at)
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def clock_skew() -> datetime.timedelta:
    """Return how far the clock of this host is ahead of the database's."""
    _readings.clear()
    return timezone.now() - now()


def _read_clock(alias: str) -> tuple[datetime.datetime, float]:
    began = time.monotonic()
    with connections[alias].cursor() as cursor:
        cursor.execute(_CLOCKS[connections[alias].vendor])
        (moment,) = cursor.fetchone()
    # Assume that the clock was read in the middle of the query.
    reading = moment.replace(tzinfo=datetime.timezone.utc), (began + time.monotonic()) / 2
    _readings[alias] = reading
    return reading


#: The charsets of connection and tables other than utf8mb4, by alias of MySQL and MariaDB.
_narrow_charsets: dict[str, set[str]] = {}


def can_store(text: str) -> bool:
    """
    Tell whether each table of the app can store the characters of a text.

    Tables of an older MySQL or MariaDB may have the charset utf8mb3, without emoji, or latin1. A
    text may be copied to any table, so all tables must be able to store it. The charsets are read
    once.
    """
    if text.isascii() or connections[alias := write_alias()].vendor != "mysql":
        return True
    if alias not in _narrow_charsets:
        charsets = [charset for _table, _column, charset in narrow_columns(alias)]
        _narrow_charsets[alias] = {*charsets, connection_charset(alias)} - {"utf8mb4"}
    return all(_has_characters(charset, text) for charset in _narrow_charsets[alias])


def narrow_columns(alias: str) -> list[tuple[str, str, str]]:
    """Return table, name and charset of the columns of the app on MySQL that are not utf8mb4."""
    if connections[alias].vendor != "mysql":
        return []
    models = apps.get_app_config("affiliations").get_models()
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name, character_set_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name IN %s"
            " AND character_set_name <> 'utf8mb4' ORDER BY table_name, ordinal_position",
            [tuple(model._meta.db_table for model in models)],
        )
        return list(cursor.fetchall())


def connection_charset(alias: str) -> str:
    """Return the charset of a connection; only MySQL and MariaDB have another one than utf8mb4."""
    connection = connections[alias]
    if connection.vendor != "mysql":
        return "utf8mb4"
    # Django's default since 5.2.
    return str(connection.settings_dict.get("OPTIONS", {}).get("charset", "utf8mb4"))


def _has_characters(charset: str, text: str) -> bool:
    if charset in ("utf8", "utf8mb3"):
        return max(text) <= "\uffff"
    try:
        text.encode("cp1252" if charset == "latin1" else charset)
    except (LookupError, UnicodeEncodeError):  # Python lacks some charsets of MySQL.
        return False
    return True


def savepoint() -> AbstractContextManager[None]:
    """
    Return a savepoint if a transaction is open; else a context manager that does nothing.

    Without one, a query that fails, even a read, breaks the transaction on PostgreSQL.
    """
    if is_in_transaction():
        return cast("AbstractContextManager[None]", transaction.atomic(using=write_alias()))
    return nullcontext()


def is_in_transaction() -> bool:
    connection = transaction.get_connection(write_alias())
    # Without autocommit a transaction is open even outside of atomic blocks. get_autocommit() may
    # open the connection, and so may fail.
    return connection.in_atomic_block or not connection.get_autocommit()


def is_deadlock(error: Exception) -> bool:
    """Tell whether MySQL, MariaDB or PostgreSQL has ended a transaction to resolve a deadlock."""
    return error.args[:1] == (1213,) or getattr(error.__cause__, "sqlstate", "") == "40P01"


def is_passing(error: Exception) -> bool:
    """Tell whether the same work may succeed later: after a lock, a time-out, a lost connection."""
    return isinstance(error, (OperationalError, InterfaceError))


def update_or_insert(rows: QuerySet[Any], changes: Mapping[str, Any], **new: Any) -> None:
    """
    Update a row, or insert it if there is none: usually with one query, and without a lock.

    Args:
        rows: The row, found by the columns of a unique constraint.
        changes: The values that an existing row gets.
        new: The values of a new row.
    """
    if rows.update(**changes):
        return
    try:
        with transaction.atomic(using=write_alias()):
            rows.create(**new)
    except IntegrityError:  # Another request has just inserted it.
        rows.update(**changes)


def by_key(rows: QuerySet[M], size: int = BATCH_SIZE) -> Iterator[M]:
    """
    Yield rows in the order of their primary keys, with one query for each ``size`` rows.

    ``QuerySet.iterator()`` does not save memory on MySQL and MariaDB: their drivers fetch all rows
    first.
    """
    rows = rows.order_by("pk")
    batch = list(rows[:size])
    while batch:
        yield from batch
        batch = list(rows.filter(pk__gt=batch[-1].pk)[:size]) if len(batch) == size else []


def lock_rows(rows: QuerySet[Any]) -> None:
    """
    Lock rows, inside a transaction, in the order of their primary keys.

    ``rows`` must be filtered by primary key only. With a further condition, a row may meet it only
    after this; the update that follows would then lock the row out of order.

    PostgreSQL updates rows in their order on the disk, which each update changes, so two
    transactions that update the same rows could deadlock. Other transactions can still insert rows
    that refer to the locked ones.
    """
    features = connections[rows.db].features
    if features.has_select_for_update:  # SQLite has one writing transaction at a time.
        locked = rows.order_by("pk").select_for_update(no_key=features.has_select_for_no_key_update)
        list(locked.values_list("pk", flat=True))


def lock_rows_by_key(rows: QuerySet[Any]) -> None:
    """
    Lock rows that are found by an index, as ``lock_rows()`` does.

    Their keys are read first, without a lock. InnoDB would lock the index before the rows, and an
    update by primary key locks them the other way round.
    """
    if connections[rows.db].features.has_select_for_update:
        keys = list(rows.values_list("pk", flat=True))
        lock_rows(rows.model._base_manager.using(rows.db).filter(pk__in=keys))


def is_true(name: str) -> Q:
    """
    Match rows whose flag is true, by the index of its column.

    Before 6.1, Django writes ``name=True`` as the bare column, for which SQLite uses no index.
    """
    return Q(**{f"{name}__in": [True]})


def status_in(*statuses: str) -> In:
    """
    Match rows with one of these statuses, without an index: for compare-and-set by primary key.

    If few rows have the status, MariaDB would use its index instead of the primary key. InnoDB
    would then lock index entries, those of other rows too, before the row itself. Other
    transactions lock the row first, so the two would deadlock.
    """
    return In(Coalesce(F("status"), Value("")), statuses)
