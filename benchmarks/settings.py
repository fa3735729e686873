"""The settings of the tests, with tables from the models and partners on this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from tests.settings import *  # noqa: F403
from tests.settings import DATABASE, INSTALLED_APPS, NAME, default, sqlite

# An empty database and a large one: benchmarks.tables.Router chooses between the two.
large = {"NAME": f"{NAME}_large", "TEST": dict(default.get("TEST", {}), NAME=f"{NAME}_large")}
DATABASES: dict[str, Any] = {
    "default": default,
    "large": sqlite(f"{NAME}_large") if DATABASE == "sqlite" else default | large,
}
if "BENCHMARKS_IN_MEMORY" in os.environ:
    # To measure the CPU time of Python and SQLite without disk access.
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DATABASE_ROUTERS = ["benchmarks.tables.Router"]
ROOT_URLCONF = "benchmarks.by_hand"
# A time zone with daylight saving time.
TIME_ZONE = "Europe/Copenhagen"
LOGGING_CONFIG = None
AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]

HAS_PINAX = find_spec("pinax") is not None and find_spec("pinax.referrals") is not None
if HAS_PINAX:
    INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.sites", "pinax.referrals"]
    SITE_ID = 1
# Create the tables from the models, which takes a tenth of the time of the migrations.
MIGRATION_MODULES = dict.fromkeys((path.rpartition(".")[2] for path in INSTALLED_APPS), None)
