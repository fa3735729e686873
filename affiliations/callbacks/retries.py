"""When a callback that failed is tried again."""

from __future__ import annotations

import random
import time
from datetime import timedelta

from django.utils.http import parse_http_date

from affiliations.callbacks.transport import Result
from affiliations.conf import settings

#: A partner's Retry-After is kept to, up to here.
LONGEST_RETRY_AFTER = timedelta(hours=24)
_JITTER = 0.2
_BUSY = (429, 503)


def delay(attempt: int, result: Result) -> timedelta:
    """Return how long to wait after attempt number ``attempt`` has failed with ``result``."""
    schedule = settings.callback_retry_schedule
    # Not all at once when a partner is back.
    jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 -- nobody guards a secret here
    backoff = schedule[min(attempt, len(schedule) - 1)] * jitter
    if result.status_code not in _BUSY:
        return backoff
    return max(backoff, _retry_after(result.retry_after))


def _retry_after(value: str) -> timedelta:
    """Read a ``Retry-After`` header, seconds or a date (RFC 9110, 10.2.3); nonsense is nothing."""
    try:
        seconds = int(value) if value.isdecimal() else parse_http_date(value) - time.time()
    except ValueError:
        return timedelta(0)
    return timedelta(seconds=min(seconds, LONGEST_RETRY_AFTER.total_seconds()))
