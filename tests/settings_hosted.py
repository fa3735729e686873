"""
Settings of a host that a test runs in processes of its own; ``tests.hosts`` starts them.

AFFILIATIONS_TEST_SETTINGS    what differs from the settings of the tests, in JSON; with
                              AFFILIATIONS_TEST_SKEW, by how many seconds its clock is ahead
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

from django.utils import timezone

from tests.settings import *  # noqa: F403

AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
# No test waits for a lease that is longer than a partner may take.
SILENCED_SYSTEM_CHECKS = ["affiliations.E009", "affiliations.W008"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"affiliations": {"handlers": ["console"]}},
}
globals().update(json.loads(os.environ.get("AFFILIATIONS_TEST_SETTINGS", "{}")))

if skew := globals().get("AFFILIATIONS_TEST_SKEW"):
    right_now, right_time = timezone.now, time.time
    timezone.now = lambda: right_now() + timedelta(seconds=skew)
    time.time = lambda: right_time() + skew

if "CELERY_BROKER_URL" in globals():
    # Where a host does so in its project's __init__.py.
    from tests.celery_app import app as celery_app  # noqa: F401
