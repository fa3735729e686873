"""
Settings of a host that a test runs in processes of its own; ``tests.hosts`` starts them.

AFFILIATIONS_TEST_SETTINGS    what differs from the settings of the tests, in JSON
"""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403

AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
# No test waits for a lease that is longer than a partner may take.
SILENCED_SYSTEM_CHECKS = ["affiliations.E009"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"affiliations": {"handlers": ["console"]}},
}
globals().update(json.loads(os.environ.get("AFFILIATIONS_TEST_SETTINGS", "{}")))

if "CELERY_BROKER_URL" in globals():
    # Where a host does so in its project's __init__.py.
    from tests.celery_app import app as celery_app  # noqa: F401
