from __future__ import annotations

from importlib import import_module

import django.utils.timezone
from django.db import migrations, models

#: Stops the way back before anything is lost.
refuse = import_module("affiliations.migrations.0010_plain_names").refuse


class Migration(migrations.Migration):
    """Remember what no notice has told the partners yet: of rows that exist, nothing is due."""

    dependencies = [
        ("affiliations", "0024_deals"),
    ]

    operations = [
        migrations.CreateModel(
            name="NoticeStart",
            fields=[
                (
                    "id",
                    models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False),
                ),
                (
                    "began_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="began on"
                    ),
                ),
            ],
            options={
                "verbose_name": "start of notices",
                "verbose_name_plural": "starts of notices",
            },
        ),
        migrations.AddField(
            model_name="conversion",
            name="notice_due",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AddField(
            model_name="settlement",
            name="notice_due",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AddField(
            model_name="subscription",
            name="noticed_failing_since",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddIndex(
            model_name="conversion",
            index=models.Index(fields=["notice_due", "partner"], name="affiliations_conv_notice"),
        ),
        migrations.AddIndex(
            model_name="settlement",
            index=models.Index(fields=["notice_due", "partner"], name="affiliations_settle_notice"),
        ),
        # The last, and so the first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse),
    ]
