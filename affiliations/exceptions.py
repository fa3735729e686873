"""What this app raises."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _


class InvalidCallBackURL(ValidationError):
    """
    A callback URL that no callback could be sent to.

    ``Subscription.save()`` raises it, as in 0.12. It is a ``ValidationError`` too, so that a form
    shows the same messages beside the field.
    """


class Reason(models.TextChoices):
    """
    Why something was not counted, or waits for somebody to decide: the closed list of codes.

    The label says it in the reader's language. docs/support.rst says what to do.
    """

    # A trigger that fired:
    NO_VISITOR = "no_visitor", _("nobody was referred, as far as is known")
    NOT_THE_BUYER = "not_the_buyer", _("the buyer is not the visitor of the request")
    WINDOW_EXPIRED = "window_expired", _("past the attribution window")
    PARTNER_INACTIVE = "partner_inactive", _("no deal with the partner, who is inactive")
    NOT_SUBSCRIBED = "not_subscribed", _("no active subscription of the partner to the trigger")
    ALREADY_COUNTED = "already_counted", _("counted before")
    REFERRAL_CLOSED = "referral_closed", _("the referral was closed by an earlier conversion")
    NO_REFERENCE = "no_reference", _("no reference, where every reference counts")
    NO_CONVERSION = "no_conversion", _("no conversion to decide on")
    # A click on a partner's link; one whose partner is inactive as well:
    UNKNOWN_PARTNER = "unknown_partner", _("a link that names no partner")
    HEAD = "head", _("asked for the headers of the page only")
    PREFETCH = "prefetch", _("fetched by a browser before anybody followed the link")
    SUBRESOURCE = "subresource", _("loaded as a part of another page, such as an image")
    BOT = "bot", _("followed by a known crawler")
    DUPLICATE_CLICK = "duplicate_click", _("the same link once more in the same browser")
    NO_CONSENT = "no_consent", _("the visitor has not agreed to be remembered")
    # A conversion that is counted, and pending:
    SCREENED = "screened", _("somebody is to look at it first")
    NO_AMOUNT = "no_amount", _("no amount that could be paid on")


class NotCounted(Exception):
    """
    A trigger that fired credits nobody; ``reason`` says why, and ``visitor`` whom, if anybody.

    It ends the attempt from wherever it is noticed, taking back what the attempt has written.
    """

    # Any: a Visitor or None, of whom this floor does not know.
    def __init__(self, reason: Reason, visitor: Any = None, reference: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.visitor = visitor
        self.reference = reference
