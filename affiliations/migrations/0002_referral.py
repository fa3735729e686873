"""What 1.0 keeps of partners, subscriptions and visitors besides what 0.12 did."""

import django.core.validators
import django.db.models.deletion
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

import affiliations.models.partner

#: By the database, if its columns can be without fractions of a second, as those of MySQL 5.5 are. A
#: browser is recognized by them.
_WITH_FRACTIONS = {
    "mysql": "ALTER TABLE affiliations_visitor MODIFY referred_on datetime(6) NOT NULL",
    "postgresql": "ALTER TABLE affiliations_visitor ALTER referred_on TYPE timestamptz(6)",
}


def keep_fractions(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    vendor = schema_editor.connection.vendor
    if vendor != "sqlite":
        schema_editor.execute(_WITH_FRACTIONS[vendor])


def make_rows_dynamic(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """
    Give the table of an older InnoDB rows whose columns can be indexed in full.

    The formats until MySQL 5.6 index 767 bytes: 191 or 255 characters.
    """
    if schema_editor.connection.vendor == "mysql":
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SHOW TABLE STATUS LIKE %s", [r"affiliations\_visitor"])
            names = [column[0] for column in cursor.description]
            table = dict(zip(names, cursor.fetchone(), strict=True))
            if table["Row_format"] in ("Compact", "Redundant"):
                cursor.execute("ALTER TABLE affiliations_visitor ROW_FORMAT=DYNAMIC")


class Migration(migrations.Migration):
    dependencies = [
        ("affiliations", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunPython(keep_fractions, migrations.RunPython.noop, atomic=False),
        migrations.RunPython(make_rows_dynamic, migrations.RunPython.noop, atomic=False),
        migrations.AlterModelOptions(
            name="partner",
            options={"verbose_name": "partner", "verbose_name_plural": "partners"},
        ),
        migrations.AlterModelOptions(
            name="subscription",
            options={"verbose_name": "subscription", "verbose_name_plural": "subscriptions"},
        ),
        migrations.AlterModelOptions(
            name="visitor",
            options={"verbose_name": "visitor", "verbose_name_plural": "visitors"},
        ),
        migrations.AddField(
            model_name="partner",
            name="created_on",
            # Without auto_now_add: when the partners of 0.12 were made, nobody knows.
            field=models.DateTimeField(null=True, editable=False),
        ),
        migrations.AddField(
            model_name="partner",
            name="page_key",
            field=models.CharField(
                blank=True,
                default="",
                editable=False,
                help_text=(
                    "What the private link of their own page is checked by. Empty: there is none."
                ),
                max_length=128,
                verbose_name="key to their page",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="signing_secret",
            # Without default: all rows would get the same. 0003 gives each its own.
            field=models.CharField(default="", editable=False, max_length=64),
        ),
        migrations.AddField(
            model_name="subscription",
            name="active",
            field=models.BooleanField(
                default=True,
                help_text="Without it no new conversion is counted for this subscription.",
                verbose_name="active",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="closes_referral",
            field=models.BooleanField(
                default=True,
                help_text="After this conversion nothing else of the same visitor is counted.",
                verbose_name="closes the referral",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="counting",
            field=models.CharField(
                choices=[
                    ("once", "once a visitor"),
                    ("every", "every reference, such as each order"),
                ],
                default="once",
                max_length=8,
                verbose_name="counting",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="click_id",
            field=models.CharField(
                blank=True,
                default="",
                help_text="The partner’s own id of the click.",
                max_length=255,
                verbose_name="click id",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="closed_on",
            field=models.DateTimeField(blank=True, null=True, verbose_name="closed on"),
        ),
        migrations.AddField(
            model_name="visitor",
            name="referrer",
            field=models.URLField(
                blank=True,
                default="",
                help_text="The page with the partner’s link, without its query.",
                max_length=2048,
                verbose_name="referrer",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="sub1",
            field=models.CharField(blank=True, default="", max_length=255, verbose_name="sub id 1"),
        ),
        migrations.AddField(
            model_name="visitor",
            name="sub2",
            field=models.CharField(blank=True, default="", max_length=255, verbose_name="sub id 2"),
        ),
        migrations.AddField(
            model_name="visitor",
            name="sub3",
            field=models.CharField(blank=True, default="", max_length=255, verbose_name="sub id 3"),
        ),
        migrations.AddField(
            model_name="visitor",
            name="sub4",
            field=models.CharField(blank=True, default="", max_length=255, verbose_name="sub id 4"),
        ),
        migrations.AddField(
            model_name="visitor",
            name="sub5",
            field=models.CharField(blank=True, default="", max_length=255, verbose_name="sub id 5"),
        ),
        migrations.AlterField(
            model_name="partner",
            name="active",
            field=models.BooleanField(
                default=False,
                help_text="Whether there is a deal now. Only then are new visitors counted.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="name",
            field=models.CharField(max_length=250, verbose_name="name"),
        ),
        migrations.AlterField(
            model_name="partner",
            name="uid",
            field=models.CharField(
                default=affiliations.models.partner.new_uid,
                editable=False,
                help_text="Stands in the partner’s links and says that a visitor came from there.",
                max_length=8,
                unique=True,
                verbose_name="uid",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="callback_url",
            field=models.URLField(
                blank=True,
                default="",
                help_text="The partner’s address for this trigger, with {visitor_id} or {click_id} in it. Empty: conversions are counted and nobody is called.",
                max_length=2048,
                validators=[django.core.validators.URLValidator(schemes=["http", "https"])],
                verbose_name="callback URL",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="partner",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="subscriptions",
                to="affiliations.partner",
                verbose_name="partner",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="trigger",
            field=models.CharField(
                help_text="What is counted. Developers name the triggers, in AFFILIATE_TRIGGERS.",
                max_length=100,
                verbose_name="trigger",
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="entry_point",
            field=models.URLField(
                help_text="The URL at which the visitor entered the site, without the affiliate part.",
                max_length=2048,
                verbose_name="entry point",
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="partner",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="visitors",
                to="affiliations.partner",
                verbose_name="partner",
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="referred_on",
            field=models.DateTimeField(auto_now_add=True, verbose_name="referred on"),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="successful_on",
            field=models.DateTimeField(blank=True, null=True, verbose_name="successful on"),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="user",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="visitors",
                to=settings.AUTH_USER_MODEL,
                verbose_name="user",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="created_on",
            field=models.DateTimeField(auto_now_add=True, null=True, verbose_name="created on"),
        ),
    ]
