"""
Queue a callback: render its URL, insert the row, hand it over after commit.

The row is written in the transaction of the conversion, so that it exists exactly if that does.
Nothing leaves the site before the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from django.utils.translation import gettext as _

from affiliations import placeholders
from affiliations.conf import settings
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, Conversion, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable


def queue(conversion: Conversion, subscriptions: Iterable[Subscription]) -> list[Callback]:
    """
    Queue the callbacks of a conversion: one for each subscription that has a URL.

    Called inside the transaction that writes the conversion. A callback that would not tell the
    partner which visitor is meant is written as cancelled, with the reason.
    """
    callbacks = [
        _callback(conversion, subscription)
        for subscription in subscriptions
        if subscription.callback_url
    ]
    for callback in callbacks:
        # One by one, nearly always one: MySQL gives no keys back from a bulk insert.
        callback.save(force_insert=True)
    if waiting := [row.pk for row in callbacks if row.status == Callback.Status.QUEUED]:
        transaction.on_commit(
            # No partial: Django 5.2 logs the __qualname__ of what has failed here.
            lambda: settings.callback_dispatcher(waiting),
            using=conversion._state.db,
            robust=True,
        )
    return callbacks


def _callback(conversion: Conversion, subscription: Subscription) -> Callback:
    """Make the row that tells of ``conversion``, with its URL rendered once and for ever."""
    callback = Callback(
        conversion=conversion,
        subscription=subscription,
        url=subscription.callback_url,
        created_on=conversion.created_on,
        next_attempt_on=conversion.created_on,
    )
    values = _values(callback)
    if not placeholders.identifies(subscription.callback_url, values):
        return _cancelled(callback, _("The visitor came without a click id."))
    try:
        callback.url = placeholders.render(subscription.callback_url, values)
    except InvalidCallBackURL as error:
        return _cancelled(callback, " ".join(error.messages))
    return callback


def _cancelled(callback: Callback, reason: str) -> Callback:
    callback.status = Callback.Status.CANCELLED
    callback.reason = reason
    return callback


def _values(callback: Callback) -> dict[str, object]:
    """Return what stands for each placeholder in this callback; a missing one is empty."""
    conversion = callback.conversion
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
        "status": conversion.status,
        "callback_id": callback.webhook_id,
        "timestamp": int(callback.created_on.timestamp()),
    }
