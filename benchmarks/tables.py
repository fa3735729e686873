"""The tables that a measurement on a real database needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
from django.test.runner import DiscoverRunner


@contextmanager
def tables(*, keep: bool = False) -> Iterator[None]:
    """Make the tables anew, and remove them in the end; to ``keep`` them, do neither."""
    runner = DiscoverRunner(interactive=False, verbosity=0, keepdb=keep)
    old = runner.setup_databases()
    try:
        yield
    finally:
        connection.close()
        runner.teardown_databases(old)
