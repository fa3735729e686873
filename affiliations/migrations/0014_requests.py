from importlib import import_module

from django.db import migrations, models

import affiliations.models.subscription

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


class Migration(migrations.Migration):
    """Let callbacks be a POST, and a replaced signing secret overlap with the new one."""

    dependencies = [
        ("affiliations", "0013_money"),
    ]

    operations = [
        migrations.AddField(
            model_name="callback",
            name="body",
            field=models.TextField(
                blank=True, default="", help_text="The JSON that a POST sends.", verbose_name="body"
            ),
        ),
        migrations.AddField(
            model_name="callback",
            name="method",
            field=models.CharField(
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
        migrations.AddField(
            model_name="partner",
            name="previous_secret_until",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="Until then callbacks are signed with both secrets.",
                null=True,
                verbose_name="old signing secret valid until",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="previous_signing_secret",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=64,
                verbose_name="old signing secret",
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
                    ("configuration", "this site’s settings prevented it"),
                    ("lost", "the connection was lost before the response was complete"),
                ],
                max_length=15,
                verbose_name="error",
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
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
