"""Rename default references, such as ``shop.order:17``, after their model was renamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import transaction

from affiliations import db
from affiliations.models import Conversion, FailedTrigger, UncreditedTrigger
from affiliations.models.conversion_queries import reference_key

BATCH = 1000


def rename(
    old: str, new: str, *, batch: int = BATCH, dry_run: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """
    Rename the references that begin with the label ``old``, in one transaction for each batch.

    Yields:
        For each batch, the number of renamed rows, and the references of conversions that stay as
        they are: their trigger has already counted the new reference, or the old one was cut.
    """
    for model in (Conversion, UncreditedTrigger, FailedTrigger):
        rows: Any = model._default_manager.using(db.write_alias())
        last = 0
        found = rows.filter(reference__startswith=f"{old}:").order_by("pk")
        while some := list(found.filter(pk__gt=last)[:batch]):
            last = some[-1].pk
            # SQLite ignores case.
            some = [row for row in some if row.reference.startswith(f"{old}:")]
            for row in some:
                row.old, row.reference = row.reference, f"{new}{row.reference[len(old) :]}"
            kept = _rename_keys(some) if model is Conversion else set()
            renamed = [row for row in some if row.pk not in kept]
            fields = ["reference"]
            if model is Conversion:
                fields += ["reference_key", "dedupe_key"]
            if renamed and not dry_run:
                with transaction.atomic(using=rows.db):
                    db.lock_rows(rows.filter(pk__in=[row.pk for row in renamed]))
                    rows.bulk_update(renamed, fields, batch_size=100)
            yield len(renamed), [row.old for row in some if row.pk in kept]


def _rename_keys(conversions: list[Any]) -> set[int]:
    """Set the keys of the new references; return the primary keys of rows that keep the old one."""
    rows = Conversion.objects.using(db.write_alias())
    keys = {row.pk: reference_key(row.reference, is_test=row.is_test) for row in conversions}
    names = ("trigger", "reference_key", "released")
    found = [*keys.values()]
    taken = {
        one
        for start in range(0, len(found), 500)
        for one in rows.filter(reference_key__in=found[start : start + 500]).values_list(*names)
    }
    kept = set()
    for row in conversions:
        key = keys[row.pk]
        is_cut = row.reference_key not in (None, reference_key(row.old, is_test=row.is_test))
        if is_cut or (row.trigger, key, row.released) in taken:
            kept.add(row.pk)
        else:
            row.dedupe_key = row.dedupe_key.replace(row.reference_key, key)
            row.reference_key = key
    return kept
