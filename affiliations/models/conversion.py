"""The conversion: one completed trigger, credited to one visitor."""

from __future__ import annotations

from django.conf import settings as django_settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.models.partner import Partner
from affiliations.models.subscription import Subscription
from affiliations.models.visitor import Visitor


class Conversion(models.Model):
    """
    A fact: what was agreed has happened, and this visitor's partner has earned it.

    The names that it bears are those of its day; what is later renamed, deactivated or deleted
    changes nothing here. ``dedupe_key`` makes the database itself see that nothing counts twice.
    """

    class Status(models.TextChoices):
        """What has been decided."""

        PENDING = "pending", _("pending")
        APPROVED = "approved", _("approved")
        REJECTED = "rejected", _("rejected")

    id = models.BigAutoField(primary_key=True)
    visitor = models.ForeignKey(
        Visitor,
        on_delete=models.PROTECT,
        related_name="conversions",
        verbose_name=_("visitor"),
    )
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="conversions",
        verbose_name=_("partner"),
    )
    subscription = models.ForeignKey(
        Subscription,
        on_delete=models.PROTECT,
        related_name="conversions",
        verbose_name=_("subscription"),
    )
    trigger = models.CharField(_("trigger"), max_length=100)
    user = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("user"),
        help_text=_("The buyer."),
    )
    reference = models.CharField(
        _("reference"),
        max_length=255,
        blank=True,
        help_text=_("This site’s own id of what was done, such as an order number."),
    )
    dedupe_key = models.CharField(_("dedupe key"), max_length=80)
    amount = models.DecimalField(
        _("amount"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    status = models.CharField(
        _("status"), max_length=8, choices=Status.choices, default=Status.APPROVED
    )
    created_on = models.DateTimeField(_("created on"), default=timezone.now, db_index=True)

    class Meta:
        verbose_name = _("conversion")
        verbose_name_plural = _("conversions")
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "dedupe_key"], name="affiliations_conversion_counted_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.trigger}: {self.reference}" if self.reference else self.trigger
