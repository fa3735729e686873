"""The tables, one file a noun."""

from affiliations.models.callback import Callback, CallbackAttempt
from affiliations.models.conversion import Conversion
from affiliations.models.partner import Partner
from affiliations.models.report import Report
from affiliations.models.settlement import Correction, Settlement
from affiliations.models.subscription import Subscription
from affiliations.models.totals import ClickCount, DailyClicks
from affiliations.models.uncounted import UncountedClicks, UncountedTrigger
from affiliations.models.visitor import PurgedClicks, Visitor

__all__ = [
    "Callback",
    "CallbackAttempt",
    "ClickCount",
    "Conversion",
    "Correction",
    "DailyClicks",
    "Partner",
    "PurgedClicks",
    "Report",
    "Settlement",
    "Subscription",
    "UncountedClicks",
    "UncountedTrigger",
    "Visitor",
]
