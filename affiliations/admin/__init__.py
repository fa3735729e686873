"""
The Admin: staff run partners and subscriptions, and look at what has happened.

Django's autodiscover imports this package, so it imports its rooms, whose classes register
themselves.
"""

from affiliations.admin import (
    attempts,
    callbacks,
    conversions,
    corrections,
    partners,
    report,
    settlements,
    subscriptions,
    visitors,
)

__all__ = [
    "attempts",
    "callbacks",
    "conversions",
    "corrections",
    "partners",
    "report",
    "settlements",
    "subscriptions",
    "visitors",
]
