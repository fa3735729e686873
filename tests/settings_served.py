"""Settings for a server that a test starts: it sends, and to partners on this machine."""

from __future__ import annotations

from tests.hosts import PATIENT
from tests.settings import *  # noqa: F403

AFFILIATE_CALLBACK_DISPATCHER = "affiliations.dispatchers.thread"
AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
globals().update(PATIENT)
