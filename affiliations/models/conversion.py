"""The conversion: a completed trigger, credited to a visitor."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.conf import settings as django_settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.exceptions import Reason
from affiliations.models.accounts import account_display
from affiliations.models.conversion_queries import ConversionQuerySet
from affiliations.models.partner import Partner
from affiliations.models.subscription import Subscription
from affiliations.models.visitor import SubIds, Visitor


class HasReason:
    reason: Any

    @property
    def reason_display(self) -> str:
        """The reason in the reader's language, if it is one of the app's own."""
        return gettext(self.reason) if self.reason else ""


class Conversion(HasReason, SubIds):
    """
    A completed trigger, credited to a visitor and its partner.

    The trigger's name and the payout rule are copies: later changes of the subscription do not
    change a conversion. Two unique keys prevent double counting: ``dedupe_key`` follows the rule of
    the subscription, and ``reference_key`` allows one conversion of a reference, of any visitor.
    ``released`` takes a rejected conversion out of both.
    """

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        APPROVED = "approved", _("approved")
        REJECTED = "rejected", _("rejected")

    class Via(models.TextChoices):
        PERSON = "person", _("staff")
        SIGNAL = "signal", _("a signal of this site")
        SCHEDULE = "schedule", _("the end of the hold period")
        AT_ONCE = "at_once", _("automatically, when it was recorded")

    #: The type of a payout by ``AFFILIATE_PAYOUT``, which no subscription can have.
    CUSTOM = "custom"

    id = models.BigAutoField(primary_key=True)
    visitor = models.ForeignKey(
        Visitor,
        on_delete=models.PROTECT,
        related_name="conversions",
        verbose_name=_("visitor"),
    )
    #: A copy of the visitor's partner.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="conversions",
        verbose_name=_("partner"),
    )
    #: The partner's subscription to the trigger.
    subscription = models.ForeignKey(
        Subscription,
        on_delete=models.PROTECT,
        related_name="conversions",
        verbose_name=_("subscription"),
    )
    #: A name in ``AFFILIATE_TRIGGERS``.
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
        help_text=_("This site’s own id of the event, such as an order number."),
    )
    #: The partner's code on the order, as it was typed; empty if a click was credited.
    code = models.CharField(
        _("code"), max_length=40, blank=True, default="", db_default="", editable=False
    )
    # Without a constraint, which would lock two visitors, in any order.
    instead_of = models.ForeignKey(
        Visitor,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_constraint=False,
        editable=False,
        related_name="lost_to_codes",
        verbose_name=_("credited instead of"),
        help_text=_("The visitor who would have been credited without the code."),
    )
    #: Whether the visitor came by a click, not by a code. A copy, so that reports need not join
    #: visitors.
    has_click = models.BooleanField(default=True, db_default=True, editable=False)
    #: What the subscription counts: the visitor, or the hash of the reference.
    dedupe_key = models.CharField(_("dedupe key"), max_length=80)
    # NULL without a reference: of several empty texts, all but the first would be duplicates.
    reference_key = models.CharField(  # noqa: DJ001 -- see above
        _("reference key"), max_length=64, null=True, editable=False
    )
    #: Part of both unique keys: 0, or the row's own key once it is rejected, so that a rejection
    #: frees the keys. MariaDB has no unique keys with a condition.
    released = models.BigIntegerField(default=0, db_default=0, editable=False)
    #: Whether it closed the visitor's referral. This never changes, although a rejection opens the
    #: referral again.
    closes = models.BooleanField(default=False, db_default=False, editable=False)
    #: The order amount that the payout is based on, as recorded or as filled in by staff.
    amount = models.DecimalField(
        _("amount"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    #: The subscription's type of payout when the conversion was recorded, as is the value.
    payout_type = models.CharField(
        _("payout rule"),
        max_length=7,
        choices=[*Subscription.PayoutType.choices, (CUSTOM, _("Calculated by this site"))],
        default=Subscription.PayoutType.NONE,
    )
    payout_value = models.DecimalField(
        _("payout value"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    #: As calculated when the conversion was recorded, or as filled in by staff. Later changes are
    #: adjustments.
    payout = models.DecimalField(
        _("payout"), max_digits=19, decimal_places=4, null=True, blank=True
    )
    payout_currency = models.CharField(_("payout currency"), max_length=3, blank=True)
    status = models.CharField(
        _("status"), max_length=8, choices=Status.choices, default=Status.APPROVED
    )
    reason = models.CharField(
        _("reason"),
        max_length=255,
        blank=True,
        help_text=_("Why the conversion is pending or was rejected."),
    )
    #: A code of ``Reason``. It is never cleared, so that no signal approves such a conversion.
    review_reason = models.CharField(
        _("review reason"), max_length=32, blank=True, default="", editable=False
    )
    #: The review reason in words. It is never cleared either, but ``reason`` changes with each
    #: decision.
    review_text = models.CharField(
        _("review text"), max_length=255, blank=True, default="", db_default="", editable=False
    )
    approve_on = models.DateTimeField(
        _("approve on"),
        null=True,
        blank=True,
        help_text=_("When the conversion is approved automatically, unless it is decided earlier."),
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
    #: Kept when the account is deleted. Empty for a signal, whose user is a customer.
    decided_by_name = models.CharField(
        _("decided by (name)"), max_length=150, blank=True, default="", db_default=""
    )
    decided_via = models.CharField(
        _("decided via"),
        max_length=8,
        choices=Via.choices,
        blank=True,
        default="",
        db_default="",
    )
    #: Whether staff have reopened it after a rejection. Then no signal rejects it again.
    is_reopened = models.BooleanField(default=False, db_default=False, editable=False)
    #: Whether a signal may approve it although it is rejected, such as after a declined card.
    may_be_paid = models.BooleanField(default=False, db_default=False, editable=False)
    credited_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("credited by"),
    )
    credited_by_name = models.CharField(
        _("credited by (name)"), max_length=150, blank=True, default="", db_default=""
    )
    credit_reason = models.CharField(
        _("reason for the credit"),
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("Why staff credited the conversion manually."),
    )
    settlement = models.ForeignKey(
        "affiliations.Settlement",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="conversions",
        # The first column of two indexes.
        db_index=False,
        verbose_name=_("payout statement"),
        help_text=_("The statement that includes the payout."),
    )
    #: The events of purged callbacks, as "<event>:<primary key of the subscription>".
    notified_events = models.JSONField(
        _("notified events"), default=list, blank=True, editable=False
    )
    is_test = models.BooleanField(_("test"), default=False)
    #: Whether no notice has told the partner of the decision yet. Written with the decision, for
    #: every partner: a run of notices clears it, also for partners without notices.
    notice_due = models.BooleanField(default=False, db_default=False, editable=False)
    created_on = models.DateTimeField(_("created on"), default=timezone.now)

    objects = ConversionQuerySet.as_manager()

    decided_by_display = account_display("decided_by")
    credited_by_display = account_display("credited_by")

    class Meta:
        verbose_name = _("conversion")
        verbose_name_plural = _("conversions")
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "dedupe_key", "released"],
                name="affiliations_conversion_counted_once",
            ),
            models.UniqueConstraint(
                fields=["trigger", "reference_key", "released"],
                name="affiliations_conversion_credited_once",
            ),
        ]
        indexes = [
            # For reports, which add up without reading the rows.
            models.Index(
                fields=[
                    "created_on",
                    "is_test",
                    "partner",
                    "status",
                    "payout_currency",
                    "currency",
                    "payout_type",
                    "payout",
                    "amount",
                    "has_click",
                ],
                name="affiliations_conv_report",
            ),
            models.Index(fields=["status", "approve_on"], name="affiliations_conversion_waits"),
            # For the sums of payouts in the overview, which add up without reading the rows.
            models.Index(
                fields=["status", "review_reason", "is_test", "payout_currency", "payout"],
                name="affiliations_conv_waiting",
            ),
            models.Index(fields=["reference"], name="affiliations_conversion_ref"),
            # With the last two columns, the record of a partner is read from the index alone.
            models.Index(
                fields=["partner", "created_on", "status", "is_test"],
                name="affiliations_conv_record",
            ),
            models.Index(fields=["is_test", "id"], name="affiliations_conv_test"),
            models.Index(fields=["notice_due", "partner"], name="affiliations_conv_notice"),
            # For the lines of a payout statement.
            models.Index(fields=["settlement", "id"], name="affiliations_conv_settlement"),
            # All columns from which balances are added up, so that no row is read.
            models.Index(
                fields=[
                    "settlement",
                    "status",
                    "is_test",
                    "partner",
                    "payout_currency",
                    "decided_on",
                    "created_on",
                    "payout",
                ],
                name="affiliations_conv_unpaid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.trigger}: {self.reference}" if self.reference else self.trigger

    @property
    def is_adjustable(self) -> bool:
        """Whether the payout or the amount can be adjusted."""
        has_money = self.payout is not None or self.amount is not None
        return self.status != self.Status.REJECTED and has_money and not self.is_test

    @property
    def is_percentage(self) -> bool:
        """Whether the payout is a percentage of the amount."""
        return self.payout_type == Subscription.PayoutType.PERCENT

    @property
    def is_custom(self) -> bool:
        """Whether ``AFFILIATE_PAYOUT`` has calculated the payout, or has failed to."""
        return self.payout_type == self.CUSTOM

    @property
    def depends_on_amount(self) -> bool:
        """Whether the payout depends on the amount, or may, as one by ``AFFILIATE_PAYOUT`` does."""
        return self.is_percentage or (self.is_custom and (self.amount or 0) > 0)

    @property
    def is_in_two_currencies(self) -> bool:
        """Whether the payout depends on an amount in another currency, so no rule can adjust it."""
        is_other = self.payout_currency != self.currency
        return self.depends_on_amount and bool(self.payout) and is_other

    @property
    def needs_payout(self) -> bool:
        """Whether an approval would pay nothing until staff have entered the payout."""
        return self.is_custom and self._is_unpaid

    @property
    def may_get_amount(self) -> bool:
        """Whether it is pending, and staff may fill in its amount, which is missing or unusable."""
        if self.status != self.Status.PENDING:
            return False
        if self.is_percentage:
            return self.payout is None
        return not self.amount and not self.current_amount

    @property
    def needs_amount(self) -> bool:
        """Whether an approval would pay nothing until staff have filled in the amount."""
        return self.is_percentage and self._is_unpaid

    @property
    def _is_unpaid(self) -> bool:
        return self.status != self.Status.APPROVED and self.payout is None

    @property
    def current_amount(self) -> Decimal | None:
        """The amount after its adjustments; see ``with_adjustments()``."""
        return self.adjusted("amount", self.adjustments.all())

    @property
    def current_payout(self) -> Decimal | None:
        """The payout after its adjustments; if rejected, what it would be without the rejection."""
        return self.adjusted("payout", self.adjustments.all())

    @property
    def payout_change(self) -> Decimal | None:
        """The sum of all adjustments of the payout; ``None`` without any."""
        adjustments = self.adjustments.all()
        return sum((row.payout for row in adjustments), Decimal(0)) if adjustments else None

    @property
    def decider(self) -> str:
        """Who or what has decided: staff by name, or how else; empty while it is undecided."""
        return self.decided_by_display or self.get_decided_via_display()

    def adjusted(self, name: str, adjustments: Iterable[Any]) -> Decimal | None:
        """Return the amount or the payout after adjustments."""
        recorded: Decimal | None = getattr(self, name)
        if recorded is None:
            return None
        # The other kinds take back what a rejected conversion was paid, and restore it.
        changes = [getattr(row, name) for row in adjustments if row.kind == row.Kind.ADJUSTED]
        return sum((change for change in changes if change is not None), recorded)

    def is_noticed(self, status: str) -> bool:
        """Tell whether a notice is due when it gets this status. A test has no notices."""
        return status != self.Status.PENDING and not self.is_test

    @property
    def is_paid(self) -> bool:
        """Whether it has a payout that is paid after its approval. A test is never paid."""
        return self.payout is not None and not self.is_test

    @property
    def needs_review(self) -> bool:
        """Whether it is pending, and only staff can approve it."""
        return self.status == self.Status.PENDING and bool(self.review_reason)

    @property
    def review_display(self) -> str:
        """Why it needs review, or needed it, in the reader's language; empty if it never did."""
        return gettext(self.review_text) if self.review_text else Reason.display(self.review_reason)
