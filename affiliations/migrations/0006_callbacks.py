import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import affiliations.models.callback


class Migration(migrations.Migration):
    """Create the tables of callbacks and of the attempts to send them."""

    dependencies = [("affiliations", "0005_conversions")]

    operations = [
        migrations.CreateModel(
            name="Callback",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "conversion",
                    models.ForeignKey(
                        blank=True,
                        help_text="A test callback has no conversion.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="callbacks",
                        to="affiliations.conversion",
                        verbose_name="conversion",
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
                    "partner",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="callbacks",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "event",
                    models.CharField(
                        choices=[
                            ("conversion", "conversion"),
                            ("approval", "approval"),
                            ("rejection", "rejection"),
                            ("test", "test"),
                        ],
                        default="conversion",
                        max_length=10,
                        verbose_name="event",
                    ),
                ),
                (
                    "version",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="Above 1 if the event was sent again with a newer callback URL.",
                        verbose_name="version",
                    ),
                ),
                (
                    "method",
                    models.CharField(
                        choices=[
                            ("GET", "GET: all values in the URL"),
                            ("POST", "POST: all values as JSON"),
                        ],
                        db_default="GET",
                        default="GET",
                        max_length=4,
                        verbose_name="method",
                    ),
                ),
                ("url", models.TextField(verbose_name="URL")),
                (
                    "body",
                    models.TextField(
                        blank=True,
                        default="",
                        help_text="The JSON that a POST sends.",
                        verbose_name="body",
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "queued"),
                            ("delivered", "delivered"),
                            ("exhausted", "gave up"),
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
                        help_text="Why the callback was cancelled.",
                        max_length=255,
                        verbose_name="reason",
                    ),
                ),
                ("attempt_count", models.PositiveIntegerField(default=0, verbose_name="attempts")),
                (
                    "resend_count",
                    models.PositiveIntegerField(
                        default=0,
                        help_text="Each manual resend allows one more attempt.",
                        verbose_name="manual resends",
                    ),
                ),
                (
                    "is_manual",
                    models.BooleanField(
                        default=False,
                        editable=False,
                        help_text="The next attempt was requested manually.",
                    ),
                ),
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
                    "is_test",
                    models.BooleanField(
                        db_default=False, default=False, editable=False, verbose_name="test"
                    ),
                ),
                (
                    "webhook_id",
                    models.CharField(
                        default=affiliations.models.callback.new_webhook_id,
                        help_text="The same in every attempt, so the partner can recognize a repeated callback.",
                        max_length=32,
                        unique=True,
                        verbose_name="webhook id",
                    ),
                ),
            ],
            options={
                "verbose_name": "callback",
                "verbose_name_plural": "callbacks",
                "indexes": [
                    models.Index(
                        fields=["status", "next_attempt_on"], name="affiliations_callback_due"
                    ),
                    models.Index(
                        fields=["status", "subscription", "next_attempt_on"],
                        name="affiliations_callback_endpoint",
                    ),
                    models.Index(fields=["created_on"], name="affiliations_callback_made"),
                    models.Index(fields=["partner", "id"], name="affiliations_callback_partner"),
                    models.Index(fields=["is_test", "id"], name="affiliations_callback_test"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("conversion", "subscription", "event", "version"),
                        name="affiliations_callback_event_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="CallbackAttempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "callback",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attempts",
                        to="affiliations.callback",
                        verbose_name="callback",
                    ),
                ),
                ("number", models.PositiveIntegerField(verbose_name="number")),
                ("manual", models.BooleanField(default=False, verbose_name="sent manually")),
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
                            ("timeout", "the partner’s server did not respond in time"),
                            ("deadline", "the request took too long"),
                            ("dns", "the host name was not found"),
                            ("connect", "the connection failed"),
                            ("tls", "the secure connection (TLS) failed"),
                            ("blocked_address", "the address is inside this site’s network"),
                            (
                                "redirects",
                                "too many redirects, or a redirect to an insecure address",
                            ),
                            ("protocol", "the response is not valid HTTP"),
                            ("http_status", "the partner’s server returned an error"),
                            ("configuration", "this site’s settings prevented it"),
                            ("lost", "the connection was lost before the response was complete"),
                        ],
                        max_length=15,
                        verbose_name="error",
                    ),
                ),
                ("message", models.TextField(blank=True, verbose_name="message")),
                ("response_excerpt", models.TextField(blank=True, verbose_name="response excerpt")),
                (
                    "is_test",
                    models.BooleanField(
                        db_default=False, default=False, editable=False, verbose_name="test"
                    ),
                ),
            ],
            options={
                "verbose_name": "attempt",
                "verbose_name_plural": "attempts",
                "indexes": [
                    models.Index(fields=["started_on"], name="affiliations_attempt_began"),
                    models.Index(fields=["is_test", "id"], name="affiliations_attempt_test"),
                    models.Index(fields=["error", "started_on"], name="affiliations_attempt_error"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("callback", "number"), name="affiliations_attempt_numbered_once"
                    )
                ],
            },
        ),
    ]
