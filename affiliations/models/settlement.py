"""Payout statements, called settlements in code, and the adjustments of conversions."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Max
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.amounts import money
from affiliations.dates import FIRST, day_of, last_day, today
from affiliations.db import is_true
from affiliations.models.accounts import account_display
from affiliations.models.conversion import Conversion, HasReason
from affiliations.models.partner import Partner

#: What a reference may contain: the year, the month and the number in the year of the statement.
REFERENCE_PLACEHOLDERS = ("{year}", "{month}", "{number}")


#: A payment may be planned up to this far ahead; a later day is a typing mistake.
_LATEST_PAYMENT = timedelta(days=366)


def validate_payment_day(day: date) -> None:
    """Refuse a day far in the past or in the future. A payment may be older than its statement."""
    last = today() + _LATEST_PAYMENT
    if not FIRST <= day <= last:
        text = gettext("Enter a day between %(first)s and %(last)s.")
        first = date_format(FIRST, "SHORT_DATE_FORMAT")
        last_text = date_format(last, "SHORT_DATE_FORMAT")
        raise ValidationError(text % {"first": first, "last": last_text})


class StatementLock(models.Model):
    """The one row that is locked to number a statement."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)

    class Meta:
        verbose_name = _("lock of statement numbers")
        verbose_name_plural = _("locks of statement numbers")

    def __str__(self) -> str:
        return f"{self.pk}"

    @classmethod
    def acquire(cls, alias: str) -> None:
        """
        Lock the row until the transaction ends; other transactions that number statements wait.

        It is updated, which locks it on every database. On SQLite this also keeps a transaction
        from failing later, because it has read before it writes.
        """
        rows = cls._default_manager.using(alias)
        # A migration creates the row: two transactions that create it at once could deadlock.
        if not rows.filter(pk=1).update(id=1):
            rows.get_or_create(pk=1)


class SettlementQuerySet(models.QuerySet["Settlement"]):
    def notice_due(self) -> SettlementQuerySet:
        """Keep those that no notice has told the partner of."""
        return self.filter(is_true("notice_due"))

    def next_number(self, year: int) -> int:
        last: int | None = self.filter(year=year).aggregate(last=Max("year_number"))["last"]
        return (last or 0) + 1


class Settlement(models.Model):
    """
    A payout statement: a sum that a partner is paid at once, in one currency.

    Its lines are the conversions and adjustments that refer to it; each refers to one settlement at
    most. Neither the lines nor the amounts ever change, whatever is decided later. The date and
    reference of the payment can be entered and corrected.
    """

    class CutOff(models.TextChoices):
        APPROVED = "approved", _("approved until")
        ORDERED = "ordered", _("ordered until")

    id = models.BigAutoField(primary_key=True)
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="settlements",
        # The conversions have such a constraint already. On MariaDB this one would lock the
        # partner's row before those of the conversions; a decision locks them the other way round.
        db_constraint=False,
        verbose_name=_("partner"),
    )
    currency = models.CharField(_("currency"), max_length=3)
    reference = models.CharField(
        _("reference"),
        max_length=255,
        blank=True,
        help_text=_("Your own number for the statement, such as an invoice number."),
    )
    #: What must have happened ``before``: the approvals of the conversions, or the orders.
    cut_off = models.CharField(
        _("cut-off"),
        max_length=8,
        choices=CutOff.choices,
        default=CutOff.APPROVED,
        db_default=CutOff.APPROVED.value,
    )
    before = models.DateTimeField(
        _("before"),
        help_text=_(
            "Includes conversions approved, or ordered, before this time with their adjustments, "
            "and adjustments of conversions in previous statements."
        ),
    )
    conversion_count = models.PositiveIntegerField(_("conversions"), default=0)
    # Wider than the columns that are summed up.
    earned = models.DecimalField(
        _("payout for conversions"), max_digits=25, decimal_places=4, default=Decimal(0)
    )
    adjustment_count = models.PositiveIntegerField(_("adjustments"), default=0)
    adjusted = models.DecimalField(
        _("payout from adjustments"), max_digits=25, decimal_places=4, default=Decimal(0)
    )
    #: The year and the number of the statement in it are unique together.
    year = models.PositiveSmallIntegerField(_("year"), null=True, editable=False)
    year_number = models.PositiveIntegerField(_("number in the year"), null=True, editable=False)
    #: Whether no notice has told the partner of it yet.
    notice_due = models.BooleanField(default=False, db_default=False, editable=False)
    paid_on = models.DateField(_("paid on"), null=True, blank=True, db_index=True)
    payment_reference = models.CharField(
        _("payment reference"),
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("Your bank’s id of the payment, for example."),
    )
    created_on = models.DateTimeField(_("created on"), default=timezone.now, db_index=True)
    created_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("created by"),
    )
    #: Kept when the account is deleted.
    created_by_name = models.CharField(
        _("created by (name)"), max_length=150, blank=True, default="", db_default=""
    )

    objects = SettlementQuerySet.as_manager()

    created_by_display = account_display("created_by")

    class Meta:
        verbose_name = _("payout statement")
        verbose_name_plural = _("payout statements")
        constraints = [
            models.UniqueConstraint(
                fields=["year", "year_number"], name="affiliations_statement_number"
            )
        ]
        indexes = [
            models.Index(fields=["notice_due", "partner"], name="affiliations_settle_notice"),
        ]

    def __str__(self) -> str:
        return self.reference or gettext("Statement %(number)s") % {"number": self.serial_number}

    def clean(self) -> None:
        if self.paid_on is not None:
            try:
                validate_payment_day(self.paid_on)
            except ValidationError as error:
                raise ValidationError({"paid_on": error}) from error

    @property
    def serial_number(self) -> str:
        """The year and its number in the year, such as ``"2026-000012"``: no two have the same."""
        return self.filled_in("{year}-{number}")

    def number_next(self, alias: str) -> None:
        """Give it the next number of the year of its creation, in the site's time zone."""
        self.year = day_of(self.created_on).year
        self.year_number = Settlement.objects.using(alias).next_number(self.year)

    def filled_in(self, pattern: str) -> str:
        """Return a pattern with this statement's year, month and number filled in."""
        month = day_of(self.created_on).month
        values = (self.year, f"{month:02}", f"{self.year_number or 0:06}")
        for name, value in zip(REFERENCE_PLACEHOLDERS, values, strict=True):
            pattern = pattern.replace(name, str(value))
        return pattern

    @property
    def number(self) -> str:
        """The reference, or else the serial number."""
        return self.reference or self.serial_number

    @property
    def total(self) -> Decimal:
        """The sum that the partner is paid; a negative sum is owed by the partner."""
        return self.earned + self.adjusted

    @property
    def until(self) -> date:
        """The last day that is included; the moment ``before`` itself, if it does not end a day."""
        return last_day(self.before)

    @property
    def line_count(self) -> int:
        return self.conversion_count + self.adjustment_count


