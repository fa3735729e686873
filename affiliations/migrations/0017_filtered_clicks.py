from importlib import import_module

import django.db.models.deletion
import django.utils.timezone
from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models.functions import Length

make_rows_dynamic = import_module("affiliations.migrations.0002_referral").make_rows_dynamic
#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


def fit(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Empty the click ids that are too long: a shortened one may be that of another click."""
    visitors = apps.get_model("affiliations", "Visitor").objects.using(
        schema_editor.connection.alias
    )
    visitors.annotate(length=Length("click_id")).filter(length__gt=255).update(click_id="")


class Migration(migrations.Migration):
    """Keep longer click ids, why one is missing, and the last filtered clicks."""

    dependencies = [("affiliations", "0016_floods")]

    operations = [
        migrations.RunPython(make_rows_dynamic, migrations.RunPython.noop, atomic=False),
        migrations.AlterField(
            model_name="visitor",
            name="click_id",
            field=models.CharField(
                blank=True,
                default="",
                help_text="The partner’s own id of the click.",
                max_length=500,
                verbose_name="click id",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="lost_click_id",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=10,
                verbose_name="why the click id is missing",
            ),
        ),
        migrations.CreateModel(
            name="RecentFilteredClick",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "clicked_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="clicked on"
                    ),
                ),
                (
                    "uid",
                    models.CharField(
                        blank=True,
                        help_text="As it was in the link, but shortened, and without e-mail addresses.",
                        max_length=100,
                        verbose_name="uid in the link",
                    ),
                ),
                ("reason", models.CharField(max_length=20, verbose_name="reason")),
                (
                    "browser",
                    models.CharField(
                        blank=True,
                        help_text="Its name, without a version.",
                        max_length=20,
                        verbose_name="browser",
                    ),
                ),
                (
                    "partner",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
            ],
            options={
                "verbose_name": "recent filtered click",
                "verbose_name_plural": "recent filtered clicks",
            },
        ),
        migrations.RunPython(migrations.RunPython.noop, fit),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
