from importlib import import_module

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def refuse(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Stop on the way back before anything is lost: where 0006 would, and where 0005 would."""
    import_module("affiliations.migrations.0006_settlement").refuse(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [("affiliations", "0008_numbers")]

    operations = [
        migrations.AddField(
            model_name="conversion",
            name="doubt",
            field=models.CharField(
                blank=True, default="", editable=False, max_length=32, verbose_name="doubt"
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="told",
            field=models.JSONField(blank=True, default=list, editable=False, verbose_name="told"),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="before",
            field=models.DateTimeField(
                help_text="What was approved before this moment, with its corrections; and "
                "corrections until then of what was settled earlier.",
                verbose_name="decided before",
            ),
        ),
        migrations.AddIndex(
            model_name="callback",
            index=models.Index(fields=["created_on"], name="affiliations_callback_made"),
        ),
        migrations.AddIndex(
            model_name="callbackattempt",
            index=models.Index(fields=["started_on"], name="affiliations_attempt_began"),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
