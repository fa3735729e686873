"""Send callbacks: claim, send, record. This module knows no request and no trigger."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from django.db import router
from django.utils import timezone

from affiliations.callbacks import transport
from affiliations.conf import settings
from affiliations.models import Callback

logger = logging.getLogger("affiliations")


def deliver(callback_ids: Iterable[int]) -> None:
    """
    Attempt each of these callbacks that is due, and record how it ended.

    No failure of one keeps the next from being sent. No transaction is open while a partner is
    talked to. A failed one is due again.
    """
    for callback_id in callback_ids:
        try:
            _attempt(callback_id)
        except Exception:
            logger.exception("Callback %s could not be attempted.", callback_id)


def _attempt(callback_id: int) -> None:
    started_on = timezone.now()
    # From where it was written: a replica may not know of it yet.
    callback = Callback.objects.using(router.db_for_write(Callback)).get(pk=callback_id)
    if not callback.claim(started_on, settings.callback_lease):
        return
    result = transport.send(callback.url)
    callback.record(
        now=timezone.now(),
        delivered=result.delivered,
        started_on=started_on,
        duration_ms=result.duration_ms,
        status_code=result.status_code,
        error=result.error,
        message=result.message,
        response_excerpt=result.excerpt,
    )
