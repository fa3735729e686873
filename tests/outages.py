"""A database that is gone for a while."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any
from unittest import mock

from django.db import connection

from tests.settings import DATABASE


class Outage(logging.Handler):
    """
    The database is gone, for real, from ``begin()`` until ``end()``.

    The connection is cut and a new one is refused; the file of SQLite is locked by somebody else.
    With ``failures`` it ends when so many have been logged. The thread that makes it is the one
    whose connection is cut.
    """

    def __init__(self) -> None:
        super().__init__()
        connection.close()
        self.settings = connection.settings_dict
        self.before = self.settings["PORT"], self.settings["OPTIONS"]
        if DATABASE == "sqlite":
            self.settings["OPTIONS"] = self.settings["OPTIONS"] | {"timeout": 0.05}
        self.failures: int | None = None
        self.logged = 0
        self.other: sqlite3.Connection | None = None
        self.opened: list[sqlite3.Connection] = []
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SELECT pg_backend_pid()")
            elif connection.vendor == "mysql":
                cursor.execute("SELECT connection_id()")
            else:
                cursor.execute("SELECT 1")
            self.ours = cursor.fetchone()[0]

    def __enter__(self) -> Outage:
        logging.getLogger("affiliations").addHandler(self)
        self.patch = mock.patch.object(sqlite3.dbapi2, "connect", self.connect)
        self.patch.start()
        return self

    def __exit__(self, *args: object) -> None:
        logging.getLogger("affiliations").removeHandler(self)
        self.end()
        connection.close()
        _, self.settings["OPTIONS"] = self.before
        self.patch.stop()
        # Django leaves one open that was refused while it was set up, of which Python 3.13 warns.
        for opened in self.opened:
            opened.close()

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        self.opened.append(sqlite3.connect(*args, **options))
        return self.opened[-1]

    def begin(self) -> None:
        """Begin; called from another thread than the one that uses the connection."""
        if DATABASE == "sqlite":
            self.other = sqlite3.connect(
                self.settings["NAME"], timeout=5, isolation_level=None, check_same_thread=False
            )
            self.other.execute("BEGIN EXCLUSIVE")
            return
        kill = {"postgresql": "SELECT pg_terminate_backend(%s)", "mariadb": "KILL %s"}
        with connection.cursor() as cursor:
            cursor.execute(kill[DATABASE], [self.ours])
        connection.close()
        self.settings["PORT"] = "1"

    def end(self) -> None:
        """Let the database be back."""
        self.settings["PORT"], _ = self.before
        if self.other is not None:
            self.other.close()
            self.other = None

    def emit(self, record: logging.LogRecord) -> None:
        """Count what is logged of it."""
        self.logged += 1
        if self.logged == self.failures:
            self.end()
