"""What this app raises."""

from __future__ import annotations

from enum import Enum

from django.core.exceptions import ValidationError


class InvalidCallBackURL(ValidationError):
    """
    A callback URL that no callback could be sent to.

    ``Subscription.save()`` raises it, as in 0.12. It is a ``ValidationError`` too, so that a form
    shows the same messages beside the field.
    """


class Reason(str, Enum):
    """Why a trigger that fired was not counted: the closed list of codes."""

    NO_VISITOR = "no_visitor"
    NOT_THE_BUYER = "not_the_buyer"
    WINDOW_EXPIRED = "window_expired"
    PARTNER_INACTIVE = "partner_inactive"
    NOT_SUBSCRIBED = "not_subscribed"
    ALREADY_COUNTED = "already_counted"
    REFERRAL_CLOSED = "referral_closed"
    NO_REFERENCE = "no_reference"


class NotCounted(Exception):
    """
    A trigger that fired credits nobody; ``reason`` says why.

    It ends the attempt from wherever it is noticed, taking back what the attempt has written.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
