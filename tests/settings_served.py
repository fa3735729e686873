"""Settings for a server that a test starts: it sends, and to partners on this machine."""

from __future__ import annotations

from tests.settings import *  # noqa: F403

AFFILIATE_CALLBACK_DISPATCHER = "affiliations.callbacks.dispatchers.thread"
AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
