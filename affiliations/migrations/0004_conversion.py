"""Conversions, and the callbacks that tell of them."""

import django.db.models.deletion
import django.utils.timezone
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.exceptions import IrreversibleError
from django.db.models.functions import Length

import affiliations.models.callback


def refuse(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Stop on the way back to 0.12 where it could not hold a row, before anything is lost."""
    connection = schema_editor.connection

    visitors = apps.get_model("affiliations", "Visitor").objects.using(connection.alias)
    subscriptions = apps.get_model("affiliations", "Subscription").objects.using(connection.alias)
    found = {"visitors without a user": visitors.filter(user=None).count()}
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
    dependencies = [
        ("affiliations", "0003_close_successful"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Conversion",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("trigger", models.CharField(max_length=100, verbose_name="trigger")),
                (
                    "reference",
                    models.CharField(
                        blank=True,
                        help_text="This site’s own id of what was done, such as an order number.",
                        max_length=255,
                        verbose_name="reference",
                    ),
                ),
                ("dedupe_key", models.CharField(max_length=80, verbose_name="dedupe key")),
                (
                    "amount",
                    models.DecimalField(
                        blank=True,
                        decimal_places=4,
                        max_digits=19,
                        null=True,
                        verbose_name="amount",
                    ),
                ),
                ("currency", models.CharField(blank=True, max_length=3, verbose_name="currency")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "pending"),
                            ("approved", "approved"),
                            ("rejected", "rejected"),
                        ],
                        default="approved",
                        max_length=8,
                        verbose_name="status",
                    ),
                ),
                (
                    "created_on",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="created on"
                    ),
                ),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.subscription",
                        verbose_name="subscription",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        help_text="The buyer.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
                (
                    "visitor",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversions",
                        to="affiliations.visitor",
                        verbose_name="visitor",
                    ),
                ),
            ],
            options={
                "verbose_name": "conversion",
                "verbose_name_plural": "conversions",
            },
        ),
        migrations.CreateModel(
            name="Callback",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "event",
                    models.CharField(
                        choices=[("conversion", "conversion")],
                        default="conversion",
                        max_length=10,
                        verbose_name="event",
                    ),
                ),
                ("url", models.TextField(verbose_name="URL")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "queued"),
                            ("held", "held"),
                            ("delivered", "delivered"),
                            ("exhausted", "exhausted"),
                            ("cancelled", "cancelled"),
                        ],
                        default="queued",
                        max_length=9,
                        verbose_name="status",
                    ),
                ),
                (
                    "reason",
                    models.CharField(
                        blank=True,
                        help_text="Why it was cancelled.",
                        max_length=255,
                        verbose_name="reason",
                    ),
                ),
                ("attempt_count", models.PositiveIntegerField(default=0, verbose_name="attempts")),
                (
                    "next_attempt_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="next attempt on"
                    ),
                ),
                ("lease_token", models.CharField(blank=True, editable=False, max_length=32)),
                (
                    "delivered_on",
                    models.DateTimeField(blank=True, null=True, verbose_name="delivered on"),
                ),
                (
                    "created_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="created on"
                    ),
                ),
                (
                    "webhook_id",
                    models.CharField(
                        default=affiliations.models.callback.new_webhook_id,
                        help_text="The same over every attempt, so that the partner can tell them apart.",
                        max_length=32,
                        unique=True,
                        verbose_name="webhook id",
                    ),
                ),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="callbacks",
                        to="affiliations.subscription",
                        verbose_name="subscription",
                    ),
                ),
                (
                    "conversion",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="callbacks",
                        to="affiliations.conversion",
                        verbose_name="conversion",
                    ),
                ),
            ],
            options={
                "verbose_name": "callback",
                "verbose_name_plural": "callbacks",
            },
        ),
        migrations.CreateModel(
            name="CallbackAttempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("number", models.PositiveIntegerField(verbose_name="number")),
                ("started_on", models.DateTimeField(verbose_name="started on")),
                ("duration_ms", models.PositiveIntegerField(verbose_name="duration in ms")),
                (
                    "status_code",
                    models.PositiveSmallIntegerField(
                        blank=True, null=True, verbose_name="status code"
                    ),
                ),
                (
                    "error",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("timeout", "the partner did not answer in time"),
                            ("deadline", "the whole call took too long"),
                            ("dns", "the name of the host was not found"),
                            ("connect", "no connection"),
                            ("tls", "no trustworthy encrypted connection"),
                            ("blocked_address", "an address inside this site’s network"),
                            ("redirects", "redirected too often, or to an insecure address"),
                            ("protocol", "not an HTTP answer"),
                            ("http_status", "the partner’s server answered with an error"),
                            ("lost", "the connection was lost before the answer was complete"),
                        ],
                        max_length=15,
                        verbose_name="error",
                    ),
                ),
                ("message", models.TextField(blank=True, verbose_name="message")),
                (
                    "response_excerpt",
                    models.TextField(blank=True, verbose_name="start of the answer"),
                ),
                (
                    "callback",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attempts",
                        to="affiliations.callback",
                        verbose_name="callback",
                    ),
                ),
            ],
            options={
                "verbose_name": "attempt",
                "verbose_name_plural": "attempts",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("callback", "number"), name="affiliations_attempt_numbered_once"
                    )
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="conversion",
            constraint=models.UniqueConstraint(
                fields=("trigger", "dedupe_key"), name="affiliations_conversion_counted_once"
            ),
        ),
        migrations.AddIndex(
            model_name="callback",
            index=models.Index(
                fields=["status", "next_attempt_on"], name="affiliations_callback_due"
            ),
        ),
        migrations.AddConstraint(
            model_name="callback",
            constraint=models.UniqueConstraint(
                fields=("conversion", "subscription", "event"),
                name="affiliations_callback_event_told_once",
            ),
        ),
        # The last operation is the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
