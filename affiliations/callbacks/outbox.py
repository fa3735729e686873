"""
Queue a callback: insert its row, hand it over after commit; take it back where it is not true.

The row is written in the transaction of the conversion, so that it exists exactly if that does.
Nothing leaves the site before the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import router, transaction
from django.db.models import Count, F, Max, Q
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.translation import gettext_noop

from affiliations import batches
from affiliations.callbacks import handover, retention, wording
from affiliations.conf import settings
from affiliations.models import Callback, CallbackAttempt, Conversion, Partner, Subscription
from affiliations.models.callback import CallbackQuerySet
from affiliations.models.status import has_status

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from datetime import datetime


Error = CallbackAttempt.Error
Event = Callback.Event
Status = Callback.Status

# Why a callback was cancelled: kept in English, shown in the reader's language.
DECIDED_SINCE = gettext_noop("It was decided otherwise before the partner had heard of it.")

#: Where it was to go is not kept any more: see ``affiliations.privacy``.
BLANKED = Q(url="")

#: Which subscriptions hear of an event.
_HEARD_BY = {
    Event.CONVERSION: "call_on_conversion",
    Event.APPROVAL: "call_on_approval",
    Event.REJECTION: "call_on_rejection",
}

_WAITING = (Status.QUEUED, Status.HELD)
#: So many are cancelled by one statement.
_CHUNK = 500

#: How an attempt ends that the partner has certainly not taken. After any other, such as a timeout,
#: nobody knows.
_NOT_TAKEN = (
    Error.DNS,
    Error.CONNECT,
    Error.TLS,
    Error.BLOCKED_ADDRESS,
    Error.REDIRECTS,
    Error.HTTP_STATUS,
)


def tell(
    conversion: Conversion, subscriptions: Iterable[Subscription], event: Event
) -> list[Callback]:
    """
    Queue the callbacks that tell of an event: one for each subscription that wants to hear of it.

    Called inside the transaction that writes the conversion. A callback that would not tell the
    partner which visitor is meant, and that of a test, is written as cancelled, with the reason.
    """
    callbacks = _write(conversion, subscriptions, event)
    handover.after_commit(_waiting(callbacks))
    return callbacks


def tell_decision(conversion: Conversion) -> None:
    """
    Tell the partner what was decided, each event once, and take back what is not true any more.

    Called inside the transaction that decides, which holds the conversion's row. What still waits
    when it is rejected is cancelled, and goes out after all where it is brought back. Of the
    rejection those subscriptions hear that may have been told something before. What callbacks have
    told that are purged since counts as well.
    """
    # Nobody adds to them or purges them now, nor decides of them: the conversion is held.
    written = _written().filter(conversion=conversion).annotate(told=F("conversion__told"))
    rows = list(written.only("event", "subscription", "status", "reason").order_by("pk"))
    purged = _purged(conversion, rows)
    told = purged.union((row.event, row.subscription_id) for row in rows)
    rejections = [row for row in rows if row.event == Event.REJECTION]
    others = [row for row in rows if row.event != Event.REJECTION]
    # New rows before changed ones, since on MariaDB a row that is inserted takes a share of its
    # subscription: who records a failure holds the subscription and then asks for the callback.
    if conversion.status == Conversion.Status.REJECTED:
        new = _write(conversion, _untold(conversion, Event.REJECTION, told), Event.REJECTION)
        _cancel([row.pk for row in others], DECIDED_SINCE)
        heard = _may_have_heard(others)  # and nobody else will: nothing can be claimed any more
        heard |= {subscription for event, subscription in purged if event != Event.REJECTION}
        needless = [callback.pk for callback in new if callback.subscription_id not in heard]
        _written().filter(pk__in=needless).delete()
        handover.after_commit(_waiting(one for one in new if one.pk not in needless))
        _requeue(row for row in rejections if row.subscription_id in heard)
    elif conversion.status == Conversion.Status.APPROVED:
        tell(conversion, _untold(conversion, Event.APPROVAL, told), Event.APPROVAL)
        _cancel([row.pk for row in rejections], DECIDED_SINCE)
        _requeue(others)
    else:
        _cancel([row.pk for row in rejections], DECIDED_SINCE)
        _requeue(row for row in others if row.event == Event.CONVERSION)


def cancel_all(partner: Partner, reason: str) -> int:
    """
    Cancel whatever waits to be told to a partner, and return how many.

    What is on its way at this moment still counts as delivered where the partner takes it.
    """
    waiting = _written().filter(partner=partner, status__in=_WAITING).order_by("pk")
    keys = list(waiting.values_list("pk", flat=True))
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    return sum(_cancel(chunk, reason[:255]) for chunk in chunks)


def cancel(callback: Callback, reason: str) -> bool:
    """
    Cancel a callback that waits, or is held; ``False`` where nothing of it is to be sent any more.

    One that is on its way at this moment still counts as delivered where the partner takes it.
    """
    return bool(_cancel([callback.pk], reason[:255]))


def resend(callback: Callback) -> bool:
    """
    Send a callback once more: the same URL, the same id, its history kept.

    ``False`` where it is held, cancelled, blanked, being sent at this moment, or a test callback,
    of which another can be made; and where callbacks of its subscription are suspended.
    """
    now = timezone.now()
    is_asked_for = Q(has_status(Status.QUEUED, Status.DELIVERED, Status.EXHAUSTED))
    is_test = Q(has_status(Status.CANCELLED), reason=wording.IS_TEST)
    again = Callback.objects.exclude(_on_its_way(now) | Q(event=Event.TEST)).filter(
        is_asked_for | is_test, ~BLANKED, pk=callback.pk
    )
    steps = len(settings.callback_retry_schedule)
    written = router.db_for_write(Callback)
    with transaction.atomic(using=written):
        changed = again.update(
            status=Status.QUEUED,
            reason="",
            next_attempt_on=now,
            is_manual=True,
            # One more than there were, also where the schedule was longer then.
            resend_count=Greatest(F("resend_count") + 1 + steps, F("attempt_count") + 1) - steps,
        )
        if changed and _is_suspended(callback):
            transaction.set_rollback(True, using=written)
            return False
        if changed:
            handover.after_commit([callback.pk])
    return bool(changed)


def resend_anew(callback: Callback) -> Callback | None:
    """
    Render the subscription's callback URL of today into a new row beside ``callback``, and send it.

    It has an id of its own, since a partner may know the old one as done. ``None`` where callbacks
    of the subscription are suspended, or it calls nobody any more. ``ValueError`` for a test
    callback, which tells of nothing.
    """
    if callback.conversion is None:
        raise ValueError("a test callback cannot be sent again, only made anew")
    with transaction.atomic(using=router.db_for_write(Callback)):
        # Written, which locks it on every database, so that two who ask at once come one after the
        # other. On SQLite a transaction that reads before it writes would fail.
        Conversion.objects.filter(pk=callback.conversion.pk).update(trigger=F("trigger"))
        if _is_suspended(callback) or not callback.subscription.callback_url:
            return None
        callback.conversion.refresh_from_db(
            using=router.db_for_write(Callback), fields=["status", "decided_on"]
        )
        editions = _written().filter(
            conversion=callback.conversion_id,
            subscription=callback.subscription_id,
            event=callback.event,
        )
        anew = wording.compose(callback.conversion, callback.subscription, callback.event)
        anew.edition = editions.aggregate(Max("edition"))["edition__max"] + 1
        anew.created_on = anew.next_attempt_on = timezone.now()
        anew.save(force_insert=True)
        handover.after_commit(_waiting([anew]))
    return anew


def _is_suspended(callback: Callback) -> bool:
    """
    Tell whether its subscription's callbacks are.

    Asked by itself: a change that asks would hold the callback and want the subscription, and who
    records a failure wants them the other way round. Asked after the change: on SQLite a
    transaction that reads before it writes fails where another has written in between. What is
    suspended after that is held by whoever claims it.
    """
    theirs = Subscription.objects.using(router.db_for_write(Callback))
    return theirs.filter(pk=callback.subscription_id).exclude(callbacks_suspended_on=None).exists()


def _written() -> CallbackQuerySet:
    """Return what is written, from where it is: a replica may not have heard of it yet."""
    return Callback.objects.using(router.db_for_write(Callback))


def _waiting(callbacks: Iterable[Callback]) -> list[int]:
    """Return the ids of those that are to be sent."""
    return [row.pk for row in callbacks if row.status == Callback.Status.QUEUED]


def _purged(conversion: Conversion, rows: Sequence[Callback]) -> set[tuple[str, int]]:
    """Return what callbacks that are gone have told of it: each event, and which subscription."""
    keeper: Any = rows[0] if rows else None  # each row was read with what its conversion keeps
    if keeper is None:
        stored = Conversion.objects.using(router.db_for_write(Callback))
        keeper = stored.only("told").get(pk=conversion.pk)
    return retention.heard(keeper.told)


def _untold(
    conversion: Conversion, event: Event, told: Container[tuple[str, int]]
) -> list[Subscription]:
    """
    Return the subscriptions that a conversion concerns, but for those that are told of an event.

    Active or not: what was earned is still told.
    """
    theirs = conversion.partner.subscriptions.using(router.db_for_write(Callback))
    return [
        one
        for one in theirs.order_by("pk")
        if (event, one.pk) not in told
        and (one.pk == conversion.subscription_id or one.trigger == conversion.trigger)
    ]


def _write(
    conversion: Conversion, subscriptions: Iterable[Subscription], event: Event
) -> list[Callback]:
    """Insert the rows that tell of an event."""
    callbacks = [
        wording.compose(conversion, subscription, event)
        for subscription in subscriptions
        if subscription.callback_url and getattr(subscription, _HEARD_BY[event])
    ]
    for callback in callbacks:
        # One by one, nearly always one: MySQL gives no keys back from a bulk insert.
        callback.save(force_insert=True)
    return callbacks


def _may_have_heard(callbacks: Iterable[Callback]) -> set[int]:
    """
    Return the subscriptions that were told, or may have been.

    A claim counts as an attempt before it is made. So what is on its way at this moment is meant as
    well, and what somebody died sending.
    """
    refused = Count("attempts", filter=Q(attempts__error__in=_NOT_TAKEN))
    rows = _written().filter(pk__in=[callback.pk for callback in callbacks])
    begun = rows.annotate(refused=refused).filter(attempt_count__gt=F("refused"))
    return set(begun.values_list("subscription", flat=True))


def _on_its_way(now: datetime) -> Q:
    """Match what somebody is sending."""
    return Q(has_status(Status.QUEUED), next_attempt_on__gt=now) & ~Q(lease_token="")


def _cancel(keys: Sequence[int], reason: str) -> int:
    """Cancel those that wait. One that is on its way still counts if the partner takes it."""
    if not keys:
        return 0
    waiting = _written().filter(has_status(*_WAITING), pk__in=keys)
    if len(keys) > 1:
        batches.hold(waiting)
    # What the partner has taken before was to be sent once more, and is not.
    again = waiting.filter(delivered_on__isnull=False)
    count = again.update(status=Status.DELIVERED, is_manual=False)
    return count + waiting.update(status=Status.CANCELLED, reason=reason)


def _requeue(callbacks: Iterable[Callback]) -> None:
    """
    Let those go out after all that an earlier decision had cancelled.

    When they would have: one that is still on its way is not sent twice.
    """
    keys = [
        row.pk
        for row in callbacks
        if row.status == Status.CANCELLED and row.reason == DECIDED_SINCE
    ]
    if keys:
        cancelled = _written().filter(~BLANKED, has_status(Status.CANCELLED), pk__in=keys)
        if len(keys) > 1:
            batches.hold(cancelled)
        cancelled.update(status=Status.QUEUED, reason="")
        handover.after_commit(keys)
