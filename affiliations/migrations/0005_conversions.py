from decimal import Decimal

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """Create the tables of conversions and payout statements, and of triggers that were not credited."""

    dependencies = [
        ("affiliations", "0004_visitors"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Settlement",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "partner",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="settlements",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                ("currency", models.CharField(max_length=3, verbose_name="currency")),
                (
                    "reference",
                    models.CharField(
                        blank=True,
                        help_text="Your own number for the statement, such as an invoice number.",
                        max_length=255,
                        verbose_name="reference",
                    ),
                ),
                (
                    "cut_off",
                    models.CharField(
                        choices=[("approved", "approved until"), ("ordered", "ordered until")],
                        db_default="approved",
                        default="approved",
                        max_length=8,
                        verbose_name="cut-off",
                    ),
                ),
                (
                    "before",
                    models.DateTimeField(
                        help_text="Includes conversions approved, or ordered, before this time with their adjustments, and adjustments of conversions in previous statements.",
                        verbose_name="before",
                    ),
                ),
                (
                    "conversion_count",
                    models.PositiveIntegerField(default=0, verbose_name="conversions"),
                ),
                (
                    "earned",
                    models.DecimalField(
                        decimal_places=4,
                        default=Decimal("0"),
                        max_digits=25,
                        verbose_name="payout for conversions",
                    ),
                ),
                (
                    "adjustment_count",
                    models.PositiveIntegerField(default=0, verbose_name="adjustments"),
                ),
                (
                    "adjusted",
                    models.DecimalField(
                        decimal_places=4,
                        default=Decimal("0"),
                        max_digits=25,
                        verbose_name="payout from adjustments",
                    ),
                ),
                (
                    "year",
                    models.PositiveSmallIntegerField(
                        editable=False, null=True, verbose_name="year"
                    ),
                ),
                (
                    "year_number",
                    models.PositiveIntegerField(
                        editable=False, null=True, verbose_name="number in the year"
                    ),
                ),
                (
                    "notice_due",
                    models.BooleanField(db_default=False, default=False, editable=False),
                ),
                (
                    "paid_on",
                    models.DateField(blank=True, db_index=True, null=True, verbose_name="paid on"),
                ),
                (
                    "payment_reference",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Your bank’s id of the payment, for example.",
                        max_length=255,
                        verbose_name="payment reference",
                    ),
                ),
                (
                    "created_on",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="created on"
                    ),
                ),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="created by",
                    ),
                ),
                (
                    "created_by_name",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=150,
                        verbose_name="created by (name)",
                    ),
                ),
            ],
            options={
                "verbose_name": "payout statement",
                "verbose_name_plural": "payout statements",
                "indexes": [
                    models.Index(
                        fields=["notice_due", "partner"], name="affiliations_settle_notice"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("year", "year_number"), name="affiliations_statement_number"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="StatementLock",
            fields=[
                (
                    "id",
                    models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False),
                ),
            ],
            options={
                "verbose_name": "lock of statement numbers",
                "verbose_name_plural": "locks of statement numbers",
            },
        ),
        migrations.CreateModel(
            name="Conversion",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "visitor",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.visitor",
                        verbose_name="visitor",
                    ),
                ),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.subscription",
                        verbose_name="subscription",
                    ),
                ),
                ("trigger", models.CharField(max_length=100, verbose_name="trigger")),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        help_text="The buyer.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
                (
                    "reference",
                    models.CharField(
                        blank=True,
                        help_text="This site’s own id of the event, such as an order number.",
                        max_length=255,
                        verbose_name="reference",
                    ),
                ),
                (
                    "code",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        editable=False,
                        max_length=40,
                        verbose_name="code",
                    ),
                ),
                (
                    "instead_of",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        editable=False,
                        help_text="The visitor who would have been credited without the code.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="lost_to_codes",
                        to="affiliations.visitor",
                        verbose_name="credited instead of",
                    ),
                ),
                ("has_click", models.BooleanField(db_default=True, default=True, editable=False)),
                *(
                    (
                        f"sub{number}",
                        models.CharField(
                            blank=True,
                            db_default="",
                            default="",
                            max_length=255,
                            verbose_name=f"sub id {number}",
                        ),
                    )
                    for number in range(1, 6)
                ),
                ("dedupe_key", models.CharField(max_length=80, verbose_name="dedupe key")),
                (
                    "reference_key",
                    models.CharField(
                        editable=False, max_length=64, null=True, verbose_name="reference key"
                    ),
                ),
                ("released", models.BigIntegerField(db_default=0, default=0, editable=False)),
                ("closes", models.BooleanField(db_default=False, default=False, editable=False)),
                (
                    "amount",
                    models.DecimalField(
                        blank=True,
                        decimal_places=4,
                        max_digits=19,
                        null=True,
                        verbose_name="amount",
                    ),
                ),
                ("currency", models.CharField(blank=True, max_length=3, verbose_name="currency")),
                (
                    "payout_type",
                    models.CharField(
                        choices=[
                            ("none", "No commission"),
                            ("fixed", "Fixed amount"),
                            ("percent", "Percentage of the amount"),
                            ("custom", "Calculated by this site"),
                        ],
                        default="none",
                        max_length=7,
                        verbose_name="payout rule",
                    ),
                ),
                (
                    "payout_value",
                    models.DecimalField(
                        blank=True,
                        decimal_places=4,
                        max_digits=19,
                        null=True,
                        verbose_name="payout value",
                    ),
                ),
                (
                    "payout",
                    models.DecimalField(
                        blank=True,
                        decimal_places=4,
                        max_digits=19,
                        null=True,
                        verbose_name="payout",
                    ),
                ),
                (
                    "payout_currency",
                    models.CharField(blank=True, max_length=3, verbose_name="payout currency"),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "pending"),
                            ("approved", "approved"),
                            ("rejected", "rejected"),
                        ],
                        default="approved",
                        max_length=8,
                        verbose_name="status",
                    ),
                ),
                (
                    "reason",
                    models.CharField(
                        blank=True,
                        help_text="Why the conversion is pending or was rejected.",
                        max_length=255,
                        verbose_name="reason",
                    ),
                ),
                (
                    "review_reason",
                    models.CharField(
                        blank=True,
                        default="",
                        editable=False,
                        max_length=32,
                        verbose_name="review reason",
                    ),
                ),
                (
                    "review_text",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        editable=False,
                        max_length=255,
                        verbose_name="review text",
                    ),
                ),
                (
                    "approve_on",
                    models.DateTimeField(
                        blank=True,
                        help_text="When the conversion is approved automatically, unless it is decided earlier.",
                        null=True,
                        verbose_name="approve on",
                    ),
                ),
                (
                    "decided_on",
                    models.DateTimeField(blank=True, null=True, verbose_name="decided on"),
                ),
                (
                    "decided_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="decided by",
                    ),
                ),
                (
                    "decided_by_name",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=150,
                        verbose_name="decided by (name)",
                    ),
                ),
                (
                    "decided_via",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("person", "staff"),
                            ("signal", "a signal of this site"),
                            ("schedule", "the end of the hold period"),
                            ("at_once", "automatically, when it was recorded"),
                        ],
                        db_default="",
                        default="",
                        max_length=8,
                        verbose_name="decided via",
                    ),
                ),
                (
                    "is_reopened",
                    models.BooleanField(db_default=False, default=False, editable=False),
                ),
                (
                    "may_be_paid",
                    models.BooleanField(db_default=False, default=False, editable=False),
                ),
                (
                    "credited_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="credited by",
                    ),
                ),
                (
                    "credited_by_name",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=150,
                        verbose_name="credited by (name)",
                    ),
                ),
                (
                    "credit_reason",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Why staff credited the conversion manually.",
                        max_length=255,
                        verbose_name="reason for the credit",
                    ),
                ),
                (
                    "settlement",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        help_text="The statement that includes the payout.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.settlement",
                        verbose_name="payout statement",
                    ),
                ),
                (
                    "notified_events",
                    models.JSONField(
                        blank=True, default=list, editable=False, verbose_name="notified events"
                    ),
                ),
                ("is_test", models.BooleanField(default=False, verbose_name="test")),
                (
                    "notice_due",
                    models.BooleanField(db_default=False, default=False, editable=False),
                ),
                (
                    "created_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="created on"
                    ),
                ),
            ],
            options={
                "verbose_name": "conversion",
                "verbose_name_plural": "conversions",
                "indexes": [
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
                    models.Index(
                        fields=["status", "approve_on"], name="affiliations_conversion_waits"
                    ),
                    models.Index(
                        fields=["status", "review_reason", "is_test", "payout_currency", "payout"],
                        name="affiliations_conv_waiting",
                    ),
                    models.Index(fields=["reference"], name="affiliations_conversion_ref"),
                    models.Index(
                        fields=["partner", "created_on", "status", "is_test"],
                        name="affiliations_conv_record",
                    ),
                    models.Index(fields=["is_test", "id"], name="affiliations_conv_test"),
                    models.Index(fields=["notice_due", "partner"], name="affiliations_conv_notice"),
                    models.Index(fields=["settlement", "id"], name="affiliations_conv_settlement"),
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
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("trigger", "dedupe_key", "released"),
                        name="affiliations_conversion_counted_once",
                    ),
                    models.UniqueConstraint(
                        fields=("trigger", "reference_key", "released"),
                        name="affiliations_conversion_credited_once",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Adjustment",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "conversion",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="adjustments",
                        to="affiliations.conversion",
                        verbose_name="conversion",
                    ),
                ),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="adjustments",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("rejected", "rejected"),
                            ("brought_back", "approved again"),
                            ("adjusted", "payout changed"),
                        ],
                        max_length=12,
                        verbose_name="type",
                    ),
                ),
                (
                    "amount",
                    models.DecimalField(
                        blank=True,
                        decimal_places=4,
                        help_text="The change of the order amount, in its currency. A negative value reduces it.",
                        max_digits=19,
                        null=True,
                        verbose_name="amount",
                    ),
                ),
                (
                    "payout",
                    models.DecimalField(
                        decimal_places=4,
                        help_text="The change of the payout. A negative value takes money back (clawback).",
                        max_digits=19,
                        verbose_name="payout",
                    ),
                ),
                (
                    "currency",
                    models.CharField(
                        help_text="The currency of the conversion’s payout.",
                        max_length=3,
                        verbose_name="currency",
                    ),
                ),
                ("reason", models.CharField(max_length=255, verbose_name="reason")),
                (
                    "settlement",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        help_text="Empty until the adjustment is in a statement.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="adjustments",
                        to="affiliations.settlement",
                        verbose_name="payout statement",
                    ),
                ),
                (
                    "created_on",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="adjusted on"
                    ),
                ),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="adjusted by",
                    ),
                ),
                (
                    "created_by_name",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=150,
                        verbose_name="adjusted by (name)",
                    ),
                ),
            ],
            options={
                "verbose_name": "adjustment",
                "verbose_name_plural": "adjustments",
                "indexes": [
                    models.Index(fields=["settlement", "id"], name="affiliations_adj_settlement")
                ],
            },
        ),
        migrations.CreateModel(
            name="UncreditedTrigger",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "visitor",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="uncredited_triggers",
                        to="affiliations.visitor",
                        verbose_name="visitor",
                    ),
                ),
                ("trigger", models.CharField(max_length=100, verbose_name="trigger")),
                ("reason", models.CharField(max_length=20, verbose_name="reason")),
                (
                    "reference",
                    models.CharField(
                        blank=True,
                        help_text="The reference of the latest event.",
                        max_length=255,
                        verbose_name="reference",
                    ),
                ),
                ("count", models.PositiveIntegerField(default=1, verbose_name="count")),
                ("first_on", models.DateTimeField(verbose_name="first fired on")),
                ("last_on", models.DateTimeField(verbose_name="last fired on")),
            ],
            options={
                "verbose_name": "uncredited trigger",
                "verbose_name_plural": "uncredited triggers",
                "indexes": [models.Index(fields=["reference"], name="affiliations_uncredited_ref")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("visitor", "trigger", "reason"),
                        name="affiliations_uncredited_trigger_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="FailedTrigger",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("trigger", models.CharField(max_length=100, verbose_name="trigger")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("credit", "credit"),
                            ("approve", "approval"),
                            ("reject", "rejection"),
                            ("adjust", "adjustment"),
                        ],
                        max_length=8,
                        verbose_name="type",
                    ),
                ),
                (
                    "visitor",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="failed_triggers",
                        to="affiliations.visitor",
                        verbose_name="visitor",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
                (
                    "codes",
                    models.TextField(blank=True, db_default="", default="", verbose_name="codes"),
                ),
                ("reference", models.TextField(blank=True, verbose_name="reference")),
                ("amount", models.CharField(blank=True, max_length=64, verbose_name="amount")),
                ("currency", models.CharField(blank=True, max_length=64, verbose_name="currency")),
                ("error", models.CharField(blank=True, max_length=255, verbose_name="error")),
                ("tries", models.PositiveSmallIntegerField(default=1, verbose_name="attempts")),
                (
                    "created_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="created on"
                    ),
                ),
                ("due_on", models.DateTimeField(db_index=True, verbose_name="next attempt on")),
            ],
            options={
                "verbose_name": "failed trigger",
                "verbose_name_plural": "failed triggers",
            },
        ),
    ]
