import django.db.models.deletion
from django.db import migrations, models

import affiliations.models.subscription


class Migration(migrations.Migration):
    """Add to subscriptions the rules of crediting and payouts, and the state of their callbacks."""

    dependencies = [("affiliations", "0002_partners")]

    operations = [
        migrations.AlterModelOptions(
            name="subscription",
            options={"verbose_name": "subscription", "verbose_name_plural": "subscriptions"},
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
                help_text="The event that is credited. Set up by your developers in AFFILIATE_TRIGGERS.",
                max_length=100,
                verbose_name="trigger",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="callback_url",
            field=models.CharField(
                blank=True,
                default="",
                help_text="The partner’s callback (postback) URL for this trigger. With GET it must contain {visitor_id} or {click_id}. Leave empty to record conversions without sending callbacks.",
                max_length=2048,
                validators=[affiliations.models.subscription.validate_url],
                verbose_name="callback URL",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="method",
            field=models.CharField(
                choices=[
                    ("GET", "GET: all values in the URL"),
                    ("POST", "POST: all values as JSON"),
                ],
                db_default="GET",
                default="GET",
                help_text="How the callback URL is called. Most partners expect GET.",
                max_length=4,
                verbose_name="method",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="active",
            field=models.BooleanField(
                db_default=True,
                default=True,
                help_text="Inactive: no new conversions are credited for this subscription.",
                verbose_name="active",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="counting",
            field=models.CharField(
                choices=[("once", "Once per visitor"), ("every", "Every order (unique reference)")],
                db_default="once",
                default="once",
                max_length=8,
                verbose_name="count conversions",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="closes_referral",
            field=models.BooleanField(
                db_default=True,
                default=True,
                help_text="Later conversions of the same visitor are not credited, for any trigger.",
                verbose_name="stop tracking the visitor after the first conversion",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="earns_for",
            field=models.CharField(
                choices=[
                    ("window", "The attribution window"),
                    ("months", "A number of months after the first conversion"),
                    ("always", "Always, after the first conversion"),
                ],
                db_default="window",
                default="window",
                help_text="How long later orders of the same customer are credited, such as renewals.",
                max_length=6,
                verbose_name="earns for",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="earns_months",
            field=models.PositiveSmallIntegerField(
                blank=True, null=True, verbose_name="earns for (months)"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="payout_type",
            field=models.CharField(
                choices=[
                    ("none", "No commission"),
                    ("fixed", "Fixed amount"),
                    ("percent", "Percentage of the amount"),
                ],
                db_default="none",
                default="none",
                max_length=7,
                verbose_name="payout",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="payout_value",
            field=models.DecimalField(
                blank=True,
                decimal_places=4,
                help_text="The fixed amount, or the percentage.",
                max_digits=15,
                null=True,
                verbose_name="payout value",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="payout_currency",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="For a fixed amount only, such as EUR. A percentage is paid in the currency of the order.",
                max_length=3,
                verbose_name="payout currency",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="approval",
            field=models.CharField(
                choices=[
                    ("automatic", "Automatic, after the hold period"),
                    ("manual", "Manual, or by your shop"),
                ],
                db_default="automatic",
                default="automatic",
                max_length=9,
                verbose_name="approval",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="approve_after",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="How long automatic approval waits, for example for returned goods. Leave empty to approve immediately.",
                null=True,
                verbose_name="hold period (days)",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="call_on_conversion",
            field=models.BooleanField(
                db_default=True, default=True, verbose_name="send callback when created"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="call_on_approval",
            field=models.BooleanField(
                db_default=False, default=False, verbose_name="send callback when approved"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="call_on_rejection",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Only if the partner was told about the conversion.",
                verbose_name="send callback when rejected",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="failure_count",
            field=models.PositiveIntegerField(
                db_default=0, default=0, editable=False, verbose_name="failures in a row"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="failing_since",
            field=models.DateTimeField(
                blank=True, editable=False, null=True, verbose_name="failing since"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="callbacks_suspended_on",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="Callbacks have been waiting since then, because too many failed in a row.",
                null=True,
                verbose_name="callbacks suspended on",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="callbacks_paused_until",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="The partner’s server is busy. When the pause ends, one callback is sent to test the server.",
                null=True,
                verbose_name="callbacks paused until",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="pause_count",
            field=models.PositiveIntegerField(
                db_default=0, default=0, editable=False, verbose_name="pauses in a row"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="last_error",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=15,
                verbose_name="last error",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="last_status_code",
            field=models.PositiveSmallIntegerField(
                blank=True, editable=False, null=True, verbose_name="last status code"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="noticed_failing_since",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
    ]
