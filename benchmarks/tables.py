"""The tables for measurements on a real database."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.test.runner import DiscoverRunner


class Router:
    """Use one database for everything, which can be changed between two measurements."""

    alias = "default"

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return Router.alias

    db_for_write = db_for_read


@contextmanager
def tables(aliases: Set[str] = frozenset({"default"}), *, keep: bool = False) -> Iterator[None]:
    """Create the tables, and remove them at the end; with ``keep``, reuse and keep them."""
    runner = DiscoverRunner(interactive=False, verbosity=0, keepdb=keep)
    old = runner.setup_databases(aliases=aliases)
    try:
        yield
    finally:
        connections.close_all()
        runner.teardown_databases(old)
