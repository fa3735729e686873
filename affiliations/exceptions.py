"""The exceptions of this app, and the reasons why a click is filtered or a trigger not credited."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _


class InvalidCallBackURL(ValidationError):
    """
    A callback URL is not valid.

    ``Subscription.save()`` raises it, as in 0.12. It is a ``ValidationError``, so forms show its
    messages beside the field.
    """


class Reason(models.TextChoices):
    """
    Why a click was filtered, a trigger not credited, or a conversion needs review.

    docs/guides/nothing_happened.rst explains what to do about each reason.
    """

    # For a trigger that has fired:
    NO_VISITOR = "no_visitor", _("no visitor is known")
    NOT_THE_BUYER = "not_the_buyer", _("the buyer and the visitor are different users")
    WINDOW_EXPIRED = "window_expired", _("the attribution window has ended")
    PARTNER_INACTIVE = "partner_inactive", _("the partner is inactive")
    NOT_SUBSCRIBED = "not_subscribed", _("the partner has no active subscription to this trigger")
    ALREADY_COUNTED = "already_counted", _("already credited")
    REFERRAL_CLOSED = "referral_closed", _("tracking ended with an earlier conversion")
    EARNING_ENDED = "earning_ended", _("the earning period has ended")
    STOPPED = "stopped", _("staff stopped tracking the visitor")
    NO_REFERENCE = (
        "no_reference",
        _("the reference is missing, and the subscription counts every order"),
    )
    DECIDED_BY_STAFF = (
        "decided_by_staff",
        _("decided by staff, so signals no longer change the conversion"),
    )
    NO_CONVERSION = "no_conversion", _("no conversion to approve or reject")
    # For a click on a partner's link, which can also have PARTNER_INACTIVE:
    UNKNOWN_PARTNER = "unknown_partner", _("unknown partner id")
    HEAD = "head", _("headers only (HEAD request)")
    PREFETCH = "prefetch", _("browser prefetch")
    SUBRESOURCE = "subresource", _("loaded in the background (image, frame)")
    BOT = "bot", _("known bot or crawler")
    AGENT = "agent", _("AI agent")
    DUPLICATE_CLICK = "duplicate_click", _("duplicate click")
    NO_CONSENT = "no_consent", _("the visitor has not consented to tracking")
    # For clicks that were counted first:
    REMOVED = "removed", _("removed later, such as a flood of clicks")
    # For a click on a test link, which can also have the other reasons of clicks:
    TEST_EXPIRED = "test_expired", _("the test link is more than an hour old")
    TEST_USED = "test_used", _("the test link was used before")
    OPEN_REFERRAL = (
        "open_referral",
        _("the browser or the user has a click that can still be credited"),
    )
    # For a conversion that is credited but needs review:
    SCREENED = "screened", _("needs review")
    NO_AMOUNT = "no_amount", _("the amount is missing, zero or invalid")
    NO_PAYOUT = "no_payout", _("the payout could not be calculated")

    @classmethod
    def display(cls, code: str) -> str:
        """Return the label of a stored code, or the code itself if this version has no label."""
        return str(cls(code).label) if code in cls.values else code


class NotCredited(Exception):
    """
    A trigger has fired, but no partner is credited.

    It is raised to end the attempt and to roll back everything that it has written.
    """

    # Any: a Visitor or None, which cannot be imported here, since the models import this module.
    def __init__(self, reason: Reason, visitor: Any = None, reference: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.visitor = visitor
        self.reference = reference
