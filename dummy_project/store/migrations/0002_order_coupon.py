from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("store", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="order",
            name="coupon",
            field=models.CharField(blank=True, default="", max_length=40),
            preserve_default=False,
        ),
    ]
