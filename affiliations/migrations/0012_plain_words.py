import datetime
from decimal import Decimal
from importlib import import_module

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import affiliations.models.callback
import affiliations.models.partner

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


class Migration(migrations.Migration):
    """Give labels, help texts and choices the words of the screens."""

    dependencies = [
        ("affiliations", "0011_purged_in_totals"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="adjustment",
            options={"verbose_name": "adjustment", "verbose_name_plural": "adjustments"},
        ),
        migrations.AlterModelOptions(
            name="filteredclicks",
            options={"verbose_name": "filtered clicks", "verbose_name_plural": "filtered clicks"},
        ),
        migrations.AlterModelOptions(
            name="rollupstate",
            options={"verbose_name": "rollup state", "verbose_name_plural": "rollup states"},
        ),
        migrations.AlterModelOptions(
            name="settlement",
            options={
                "verbose_name": "payout statement",
                "verbose_name_plural": "payout statements",
            },
        ),
        migrations.AlterModelOptions(
            name="uncreditedtrigger",
            options={
                "verbose_name": "uncredited trigger",
                "verbose_name_plural": "uncredited triggers",
            },
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="amount",
            field=models.DecimalField(
                blank=True,
                decimal_places=4,
                help_text="The change of the order amount, in its currency. A negative value reduces it.",
                max_digits=19,
                null=True,
                verbose_name="amount",
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="created_by",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="adjusted by",
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="created_on",
            field=models.DateTimeField(
                db_index=True, default=django.utils.timezone.now, verbose_name="adjusted on"
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="currency",
            field=models.CharField(
                help_text="The currency of the conversion’s payout.",
                max_length=3,
                verbose_name="currency",
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="kind",
            field=models.CharField(
                choices=[
                    ("rejected", "rejected"),
                    ("brought_back", "approved again"),
                    ("adjusted", "payout changed"),
                ],
                max_length=12,
                verbose_name="type",
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="payout",
            field=models.DecimalField(
                decimal_places=4,
                help_text="The change of the payout. A negative value takes money back (clawback).",
                max_digits=19,
                verbose_name="payout",
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="settlement",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="Empty until the adjustment is in a statement.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="adjustments",
                to="affiliations.settlement",
                verbose_name="payout statement",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="conversion",
            field=models.ForeignKey(
                blank=True,
                help_text="A test callback has no conversion.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="callbacks",
                to="affiliations.conversion",
                verbose_name="conversion",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="is_manual",
            field=models.BooleanField(
                default=False, editable=False, help_text="The next attempt was requested manually."
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="reason",
            field=models.CharField(
                blank=True,
                help_text="Why the callback was cancelled.",
                max_length=255,
                verbose_name="reason",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="resend_count",
            field=models.PositiveIntegerField(
                default=0,
                help_text="Each manual resend allows one more attempt.",
                verbose_name="manual resends",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="status",
            field=models.CharField(
                choices=[
                    ("queued", "queued"),
                    ("held", "paused"),
                    ("delivered", "delivered"),
                    ("exhausted", "gave up"),
                    ("cancelled", "cancelled"),
                ],
                default="queued",
                max_length=9,
                verbose_name="status",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="version",
            field=models.PositiveSmallIntegerField(
                default=1,
                help_text="Above 1 if the event was sent again with a newer callback URL.",
                verbose_name="version",
            ),
        ),
        migrations.AlterField(
            model_name="callback",
            name="webhook_id",
            field=models.CharField(
                default=affiliations.models.callback.new_webhook_id,
                help_text="The same in every attempt, so the partner can recognize a repeated callback.",
                max_length=32,
                unique=True,
                verbose_name="webhook id",
            ),
        ),
        migrations.AlterField(
            model_name="callbackattempt",
            name="error",
            field=models.CharField(
                blank=True,
                choices=[
                    ("timeout", "the partner’s server did not respond in time"),
                    ("deadline", "the request took too long"),
                    ("dns", "the host name was not found"),
                    ("connect", "the connection failed"),
                    ("tls", "the secure connection (TLS) failed"),
                    ("blocked_address", "the address is inside this site’s network"),
                    ("redirects", "too many redirects, or a redirect to an insecure address"),
                    ("protocol", "the response is not valid HTTP"),
                    ("http_status", "the partner’s server returned an error"),
                    ("lost", "the connection was lost before the response was complete"),
                ],
                max_length=15,
                verbose_name="error",
            ),
        ),
        migrations.AlterField(
            model_name="callbackattempt",
            name="manual",
            field=models.BooleanField(default=False, verbose_name="sent manually"),
        ),
        migrations.AlterField(
            model_name="callbackattempt",
            name="response_excerpt",
            field=models.TextField(blank=True, verbose_name="response excerpt"),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="approve_on",
            field=models.DateTimeField(
                blank=True,
                help_text="When the conversion is approved automatically, unless it is decided earlier.",
                null=True,
                verbose_name="approve on",
            ),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="notified_events",
            field=models.JSONField(
                blank=True, default=list, editable=False, verbose_name="notified events"
            ),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="payout_type",
            field=models.CharField(
                choices=[
                    ("none", "No commission"),
                    ("fixed", "Fixed amount"),
                    ("percent", "Percentage of the amount"),
                ],
                default="none",
                max_length=7,
                verbose_name="payout rule",
            ),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="reason",
            field=models.CharField(
                blank=True,
                help_text="Why the conversion is pending or was rejected.",
                max_length=255,
                verbose_name="reason",
            ),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="reference",
            field=models.CharField(
                blank=True,
                help_text="This site’s own id of the event, such as an order number.",
                max_length=255,
                verbose_name="reference",
            ),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="review_reason",
            field=models.CharField(
                blank=True, default="", editable=False, max_length=32, verbose_name="review reason"
            ),
        ),
        migrations.AlterField(
            model_name="conversion",
            name="settlement",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="The statement that includes the payout.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="conversions",
                to="affiliations.settlement",
                verbose_name="payout statement",
            ),
        ),
        migrations.AlterField(
            model_name="dailyclicks",
            name="label",
            field=models.CharField(blank=True, max_length=255, verbose_name="sub id value"),
        ),
        migrations.AlterField(
            model_name="dailyclicks",
            name="sub_id",
            field=models.PositiveSmallIntegerField(verbose_name="sub id number"),
        ),
        migrations.AlterField(
            model_name="partner",
            name="active",
            field=models.BooleanField(
                default=False,
                help_text="Inactive: clicks are not tracked and nothing new is credited.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="page_key",
            field=models.CharField(
                blank=True,
                default="",
                editable=False,
                help_text="Verifies the private link to the partner page. Empty if there is no link.",
                max_length=128,
                verbose_name="partner page key",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="signing_secret",
            field=models.CharField(
                default=affiliations.models.partner.new_signing_secret,
                editable=False,
                help_text="Signs callbacks, so the partner can verify that they come from this site.",
                max_length=64,
                verbose_name="signing secret",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="uid",
            field=models.CharField(
                default=affiliations.models.partner.new_uid,
                editable=False,
                help_text="The partner’s public id in tracking links.",
                max_length=8,
                unique=True,
                verbose_name="uid",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="users",
            field=models.ManyToManyField(
                blank=True,
                help_text="The partner’s own accounts. Their own purchases need review.",
                related_name="affiliate_partners",
                to=settings.AUTH_USER_MODEL,
                verbose_name="users",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="window",
            field=models.DurationField(
                blank=True,
                help_text="How long after a click a conversion can be credited. Leave empty to use this site’s default.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(datetime.timedelta(seconds=1)),
                    django.core.validators.MaxValueValidator(datetime.timedelta(days=36500)),
                ],
                verbose_name="attribution window",
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="adjusted",
            field=models.DecimalField(
                decimal_places=4,
                default=Decimal("0"),
                max_digits=25,
                verbose_name="payout from adjustments",
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="adjustment_count",
            field=models.PositiveIntegerField(default=0, verbose_name="adjustments"),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="before",
            field=models.DateTimeField(
                help_text="Includes conversions approved before this time with their adjustments, and earlier adjustments of conversions in previous statements.",
                verbose_name="approved before",
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="created_by",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="created by",
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="created_on",
            field=models.DateTimeField(
                db_index=True, default=django.utils.timezone.now, verbose_name="created on"
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="earned",
            field=models.DecimalField(
                decimal_places=4,
                default=Decimal("0"),
                max_digits=25,
                verbose_name="payout for conversions",
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="reference",
            field=models.CharField(
                blank=True,
                help_text="Your own number for the statement, such as an invoice number.",
                max_length=255,
                verbose_name="reference",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="active",
            field=models.BooleanField(
                default=True,
                help_text="Inactive: no new conversions are credited for this subscription.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="approval",
            field=models.CharField(
                choices=[
                    ("automatic", "Automatic, after the hold period"),
                    ("manual", "Manual, or by your shop"),
                ],
                default="automatic",
                max_length=9,
                verbose_name="approval",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="approve_after",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="How long automatic approval waits, for example for returned goods. Leave empty to approve immediately.",
                null=True,
                verbose_name="hold period (days)",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="call_on_approval",
            field=models.BooleanField(default=False, verbose_name="send callback when approved"),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="call_on_conversion",
            field=models.BooleanField(default=True, verbose_name="send callback when created"),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="call_on_rejection",
            field=models.BooleanField(
                default=False,
                help_text="Only if the partner was told about the conversion.",
                verbose_name="send callback when rejected",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="callback_url",
            field=models.URLField(
                blank=True,
                default="",
                help_text="The partner’s callback (postback) URL for this trigger. It must contain {visitor_id} or {click_id}. Leave empty to record conversions without sending callbacks.",
                max_length=2048,
                validators=[django.core.validators.URLValidator(schemes=["http", "https"])],
                verbose_name="callback URL",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="callbacks_suspended_on",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="Callbacks have been paused since then, because too many failed in a row.",
                null=True,
                verbose_name="callbacks suspended on",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="closes_referral",
            field=models.BooleanField(
                default=True,
                help_text="Later conversions of the same visitor are not credited, for any trigger.",
                verbose_name="stop tracking the visitor after the first conversion",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="counting",
            field=models.CharField(
                choices=[("once", "Once per visitor"), ("every", "Every order (unique reference)")],
                default="once",
                max_length=8,
                verbose_name="count conversions",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="payout_currency",
            field=models.CharField(
                blank=True,
                default="",
                help_text="For a fixed amount only, such as EUR. A percentage is paid in the currency of the order.",
                max_length=3,
                verbose_name="payout currency",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="payout_type",
            field=models.CharField(
                choices=[
                    ("none", "No commission"),
                    ("fixed", "Fixed amount"),
                    ("percent", "Percentage of the amount"),
                ],
                default="none",
                max_length=7,
                verbose_name="payout",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="trigger",
            field=models.CharField(
                help_text="The event that is credited. Set up by your developers in AFFILIATE_TRIGGERS.",
                max_length=100,
                verbose_name="trigger",
            ),
        ),
        migrations.AlterField(
            model_name="uncreditedtrigger",
            name="first_on",
            field=models.DateTimeField(verbose_name="first fired on"),
        ),
        migrations.AlterField(
            model_name="uncreditedtrigger",
            name="last_on",
            field=models.DateTimeField(verbose_name="last fired on"),
        ),
        migrations.AlterField(
            model_name="uncreditedtrigger",
            name="reference",
            field=models.CharField(
                blank=True,
                help_text="The reference of the latest event.",
                max_length=255,
                verbose_name="reference",
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="closed_on",
            field=models.DateTimeField(blank=True, null=True, verbose_name="tracking ended on"),
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
            name="is_test",
            field=models.BooleanField(
                default=False, help_text="Test: excluded from reports.", verbose_name="test"
            ),
        ),
        migrations.AlterField(
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
        migrations.AlterField(
            model_name="visitor",
            name="referred_on",
            field=models.DateTimeField(
                default=django.utils.timezone.now, editable=False, verbose_name="clicked on"
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="referrer",
            field=models.URLField(
                blank=True,
                default="",
                help_text="The page with the partner’s link, without its query string.",
                max_length=2048,
                verbose_name="referrer",
            ),
        ),
        migrations.AlterField(
            model_name="visitor",
            name="successful_on",
            field=models.DateTimeField(blank=True, null=True, verbose_name="first conversion on"),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
