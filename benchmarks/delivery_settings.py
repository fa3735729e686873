"""The settings of the tests, with a real database and partners on this machine."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
# Create the tables from the models, which takes a tenth of the time of the migrations.
MIGRATION_MODULES = dict.fromkeys((path.rpartition(".")[2] for path in INSTALLED_APPS), None)
LOGGING_CONFIG = None
