"""What a story is made of: its lines, and what is written alike in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Model
from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext as _


@dataclass(frozen=True)
class Line:
    """One thing that has happened."""

    #: When; ``None`` for how it stands now.
    on: datetime | None
    text: str
    #: The row that says so.
    about: Model


def refers_to(reference: str) -> str:
    """Say by which reference the host knows it."""
    return _("The reference is %(reference)s.") % {"reference": reference}


def written(moment: datetime | None) -> str:
    """Write a time in the site's time zone."""
    if moment is None:
        return "-"
    return str(localize(timezone.localtime(moment) if timezone.is_aware(moment) else moment))


def by_key(rows: Iterable[Any]) -> list[Any]:
    """Return rows in the order in which they were written."""
    return sorted(rows, key=lambda row: row.pk)
