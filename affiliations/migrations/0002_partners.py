import datetime

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models.functions import Lower

import affiliations.models.partner


class Migration(migrations.Migration):
    """
    Add to partners what 1.0 keeps of them, and their codes.

    Each old table has a migration of its own. PostgreSQL locks a table until the migration ends,
    and requests of 0.12, which still run, would deadlock with one that locks two of them.
    """

    dependencies = [
        ("affiliations", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="partner",
            options={
                "permissions": [
                    ("payment_details", "Can view and change payment details of partners")
                ],
                "verbose_name": "partner",
                "verbose_name_plural": "partners",
            },
        ),
        migrations.AlterField(
            model_name="partner",
            name="uid",
            field=models.CharField(
                default=affiliations.models.partner.new_uid,
                editable=False,
                help_text="The partner’s public id in tracking links.",
                max_length=8,
                unique=True,
                verbose_name="uid",
            ),
        ),
        migrations.AlterField(
            model_name="partner",
            name="name",
            field=models.CharField(max_length=250, verbose_name="name"),
        ),
        migrations.AlterField(
            model_name="partner",
            name="active",
            field=models.BooleanField(
                default=False,
                help_text="Inactive: clicks are not tracked and nothing new is credited.",
                verbose_name="active",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="signing_secret",
            field=models.CharField(
                db_default="",
                default=affiliations.models.partner.new_signing_secret,
                editable=False,
                help_text="Signs callbacks, so the partner can verify that they come from this site.",
                max_length=64,
                verbose_name="signing secret",
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
            name="window",
            field=models.DurationField(
                blank=True,
                help_text="How long after a click a conversion can be credited. Leave empty to use this site’s default.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(datetime.timedelta(seconds=1)),
                    django.core.validators.MaxValueValidator(datetime.timedelta(days=36500)),
                ],
                verbose_name="attribution window",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="email",
            field=models.EmailField(
                blank=True,
                db_default="",
                default="",
                help_text="Not shown on the partner page.",
                max_length=254,
                verbose_name="contact e-mail",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="notify",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="The partner agreed to notices about conversions, statements and callbacks.",
                verbose_name="notify by e-mail",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="group",
            field=models.CharField(
                blank=True,
                db_default="",
                db_index=True,
                default="",
                help_text="A label of your own, such as “Bloggers”, for filters and reports.",
                max_length=100,
                verbose_name="group",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="notes",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                help_text="For staff only.",
                verbose_name="notes",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="terms",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                help_text="Shown to the partner on the partner page.",
                verbose_name="terms",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="payment_details",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                help_text="Where the partner is paid, such as a bank account.",
                verbose_name="payment details",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="minimum_payout",
            field=models.DecimalField(
                blank=True,
                decimal_places=4,
                help_text="A balance below this amount is not paid yet. Leave empty for no minimum.",
                max_digits=19,
                null=True,
                validators=[django.core.validators.MinValueValidator(0)],
                verbose_name="minimum payout",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="minimum_payout_currency",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=3,
                verbose_name="currency of the minimum payout",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="page_key",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                help_text="Verifies the private link to the partner page. Empty if there is no link.",
                max_length=128,
                verbose_name="partner page key",
            ),
        ),
        # Without auto_now_add, which would fill it: 0.12 did not record when partners were created.
        migrations.AddField(
            model_name="partner",
            name="created_on",
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AlterField(
            model_name="partner",
            name="created_on",
            field=models.DateTimeField(auto_now_add=True, null=True, verbose_name="created on"),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_on",
            field=models.DateTimeField(
                blank=True, editable=False, null=True, verbose_name="stopped on"
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_reason",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=255,
                verbose_name="reason for the stop",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_by",
            field=models.ForeignKey(
                blank=True,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="stopped by",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="stopped_by_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=150,
                verbose_name="stopped by (name)",
            ),
        ),
        migrations.AddField(
            model_name="partner",
            name="users",
            field=models.ManyToManyField(
                blank=True,
                help_text="The partner’s own accounts. Their own purchases need review.",
                related_name="affiliate_partners",
                to=settings.AUTH_USER_MODEL,
                verbose_name="users",
            ),
        ),
        migrations.CreateModel(
            name="PartnerCode",
            fields=[
                (
                    "id",
                    models.AutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "partner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="codes",
                        to="affiliations.partner",
                        verbose_name="partner",
                    ),
                ),
                (
                    "code",
                    models.CharField(
                        help_text="A coupon, the end of a readable link, or an id of an earlier system.",
                        max_length=40,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[A-Za-z0-9][A-Za-z0-9_-]{1,38}[A-Za-z0-9]\\Z",
                                "Enter 3 to 40 characters: letters from a to z, digits, - and _. Begin and end with a letter or a digit.",
                            )
                        ],
                        verbose_name="code",
                    ),
                ),
                (
                    "key",
                    models.GeneratedField(
                        db_persist=True,
                        expression=Lower("code"),
                        max_length=40,
                        output_field=models.CharField(max_length=40),
                        serialize=False,
                        unique=True,
                    ),
                ),
                ("active", models.BooleanField(default=True, verbose_name="active")),
            ],
            options={
                "verbose_name": "partner code",
                "verbose_name_plural": "partner codes",
            },
        ),
    ]
