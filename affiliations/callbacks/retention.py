"""How long what has been delivered is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db import router, transaction

from affiliations.models import Callback
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
            rows = delivered_before(before).filter(pk__in=ids)
            # Written, which locks them on every database, so that none is sent again while it goes.
            # On SQLite a transaction that reads before it writes would fail.
            rows.update(lease_token="")
            _, removed = rows.delete()
        yield removed.get(Callback._meta.label, 0)
