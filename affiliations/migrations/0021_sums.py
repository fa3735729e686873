from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """Add up clicks and payouts in the index, without reading the rows."""

    dependencies = [
        ("affiliations", "0020_overview"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="conversion",
            index=models.Index(
                fields=["status", "review_reason", "is_test", "payout_currency", "payout"],
                name="affiliations_conv_waiting",
            ),
        ),
        migrations.RemoveIndex(model_name="conversion", name="affiliations_conv_review"),
        migrations.AddIndex(
            model_name="dailyclicks",
            index=models.Index(
                fields=["sub_id", "day", "partner", "count"],
                name="affiliations_daily_clicks_sum",
            ),
        ),
        migrations.RemoveIndex(model_name="dailyclicks", name="affiliations_daily_clicks_day"),
    ]
