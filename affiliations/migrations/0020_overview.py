from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    """Let the overview be the first entry of the app in the Admin."""

    dependencies = [
        ("affiliations", "0019_partner_records"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="overview",
            options={
                "default_permissions": ("view",),
                "verbose_name": "overview",
                "verbose_name_plural": " Overview",
            },
        ),
    ]
