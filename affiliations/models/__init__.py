"""The tables, one file a noun."""

from affiliations.models.callback import Callback, CallbackAttempt
from affiliations.models.conversion import Conversion
from affiliations.models.partner import Partner
from affiliations.models.subscription import Subscription
from affiliations.models.visitor import Visitor

__all__ = ["Callback", "CallbackAttempt", "Conversion", "Partner", "Subscription", "Visitor"]
