"""
One CSV file at a time for each partner page.

A download has a row in the database while it is sent, so it counts in all processes. The row is
deleted when the response ends, also if the client disconnects. If the process dies, or if the
client reads nothing, the lease of the row ends after a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from django.core.exceptions import RequestAborted

from affiliations.models import Partner
from affiliations.models.sent_form import Lease

LEASE = timedelta(seconds=60)
#: Seconds after which a download renews its lease.
RENEW = 15.0

T = TypeVar("T")


def begin(partner: Partner) -> Download | None:
    """Claim the download of a partner; ``None`` while another one is being sent."""
    lease = Lease.begin(f"download:{partner.pk}", LEASE)
    return Download(lease) if lease else None


class Download:
    """A claimed download, from its claim until its response has ended."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.end = lease.end

    def kept(self, rows: Iterable[T]) -> Iterator[T]:
        """
        Yield rows, and renew the lease from time to time.

        Raises:
            RequestAborted: If the lease has ended because the client did not read, and another
                download has begun.
        """
        for row in rows:
            if not self._lease.holds(RENEW):
                raise RequestAborted("Another download has begun.")
            yield row
