"""A visitor whom 0.12 called successful was done with: it credited nobody twice."""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def close(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    visitors = apps.get_model("affiliations", "Visitor").objects.using(
        schema_editor.connection.alias
    )
    visitors.filter(closed_on=None).update(closed_on=models.F("successful_on"))


class Migration(migrations.Migration):
    dependencies = [("affiliations", "0002_referral")]

    operations = [migrations.RunPython(close, migrations.RunPython.noop)]
