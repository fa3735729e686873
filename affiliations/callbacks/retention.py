"""How long what has been delivered is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db import router, transaction

from affiliations.models import Callback, CallbackAttempt
from affiliations.models.callback import CallbackQuerySet

DAYS = 90
BATCH = 1000


def delivered_before(before: datetime) -> CallbackQuerySet:
    """Return the callbacks whose delivery is so long ago, and that nobody sends again."""
    return Callback.objects.filter(status=Callback.Status.DELIVERED, delivered_on__lt=before)


def purge(before: datetime, *, batch: int = BATCH) -> Iterator[int]:
    """Remove them and their attempts, ``batch`` in a transaction; yield how many each time."""
    last = 0
    while True:
        ids = list(
            delivered_before(before)
            .filter(pk__gt=last)
            .order_by("pk")
            .values_list("pk", flat=True)[:batch]
        )
        if not ids:
            return
        last = ids[-1]
        with transaction.atomic(using=router.db_for_write(Callback)):
            # Held while they go, so that none is sent again in the meantime.
            rows = delivered_before(before).filter(pk__in=ids).select_for_update()
            kept = list(rows.values_list("pk", flat=True))
            CallbackAttempt.objects.filter(callback__in=kept).delete()
            removed, _ = Callback.objects.filter(pk__in=kept).delete()
        yield removed
