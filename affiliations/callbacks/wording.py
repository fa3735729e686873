"""What a callback says: the row that tells of an event, with its URL rendered once and for ever."""

from __future__ import annotations

from django.utils.translation import gettext_noop

from affiliations import placeholders
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, Conversion, Subscription

Event = Callback.Event

# Why nothing is said: kept in English, shown in the reader's language.
NO_CLICK_ID = gettext_noop("The visitor came without a click id.")
IS_TEST = gettext_noop("This is a test of the deal; it is sent by hand only.")

#: What a decision has made of a conversion, whatever has become of it since.
_DECIDED = {
    Event.APPROVAL: Conversion.Status.APPROVED,
    Event.REJECTION: Conversion.Status.REJECTED,
}


def compose(conversion: Conversion, subscription: Subscription, event: str) -> Callback:
    """
    Make the row that tells one subscription of what has happened to ``conversion``; save nothing.

    A callback that would not say which visitor is meant, and that of a test, is cancelled, with the
    reason.
    """
    decided_on = None if event == Event.CONVERSION else conversion.decided_on
    happened_on = decided_on or conversion.created_on
    callback = Callback(
        conversion=conversion,
        subscription=subscription,
        partner=conversion.partner,
        event=event,
        url=subscription.callback_url,
        created_on=happened_on,
        next_attempt_on=happened_on,
    )
    values = _values(callback, conversion)
    if not placeholders.identifies(subscription.callback_url, values):
        return _cancelled(callback, NO_CLICK_ID)
    try:
        callback.url = placeholders.render(subscription.callback_url, values)
    except InvalidCallBackURL:
        return _cancelled(callback, placeholders.CLIMBS)
    return _cancelled(callback, IS_TEST) if conversion.is_test else callback


def _cancelled(callback: Callback, reason: str) -> Callback:
    callback.status = Callback.Status.CANCELLED
    callback.reason = reason
    return callback


def _values(callback: Callback, conversion: Conversion) -> dict[str, object]:
    """Return what stands for each placeholder in this callback; a missing one is empty."""
    visitor = conversion.visitor
    return {
        "visitor_id": visitor.pk,
        "click_id": visitor.click_id,
        "sub1": visitor.sub1,
        "sub2": visitor.sub2,
        "sub3": visitor.sub3,
        "sub4": visitor.sub4,
        "sub5": visitor.sub5,
        "partner_uid": conversion.partner.uid,
        "trigger": conversion.trigger,
        "event": callback.event,
        "reference": conversion.reference,
        "amount": conversion.amount,
        "currency": conversion.currency,
        "payout": conversion.payout,
        "payout_currency": conversion.payout_currency,
        "status": _DECIDED.get(Event(callback.event), conversion.status),
        "callback_id": callback.webhook_id,
        "timestamp": int(callback.created_on.timestamp()),
    }
