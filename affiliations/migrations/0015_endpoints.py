from importlib import import_module

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


def queue(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Queue the callbacks that were held: the suspension of their subscription keeps them back."""
    callbacks = apps.get_model("affiliations", "Callback").objects.using(
        schema_editor.connection.alias
    )
    callbacks.filter(status="held").update(status="queued", lease_token="")


class Migration(migrations.Migration):
    """Keep pauses in the subscription, and claim callbacks by their subscription."""

    dependencies = [("affiliations", "0014_requests")]

    operations = [
        migrations.AddField(
            model_name="subscription",
            name="callbacks_paused_until",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="The partner’s server is busy. When the pause ends, one callback is sent to test it.",
                null=True,
                verbose_name="callbacks paused until",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="pause_count",
            field=models.PositiveIntegerField(
                db_default=0, default=0, editable=False, verbose_name="pauses in a row"
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="callbacks_suspended_on",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="Callbacks have been waiting since then, because too many failed in a row.",
                null=True,
                verbose_name="callbacks suspended on",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="status",
            field=models.CharField(
                choices=[
                    ("queued", "queued"),
                    ("delivered", "delivered"),
                    ("exhausted", "gave up"),
                    ("cancelled", "cancelled"),
                ],
                default="queued",
                max_length=9,
                verbose_name="status",
            ),
        ),
        migrations.RunPython(queue, migrations.RunPython.noop, elidable=False),
        migrations.RemoveIndex(model_name="callback", name="affiliations_callback_partner"),
        migrations.AddIndex(
            model_name="callback",
            index=models.Index(
                fields=["status", "subscription", "next_attempt_on"],
                name="affiliations_callback_endpoint",
            ),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
