from importlib import import_module

import django.db.models.deletion
import django.utils.timezone
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import F

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


def fill(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Free the keys of rejected conversions, which staff must decide on, and keep why."""
    conversions = apps.get_model("affiliations", "Conversion").objects.using(
        schema_editor.connection.alias
    )
    conversions.filter(status="rejected").update(released=F("pk"), decided_via="person")
    conversions.filter(status="pending").exclude(review_reason="").update(review_text=F("reason"))


class Migration(migrations.Migration):
    """Add what the rules of money need: who decided and how, released keys, stopped partners."""

    dependencies = [
        ("affiliations", "0012_plain_words"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="FailedTrigger",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("trigger", models.CharField(max_length=100, verbose_name="trigger")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("credit", "credit"),
                            ("approve", "approval"),
                            ("reject", "rejection"),
                            ("adjust", "adjustment"),
                        ],
                        max_length=8,
                        verbose_name="type",
                    ),
                ),
                (
                    "reference",
                    models.TextField(blank=True, verbose_name="reference"),
                ),
                ("amount", models.CharField(blank=True, max_length=64, verbose_name="amount")),
                ("currency", models.CharField(blank=True, max_length=64, verbose_name="currency")),
                ("error", models.CharField(blank=True, max_length=255, verbose_name="error")),
                ("tries", models.PositiveSmallIntegerField(default=1, verbose_name="attempts")),
                (
                    "created_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="created on"
                    ),
                ),
                ("due_on", models.DateTimeField(db_index=True, verbose_name="next attempt on")),
            ],
            options={
                "verbose_name": "failed trigger",
                "verbose_name_plural": "failed triggers",
            },
        ),
        migrations.CreateModel(
            name="SentForm",
            fields=[
                (
                    "token",
                    models.CharField(
                        max_length=64, primary_key=True, serialize=False, verbose_name="token"
                    ),
                ),
                (
                    "sent_on",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="sent on"
                    ),
                ),
            ],
            options={
                "verbose_name": "sent form",
                "verbose_name_plural": "sent forms",
            },
        ),
        migrations.CreateModel(
            name="FollowedTestLink",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("nonce", models.CharField(editable=False, max_length=32)),
                ("reason", models.CharField(blank=True, max_length=20, verbose_name="reason")),
                (
                    "browser",
                    models.CharField(
                        blank=True,
                        help_text="Its name, without a version.",
                        max_length=20,
                        verbose_name="browser",
                    ),
                ),
                ("followed_on", models.DateTimeField(verbose_name="opened on")),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="followed_test_links",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "visitor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="followed_test_links",
                        to="affiliations.visitor",
                        verbose_name="visitor",
                    ),
                ),
            ],
            options={
                "verbose_name": "opened test link",
                "verbose_name_plural": "opened test links",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("nonce", "reason"),
                        name="affiliations_test_link_followed_once",
                    )
                ],
            },
        ),
        migrations.RemoveConstraint(
            model_name="conversion",
            name="affiliations_conversion_counted_once",
        ),
        migrations.RemoveConstraint(
            model_name="conversion",
            name="affiliations_conversion_credited_once",
        ),
        migrations.AddField(
            model_name="adjustment",
            name="created_by_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=150,
                verbose_name="adjusted by (name)",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="closes",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AddField(
            model_name="conversion",
            name="credit_reason",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Why staff credited the conversion manually.",
                max_length=255,
                verbose_name="reason for the credit",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="credited_by",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="credited by",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="credited_by_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=150,
                verbose_name="credited by (name)",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="decided_by_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=150,
                verbose_name="decided by (name)",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="decided_via",
            field=models.CharField(
                blank=True,
                choices=[
                    ("person", "staff"),
                    ("signal", "a signal of this site"),
                    ("schedule", "the end of the hold period"),
                    ("at_once", "automatically, when it was recorded"),
                ],
                db_default="",
                default="",
                max_length=8,
                verbose_name="decided via",
            ),
        ),
        migrations.AddField(
            model_name="conversion",
            name="is_reopened",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AddField(
            model_name="conversion",
            name="may_be_paid",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AddField(
            model_name="conversion",
            name="released",
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddField(
            model_name="conversion",
            name="review_text",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=255,
                verbose_name="review text",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_by",
            field=models.ForeignKey(
                blank=True,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="stopped by",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_by_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=150,
                verbose_name="stopped by (name)",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_on",
            field=models.DateTimeField(
                blank=True, editable=False, null=True, verbose_name="stopped on"
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_reason",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=255,
                verbose_name="reason for the stop",
            ),
        ),
        migrations.AddField(
            model_name="settlement",
            name="created_by_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=150,
                verbose_name="created by (name)",
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
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=False),
        migrations.AddConstraint(
            model_name="conversion",
            constraint=models.UniqueConstraint(
                fields=("trigger", "dedupe_key", "released"),
                name="affiliations_conversion_counted_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="conversion",
            constraint=models.UniqueConstraint(
                fields=("trigger", "reference_key", "released"),
                name="affiliations_conversion_credited_once",
            ),
        ),
        migrations.AddField(
            model_name="failedtrigger",
            name="user",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="user",
            ),
        ),
        migrations.AddField(
            model_name="failedtrigger",
            name="visitor",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="failed_triggers",
                to="affiliations.visitor",
                verbose_name="visitor",
            ),
        ),
        migrations.AddIndex(
            model_name="conversion",
            index=models.Index(fields=["status", "review_reason"], name="affiliations_conv_review"),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
