from __future__ import annotations

from importlib import import_module
from typing import Any

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

ONCE = "affiliations_callback_event_told_once"


def refuse(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Stop on the way back before anything is lost, as 0006 and 0005 would."""
    import_module("affiliations.migrations.0006_settlement").refuse(apps, schema_editor)


def state_only(
    operation: migrations.operations.base.Operation,
) -> migrations.SeparateDatabaseAndState:
    return migrations.SeparateDatabaseAndState(state_operations=[operation])


def renamed(old: str, new: str) -> migrations.SeparateDatabaseAndState:
    """
    Rename a model and its table, and leave the content types alone.

    Django's own renaming of them fails on the way back to the tables of Django 1.11.
    """
    operations = [migrations.RenameModel(old, new)]
    return migrations.SeparateDatabaseAndState(operations, operations)


def foreign_key(
    model: str, field: str, to: str, related_name: str, **options: Any
) -> migrations.AlterField:
    options.setdefault("on_delete", models.PROTECT)
    key: Any = models.ForeignKey(f"affiliations.{to}", related_name=related_name, **options)
    return migrations.AlterField(model, field, key)


class Migration(migrations.Migration):
    """Give models and fields plain names. The databases rename the columns of the constraint."""

    dependencies = [("affiliations", "0009_doubt_and_told")]

    operations = [
        renamed("Correction", "Adjustment"),
        renamed("UncountedClicks", "FilteredClicks"),
        renamed("UncountedTrigger", "UncreditedTrigger"),
        renamed("ClickCount", "RollupState"),
        migrations.RenameField("Conversion", "doubt", "review_reason"),
        migrations.RenameField("Conversion", "told", "notified_events"),
        state_only(migrations.RemoveConstraint("Callback", ONCE)),
        migrations.RenameField("Callback", "edition", "version"),
        state_only(
            migrations.AddConstraint(
                "Callback",
                models.UniqueConstraint(
                    fields=["conversion", "subscription", "event", "version"], name=ONCE
                ),
            )
        ),
        migrations.RenameField("Settlement", "correction_count", "adjustment_count"),
        migrations.RenameField("Settlement", "corrected", "adjusted"),
        foreign_key(
            "Adjustment", "conversion", "conversion", "adjustments", verbose_name="conversion"
        ),
        foreign_key("Adjustment", "partner", "partner", "adjustments", verbose_name="partner"),
        foreign_key(
            "Adjustment",
            "settlement",
            "settlement",
            "adjustments",
            verbose_name="settlement",
            blank=True,
            null=True,
            db_index=False,
            help_text="Empty until it enters one.",
        ),
        foreign_key(
            "UncreditedTrigger",
            "visitor",
            "visitor",
            "uncredited_triggers",
            verbose_name="visitor",
            on_delete=models.CASCADE,
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
