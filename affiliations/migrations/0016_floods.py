from importlib import import_module

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


def fit(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Delete the counts of deleted partners, and count less frequent sub ids as those without."""
    alias = schema_editor.connection.alias
    partners = apps.get_model("affiliations", "Partner").objects.using(alias)
    for name in ("DailyClicks", "FilteredClicks"):
        rows = apps.get_model("affiliations", name).objects.using(alias)
        rows.exclude(partner=None).exclude(partner__in=partners.values("pk")).delete()
    daily = apps.get_model("affiliations", "DailyClicks").objects.using(alias)
    daily.filter(label=None).update(label="")


class Migration(migrations.Migration):
    """Keep the counts of deleted partners, and let one row stand for many sub ids."""

    dependencies = [("affiliations", "0015_endpoints")]

    operations = [
        migrations.AlterField(
            model_name="dailyclicks",
            name="label",
            field=models.CharField(
                blank=True, max_length=255, null=True, verbose_name="sub id value"
            ),
        ),
        migrations.AlterField(
            model_name="dailyclicks",
            name="partner",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=models.DO_NOTHING,
                related_name="daily_clicks",
                to="affiliations.partner",
                verbose_name="partner",
            ),
        ),
        migrations.AlterField(
            model_name="filteredclicks",
            name="partner",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                null=True,
                on_delete=models.DO_NOTHING,
                related_name="uncounted_clicks",
                to="affiliations.partner",
                verbose_name="partner",
            ),
        ),
        migrations.RunPython(migrations.RunPython.noop, fit),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
