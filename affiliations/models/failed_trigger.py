"""The triggers whose work failed and is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings as django_settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.models.visitor import Visitor

#: The minutes until the next try, after each try. Then the row is left to staff.
_PAUSES = (0.2, 1, 5, 15, 60, 120, 240, 480, 960)


class FailedTriggerQuerySet(models.QuerySet["FailedTrigger"]):
    def waiting(self) -> FailedTriggerQuerySet:
        return self.filter(tries__lte=len(_PAUSES))

    def given_up(self) -> FailedTriggerQuerySet:
        return self.filter(tries__gt=len(_PAUSES))

    def due(self, now: datetime) -> FailedTriggerQuerySet:
        return self.waiting().filter(due_on__lte=now)


class FailedTrigger(models.Model):
    """
    The work of a trigger that failed because of the database, for example because of a lock.

    It holds all that the work needs, since the host's object may be gone when it is tried again.
    The row is deleted when the work succeeds.
    """

    class Kind(models.TextChoices):
        CREDIT = "credit", _("credit")
        APPROVE = "approve", _("approval")
        REJECT = "reject", _("rejection")
        ADJUST = "adjust", _("adjustment")

    id = models.BigAutoField(primary_key=True)
    trigger = models.CharField(_("trigger"), max_length=100)
    kind = models.CharField(_("type"), max_length=8, choices=Kind.choices)
    # Without constraints: a new row must not wait for the row whose lock made the work fail.
    visitor = models.ForeignKey(
        Visitor,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        db_constraint=False,
        related_name="failed_triggers",
        verbose_name=_("visitor"),
    )
    user = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
        verbose_name=_("user"),
    )
    #: The texts on the order that can be codes, separated by blanks.
    codes = models.TextField(_("codes"), blank=True, default="", db_default="")
    #: In full, since a conversion is found by the hash of the whole.
    reference = models.TextField(_("reference"), blank=True)
    #: As the host has stated them, valid or not: each try parses them as the first one did.
    amount = models.CharField(_("amount"), max_length=64, blank=True)
    currency = models.CharField(_("currency"), max_length=64, blank=True)
    error = models.CharField(_("error"), max_length=255, blank=True)
    tries = models.PositiveSmallIntegerField(_("attempts"), default=1)
    created_on = models.DateTimeField(_("created on"), default=timezone.now)
    due_on = models.DateTimeField(_("next attempt on"), db_index=True)

    objects = FailedTriggerQuerySet.as_manager()

    class Meta:
        verbose_name = _("failed trigger")
        verbose_name_plural = _("failed triggers")

    def __str__(self) -> str:
        return f"{self.trigger}: {self.reference}" if self.reference else self.trigger

    @property
    def is_waiting(self) -> bool:
        """Whether it is going to be tried again."""
        return self.tries <= len(_PAUSES)

    @property
    def stated_amount(self) -> str:
        """The amount with its currency."""
        return f"{self.amount} {self.currency}".strip()

    @property
    def summary(self) -> str:
        """All that is known, for the log."""
        visitor = self.visitor
        known = {
            "reference": self.reference and f"“{self.reference}”",
            "visitor": visitor and f"{visitor} of partner “{visitor.partner.uid}”",
            "user": self.user_id,
            "code": self.codes,
            "amount": self.stated_amount,
        }
        facts = [f"{name} {value}" for name, value in known.items() if value not in (None, "")]
        return ", ".join([self.kind, *facts])

    def restart(self, now: datetime) -> None:
        """Let it be tried as often as a new one, from now on."""
        rows = FailedTrigger.objects.using(self._state.db).filter(pk=self.pk)
        rows.update(tries=1, due_on=now)

    def claim(self, now: datetime) -> bool:
        """Begin another try; return ``False`` if another process has begun one."""
        pause = _PAUSES[min(self.tries, len(_PAUSES) - 1)]
        due_on = now + timedelta(minutes=pause)
        rows = FailedTrigger.objects.using(self._state.db).filter(pk=self.pk, tries=self.tries)
        if not rows.update(tries=self.tries + 1, due_on=due_on):
            return False
        self.tries, self.due_on = self.tries + 1, due_on
        return True
