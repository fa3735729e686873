"""
Record a conversion of a visitor, and queue its callbacks.

All rows are written in the host's transaction and inside one savepoint. So they are committed or
rolled back with the host's own rows, and a failure here does not end the host's transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from django.db import IntegrityError, transaction
from django.utils import timezone

from affiliations import amounts, db, logs
from affiliations.amounts import Money
from affiliations.callbacks import outbox
from affiliations.conf import settings
from affiliations.conversions import adjustments, payouts, screening
from affiliations.conversions.messages import tell_recorded
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Conversion, Subscription, Visitor
from affiliations.models.accounts import account_name
from affiliations.models.conversion_queries import ConversionQuerySet, reference_key
from affiliations.models.visitor import SUB_IDS
from affiliations.signals import announce, conversion_recorded

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger("affiliations")

Event = outbox.Event
Status = Conversion.Status

T = TypeVar("T")

#: How long the callbacks of a conversion wait if its amount cannot be read again.
_AMOUNT_DELAY = timedelta(minutes=1)


def record(
    visitor: Visitor,
    trigger: str,
    *,
    user: User | None = None,
    instance: object = None,
    reference: str = "",
    amount: object = None,
    currency: str = "",
    manual: bool = False,
    in_period: bool = False,
    code: str = "",
    instead_of: Visitor | None = None,
    by: User | None = None,
    reason: str = "",
    read_amount: Callable[[], tuple[object, str, object]] | None = None,
    now: datetime | None = None,
) -> Conversion:
    """
    Record a conversion of ``visitor``, and queue its callbacks.

    Outside a transaction all reads come first, so that the transaction begins with a write: SQLite
    cannot turn a reading transaction into a writing one while another writes.

    Args:
        visitor: The visitor, just read.
        trigger: The trigger's name.
        user: The buyer.
        instance: The object that completed the trigger, such as an order.
        reference: The host's own id of the event, such as an order number.
        amount: A ``Decimal``, or a value that ``Decimal`` accepts.
        currency: The currency of the amount, by ISO 4217.
        manual: Whether staff record it. If so, a closed or expired visitor can be credited as well,
            and the reference of a rejected conversion can be used again.
        in_period: Whether an earning period of the visitor runs, as ``earning.find()`` says. If so,
            a closed or expired visitor is credited as well.
        code: The partner's code on the order, if it decides who is credited.
        instead_of: The visitor who would be credited without the code.
        by: The member of staff who records it.
        reason: Why; cut to 255 characters.
        read_amount: Returns the amount, the currency and the object as they are stored. It is
            called after the commit if the amount is missing or zero, since shops save an order
            first and its total later. No callback is sent before.
        now: The time of the event; the current time by default.

    Raises:
        NotCredited: With the reason, if nothing is credited; then nothing is written.
    """
    now = now or timezone.now()
    needs_open = not (manual or in_period)
    subscriptions = _find_rules(visitor, trigger, reference, now, needs_open=needs_open)
    conversion = Conversion(
        visitor=visitor,
        partner=visitor.partner,
        subscription=subscriptions[0],
        trigger=trigger,
        user=user,
        reference=reference[:255],
        dedupe_key=_dedupe_key(subscriptions[0], visitor, reference),
        reference_key=reference_key(reference, is_test=visitor.is_test),
        is_test=visitor.is_test,
        code=code,
        instead_of=instead_of,
        has_click=not visitor.is_by_code,
        credited_by=by,
        credited_by_name=account_name(by),
        credit_reason=reason[:255],
        created_on=now,
        **{name: getattr(visitor, name) for name in SUB_IDS},
    )
    in_its_place = Conversion.objects.using(db.write_alias()).in_place_of(
        conversion, of_signal=not manual
    )
    if in_its_place.exists():
        raise NotCredited(Reason.ALREADY_COUNTED, visitor, reference)
    late = read_amount if amounts.parse(amount, currency).is_missing else None
    screened = _screen(conversion, instance)
    problems = _set_payout(conversion, instance, amount, currency, may_change=late is not None)
    _set_review(conversion, {Reason.SCREENED: screened, **problems})
    _set_first_status(conversion)
    closes = any(subscription.closes_referral for subscription in subscriptions)
    try:
        with transaction.atomic(using=db.write_alias()):
            # The visitor's row first, so that two conversions of one visitor wait for each other
            # here. After an insert that refers to the row, each would hold a shared lock of it, and
            # MariaDB would report a deadlock.
            if credited := visitor.credit(
                now, user, close=closes and needs_open, manual=manual, in_period=in_period
            ):
                conversion.closes = closes and (needs_open or _close(visitor, now))
                _insert(conversion, in_its_place, manual=manual)
                delay = _read_amount_on_commit(conversion, subscriptions, late, screened)
                transaction.on_commit(
                    lambda: tell_recorded(conversion, subscriptions),
                    using=db.write_alias(),
                    robust=True,
                )
                outbox.queue(conversion, subscriptions, Event.CONVERSION, delay)
                if conversion.status == Status.APPROVED:
                    outbox.queue(conversion, subscriptions, Event.APPROVAL, delay)
                announce(conversion_recorded, using=db.write_alias(), conversion=conversion)
    except IntegrityError:
        if in_its_place.exists():
            raise NotCredited(Reason.ALREADY_COUNTED, visitor, reference) from None
        raise
    if not credited:
        reason = Reason.STOPPED if in_period else Reason.REFERRAL_CLOSED
        raise NotCredited(reason, visitor, reference)
    if closes:
        visitor.closed_on = visitor.closed_on or now
    return conversion


def _find_rules(
    visitor: Visitor, trigger: str, reference: str, now: datetime, *, needs_open: bool
) -> list[Subscription]:
    """
    Return the partner's subscriptions to the trigger. The first one has the payout rule.

    Raises:
        NotCredited: If there is none, or if the visitor is not open and ``needs_open`` is true. An
            open visitor whose earning period has ended is refused as well, since the attribution
            window only covers the first conversion.
    """
    if needs_open and (refusal := visitor.refusal(now)) is not None:
        raise NotCredited(refusal, visitor, reference)
    # From the database that is written to: a replica may lag behind.
    subscriptions = visitor.partner.subscriptions.using(db.write_alias()).to_trigger(trigger)
    if not subscriptions:
        raise NotCredited(Reason.NOT_SUBSCRIBED, visitor, reference)
    has_converted = visitor.successful_on is not None
    if needs_open and has_converted and subscriptions[0].has_earning_period:
        first = visitor.first_conversion_on(trigger)
        if first is not None and not subscriptions[0].is_earning(first, now):
            raise NotCredited(Reason.EARNING_ENDED, visitor, reference)
    return subscriptions


def _close(visitor: Visitor, now: datetime) -> bool:
    """
    Close a visitor that may be closed already; return whether a rejection opens it again.

    A visitor that was closed without a conversion, as those of 0.12 were, stays closed.
    """
    visitors = Visitor.objects.using(db.write_alias()).filter(pk=visitor.pk)
    closing = visitor.conversions.using(db.write_alias()).standing().filter(closes=True)
    return bool(visitors.close(now)) or closing.exists()


def _insert(conversion: Conversion, in_its_place: ConversionQuerySet, *, manual: bool) -> None:
    """
    Insert a conversion, unless a rejected one is ``in_its_place``.

    Another transaction may have recorded and rejected that one since it was last looked for. The
    unique keys do not prevent a second conversion after a rejection.
    """
    if manual:
        Conversion.objects.using(db.write_alias()).lock_reference(conversion)
    conversion.save(force_insert=True)
    if not manual and in_its_place.exclude(pk=conversion.pk).exists():
        raise NotCredited(Reason.ALREADY_COUNTED, conversion.visitor, conversion.reference)


def _dedupe_key(subscription: Subscription, visitor: Visitor, reference: str) -> str:
    """Return the key of what the subscription counts once: the visitor or the reference."""
    if subscription.counting == Subscription.Counting.ONCE:
        return f"v:{visitor.pk}"
    if not reference:
        logger.warning(
            "Trigger “%s” counts every reference, but it was completed without one and is not "
            "counted. Give complete_trigger() an instance or a reference.",
            subscription.trigger,
            extra=logs.fields(partner=visitor.partner_id, reason=Reason.NO_REFERENCE.value),
        )
        raise NotCredited(Reason.NO_REFERENCE, visitor)
    return f"r:{reference_key(reference, is_test=visitor.is_test)}"


def _set_payout(
    conversion: Conversion,
    instance: object,
    amount: object,
    currency: str,
    *,
    may_change: bool = False,
) -> dict[Reason, str]:
    """
    Set the amount and the payout; return what is wrong with them, if anything.

    A problem is logged as an error, unless the amount ``may_change``: it is then read again.
    """
    rule = conversion.subscription
    order = amounts.parse(amount, currency)
    conversion.amount, conversion.currency = order.amount, order.currency
    problem, invalid = order.problem, ""
    if (payout := _custom_payout(conversion, instance, order, may_change=may_change)) is not None:
        conversion.payout_type, conversion.payout_value = Conversion.CUSTOM, None
        invalid = payout.problem
    else:
        payout = payouts.payout(rule, order)
        conversion.payout_type, conversion.payout_value = rule.payout_type, rule.payout_value
        problem = problem or payout.problem
    conversion.payout, conversion.payout_currency = payout.amount, payout.currency
    if may_change:
        return {Reason.NO_AMOUNT: problem or invalid}
    if problem:
        logger.error(
            "Trigger “%s” was completed with the amount %r and the currency %r. %s",
            conversion.trigger,
            amount,
            currency,
            problem,
            extra=logs.fields(partner=conversion.partner_id, reason=Reason.NO_AMOUNT.value),
        )
    return {Reason.NO_AMOUNT: problem, Reason.NO_PAYOUT: invalid}


def _custom_payout(
    conversion: Conversion, instance: object, order: Money, *, may_change: bool
) -> Money | None:
    """Return what ``AFFILIATE_PAYOUT`` pays; ``None`` if it leaves that to the subscription."""

    def call() -> Money | None:
        if (function := settings.payout) is None:
            return None
        if may_change:
            return Money(problem=payouts.NO_AMOUNT)
        with db.savepoint():
            amount = None if order.problem else order.amount
            returned = function(conversion.subscription, instance, amount, order.currency)
        payout = payouts.calculated(returned, order.currency)
        if payout is not None and payout.problem:
            logger.error(
                "AFFILIATE_PAYOUT returned %s for trigger “%s”. %s",
                repr(returned)[:200],
                conversion.trigger,
                payout.problem,
                extra=logs.fields(partner=conversion.partner_id, reason=Reason.NO_PAYOUT.value),
            )
        return payout

    failed: Money | None = Money(problem=payouts.FAILED)
    message = "AFFILIATE_PAYOUT could not calculate the payout of trigger “%s”."
    return _ask_host(conversion, call, failed, message, Reason.NO_PAYOUT)


def _read_amount_on_commit(
    conversion: Conversion,
    subscriptions: Sequence[Subscription],
    read_amount: Callable[[], tuple[object, str, object]] | None,
    screened: str,
) -> timedelta:
    """
    Read the missing amount of a new conversion after the commit, and set what follows from it.

    Call it before the callbacks are queued, so that the amount is read before the dispatcher runs.
    It returns the delay of the callbacks. If the amount cannot be read, the conversion keeps its
    first status, and the sweep sends the callbacks after the delay.
    """
    if read_amount is None:
        return timedelta()
    alias, first_status = db.write_alias(), conversion.status

    def read_again() -> None:
        amount, currency, instance = read_amount()
        with transaction.atomic(using=alias):
            if not adjustments.lock(conversion, *Status.values) or conversion.amount:
                return
            # What was decided in the same transaction stays.
            is_decided, fields = conversion.status != first_status, _AMOUNT_FIELDS
            problems = _set_payout(conversion, instance, amount, currency)
            _set_review(conversion, {Reason.SCREENED: screened, **problems})
            if not is_decided:
                _set_first_status(conversion)
                fields += _STATUS_FIELDS
            conversion.save(using=alias, update_fields=fields)
            if conversion.status != Status.APPROVED:
                outbox.withdraw_approval(conversion)
            outbox.render_anew(conversion)
            if conversion.status == Status.APPROVED != first_status and not is_decided:
                outbox.queue(conversion, subscriptions, Event.APPROVAL)

    transaction.on_commit(read_again, using=alias, robust=True)
    return _AMOUNT_DELAY


def _screen(conversion: Conversion, instance: object) -> str:
    """Return why a conversion needs review; empty if it does not."""

    def call() -> str | None:
        rule = settings.screen
        # In the host's own function a query may fail, which ends a transaction on PostgreSQL.
        with nullcontext() if rule is screening.own_account else db.savepoint():
            return rule(conversion.visitor, conversion.user, instance)

    failed: str | None = screening.FAILED
    message = "Trigger “%s” could not be screened."
    reason = _ask_host(conversion, call, failed, message, Reason.SCREENED)
    return str(reason or "")


def _ask_host(
    conversion: Conversion, call: Callable[[], T], failed: T, message: str, reason: Reason
) -> T:
    """Call a function of the host; if it raises an exception, log it and return ``failed``."""
    try:
        return call()
    except Exception:
        if transaction.get_connection(db.write_alias()).needs_rollback:
            raise
        fields = logs.fields(partner=conversion.partner_id, reason=reason.value)
        logger.exception(message, conversion.trigger, extra=fields)
        return failed


#: The fields that follow from the amount, and those that follow unless a decision has set them.
_AMOUNT_FIELDS: tuple[str, ...] = ("amount", "currency", *adjustments.PAYOUT_FIELDS,
                                   "review_reason", "review_text")  # fmt: skip
_STATUS_FIELDS = ("status", "reason", "approve_on", "decided_on", "decided_via", "notice_due")


def _set_review(conversion: Conversion, problems: Mapping[Reason, str]) -> None:
    """Set why a conversion needs review, or that it needs none."""
    conversion.review_reason = conversion.review_text = ""
    if found := {code: text for code, text in problems.items() if text}:
        code, text = next(iter(found.items()))
        conversion.review_reason, conversion.review_text = code.value, text[:255]
        codes = ", ".join(code.value for code in found)
        logger.debug("The conversion of trigger “%s” needs review: %s.", conversion.trigger, codes)


def _set_first_status(conversion: Conversion) -> None:
    """Approve a new conversion, or leave it pending: for review, or until its hold period ends."""
    rule = conversion.subscription
    conversion.status, conversion.reason = Status.PENDING, conversion.review_text
    conversion.approve_on, conversion.decided_on, conversion.decided_via = None, None, ""
    conversion.notice_due = False
    if conversion.review_reason or rule.approval != Subscription.Approval.AUTOMATIC:
        return
    if rule.approve_after:
        conversion.approve_on = conversion.created_on + timedelta(days=rule.approve_after)
    else:
        conversion.status = Status.APPROVED
        conversion.decided_on = conversion.created_on
        conversion.decided_via = Conversion.Via.AT_ONCE
        conversion.notice_due = conversion.is_noticed(conversion.status)
