"""
The Admin of the app.

Django's autodiscover imports this package, so it imports the modules that register the models.
"""

from affiliations.admin import (
    adjustments,
    callbacks,
    conversions,
    failed_triggers,
    filtered_clicks,
    overview,
    partners,
    report,
    settlements,
    subscriptions,
    visitors,
)

__all__ = [
    "adjustments",
    "callbacks",
    "conversions",
    "failed_triggers",
    "filtered_clicks",
    "overview",
    "partners",
    "report",
    "settlements",
    "subscriptions",
    "visitors",
]
