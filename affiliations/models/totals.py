"""Clicks that are counted already, so that a report need not count ten million visitors."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.models.partner import Partner


class DailyClicks(models.Model):
    """
    How many visitors of a partner came on a day, and by each of their labels: the sum of rows.

    ``label`` is that of the sub id with the number ``sub_id``, and each visitor has five; the
    number 0 stands for the visitor as such. What is taken back has a row with a minus.
    """

    id = models.BigAutoField(primary_key=True)
    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        related_name="daily_clicks",
        verbose_name=_("partner"),
    )
    day = models.DateField(_("day"), help_text=_("In the site’s time zone."))
    sub_id = models.PositiveSmallIntegerField(_("number of the sub id"))
    label = models.CharField(_("label"), max_length=255, blank=True)
    count = models.IntegerField(_("count"))

    class Meta:
        verbose_name = _("daily clicks")
        verbose_name_plural = _("daily clicks")
        indexes = [models.Index(fields=["sub_id", "day"], name="affiliations_daily_clicks_day")]

    def __str__(self) -> str:
        return f"{self.day}: {self.count}"


class ClickCount(models.Model):
    """
    How far the visitors are counted into ``DailyClicks``: one row, which who counts holds.

    ``counted`` is the key of the last counted one. ``seen`` was the last key that there was at
    ``seen_on``: not before some time has passed is every visitor up to it in the table, since keys
    are given before their transactions end.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    counted = models.BigIntegerField(_("counted up to"), default=0)
    seen = models.BigIntegerField(_("seen up to"), default=0)
    seen_on = models.DateTimeField(_("seen on"), default=timezone.now)

    class Meta:
        verbose_name = _("count of the clicks")
        verbose_name_plural = _("counts of the clicks")

    def __str__(self) -> str:
        return f"{self.counted}"
