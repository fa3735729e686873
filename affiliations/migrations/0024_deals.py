from __future__ import annotations

from importlib import import_module

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.text
from django.db import migrations, models
from django.utils import timezone

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


class Migration(migrations.Migration):
    """Earn for longer than the attribution window, and credit by a partner's code."""

    dependencies = [
        ("affiliations", "0023_statements"),
    ]

    operations = [
        migrations.AddField(
            model_name="conversion",
            name="code",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=40,
                verbose_name="code",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="has_click",
            field=models.BooleanField(db_default=True, default=True, editable=False),
        ),
        migrations.AddField(
            model_name="conversion",
            name="instead_of",
            field=models.ForeignKey(
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
        migrations.AddField(
            model_name="failedtrigger",
            name="codes",
            field=models.TextField(blank=True, db_default="", default="", verbose_name="codes"),
        ),
        migrations.AddField(
            model_name="subscription",
            name="earns_for",
            field=models.CharField(
                choices=[
                    ("window", "The attribution window"),
                    ("months", "A number of months after the first conversion"),
                    ("always", "Always, after the first conversion"),
                ],
                db_default="window",
                default="window",
                help_text="How long later orders of the same customer are credited, such as renewals.",
                max_length=6,
                verbose_name="earns for",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="earns_months",
            field=models.PositiveSmallIntegerField(
                blank=True, null=True, verbose_name="earns for (months)"
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="code_key",
            field=models.CharField(
                default=None, editable=False, max_length=32, null=True, unique=True
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="source",
            field=models.CharField(
                choices=[
                    ("link", "Link"),
                    ("code", "Code on an order"),
                    ("api", "Without a landing page"),
                ],
                db_default="link",
                default="link",
                editable=False,
                help_text="How the visitor came: by a link, a partner’s code, or your own code.",
                max_length=4,
                verbose_name="source",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="stopped_on",
            field=models.DateTimeField(
                blank=True, editable=False, null=True, verbose_name="tracking stopped by staff on"
            ),
        ),
        migrations.CreateModel(
            name="PartnerCode",
            fields=[
                (
                    "id",
                    models.AutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "code",
                    models.CharField(
                        help_text="A coupon, the end of a readable link, or an id of an earlier system.",
                        max_length=40,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[A-Za-z0-9][A-Za-z0-9_-]{1,38}[A-Za-z0-9]\\Z",
                                "Enter 3 to 40 characters: letters from a to z, digits, - and _. Begin and end with a letter or a digit.",
                            )
                        ],
                        verbose_name="code",
                    ),
                ),
                (
                    "key",
                    models.GeneratedField(
                        db_persist=True,
                        expression=django.db.models.functions.text.Lower("code"),
                        max_length=40,
                        output_field=models.CharField(max_length=40),
                        serialize=False,
                        unique=True,
                    ),
                ),
                ("active", models.BooleanField(default=True, verbose_name="active")),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="codes",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
            ],
            options={
                "verbose_name": "partner code",
                "verbose_name_plural": "partner codes",
            },
        ),
        migrations.AddIndex(
            model_name="conversion",
            index=models.Index(
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
        ),
        migrations.AlterField(
            model_name="conversion",
            name="created_on",
            field=models.DateTimeField(default=timezone.now, verbose_name="created on"),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="payout_type",
            field=models.CharField(
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
        migrations.AddIndex(
            model_name="filteredclicks",
            index=models.Index(
                fields=["day", "reason", "partner", "count"],
                name="affiliations_filtered_sum",
            ),
        ),
        migrations.AlterField(
            model_name="filteredclicks",
            name="day",
            field=models.DateField(verbose_name="day"),
        ),
        migrations.AddField(
            model_name="subscription",
            name="last_error",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=15,
                verbose_name="last error",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="last_status_code",
            field=models.PositiveSmallIntegerField(
                blank=True, editable=False, null=True, verbose_name="last status code"
            ),
        ),
        # Before the other one of the foreign key goes: MariaDB needs one.
        migrations.AddIndex(
            model_name="callback",
            index=models.Index(fields=["partner", "id"], name="affiliations_callback_partner"),
        ),
        migrations.AlterField(
            model_name="callback",
            name="partner",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="callbacks",
                to="affiliations.partner",
                verbose_name="partner",
            ),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
