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

    ``cure`` says what to do about it. docs/reference/reasons.rst says more.
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

    @classmethod
    def cure_of(cls, code: str) -> str:
        """Return what to do about a stored code; empty if this version does not know it."""
        return str(cls(code).cure) if code in cls.values else ""

    @property
    def cure(self) -> Any:
        """What to do about it, in a sentence or two, translated when it is shown."""
        return _CURES.get(self, "")


#: What to do about each reason: read on the console, in ``explain_affiliation``, in the Admin and
#: in the reference of the documentation.
_CURES: dict[Reason, Any] = {
    Reason.NO_VISITOR: _(
        "Open a partner’s link first, in the same browser and on the same host: localhost and "
        "127.0.0.1 have different sessions. For orders of webhooks and workers, store the visitor "
        "on the order. After the end of a session, AFFILIATE_COOKIE_NAME or "
        "AFFILIATE_ATTRIBUTE_BY_USER finds the visitor."
    ),
    Reason.NOT_THE_BUYER: _(
        "Another user is logged in, or the trigger fired on a staff page. To credit the buyer’s "
        "own click, store the visitor on the order, or set AFFILIATE_ATTRIBUTE_BY_USER = True."
    ),
    Reason.WINDOW_EXPIRED: _(
        "Agree on a longer attribution window: the partner’s own, or AFFILIATE_ATTRIBUTION_WINDOW."
    ),
    Reason.PARTNER_INACTIVE: _(
        "Tick “Active” on the partner’s page. What was missed is not credited afterwards."
    ),
    Reason.NOT_SUBSCRIBED: _(
        "Add a subscription to this trigger on the partner’s page, or make it active."
    ),
    Reason.ALREADY_COUNTED: _(
        "This visitor or this reference has a conversion already. To credit each order, choose "
        "“Every order (unique reference)” in the subscription."
    ),
    Reason.REFERRAL_CLOSED: _(
        "Clear “Stop tracking the visitor after the first conversion” in the subscription of the "
        "earlier conversion, or click on the partner’s link again."
    ),
    Reason.EARNING_ENDED: _("Agree on a longer earning period in the subscription."),
    Reason.STOPPED: _("Staff can still credit a conversion manually, on the visitor’s page."),
    Reason.NO_REFERENCE: _("Give complete_trigger() an instance or a reference."),
    Reason.DECIDED_BY_STAFF: _("If the signal is right, decide the conversion manually."),
    Reason.NO_CONVERSION: _(
        "Usually the customer came without a partner, and nothing is wrong. If there should be a "
        "conversion, compare its reference with that of the event."
    ),
    Reason.UNKNOWN_PARTNER: _(
        "Copy the link from the partner’s page: a character may be missing, or the partner was "
        "deleted."
    ),
    Reason.HEAD: _("Link checkers and “curl -I” send such requests: open the link in a browser."),
    Reason.PREFETCH: _("Follow the link: that click is counted."),
    Reason.SUBRESOURCE: _(
        "If your own pages follow links by a script or in a frame, set AFFILIATE_COUNT_FETCHES or "
        "AFFILIATE_COUNT_FRAMES = True. Otherwise ask the partner: in large numbers this is fraud, "
        "called cookie stuffing."
    ),
    Reason.BOT: _(
        "curl, scripts and headless browsers are taken for crawlers: use a browser, or set "
        "AFFILIATE_IGNORE_BOTS = False."
    ),
    Reason.AGENT: _(
        "If the person follows the link, that click is counted. To count agents, set "
        "AFFILIATE_IGNORE_BOTS = False."
    ),
    Reason.DUPLICATE_CLICK: _(
        "The visitor of the first click is still credited. For a new visitor, use a private "
        "window, or set AFFILIATE_CLICK_DEDUPE_WINDOW = None."
    ),
    Reason.NO_CONSENT: _(
        "AFFILIATE_CONSENT did not return True. Agree to be tracked, and open the link again."
    ),
    Reason.REMOVED: _("Staff removed clicks without a conversion. They are not counted again."),
    Reason.TEST_EXPIRED: _("Create a new link with “Try this deal”."),
    Reason.TEST_USED: _("Each link makes one test: create a new link with “Try this deal”."),
    Reason.OPEN_REFERRAL: _(
        "A test does not replace a real click: open the link in a private window, and do not log "
        "in there."
    ),
    Reason.SCREENED: _("Check the conversion, and approve or reject it."),
    Reason.NO_AMOUNT: _(
        "Name the amount, and its currency, in the fifth item of AFFILIATE_TRIGGERS, such as "
        '{"amount": "total", "currency": "currency"}. “Approve” asks for a missing amount.'
    ),
    Reason.NO_PAYOUT: _(
        "Correct the function of AFFILIATE_PAYOUT: the log has its error. “Approve” asks for a "
        "missing payout."
    ),
}


class NotCredited(Exception):
    """
    A trigger has fired, but no partner is credited.

    It is raised to end the attempt and to roll back everything that it has written.
    """

    # Any: a Visitor or None, which cannot be imported here, since the models import this module.
    def __init__(
        self, reason: Reason, visitor: Any = None, reference: str = "", place: str = ""
    ) -> None:
        super().__init__(reason.value)
        #: Where no visitor was found, for the log.
        self.place = place
        self.reason = reason
        self.visitor = visitor
        self.reference = reference
