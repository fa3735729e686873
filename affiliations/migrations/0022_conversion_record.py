from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """Let an index alone count a partner's recent conversions by status."""

    dependencies = [("affiliations", "0021_sums")]

    operations = [
        # The first, since MySQL and MariaDB want an index for the foreign key at any time.
        migrations.AddIndex(
            model_name="conversion",
            index=models.Index(
                fields=["partner", "created_on", "status", "is_test"],
                name="affiliations_conv_record",
            ),
        ),
        migrations.RemoveIndex(model_name="conversion", name="affiliations_conv_partner"),
    ]
