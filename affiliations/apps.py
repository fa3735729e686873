"""The app: wires its triggers and registers its checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _


class AffiliateTrackingConfig(AppConfig):
    """What Django knows of the app."""

    name = "affiliations"
    verbose_name = _("Affiliate tracking")
    # For ever: the tables of 0.12 have such keys. Newer tables name theirs themselves.
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Connect the triggers of the settings and the login, and register the system checks."""
        from django.contrib.auth.signals import user_logged_in

        from affiliations import checks, visitors, wiring
        from affiliations.callbacks import checks as callback_checks

        wiring.connect()
        user_logged_in.connect(
            visitors.link_user, dispatch_uid="affiliations.link_user", weak=False
        )
        register(checks.check_middleware, "affiliations")
        register(checks.check_settings, "affiliations")
        register(checks.check_production, "affiliations", deploy=True)
        register(callback_checks.check_dispatcher, "affiliations")
        register(callback_checks.check_production, "affiliations", deploy=True)
