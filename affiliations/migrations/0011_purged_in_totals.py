from __future__ import annotations

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

COLUMNS = ("partner_id", "day", "sub_id", "label", "count", "purged")


def move(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """
    Add the purged clicks to the daily totals.

    They were taken out of the totals when they were purged, so they are in none of them.
    """
    quote = schema_editor.quote_name
    app = apps.get_app_config("affiliations")
    purged = app.get_model("PurgedClicks")._meta.db_table
    daily = app.get_model("DailyClicks")._meta.db_table
    columns, count = ", ".join(map(quote, COLUMNS)), quote("count")
    with schema_editor.connection.cursor() as cursor:
        for number, label in enumerate(["''", *(quote(f"sub{number}") for number in range(1, 6))]):
            group = ", ".join(["partner_id", "day", *([label] if number else [])])
            cursor.execute(
                f"INSERT INTO {quote(daily)} ({columns}) "  # noqa: S608 -- no values
                f"SELECT partner_id, day, {number}, {label}, SUM({count}), SUM({count}) "
                f"FROM {quote(purged)} GROUP BY {group}"
            )
        # MariaDB drops the table in another transaction. Run again, nothing counts twice.
        cursor.execute(f"DELETE FROM {quote(purged)}")  # noqa: S608


class Migration(migrations.Migration):
    """Keep purged visitors in the daily totals. On the way back they stay in them."""

    dependencies = [("affiliations", "0010_plain_names")]

    operations = [
        migrations.AddField(
            model_name="dailyclicks",
            name="purged",
            field=models.PositiveIntegerField(default=0, verbose_name="purged"),
        ),
        migrations.RunPython(move, migrations.RunPython.noop),
        migrations.DeleteModel(name="PurgedClicks"),
    ]
