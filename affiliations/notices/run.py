"""
A run: the digest to staff, then the notices to partners.

A run holds a lease, so that two runs at once do not send the same notices. After each batch, its
rows are marked as sent; if the process is killed before that, the next run sends the batch again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.core.mail import EmailMessage

from affiliations import logs
from affiliations.models.sent_form import Lease
from affiliations.notices import mails, news
from affiliations.notices.mailer import Mailer, ServerDown
from affiliations.notices.news import Backlog, News

logger = logging.getLogger("affiliations")

#: A run that was killed keeps others from sending for this time.
LEASE = timedelta(minutes=10)
#: Seconds after which a run renews its lease.
RENEW = 60.0


@dataclass
class Result:
    """What a run has sent."""

    sent: int = 0
    #: The number of e-mails that were refused; the next run tries those to partners again.
    refused: int = 0
    #: Why the run has ended early; empty if it has not.
    ended: str = ""
    is_first: bool = False


class _LeaseLost(Exception):
    """Another run has begun, since this one did not renew its lease in time."""


def send() -> Result | None:
    """
    Send the digest and the notices; return ``None`` if another run is sending them.

    An e-mail that the mail server does not accept is due in the next run. If the server cannot be
    reached, the run ends, and all other e-mails are due in the next run.
    """
    lease = Lease.begin("notices", LEASE)
    if lease is None:
        return None
    try:
        return _Run(lease).send()
    finally:
        lease.end()


def preview() -> Iterator[EmailMessage]:
    """Yield the e-mails that ``send()`` would send now; nothing changes."""
    yield from mails.digest()
    for batch in Backlog().batches():
        yield from map(mails.to_partners, batch)


class _Run:
    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._result = Result()

    def send(self) -> Result:
        backlog = Backlog()
        self._result.is_first = backlog.is_first
        if backlog.is_first:
            news.begin()
        news.leave_out(backlog.others)
        try:
            with Mailer() as mailer:
                for message in mails.digest():
                    self._send(mailer, message)
                for batch in backlog.batches():
                    self._send_batch(mailer, batch)
        except ServerDown as error:
            self._result.ended = f"the mail server cannot be reached ({error})"
        except _LeaseLost:
            self._result.ended = "another run has begun"
        return self._result

    def _send_batch(self, mailer: Mailer, batch: list[list[News]]) -> None:
        told: list[News] = []
        try:
            for to_address in batch:
                message = mails.to_partners(to_address)
                if self._send(mailer, message, partner=to_address[0].partner.pk):
                    told += to_address
        finally:
            news.mark(told)

    def _send(self, mailer: Mailer, message: EmailMessage, partner: int | None = None) -> bool:
        if not self._lease.holds(RENEW):
            raise _LeaseLost
        try:
            mailer.send(message)
        except ServerDown:
            raise
        except Exception as error:
            # Not the error's text, which contains the address.
            logger.warning(
                "The notice to %s was refused: %s.",
                "staff" if partner is None else f"partner {partner}",
                _kind(error),
                extra=logs.fields(partner=partner),
            )
            self._result.refused += 1
            return False
        self._result.sent += 1
        return True


def _kind(error: Exception) -> str:
    code = getattr(error, "smtp_code", "")
    return f"{type(error).__name__} {code}".rstrip()
