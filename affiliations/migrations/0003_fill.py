"""
Fill what 0.12 did not have.

A visitor whom it called successful was done with: it credited nobody twice. And each partner gets a
signing secret of their own.
"""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from affiliations.models.partner import new_signing_secret


def close(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    visitors = apps.get_model("affiliations", "Visitor").objects.using(
        schema_editor.connection.alias
    )
    visitors.filter(closed_on=None).update(closed_on=models.F("successful_on"))


def make_secrets(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    partners = apps.get_model("affiliations", "Partner").objects.using(
        schema_editor.connection.alias
    )
    for partner in partners.filter(signing_secret=""):
        partner.signing_secret = new_signing_secret()
        partner.save(update_fields=["signing_secret"])


class Migration(migrations.Migration):
    dependencies = [("affiliations", "0002_referral")]

    operations = [
        migrations.RunPython(close, migrations.RunPython.noop),
        migrations.RunPython(make_secrets, migrations.RunPython.noop),
    ]
