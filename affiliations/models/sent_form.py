"""
The one-time tokens of the forms that were sent, so that a double click acts once.

A token can also be leased: for the downloads of partner pages.
"""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class SentFormQuerySet(models.QuerySet["SentForm"]):
    def claim(self, token: str, sent_on: datetime | None = None) -> bool:
        """
        Record that a form is sent; return ``False`` if it was sent before.

        While another transaction sends it, this waits for the end of that transaction.
        """
        try:
            with transaction.atomic(using=self.db):
                self.create(token=token, sent_on=sent_on or timezone.now())
        except IntegrityError:
            return False
        return True

    def lease(self, token: str, now: datetime, expired: datetime) -> bool:
        """Claim a token until its row is deleted; also one that was claimed before ``expired``."""
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
