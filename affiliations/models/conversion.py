"""The conversion: one completed trigger, credited to one visitor."""

from __future__ import annotations

import hashlib

from django.conf import settings as django_settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.models.partner import Partner
from affiliations.models.subscription import Subscription
from affiliations.models.visitor import Visitor


def reference_key(reference: str) -> str | None:
    """
    Return what a trigger credits to one visitor only; ``None`` where there is no reference.

    A hash, because a reference may be longer than its column, and because collations fold case,
    blanks and accents: order ``a1`` is not order ``A1``.
    """
    return hashlib.sha256(reference.encode()).hexdigest() if reference else None


class Conversion(models.Model):
    """
    A fact: what was agreed has happened, and this visitor's partner has earned it.

    The names that it bears are those of its day; what is later renamed, deactivated or deleted
    changes nothing here. The two keys make the database itself see that nothing counts twice:
    ``dedupe_key`` as the subscription says, ``reference_key`` whoever it might be credited to.
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
    # NULL where there is no reference, since many have none: an empty text would be a value.
    reference_key = models.CharField(  # noqa: DJ001 -- see above
        _("reference key"), max_length=64, null=True, editable=False
    )
    amount = models.DecimalField(
        _("amount"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    payout_type = models.CharField(
        _("payout rule"),
        max_length=7,
        choices=Subscription.PayoutType.choices,
        default=Subscription.PayoutType.NONE,
    )
    payout_value = models.DecimalField(
        _("payout value"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    payout = models.DecimalField(
        _("payout"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    payout_currency = models.CharField(_("payout currency"), max_length=3, blank=True)
    status = models.CharField(
        _("status"), max_length=8, choices=Status.choices, default=Status.APPROVED
    )
    reason = models.CharField(
        _("reason"), max_length=255, blank=True, help_text=_("Why it waits, or was rejected.")
    )
    # A code of ``Reason``; it stays, so that no signal ever approves what somebody was to look at.
    doubt = models.CharField(_("doubt"), max_length=32, blank=True, default="", editable=False)
    approve_on = models.DateTimeField(
        _("approve on"),
        null=True,
        blank=True,
        help_text=_("Approved then by itself, unless somebody decides before."),
    )
    decided_on = models.DateTimeField(_("decided on"), null=True, blank=True)
    decided_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("decided by"),
    )
    settlement = models.ForeignKey(
        "affiliations.Settlement",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="conversions",
        # The first column of two indexes.
        db_index=False,
        verbose_name=_("settlement"),
        help_text=_("With which the payout was settled."),
    )
    # What was told by callbacks that are purged since: "<event>:<key of the subscription>".
    told = models.JSONField(_("told"), default=list, blank=True, editable=False)
    # The visitor's, again: a report looks for no million of visitors.
    sub1 = models.CharField(_("sub id 1"), max_length=255, blank=True, default="")
    sub2 = models.CharField(_("sub id 2"), max_length=255, blank=True, default="")
    sub3 = models.CharField(_("sub id 3"), max_length=255, blank=True, default="")
    sub4 = models.CharField(_("sub id 4"), max_length=255, blank=True, default="")
    sub5 = models.CharField(_("sub id 5"), max_length=255, blank=True, default="")
    is_test = models.BooleanField(_("test"), default=False)
    created_on = models.DateTimeField(_("created on"), default=timezone.now, db_index=True)

    class Meta:
        verbose_name = _("conversion")
        verbose_name_plural = _("conversions")
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "dedupe_key"], name="affiliations_conversion_counted_once"
            ),
            models.UniqueConstraint(
                fields=["trigger", "reference_key"], name="affiliations_conversion_credited_once"
            ),
        ]
        indexes = [
            models.Index(fields=["status", "approve_on"], name="affiliations_conversion_waits"),
            models.Index(fields=["reference"], name="affiliations_conversion_ref"),
            models.Index(fields=["partner", "created_on"], name="affiliations_conv_partner"),
            # The lines of a statement, and what is to be settled.
            models.Index(fields=["settlement", "id"], name="affiliations_conv_settlement"),
            models.Index(
                fields=["settlement", "status", "partner", "decided_on"],
                name="affiliations_conv_unsettled",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.trigger}: {self.reference}" if self.reference else self.trigger
