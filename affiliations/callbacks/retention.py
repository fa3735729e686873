"""How long what has been delivered is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.db import router, transaction

from affiliations import batches
from affiliations.models import Callback, Conversion
from affiliations.models.callback import CallbackQuerySet

DAYS = 90
BATCH = 1000
#: What was told of so many conversions is written by one statement.
_CHUNK = 200


def heard(told: Iterable[str]) -> set[tuple[str, int]]:
    """Read what a conversion keeps of its purged callbacks: each event, and which subscription."""
    pairs = (one.split(":") for one in told)
    return {(event, int(subscription)) for event, subscription in pairs}


def delivered_before(before: datetime) -> CallbackQuerySet:
    """Return the callbacks whose delivery is so long ago, and that nobody sends again."""
    return Callback.objects.filter(status=Callback.Status.DELIVERED, delivered_on__lt=before)


def purge(before: datetime, *, batch: int = BATCH) -> Iterator[int]:
    """
    Remove them and their attempts, ``batch`` in a transaction; yield how many each time.

    What they told stays with their conversions: a later decision goes by it.
    """
    alias = router.db_for_write(Callback)
    old = delivered_before(before).using(alias)
    last = 0
    while True:
        found = old.filter(pk__gt=last).order_by("pk").values_list("pk", "conversion")[:batch]
        callbacks = dict(found)
        if not callbacks:
            return
        last = max(callbacks)
        conversions = set(callbacks.values()) - {None}  # which a test callback has
        with transaction.atomic(using=alias):
            # In the order of a decision, which holds its conversion when it asks for the callbacks.
            batches.hold(Conversion.objects.using(alias).filter(pk__in=conversions))
            rows = old.filter(pk__in=callbacks.keys())
            # Written, which locks them on every database, so that none is sent again while it goes.
            # On SQLite a transaction that reads before it writes would fail.
            rows.update(lease_token="")
            if conversions:
                _keep_what_they_told(rows.exclude(conversion=None))
            _, removed = rows.delete()
        yield removed.get(Callback._meta.label, 0)


def _keep_what_they_told(rows: CallbackQuerySet) -> None:
    """Write what callbacks have told into their conversions, which are held."""
    conversions: dict[int | None, Any] = {}
    told = rows.select_related("conversion").only("event", "subscription", "conversion__told")
    for row in told:
        conversion: Any = conversions.setdefault(row.conversion_id, row.conversion)
        conversion.told = sorted({*conversion.told, f"{row.event}:{row.subscription_id}"})
    Conversion.objects.using(rows.db).bulk_update(conversions.values(), ["told"], batch_size=_CHUNK)
