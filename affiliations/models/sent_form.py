"""
The one-time tokens of the forms that were sent, so that a double click acts once.

A token can also be leased: for the downloads of partner pages, and for a run of notices.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations import db


class SentFormQuerySet(models.QuerySet["SentForm"]):
    def claim(self, token: str, sent_on: datetime | None = None) -> bool:
        """
        Record that a form is sent; return ``False`` if it was sent before.

        If another open transaction has recorded it, this waits for the end of that transaction.
        """
        try:
            with transaction.atomic(using=self.db):
                self.create(token=token, sent_on=sent_on or timezone.now())
        except IntegrityError:
            return False
        return True

    def lease(self, token: str, now: datetime, expired: datetime) -> bool:
        """Claim a token until its row is deleted, even if it was claimed before ``expired``."""
        is_renewed = self.filter(token=token, sent_on__lt=expired).update(sent_on=now)
        return bool(is_renewed) or self.claim(token, now)


class SentForm(models.Model):
    """A form of the Admin that was sent, by its one-time token."""

    token = models.CharField(_("token"), max_length=64, primary_key=True)
    sent_on = models.DateTimeField(_("sent on"), default=timezone.now, db_index=True)

    objects = SentFormQuerySet.as_manager()

    class Meta:
        verbose_name = _("sent form")
        verbose_name_plural = _("sent forms")

    def __str__(self) -> str:
        return self.token


class Lease:
    """A token that one process at a time holds, until it ends the lease or does not renew it."""

    def __init__(self, token: str, leased_on: datetime) -> None:
        self._token = token
        self._note(leased_on)

    @classmethod
    def begin(cls, token: str, duration: timedelta) -> Lease | None:
        """Lease a token; ``None`` if a lease began or was renewed within the last ``duration``."""
        now = db.now()
        return cls(token, now) if _leases().lease(token, now, now - duration) else None

    def holds(self, renew: float) -> bool:
        """
        Tell whether the lease holds, and renew it if ``renew`` seconds have passed.

        ``False`` if it was not renewed in time, and another process has leased the token.
        """
        if time.monotonic() - self._renewed_at >= renew:
            now = db.now()
            if not self._row().update(sent_on=now):
                return False
            self._note(now)
        return True

    def end(self) -> None:
        self._row().delete()

    def _note(self, leased_on: datetime) -> None:
        self._leased_on, self._renewed_at = leased_on, time.monotonic()

    def _row(self) -> SentFormQuerySet:
        return _leases().filter(token=self._token, sent_on=self._leased_on)


def _leases() -> SentFormQuerySet:
    return SentForm.objects.using(db.write_alias())
