from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.exceptions import IrreversibleError
from django.db.models import F, Max
from django.db.models.functions import Length

from affiliations.models.partner import new_signing_secret


def close(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """End the tracking of visitors with a conversion: 0.12 credited a visitor once."""
    visitors = apps.get_model("affiliations", "Visitor").objects.using(
        schema_editor.connection.alias
    )
    visitors.filter(closed_on=None, successful_on__isnull=False).update(
        closed_on=F("successful_on")
    )


def make_secrets(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    partners = apps.get_model("affiliations", "Partner").objects.using(
        schema_editor.connection.alias
    )
    for partner in partners.filter(signing_secret=""):
        partner.signing_secret = new_signing_secret()
        partner.save(update_fields=["signing_secret"])


def create_single_rows(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Create the row that is locked to number a statement, and the state of the daily totals."""
    alias = schema_editor.connection.alias
    visitors = apps.get_model("affiliations", "Visitor").objects.using(alias)
    last = visitors.aggregate(last=Max("pk"))["last"] or 0
    for name, values in (("StatementLock", {}), ("RollupState", {"seen": last})):
        rows = apps.get_model("affiliations", name).objects.using(alias)
        rows.get_or_create(pk=1, defaults=values)


def refuse(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Stop on the way back to 0.12 if its tables cannot hold a row, before anything is lost."""
    connection = schema_editor.connection
    visitors, subscriptions, conversions, settlements = (
        apps.get_model("affiliations", name).objects.using(connection.alias)
        for name in ("Visitor", "Subscription", "Conversion", "Settlement")
    )
    if count := settlements.count():
        raise IrreversibleError(
            f"There are {count} settlements, and without them what is paid would be paid again. "
            "Nothing has been changed. To go back all the same, empty the column "
            "affiliations_conversion.settlement_id, then delete adjustments and settlements."
        )
    found = {
        "visitors without a user": visitors.filter(user=None).count(),
        "conversions that earn something": conversions.filter(payout__gt=0).count(),
    }
    if connection.vendor != "sqlite":  # which does not mind how long a text is
        for what, rows, field in (
            ("entry points of over 200 characters", visitors, "entry_point"),
            ("callback URLs of over 200 characters", subscriptions, "callback_url"),
        ):
            found[what] = rows.annotate(length=Length(field)).filter(length__gt=200).count()
    if any(found.values()):
        listed = ", ".join(f"{count} {what}" for what, count in found.items() if count)
        raise IrreversibleError(
            f"The tables of 0.12 have no room for these rows: {listed}. Nothing has been changed. "
            "To go back all the same, change or delete them first."
        )


class Migration(migrations.Migration):
    """Fill in what the rows of 0.12 do not have, and refuse the way back where it would lose rows."""

    dependencies = [("affiliations", "0008_forms_and_notices")]

    operations = [
        migrations.RunPython(close, migrations.RunPython.noop),
        migrations.RunPython(make_secrets, migrations.RunPython.noop),
        migrations.RunPython(create_single_rows, migrations.RunPython.noop),
        # The last operation is the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