class Adjustment(HasReason, models.Model):
    """
    A change of a conversion's payout. The conversion keeps its payout; an adjustment never changes.

    It is settled together with its conversion, or in the next settlement if the conversion is
    settled already.
    """

    class Kind(models.TextChoices):
        REJECTED = "rejected", _("rejected")
        BROUGHT_BACK = "brought_back", _("approved again")
        ADJUSTED = "adjusted", _("payout changed")

    id = models.BigAutoField(primary_key=True)
    conversion = models.ForeignKey(
        Conversion,
        on_delete=models.PROTECT,
        related_name="adjustments",
        verbose_name=_("conversion"),
    )
    #: A copy of the conversion's partner.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="adjustments",
        verbose_name=_("partner"),
    )
    kind = models.CharField(_("type"), max_length=12, choices=Kind.choices)
    amount = models.DecimalField(
        _("amount"),
        max_digits=19,
        decimal_places=4,
        null=True,
        blank=True,
        help_text=_(
            "The change of the order amount, in its currency. A negative value reduces it."
        ),
    )
    payout = models.DecimalField(
        _("payout"),
        max_digits=19,
        decimal_places=4,
        help_text=_("The change of the payout. A negative value takes money back (clawback)."),
    )
    currency = models.CharField(
        _("currency"), max_length=3, help_text=_("The currency of the conversion’s payout.")
    )
    reason = models.CharField(_("reason"), max_length=255)
    settlement = models.ForeignKey(
        Settlement,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="adjustments",
        # The first column of an index.
        db_index=False,
        verbose_name=_("payout statement"),
        help_text=_("Empty until the adjustment is in a statement."),
    )
    created_on = models.DateTimeField(_("adjusted on"), default=timezone.now, db_index=True)
    created_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("adjusted by"),
    )
    #: Kept when the account is deleted.
    created_by_name = models.CharField(
        _("adjusted by (name)"), max_length=150, blank=True, default="", db_default=""
    )

    created_by_display = account_display("created_by")

    class Meta:
        verbose_name = _("adjustment")
        verbose_name_plural = _("adjustments")
        indexes = [
            models.Index(fields=["settlement", "id"], name="affiliations_adj_settlement"),
        ]

    def __str__(self) -> str:
        return f"{self.conversion_id}: {money(self.payout, self.currency)}"
