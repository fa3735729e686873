"""Since when notices are sent."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class NoticeStart(models.Model):
    """The one row, created by the first run of notices. Notices report nothing from before it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    began_on = models.DateTimeField(_("began on"), default=timezone.now)

    class Meta:
        verbose_name = _("start of notices")
        verbose_name_plural = _("starts of notices")

    def __str__(self) -> str:
        return f"{self.began_on}"
