"""The settlement: what a partner is paid at once; and what was found wrong with it afterwards."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings as django_settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.amounts import money
from affiliations.models.conversion import Conversion
from affiliations.models.partner import Partner


class Settlement(models.Model):
    """
    What a partner is paid at once, in one currency: a fact as soon as it is made.

    Its lines are the conversions and corrections that refer to it; each refers to one settlement at
    most. What is later decided about a conversion changes none of it.
    """

    id = models.BigAutoField(primary_key=True)
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="settlements",
        # That of its conversions says the same. On MariaDB it would share the partner's row before
        # the conversions' are held, and a decision asks for them the other way round.
        db_constraint=False,
        verbose_name=_("partner"),
    )
    currency = models.CharField(_("currency"), max_length=3)
    reference = models.CharField(
        _("reference"),
        max_length=255,
        blank=True,
        help_text=_("Your own number of it, such as that of a voucher or an invoice."),
    )
    before = models.DateTimeField(
        _("decided before"),
        help_text=_(
            "What was approved before this moment, with its corrections; and corrections until "
            "then of what was settled earlier."
        ),
    )
    conversion_count = models.PositiveIntegerField(_("conversions"), default=0)
    # Wider than what is summed up.
    earned = models.DecimalField(_("earned"), max_digits=25, decimal_places=4, default=Decimal(0))
    correction_count = models.PositiveIntegerField(_("corrections"), default=0)
    corrected = models.DecimalField(
        _("corrected"), max_digits=25, decimal_places=4, default=Decimal(0)
    )
    created_on = models.DateTimeField(_("settled on"), default=timezone.now, db_index=True)
    created_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("settled by"),
    )

    class Meta:
        verbose_name = _("settlement")
        verbose_name_plural = _("settlements")

    def __str__(self) -> str:
        return self.reference or gettext("Settlement %(number)s") % {"number": self.pk}

    @property
    def total(self) -> Decimal:
        """What the partner is paid; below zero it is what they owe."""
        return self.earned + self.corrected


class Correction(models.Model):
    """
    What changes about the payout of a conversion whose facts stay: written once, never changed.

    It goes with its conversion: into the next settlement where that is settled, or else into the
    same one.
    """

    class Kind(models.TextChoices):
        """What made it necessary."""

        REJECTED = "rejected", _("rejected")
        BROUGHT_BACK = "brought_back", _("brought back")
        ADJUSTED = "adjusted", _("adjusted")

    id = models.BigAutoField(primary_key=True)
    conversion = models.ForeignKey(
        Conversion,
        on_delete=models.PROTECT,
        related_name="corrections",
        verbose_name=_("conversion"),
    )
    # The conversion's own, since a partner is settled with.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="corrections",
        verbose_name=_("partner"),
    )
    kind = models.CharField(_("kind"), max_length=12, choices=Kind.choices)
    amount = models.DecimalField(
        _("amount"),
        max_digits=19,
        decimal_places=4,
        null=True,
        blank=True,
        help_text=_("What is added to the amount, in its currency; with a minus, taken off."),
    )
    payout = models.DecimalField(
        _("payout"),
        max_digits=19,
        decimal_places=4,
        help_text=_("What is added to the payout; with a minus, what is taken back."),
    )
    currency = models.CharField(
        _("currency"), max_length=3, help_text=_("That of the conversion’s payout.")
    )
    reason = models.CharField(_("reason"), max_length=255)
    settlement = models.ForeignKey(
        Settlement,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="corrections",
        # The first column of an index.
        db_index=False,
        verbose_name=_("settlement"),
        help_text=_("Empty until it enters one."),
    )
    created_on = models.DateTimeField(_("corrected on"), default=timezone.now, db_index=True)
    created_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("corrected by"),
    )

    class Meta:
        verbose_name = _("correction")
        verbose_name_plural = _("corrections")
        indexes = [
            models.Index(fields=["settlement", "id"], name="affiliations_corr_settlement"),
        ]

    def __str__(self) -> str:
        return f"{self.conversion_id}: {money(self.payout, self.currency)}"
