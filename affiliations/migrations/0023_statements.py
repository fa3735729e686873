from __future__ import annotations

from importlib import import_module

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


def create_lock(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    locks = apps.get_model("affiliations", "StatementLock").objects
    locks.using(schema_editor.connection.alias).create(pk=1)


class Migration(migrations.Migration):
    """Number the statements one after the other, and sum up the balances from an index alone."""

    dependencies = [("affiliations", "0022_conversion_record")]

    operations = [
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
        migrations.RunPython(create_lock, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name="conversion",
            index=models.Index(
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
        ),
        migrations.RemoveIndex(model_name="conversion", name="affiliations_conv_unsettled"),
        migrations.AlterField(
            model_name="settlement",
            name="before",
            field=models.DateTimeField(
                help_text="Includes conversions approved, or ordered, before this time with their adjustments, and adjustments of conversions in previous statements.",
                verbose_name="before",
            ),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
