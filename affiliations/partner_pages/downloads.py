"""
One CSV file at a time for each partner page.

A download has a row in the database while it is sent, so it counts in all processes. The row is
deleted when the response ends, also if the client disconnects. If the process dies, or if the
client reads nothing, the lease of the row ends after a minute.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from django.core.exceptions import RequestAborted

from affiliations import db
from affiliations.models import Partner, SentForm
from affiliations.models.sent_form import SentFormQuerySet

LEASE = timedelta(seconds=60)
#: Seconds after which a download renews its lease.
RENEW = 15.0

T = TypeVar("T")


def begin(partner: Partner) -> Download | None:
    """Claim the download of a partner; ``None`` while another one is being sent."""
    token, now = f"download:{partner.pk}", db.now()
    return Download(token, now) if _rows().lease(token, now, now - LEASE) else None


class Download:
    """A claimed download, from its claim until its response has ended."""

    def __init__(self, token: str, leased_on: datetime) -> None:
        self._token = token
        self._note(leased_on)

    def kept(self, rows: Iterable[T]) -> Iterator[T]:
        """
        Yield rows, and renew the lease from time to time.

        Raises:
            RequestAborted: If the lease has ended because the client did not read, and another
                download has begun.
        """
        for row in rows:
            if time.monotonic() - self._renewed_at >= RENEW:
                now = db.now()
                if not self._row().update(sent_on=now):
                    raise RequestAborted("Another download has begun.")
                self._note(now)
            yield row

    def end(self) -> None:
        self._row().delete()

    def _note(self, leased_on: datetime) -> None:
        self._leased_on, self._renewed_at = leased_on, time.monotonic()

    def _row(self) -> SentFormQuerySet:
        return _rows().filter(token=self._token, sent_on=self._leased_on)


def _rows() -> SentFormQuerySet:
    return SentForm.objects.using(db.write_alias())
