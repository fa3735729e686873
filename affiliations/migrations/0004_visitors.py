import django.db.models.deletion
import django.utils.timezone
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

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


class AllowNoUser(migrations.AlterField):
    """
    Let the column be null, and not on the way back; keep its foreign key on PostgreSQL.

    Django drops the key and adds it again. That would lock the table of users, which most requests
    read, until the migration ends, and deadlock with one that has changed a user.
    """

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        connection = schema_editor.connection
        model = to_state.apps.get_model(app_label, self.model_name)
        if connection.vendor == "postgresql" and self.allow_migrate_model(connection.alias, model):
            verb = "DROP" if model._meta.get_field(self.name).null else "SET"
            schema_editor.execute(f"ALTER TABLE affiliations_visitor ALTER user_id {verb} NOT NULL")
        else:
            super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    """Add to visitors the data of the click, and when tracking ended; let them have no user."""

    dependencies = [
        ("affiliations", "0003_subscriptions"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunPython(keep_fractions, migrations.RunPython.noop, atomic=False),
        migrations.RunPython(make_rows_dynamic, migrations.RunPython.noop, atomic=False),
        migrations.AlterModelOptions(
            name="visitor",
            options={"verbose_name": "visitor", "verbose_name_plural": "visitors"},
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
        AllowNoUser(
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
            model_name="visitor",
            name="referred_on",
            field=models.DateTimeField(
                default=django.utils.timezone.now, editable=False, verbose_name="clicked on"
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="entry_point",
            field=models.URLField(
                help_text="The first page that the visitor opened, without the partner’s parameters.",
                max_length=2048,
                verbose_name="landing page",
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="successful_on",
            field=models.DateTimeField(blank=True, null=True, verbose_name="first conversion on"),
        ),
        *(
            migrations.AddField(
                model_name="visitor",
                name=f"sub{number}",
                field=models.CharField(
                    blank=True,
                    db_default="",
                    default="",
                    max_length=255,
                    verbose_name=f"sub id {number}",
                ),
            )
            for number in range(1, 6)
        ),
        migrations.AddField(
            model_name="visitor",
            name="referrer",
            field=models.URLField(
                blank=True,
                db_default="",
                default="",
                help_text="The page with the partner’s link, without its query string.",
                max_length=2048,
                verbose_name="referrer",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="closed_on",
            field=models.DateTimeField(blank=True, null=True, verbose_name="tracking ended on"),
        ),
        migrations.AddField(
            model_name="visitor",
            name="stopped_on",
            field=models.DateTimeField(
                blank=True, editable=False, null=True, verbose_name="tracking stopped by staff on"
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="source",
            field=models.CharField(
                choices=[
                    ("link", "Link"),
                    ("code", "Code on an order"),
                    ("api", "Without a landing page"),
                ],
                db_default="link",
                default="link",
                editable=False,
                help_text="How the visitor came: by a link, a partner’s code, or your own code.",
                max_length=4,
                verbose_name="source",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="click_id",
            field=models.CharField(
                blank=True,
                db_default="",
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
        migrations.AddField(
            model_name="visitor",
            name="previous",
            field=models.ForeignKey(
                blank=True,
                help_text="The earlier click that this click replaced.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="displaced_by",
                to="affiliations.visitor",
                verbose_name="replaced click",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="is_test",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Test: excluded from reports.",
                verbose_name="test",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="is_internal",
            field=models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="The link was on a page of this site. Any other click takes precedence.",
                verbose_name="from this site",
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="test_nonce",
            field=models.CharField(
                default=None, editable=False, max_length=32, null=True, unique=True
            ),
        ),
        migrations.AddField(
            model_name="visitor",
            name="code_key",
            field=models.CharField(
                default=None, editable=False, max_length=32, null=True, unique=True
            ),
        ),
        migrations.AddIndex(
            model_name="visitor",
            index=models.Index(
                fields=["is_test", "partner", "referred_on"], name="affiliations_visitor_partner"
            ),
        ),
        migrations.AddIndex(
            model_name="visitor",
            index=models.Index(fields=["referred_on"], name="affiliations_visitor_came"),
        ),
        migrations.AddIndex(
            model_name="visitor",
            index=models.Index(fields=["click_id"], name="affiliations_visitor_click"),
        ),
    ]
