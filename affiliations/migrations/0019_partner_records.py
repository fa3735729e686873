from __future__ import annotations

from collections import Counter
from importlib import import_module

import django.core.validators
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from affiliations.dates import day_of

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


def number(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Number the statements of each year, the oldest first."""
    rows = apps.get_model("affiliations", "Settlement").objects
    statements = rows.using(schema_editor.connection.alias)
    counts: Counter[int] = Counter()
    for key, created_on in statements.order_by("created_on", "pk").values_list("pk", "created_on"):
        year = day_of(created_on).year
        counts[year] += 1
        statements.filter(pk=key).update(year=year, year_number=counts[year])


class Migration(migrations.Migration):
    """Keep what staff know of a partner, number the statements, and let them be paid."""

    dependencies = [
        ("affiliations", "0018_tests"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Overview",
            fields=[],
            options={
                "verbose_name": "overview",
                "verbose_name_plural": "overview",
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("affiliations.conversion",),
        ),
        migrations.AlterModelOptions(
            name="partner",
            options={
                "permissions": [
                    ("payment_details", "Can view and change payment details of partners")
                ],
                "verbose_name": "partner",
                "verbose_name_plural": "partners",
            },
        ),
        migrations.AddField(
            model_name="partner",
            name="email",
            field=models.EmailField(
                blank=True,
                db_default="",
                default="",
                help_text="Not shown on the partner page.",
                max_length=254,
                verbose_name="contact e-mail",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="group",
            field=models.CharField(
                blank=True,
                db_default="",
                db_index=True,
                default="",
                help_text="A label of your own, such as “Bloggers”, for filters and reports.",
                max_length=100,
                verbose_name="group",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="minimum_payout",
            field=models.DecimalField(
                blank=True,
                decimal_places=4,
                help_text="A smaller balance stays unpaid until it has grown. Leave empty for no minimum.",
                max_digits=19,
                null=True,
                validators=[django.core.validators.MinValueValidator(0)],
                verbose_name="minimum payout",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="minimum_payout_currency",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=3,
                verbose_name="currency of the minimum payout",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="notes",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                help_text="For staff only.",
                verbose_name="notes",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="notify",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="The partner agreed to notices about conversions, statements and callbacks.",
                verbose_name="notify by e-mail",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="payment_details",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                help_text="Where the partner is paid, such as a bank account.",
                verbose_name="payment details",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="terms",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                help_text="Shown to the partner on the partner page.",
                verbose_name="terms",
            ),
        ),
        migrations.AddField(
            model_name="settlement",
            name="cut_off",
            field=models.CharField(
                choices=[("approved", "approved until"), ("ordered", "ordered until")],
                db_default="approved",
                default="approved",
                max_length=8,
                verbose_name="cut-off",
            ),
        ),
        migrations.AddField(
            model_name="settlement",
            name="paid_on",
            field=models.DateField(blank=True, db_index=True, null=True, verbose_name="paid on"),
        ),
        migrations.AddField(
            model_name="settlement",
            name="payment_reference",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Your bank’s id of the payment, for example.",
                max_length=255,
                verbose_name="payment reference",
            ),
        ),
        migrations.AddField(
            model_name="settlement",
            name="year",
            field=models.PositiveSmallIntegerField(editable=False, null=True, verbose_name="year"),
        ),
        migrations.AddField(
            model_name="settlement",
            name="year_number",
            field=models.PositiveIntegerField(
                editable=False, null=True, verbose_name="number in the year"
            ),
        ),
        migrations.RunPython(number, migrations.RunPython.noop, elidable=False),
        migrations.AddConstraint(
            model_name="settlement",
            constraint=models.UniqueConstraint(
                fields=("year", "year_number"), name="affiliations_statement_number"
            ),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
