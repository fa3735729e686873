"""The tables for measurements on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
from django.test.runner import DiscoverRunner


@contextmanager
def tables(*, keep: bool = False) -> Iterator[None]:
    """Create the tables, and remove them at the end; with ``keep``, reuse and keep them."""
    runner = DiscoverRunner(interactive=False, verbosity=0, keepdb=keep)
    old = runner.setup_databases()
    try:
        yield
    finally:
        connection.close()
        runner.teardown_databases(old)
