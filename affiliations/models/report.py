"""The report, which has no table: a permission of its own, and a place in the Admin."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from affiliations.models.conversion import Conversion


class Report(Conversion):
    """What the permission to look at all the numbers hangs on: ``affiliations.view_report``."""

    class Meta:
        proxy = True
        default_permissions = ("view",)
        verbose_name = _("report")
        verbose_name_plural = _("report")
