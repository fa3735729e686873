import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    """Create the tables for what is done once: forms that were sent, and the start of notices."""

    dependencies = [("affiliations", "0007_reports")]

    operations = [
        migrations.CreateModel(
            name="SentForm",
            fields=[
                (
                    "token",
                    models.CharField(
                        max_length=64, primary_key=True, serialize=False, verbose_name="token"
                    ),
                ),
                (
                    "sent_on",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="sent on"
                    ),
                ),
            ],
            options={
                "verbose_name": "sent form",
                "verbose_name_plural": "sent forms",
            },
        ),
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
    ]
