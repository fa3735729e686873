from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("affiliations", "0006_settlement")]

    operations = [
        migrations.CreateModel(
            name="Report",
            fields=[],
            options={
                "verbose_name": "report",
                "verbose_name_plural": "report",
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("affiliations.conversion",),
        ),
    ]
