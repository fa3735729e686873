"""How a row stands, asked of rows that are given by their keys."""

from __future__ import annotations

from django.db.models import F, Value
from django.db.models.functions import Coalesce
from django.db.models.lookups import In


def has_status(*statuses: str) -> In:
    """
    Match rows with one of these statuses, by no index: what is changed is found by its key alone.

    For compare-and-set. Where few rows have the status, MariaDB finds them by its index instead of
    by the key. InnoDB then locks what it reads of that index, rows of others among them, and the
    row itself last, where everybody else begins: a deadlock.
    """
    return In(Coalesce(F("status"), Value("")), statuses)
