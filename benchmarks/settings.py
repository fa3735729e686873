"""The settings of the tests, with a database in memory, so that no disk is measured."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DATABASE_ROUTERS: list[str] = []
# The tables are made from the models, which takes a tenth of the time.
MIGRATION_MODULES = dict.fromkeys((path.rpartition(".")[2] for path in INSTALLED_APPS), None)
