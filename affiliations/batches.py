"""
Many rows a few at a time, by their keys: in flat memory on every database.

``QuerySet.iterator()`` alone is not that: the drivers of MySQL and MariaDB fetch everything first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from django.db import connections
from django.db.models import Model, QuerySet

SIZE = 2000

M = TypeVar("M", bound=Model)


def by_key(rows: QuerySet[M], size: int = SIZE) -> Iterator[M]:
    """Yield rows by their primary keys, the lowest first; ``size`` of them are one query."""
    rows = rows.order_by("pk")
    batch = list(rows[:size])
    while batch:
        yield from batch
        # Less than asked for: there are no more.
        batch = list(rows.filter(pk__gt=batch[-1].pk)[:size]) if len(batch) == size else []


def hold(rows: QuerySet[Any]) -> None:
    """
    Lock rows, inside a transaction, in the order of their keys.

    PostgreSQL updates several rows in the order in which they lie on the disk, which an update
    changes: two who update the same ones would meet in a deadlock. Others may refer to them
    meanwhile.
    """
    features = connections[rows.db].features
    if features.has_select_for_update:  # On SQLite only one transaction writes anyway.
        held = rows.order_by("pk").select_for_update(no_key=features.has_select_for_no_key_update)
        list(held.values_list("pk", flat=True))
