"""
Queue a callback: render its URL, insert the row, hand it over after commit.

The row is written in the transaction of the conversion, so that it exists exactly if that does.
Nothing leaves the site before the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import router, transaction
from django.db.models import F, Max, Q
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.translation import gettext as _

from affiliations import placeholders
from affiliations.conf import settings
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, Conversion, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def queue(conversion: Conversion, subscriptions: Iterable[Subscription]) -> list[Callback]:
    """
    Queue the callbacks of a conversion: one for each subscription that has a URL.

    Called inside the transaction that writes the conversion. A callback that would not tell the
    partner which visitor is meant is written as cancelled, with the reason.
    """
    callbacks = [
        _callback(conversion, subscription, event=Callback.Event.CONVERSION)
        for subscription in subscriptions
        if subscription.callback_url
    ]
    for callback in callbacks:
        # One by one, nearly always one: MySQL gives no keys back from a bulk insert.
        callback.save(force_insert=True)
    _hand_over_after_commit(_waiting(callbacks))
    return callbacks


def resend(callback: Callback) -> bool:
    """
    Send a callback once more: the same URL, the same id, its history kept.

    ``False`` where it is held, cancelled, or being sent at this moment.
    """
    now = timezone.now()
    sent_now = Q(status=Callback.Status.QUEUED, next_attempt_on__gt=now) & ~Q(lease_token="")
    again = Callback.objects.exclude(sent_now).filter(
        pk=callback.pk,
        status__in=[
            Callback.Status.QUEUED,
            Callback.Status.DELIVERED,
            Callback.Status.EXHAUSTED,
        ],
    )
    steps = len(settings.callback_retry_schedule)
    changed = again.update(
        status=Callback.Status.QUEUED,
        next_attempt_on=now,
        is_manual=True,
        # One more than there were, also where the schedule was longer then.
        resend_count=Greatest(F("resend_count") + 1 + steps, F("attempt_count") + 1) - steps,
    )
    if changed:
        _hand_over_after_commit([callback.pk])
    return bool(changed)


def resend_anew(callback: Callback) -> Callback:
    """
    Render the subscription's callback URL of today into a new row beside ``callback``, and send it.

    It has an id of its own, since a partner may know the old one as done. ``ValueError`` for a test
    callback, which tells of nothing.
    """
    if callback.conversion is None:
        raise ValueError("a test callback cannot be sent again, only made anew")
    with transaction.atomic(using=router.db_for_write(Callback)):
        # Written, which locks it on every database, so that two who ask at once come one after the
        # other. On SQLite a transaction that reads before it writes would fail.
        Conversion.objects.filter(pk=callback.conversion.pk).update(trigger=F("trigger"))
        editions = Callback.objects.filter(
            conversion=callback.conversion_id,
            subscription=callback.subscription_id,
            event=callback.event,
        )
        anew = _callback(callback.conversion, callback.subscription, event=callback.event)
        anew.edition = editions.aggregate(Max("edition"))["edition__max"] + 1
        anew.created_on = anew.next_attempt_on = timezone.now()
        anew.save(force_insert=True)
        _hand_over_after_commit(_waiting([anew]))
    return anew


def _waiting(callbacks: Iterable[Callback]) -> list[int]:
    """Return the ids of those that are to be sent."""
    return [row.pk for row in callbacks if row.status == Callback.Status.QUEUED]


def _hand_over_after_commit(callback_ids: Sequence[int]) -> None:
    """Give them to the dispatcher, once they are committed."""
    if callback_ids:
        transaction.on_commit(
            # No partial: Django 5.2 logs the __qualname__ of what has failed here.
            lambda: settings.callback_dispatcher(callback_ids),
            using=router.db_for_write(Callback),
            robust=True,
        )


def _callback(conversion: Conversion, subscription: Subscription, *, event: str) -> Callback:
    """Make the row that tells of ``conversion``, with its URL rendered once and for ever."""
    callback = Callback(
        conversion=conversion,
        subscription=subscription,
        partner=conversion.partner,
        event=event,
        url=subscription.callback_url,
        created_on=conversion.created_on,
        next_attempt_on=conversion.created_on,
    )
    values = _values(callback, conversion)
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
        "status": conversion.status,
        "callback_id": callback.webhook_id,
        "timestamp": int(callback.created_on.timestamp()),
    }
