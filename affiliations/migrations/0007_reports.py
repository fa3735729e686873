import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    """Create the tables of daily totals and filtered clicks, and the models of two Admin pages."""

    dependencies = [("affiliations", "0006_callbacks")]

    operations = [
        migrations.CreateModel(
            name="FilteredClicks",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("key", models.CharField(editable=False, max_length=64, unique=True)),
                (
                    "partner",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="filtered_clicks",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                ("day", models.DateField(verbose_name="day")),
                ("reason", models.CharField(max_length=20, verbose_name="reason")),
                ("count", models.PositiveIntegerField(verbose_name="count")),
            ],
            options={
                "verbose_name": "filtered clicks",
                "verbose_name_plural": "filtered clicks",
                "indexes": [
                    models.Index(
                        fields=["day", "reason", "partner", "count"],
                        name="affiliations_filtered_sum",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="RecentFilteredClick",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "clicked_on",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="clicked on"
                    ),
                ),
                (
                    "partner",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "uid",
                    models.CharField(
                        blank=True,
                        help_text="As it was in the link, but shortened, and without e-mail addresses.",
                        max_length=100,
                        verbose_name="uid in the link",
                    ),
                ),
                ("reason", models.CharField(max_length=20, verbose_name="reason")),
                (
                    "browser",
                    models.CharField(
                        blank=True,
                        help_text="Its name, without a version.",
                        max_length=20,
                        verbose_name="browser",
                    ),
                ),
            ],
            options={
                "verbose_name": "recent filtered click",
                "verbose_name_plural": "recent filtered clicks",
            },
        ),
        migrations.CreateModel(
            name="FollowedTestLink",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="followed_test_links",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                ("nonce", models.CharField(editable=False, max_length=32)),
                ("reason", models.CharField(blank=True, max_length=20, verbose_name="reason")),
                (
                    "browser",
                    models.CharField(
                        blank=True,
                        help_text="Its name, without a version.",
                        max_length=20,
                        verbose_name="browser",
                    ),
                ),
                (
                    "visitor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="followed_test_links",
                        to="affiliations.visitor",
                        verbose_name="visitor",
                    ),
                ),
                ("followed_on", models.DateTimeField(verbose_name="opened on")),
            ],
            options={
                "verbose_name": "opened test link",
                "verbose_name_plural": "opened test links",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("nonce", "reason"), name="affiliations_test_link_followed_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="DailyClicks",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "partner",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="daily_clicks",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                ("day", models.DateField(help_text="In the site’s time zone.", verbose_name="day")),
                ("sub_id", models.PositiveSmallIntegerField(verbose_name="sub id number")),
                (
                    "label",
                    models.CharField(
                        blank=True, max_length=255, null=True, verbose_name="sub id value"
                    ),
                ),
                ("count", models.IntegerField(verbose_name="count")),
                ("purged", models.PositiveIntegerField(default=0, verbose_name="purged")),
            ],
            options={
                "verbose_name": "daily clicks",
                "verbose_name_plural": "daily clicks",
                "indexes": [
                    models.Index(
                        fields=["sub_id", "day", "partner", "count"],
                        name="affiliations_daily_clicks_sum",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="RollupState",
            fields=[
                (
                    "id",
                    models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False),
                ),
                ("counted", models.BigIntegerField(default=0, verbose_name="counted up to")),
                ("seen", models.BigIntegerField(default=0, verbose_name="seen up to")),
                (
                    "seen_on",
                    models.DateTimeField(default=django.utils.timezone.now, verbose_name="seen on"),
                ),
            ],
            options={
                "verbose_name": "rollup state",
                "verbose_name_plural": "rollup states",
            },
        ),
        migrations.CreateModel(
            name="Report",
            fields=[],
            options={
                "verbose_name": "report",
                "verbose_name_plural": "report",
                "proxy": True,
                "default_permissions": ("view",),
            },
            bases=("affiliations.conversion",),
        ),
        migrations.CreateModel(
            name="Overview",
            fields=[],
            options={
                "verbose_name": "overview",
                "verbose_name_plural": " Overview",
                "proxy": True,
                "default_permissions": ("view",),
            },
            bases=("affiliations.conversion",),
        ),
    ]
