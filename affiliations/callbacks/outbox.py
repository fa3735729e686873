"""
Queue callbacks, resend them, and cancel them.

The row is inserted in the transaction of the conversion, so that either both exist or neither. The
dispatcher gets its id after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, F, Max, Q
from django.db.models.functions import Greatest
from django.utils import timezone

from affiliations import db, placeholders
from affiliations.callbacks import maintenance
from affiliations.callbacks.cancellations import (
    DECIDED_SINCE,
    IS_TEST,
    NO_CLICK_ID,
    SENDING_IS_OFF,
)
from affiliations.callbacks.messages import tell_queued
from affiliations.conf import settings
from affiliations.db import status_in
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, CallbackAttempt, Conversion, Partner, Subscription
from affiliations.models.callback import CallbackQuerySet
from affiliations.models.visitor import LOST_CLICK_IDS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

Error = CallbackAttempt.Error
Event = Callback.Event
Status = Callback.Status

#: Callbacks whose URL was erased, see ``affiliations.privacy``.
_BLANKED = Q(url="")
#: Callbacks that were cancelled when they were created, and that staff can still send.
_KEPT_BACK = Q(status_in(Status.CANCELLED), reason__in=(IS_TEST, SENDING_IS_OFF))
#: Callbacks that can be resent, unless they are in flight or their subscription is suspended.
RESENDABLE = (
    ~_BLANKED
    & ~Q(event=Event.TEST)
    & (Q(status_in(Status.QUEUED, Status.DELIVERED, Status.EXHAUSTED)) | _KEPT_BACK)
)

#: The field of a subscription that asks for the callbacks of an event.
_ASKED_BY = {
    Event.CONVERSION: "call_on_conversion",
    Event.APPROVAL: "call_on_approval",
    Event.REJECTION: "call_on_rejection",
}

#: Callbacks cancelled by one statement.
_CHUNK = 500

#: Errors after which the partner has not processed the callback. After any other error, such as a
#: timeout, the partner may have processed it.
_NOT_RECEIVED = (*CallbackAttempt.NOT_SENT, Error.REDIRECTS, Error.HTTP_STATUS)


def queue(
    conversion: Conversion,
    subscriptions: Iterable[Subscription],
    event: Event,
    delay: timedelta = timedelta(),
) -> list[Callback]:
    """
    Queue the callbacks of an event, one for each subscription that asks for them.

    Call it inside the transaction that writes the conversion. With a ``delay``, the callbacks are
    due only after it, unless ``render_anew()`` is called earlier.
    """
    callbacks = _insert(conversion, subscriptions, event, delay)
    if callbacks:
        transaction.on_commit(lambda: tell_queued(callbacks), using=db.write_alias(), robust=True)
    dispatch_on_commit(_queued_ids(callbacks))
    return callbacks


def render_anew(conversion: Conversion) -> None:
    """
    Render the unsent callbacks of a conversion with its new amount, and make them due.

    Call it inside a transaction, with the conversion's row locked.
    """
    rows = _callbacks().filter(conversion=conversion).select_related("subscription")
    for row in rows.order_by("pk"):
        anew = build_callback(conversion, row.subscription, row.event)
        unsent = _callbacks().filter(Q(status_in(Status.QUEUED)) | _KEPT_BACK, attempt_count=0)
        unsent.filter(pk=row.pk).update(
            method=anew.method,
            url=anew.url,
            body=anew.body,
            status=anew.status,
            reason=anew.reason,
            next_attempt_on=anew.next_attempt_on,
        )


def withdraw_approval(conversion: Conversion) -> None:
    """
    Delete the callbacks of an approval that was taken back before any of them was sent.

    Call it inside a transaction, with the conversion's row locked.
    """
    _callbacks().filter(conversion=conversion, event=Event.APPROVAL, attempt_count=0).delete()


def queue_decision(conversion: Conversion) -> None:
    """
    Queue the callbacks of a decision, each event once, and cancel those that it contradicts.

    Call it inside the transaction that decides, with the conversion's row locked. A rejection
    cancels the waiting callbacks; they are queued again if the conversion is reopened. A
    subscription gets the callback of the rejection only if the partner may have received an earlier
    one, even one that has been purged since.
    """
    # While the conversion is locked, no other transaction adds or purges callbacks, or decides.
    stored = (
        _callbacks()
        .filter(conversion=conversion)
        .annotate(notified_events=F("conversion__notified_events"))
    )
    rows = list(stored.only("event", "subscription", "status", "reason").order_by("pk"))
    purged = _purged_events(conversion, rows)
    queued = purged.union((row.event, row.subscription_id) for row in rows)
    rejections = [row for row in rows if row.event == Event.REJECTION]
    others = [row for row in rows if row.event != Event.REJECTION]
    # New rows before changed ones. On MariaDB an inserted row takes a shared lock of its
    # subscription, and recording a failure locks first the subscription and then the callback.
    if conversion.status == Conversion.Status.REJECTED:
        new = _insert(conversion, missing(conversion, Event.REJECTION, queued), Event.REJECTION)
        _contradict(others)
        # Read after the cancellation, since cancelled callbacks cannot be claimed any more.
        notified = _possibly_notified(others)
        notified |= {subscription for event, subscription in purged if event != Event.REJECTION}
        needless = [callback.pk for callback in new if callback.subscription_id not in notified]
        _callbacks().filter(pk__in=needless).delete()
        dispatch_on_commit(_queued_ids(row for row in new if row.pk not in needless))
        _requeue(conversion, [row for row in rejections if row.subscription_id in notified])
    elif conversion.status == Conversion.Status.APPROVED:
        queue(conversion, missing(conversion, Event.APPROVAL, queued), Event.APPROVAL)
        _contradict(rejections)
        _requeue(conversion, others)
    else:
        _contradict(rejections)
        _requeue(conversion, [row for row in others if row.event == Event.CONVERSION])


def notified(conversion: Conversion) -> set[tuple[str, int]]:
    """Return the pairs of event and subscription that the partner may have been notified of."""
    purged = maintenance.notified(conversion.notified_events)
    return purged | _begun(_callbacks().filter(conversion=conversion))


def sends(subscription: Subscription, event: Event) -> bool:
    """Tell whether a subscription sends a callback of an event."""
    return bool(subscription.callback_url and getattr(subscription, _ASKED_BY[event]))


def cancel_all(partner: Partner, reason: str) -> int:
    """
    Cancel the waiting callbacks of a partner, and return how many.

    A callback in flight still counts as delivered if the partner accepts it.
    """
    waiting = _callbacks().queued().filter(partner=partner).order_by("pk")
    keys = list(waiting.values_list("pk", flat=True))
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    return sum(_cancel(chunk, reason[:255]) for chunk in chunks)


def cancel(callback: Callback, reason: str) -> bool:
    """
    Cancel a waiting callback; return ``False`` if it is no longer waiting.

    A callback in flight still counts as delivered if the partner accepts it.
    """
    return bool(_cancel([callback.pk], reason[:255]))


def resend(callback: Callback) -> bool:
    """
    Send a callback once more, with the same URL and id.

    Args:
        callback: The callback, delivered or not.

    Returns:
        ``True`` if the callback is queued. ``False``, with nothing changed, if
        ``AFFILIATE_SEND_CALLBACKS`` is ``False``, or if callbacks of the subscription are
        suspended. Also ``False`` if the callback is in flight, blanked (see
        ``affiliations.privacy``), a test callback or cancelled. A callback that was cancelled only
        because it belongs to a test conversion, or because sending was turned off, can be resent.
    """
    if not settings.send_callbacks:
        return False
    now = db.now()
    steps = len(settings.callback_retry_schedule)
    alias = db.write_alias()
    with transaction.atomic(using=alias):
        row = Callback.objects.not_in_flight(now).filter(RESENDABLE, pk=callback.pk)
        changed = row.update(
            status=Status.QUEUED,
            reason="",
            next_attempt_on=now,
            is_manual=True,
            # Allows one more attempt, even if the schedule was longer at the earlier attempts.
            resend_count=Greatest(F("resend_count") + 1 + steps, F("attempt_count") + 1) - steps,
        )
        if changed and _is_suspended(callback):
            transaction.set_rollback(True, using=alias)
            return False
        if changed:
            dispatch_on_commit([callback.pk])
    return bool(changed)


def resend_anew(callback: Callback) -> Callback | None:
    """
    Send the event again as a new callback, with the current callback URL of the subscription.

    The new callback has its own id, since the partner may have processed the old one.

    Args:
        callback: The callback, which is not changed.

    Returns:
        The new callback, or ``None`` if callbacks of the subscription are suspended or it has no
        callback URL any more.

    Raises:
        ValueError: If it is a test callback, which belongs to no conversion.
    """
    if callback.conversion is None:
        raise ValueError("a test callback cannot be sent again")
    with transaction.atomic(using=db.write_alias()):
        # An update locks the row on every database, so that two calls run one after the other. On
        # SQLite a transaction that reads before it writes would fail.
        Conversion.objects.filter(pk=callback.conversion.pk).update(trigger=F("trigger"))
        if _is_suspended(callback) or not callback.subscription.callback_url:
            return None
        callback.conversion.refresh_from_db(using=db.write_alias(), fields=["status", "decided_on"])
        versions = _callbacks().filter(
            conversion=callback.conversion_id,
            subscription=callback.subscription_id,
            event=callback.event,
        )
        version = versions.aggregate(Max("version"))["version__max"] + 1
        anew = build_callback(callback.conversion, callback.subscription, callback.event, version)
        anew.created_on = timezone.now()
        anew.save(force_insert=True)
        dispatch_on_commit(_queued_ids([anew]))
    return anew


def _is_suspended(callback: Callback) -> bool:
    """
    Return whether the callbacks of a callback's subscription are suspended.

    Call it after the update of the callback, since on SQLite a transaction that reads before it
    writes may fail. It is a query of its own: an update with a subquery would lock the callback
    before the subscription, and recording a failure locks them in the other order. If the
    subscription is suspended later, the callback waits.
    """
    subscriptions = Subscription.objects.using(db.write_alias()).suspended()
    return subscriptions.filter(pk=callback.subscription_id).exists()


def _callbacks() -> CallbackQuerySet:
    return Callback.objects.using(db.write_alias())


def _queued_ids(callbacks: Iterable[Callback]) -> list[int]:
    return [row.pk for row in callbacks if row.status == Status.QUEUED]


def _purged_events(conversion: Conversion, rows: Sequence[Callback]) -> set[tuple[str, int]]:
    row: Any = rows[0] if rows else None  # annotated with the events of the conversion
    if row is None:
        stored = Conversion.objects.using(db.write_alias())
        row = stored.only("notified_events").get(pk=conversion.pk)
    return maintenance.notified(row.notified_events)


def missing(
    conversion: Conversion, event: Event, queued: Container[tuple[str, int]]
) -> list[Subscription]:
    """
    Return the subscriptions of a conversion that have no callback of an event yet.

    They include inactive ones, since the partner has earned the conversion.
    """
    subscriptions = conversion.partner.subscriptions.using(db.write_alias()).order_by("pk")
    return [
        row
        for row in subscriptions
        if (event, row.pk) not in queued
        and (row.pk == conversion.subscription_id or row.trigger == conversion.trigger)
    ]


def _insert(
    conversion: Conversion,
    subscriptions: Iterable[Subscription],
    event: Event,
    delay: timedelta = timedelta(),
) -> list[Callback]:
    callbacks = [
        build_callback(conversion, subscription, event)
        for subscription in subscriptions
        if sends(subscription, event) and not conversion.partner.is_stopped
    ]
    for callback in callbacks:
        callback.next_attempt_on += delay
        # Not in bulk, since MySQL then returns no keys. There is nearly always only one.
        callback.save(force_insert=True)
    return callbacks


def _possibly_notified(callbacks: Iterable[Callback]) -> set[int]:
    """Return the subscriptions that may have received one of these callbacks."""
    rows = _callbacks().filter(pk__in=[callback.pk for callback in callbacks])
    return {subscription for _event, subscription in _begun(rows)}


def _begun(callbacks: CallbackQuerySet) -> set[tuple[str, int]]:
    """
    Return event and subscription of the callbacks that the partner may have received.

    A callback in flight is one of them, since the claim counts the attempt already.
    """
    failed = Count("attempts", filter=Q(attempts__error__in=_NOT_RECEIVED))
    begun = callbacks.annotate(failed=failed).filter(attempt_count__gt=F("failed"))
    return set(begun.values_list("event", "subscription"))


def _cancel(keys: Sequence[int], reason: str) -> int:
    if not keys:
        return 0
    rows = _callbacks().filter(pk__in=keys)
    if len(keys) > 1:
        db.lock_rows(rows)
    waiting = rows.filter(status_in(Status.QUEUED))
    # A callback that was delivered before stays delivered: only the resend is cancelled.
    resends = waiting.filter(delivered_on__isnull=False)
    count = resends.update(status=Status.DELIVERED, is_manual=False)
    return count + waiting.update(status=Status.CANCELLED, reason=reason)


def _contradict(callbacks: Sequence[Callback]) -> None:
    """Cancel the callbacks that a decision contradicts; those kept back cannot be resent then."""
    _cancel([row.pk for row in callbacks], DECIDED_SINCE)
    if keys := [row.pk for row in callbacks if row.reason == SENDING_IS_OFF]:
        rows = _callbacks().filter(pk__in=keys)
        db.lock_rows(rows)
        rows.filter(_KEPT_BACK, reason=SENDING_IS_OFF).update(reason=DECIDED_SINCE)


def _requeue(conversion: Conversion, callbacks: Sequence[Callback]) -> None:
    """
    Queue the callbacks again that an earlier decision has cancelled, if the site sends callbacks.

    ``next_attempt_on`` stays: a callback that is still in flight is not sent twice.
    """
    keys = [
        row.pk
        for row in callbacks
        if row.status == Status.CANCELLED and row.reason == DECIDED_SINCE
    ]
    if keys and not conversion.partner.is_stopped:
        rows = _callbacks().filter(pk__in=keys)
        if len(keys) > 1:
            db.lock_rows(rows)
        cancelled = rows.filter(~_BLANKED, status_in(Status.CANCELLED))
        if settings.send_callbacks:
            cancelled.update(status=Status.QUEUED, reason="")
            dispatch_on_commit(keys)
        else:
            cancelled.update(reason=SENDING_IS_OFF)


def build_callback(
    conversion: Conversion, subscription: Subscription, event: str, version: int = 1
) -> Callback:
    """
    Return the unsaved callback of an event.

    It is cancelled, with the reason, if the conversion is a test or the site sends no callbacks.
    It is also cancelled if its URL would not identify the visitor, or would lead to another page of
    the partner.
    """
    decided_on = None if event == Event.CONVERSION else conversion.decided_on
    happened_on = decided_on or conversion.created_on
    callback = Callback(
        conversion=conversion,
        subscription=subscription,
        partner=conversion.partner,
        event=event,
        version=version,
        method=subscription.method,
        url=subscription.callback_url,
        created_on=happened_on,
        next_attempt_on=db.now(),
    )
    values = placeholders.values_for(callback)
    if callback.method == Subscription.Method.POST:
        callback.body = placeholders.body(event, happened_on, values)
    elif not placeholders.identifies(subscription.callback_url, values):
        lost = LOST_CLICK_IDS.get(conversion.visitor.lost_click_id)
        return _cancelled(callback, lost or NO_CLICK_ID)
    try:
        callback.url = placeholders.render(subscription.callback_url, values)
    except InvalidCallBackURL:
        return _cancelled(callback, placeholders.CLIMBS)
    if conversion.is_test:
        return _cancelled(callback, IS_TEST)
    return callback if settings.send_callbacks else _cancelled(callback, SENDING_IS_OFF)


def _cancelled(callback: Callback, reason: str) -> Callback:
    callback.status, callback.reason = Status.CANCELLED, reason
    return callback


def dispatch_on_commit(callback_ids: Sequence[int]) -> None:
    if callback_ids and settings.send_callbacks:
        transaction.on_commit(
            # Not a partial: Django 5.2 logs the __qualname__ of a function that fails.
            lambda: settings.callback_dispatcher(callback_ids),
            using=db.write_alias(),
            robust=True,
        )
