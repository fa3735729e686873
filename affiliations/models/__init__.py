"""
The models, one module for each noun.

``:meta public:`` in the docstring of a method or property puts it into the reference.
"""

from affiliations.models.callback import Callback, CallbackAttempt
from affiliations.models.clicks import (
    DailyClicks,
    FilteredClicks,
    FollowedTestLink,
    Overview,
    RecentFilteredClick,
    Report,
    RollupState,
    UncreditedTrigger,
)
from affiliations.models.conversion import Conversion
from affiliations.models.failed_trigger import FailedTrigger
from affiliations.models.notice_start import NoticeStart
from affiliations.models.partner import Partner
from affiliations.models.partner_code import PartnerCode
from affiliations.models.sent_form import SentForm
from affiliations.models.settlement import Adjustment, Settlement, StatementLock
from affiliations.models.subscription import Subscription
from affiliations.models.visitor import Visitor

__all__ = [
    "Adjustment",
    "Callback",
    "CallbackAttempt",
    "Conversion",
    "DailyClicks",
    "FailedTrigger",
    "FilteredClicks",
    "FollowedTestLink",
    "NoticeStart",
    "Overview",
    "Partner",
    "PartnerCode",
    "RecentFilteredClick",
    "Report",
    "RollupState",
    "SentForm",
    "Settlement",
    "StatementLock",
    "Subscription",
    "UncreditedTrigger",
    "Visitor",
]
