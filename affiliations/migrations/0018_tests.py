from __future__ import annotations

from importlib import import_module

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse

#: The number of callbacks that one query reads.
BATCH = 500


def mark(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Mark the tests among the callbacks, and their attempts, some at a time."""
    callbacks, attempts = (
        apps.get_model("affiliations", name).objects.using(schema_editor.connection.alias)
        for name in ("Callback", "CallbackAttempt")
    )
    rows = callbacks.order_by("pk").values_list("pk", "conversion__is_test")
    last = 0
    while batch := list(rows.filter(pk__gt=last)[:BATCH]):
        last = batch[-1][0]
        # A test callback has no conversion.
        tests = [key for key, of_test in batch if of_test is not False]
        callbacks.filter(pk__in=tests).update(is_test=True)
        attempts.filter(callback__in=tests).update(is_test=True)


class Migration(migrations.Migration):
    """Let callbacks and their attempts say whether they are tests, for the lists."""

    dependencies = [("affiliations", "0017_filtered_clicks")]

    operations = [
        *(
            migrations.AddField(
                model_name=model,
                name="is_test",
                field=models.BooleanField(
                    db_default=False, default=False, editable=False, verbose_name="test"
                ),
            )
            for model in ("callback", "callbackattempt")
        ),
        # Each batch in a transaction of its own, where the databases allow that.
        migrations.RunPython(mark, migrations.RunPython.noop, atomic=False, elidable=False),
        *(
            migrations.AddIndex(
                model_name=model,
                index=models.Index(fields=["is_test", "id"], name=f"affiliations_{name}_test"),
            )
            for model, name in (
                ("callback", "callback"),
                ("callbackattempt", "attempt"),
                ("conversion", "conv"),
            )
        ),
        migrations.AddIndex(
            model_name="callbackattempt",
            index=models.Index(fields=["error", "started_on"], name="affiliations_attempt_error"),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
