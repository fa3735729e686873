"""What arrived or happened and was not counted, so that a partner's question has an answer."""

from __future__ import annotations

import random
from datetime import datetime

from django.db import IntegrityError, models, router, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.exceptions import Reason
from affiliations.models.partner import Partner
from affiliations.models.visitor import Visitor

#: Into so many rows the count of one day is spread, so that few landings wait for the same one.
_SLOTS = 8


class UncountedClicksQuerySet(models.QuerySet["UncountedClicks"]):
    """Count what is not counted."""

    def add(self, partner: Partner | None, reason: Reason) -> None:
        """
        Count one click more; ``partner`` is ``None`` where the link names nobody.

        One ``UPDATE``, but for the first click of a kind on a day. Outside a transaction it holds
        the row for no longer than that.
        """
        # Where the site is, whatever time zone is activated for the visitor.
        day = datetime.now(timezone.get_default_timezone()).date()
        slot = random.randrange(_SLOTS)  # noqa: S311 -- nobody guards a secret here
        key = f"{partner.pk if partner else 0}:{day:%Y%m%d}:{reason.value}:{slot}"
        if self.filter(key=key).update(count=F("count") + 1):
            return
        try:
            with transaction.atomic(using=router.db_for_write(self.model)):
                self.create(key=key, partner=partner, day=day, reason=reason.value, count=1)
        except IntegrityError:  # somebody else has just made the row
            self.filter(key=key).update(count=F("count") + 1)


class UncountedClicks(models.Model):
    """
    How many clicks of one partner, on one day, were not counted for one reason: the sum of rows.

    Without a partner: the uid in the link is nobody's.
    """

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=64, unique=True, editable=False)
    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="uncounted_clicks",
        verbose_name=_("partner"),
    )
    day = models.DateField(_("day"), db_index=True)
    reason = models.CharField(_("reason"), max_length=20)
    count = models.PositiveIntegerField(_("count"))

    objects = UncountedClicksQuerySet.as_manager()

    class Meta:
        verbose_name = _("uncounted clicks")
        verbose_name_plural = _("uncounted clicks")

    def __str__(self) -> str:
        return f"{self.day}: {self.count} {self.reason}"


class UncountedTriggerQuerySet(models.QuerySet["UncountedTrigger"]):
    """Remember what was not counted."""

    def add(
        self, visitor: Visitor, trigger: str, reason: Reason, reference: str, now: datetime
    ) -> None:
        """
        Remember that ``trigger`` fired for ``visitor`` and was not counted.

        Not in the host's transaction: a new row takes a share of its visitor's, and two conversions
        of one visitor would meet in a deadlock.
        """
        same = self.filter(visitor=visitor, trigger=trigger, reason=reason.value)
        again = {"count": F("count") + 1, "last_on": now, "reference": reference[:255]}
        if same.update(**again):
            return
        try:
            with transaction.atomic(using=router.db_for_write(self.model)):
                self.create(
                    visitor=visitor,
                    trigger=trigger,
                    reason=reason.value,
                    reference=reference[:255],
                    first_on=now,
                    last_on=now,
                )
        except IntegrityError:  # at the same moment in another request
            same.update(**again)

    def of(self, partner: Partner, since: datetime, limit: int) -> UncountedTriggerQuerySet:
        """Return the last ones of a partner's visitors, the latest first."""
        rows = self.filter(visitor__partner=partner, last_on__gte=since)
        return rows.select_related("visitor").order_by("-last_on")[:limit]


class UncountedTrigger(models.Model):
    """A trigger that fired for a visitor and was not counted, with the reason: one row a kind."""

    id = models.BigAutoField(primary_key=True)
    visitor = models.ForeignKey(
        Visitor,
        on_delete=models.CASCADE,
        related_name="uncounted_triggers",
        verbose_name=_("visitor"),
    )
    trigger = models.CharField(_("trigger"), max_length=100)
    reason = models.CharField(_("reason"), max_length=20)
    reference = models.CharField(
        _("reference"), max_length=255, blank=True, help_text=_("Of the last time.")
    )
    count = models.PositiveIntegerField(_("count"), default=1)
    first_on = models.DateTimeField(_("first on"))
    last_on = models.DateTimeField(_("last on"))

    objects = UncountedTriggerQuerySet.as_manager()

    class Meta:
        verbose_name = _("uncounted trigger")
        verbose_name_plural = _("uncounted triggers")
        constraints = [
            models.UniqueConstraint(
                fields=["visitor", "trigger", "reason"],
                name="affiliations_uncounted_trigger_told_once",
            )
        ]
        indexes = [models.Index(fields=["reference"], name="affiliations_uncounted_ref")]

    def __str__(self) -> str:
        return f"{self.trigger}: {self.reason}"
