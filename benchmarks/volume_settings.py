"""The settings of the tests, where days are longer and shorter too, and tables are kept."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

TIME_ZONE = "Europe/Copenhagen"
# The tables are made from the models, which takes a tenth of the time.
MIGRATION_MODULES = dict.fromkeys((path.rpartition(".")[2] for path in INSTALLED_APPS), None)
LOGGING_CONFIG = None
