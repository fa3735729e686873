"""The app: connects its triggers and registers its checks."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AffiliateTrackingConfig(AppConfig):
    name = "affiliations"
    verbose_name = _("Affiliate tracking")
    # Fixed by the tables of 0.12. Newer models name their own.
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        from django.apps import apps
        from django.contrib.auth import get_user_model
        from django.contrib.auth.signals import user_logged_in
        from django.core.signals import request_started
        from django.db.models.signals import post_save

        # The checks and logs register themselves.
        from affiliations import checks, database_checks, logs, registry  # noqa: F401
        from affiliations.tracking import visitors

        registry.connect()
        user_logged_in.connect(
            visitors.link_user, dispatch_uid="affiliations.link_user", weak=False
        )
        for model in apps.get_models():
            # A proxy or a child of the user model sends the signal in its own name.
            if issubclass(model, get_user_model()):
                post_save.connect(
                    visitors.link_new_user,
                    sender=model,
                    dispatch_uid="affiliations.link_new_user",
                    weak=False,
                )
        request_started.connect(_start_dispatcher, dispatch_uid=_START_DISPATCHER, weak=False)


_START_DISPATCHER = "affiliations.start_dispatcher"


def _start_dispatcher(**kwargs: Any) -> None:
    """
    Start a dispatcher that sends in this process, at the first request.

    Not in ``ready()``: a server may fork after it, and commands send only what they have queued.
    """
    from django.core.signals import request_started

    from affiliations.conf import settings

    request_started.disconnect(dispatch_uid=_START_DISPATCHER)
    with suppress(ImportError):  # A system check reports it.
        getattr(settings.callback_dispatcher, "start", bool)()
