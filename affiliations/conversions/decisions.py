"""
Approve, reject and reopen conversions, and notify the partners.

A status changes by compare-and-set, in one transaction with the callbacks that report it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from django.db import DatabaseError, IntegrityError, InterfaceError, transaction
from django.db.models import Exists, F, Min, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from affiliations import db, logs
from affiliations.amounts import Money
from affiliations.callbacks import outbox
from affiliations.conversions import adjustments, payouts
from affiliations.db import status_in
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Adjustment, Conversion, Partner, Visitor
from affiliations.models.accounts import account_name
from affiliations.models.visitor import VisitorQuerySet
from affiliations.signals import announce, conversion_decided

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

logger = logging.getLogger("affiliations")

Status = Conversion.Status
Via = Conversion.Via

#: The statuses that can follow each status. A refund rejects an approved conversion.
TRANSITIONS: Mapping[str, Sequence[str]] = {
    Status.PENDING: (Status.APPROVED, Status.REJECTED),
    Status.APPROVED: (Status.REJECTED,),
    Status.REJECTED: (Status.PENDING, Status.APPROVED),
}

# What became of the amount by the approval: stored in English, shown in the reader's language.
LOWER_AMOUNT = gettext_noop("The order amount was lower at approval.")
HIGHER_AMOUNT = gettext_noop(
    "The order amount was higher at approval. The payout is based on the earlier amount."
)
OTHER_CURRENCY = gettext_noop("The order is in another currency now.")

#: The number of conversions that one statement reads or writes.
_BATCH = 100


def decide(
    conversion: Conversion, status: str, *, reason: str = "", by: AbstractBaseUser | None = None
) -> bool:
    """
    Approve or reject a conversion, or reopen a rejected one, and notify the partner.

    It counts as a decision of staff: no signal changes such a rejection, or rejects a reopened
    conversion. After a rejection, another conversion of the visitor can be credited, and the
    referral that the conversion has closed is open again. Reopening takes both back.

    The conversion and its callbacks change in one transaction. The partner is notified of each
    event once. A rejection cancels the callbacks that were not sent yet; the partner is notified of
    it only if an earlier callback may have arrived. A settled conversion gets an adjustment.

    Args:
        conversion: The conversion as it was read. The new values are set on it.
        status: ``"approved"``, ``"rejected"``, or ``"pending"`` to reopen a rejected conversion.
        reason: The reason, for staff and for the partner page. Cut to 255 characters.
        by: The member of staff who decides, if any, whose name is kept.

    Returns:
        ``True`` if the status was changed. ``False``, with nothing changed, if the conversion has
        that status already, or if its status or its need for review has changed since it was read.

    Raises:
        ValueError: If the status cannot follow, such as ``"pending"`` after ``"approved"``.
        NotCredited: If another conversion has taken the place of a rejected one.
    """
    as_read = {"review_reason": conversion.review_reason}
    return change_status(conversion, status, reason=reason, by=by, via=Via.PERSON, expected=as_read)


def lock_visitors(conversions: QuerySet[Conversion]) -> None:
    """
    Lock the visitors of conversions that are decided one after the other in one transaction.

    ``decide()`` locks the visitor before its conversion. Without this, it would lock the visitor of
    the second conversion after the first conversion.
    """
    if db.is_in_transaction():
        _lock_visitors(_visitors_of(conversions))


def approve_due(now: datetime | None = None) -> int:
    """
    Approve the conversions whose hold period has ended.

    A conversion that cannot be approved is logged, and tried again by the next call.

    Args:
        now: The time to compare with; the current time by default.

    Returns:
        The number of conversions that were approved.
    """
    return sum(approve_in_batches(now))


def approve_in_batches(now: datetime | None = None) -> Iterator[int]:
    """
    Do what ``approve_due()`` does in batches; yield the number approved in each batch.

    Between two batches a worker can send callbacks, or stop.
    """
    rows = Conversion.objects.using(db.write_alias()).select_related("visitor", "partner")
    failed: list[int] = []
    try:
        due = rows.due(now or db.now()).order_by("approve_on")
        while batch := list(due.exclude(pk__in=failed)[:_BATCH]):
            not_approved = [conversion.pk for conversion in batch if not _approve(conversion)]
            failed += not_approved
            yield len(batch) - len(not_approved)
    except (DatabaseError, InterfaceError):
        logger.exception("The conversions that are due could not be approved.")


def next_approval() -> datetime | None:
    """Return when the next hold period ends."""
    pending = Conversion.objects.using(db.write_alias()).pending()
    next_on: datetime | None = pending.aggregate(next=Min("approve_on"))["next"]
    return next_on


def stop_for_fraud(partner: Partner, *, reason: str, by: AbstractBaseUser | None = None) -> int:
    """
    Stop working with a fraudulent partner, in one transaction.

    The partner becomes inactive and the link to their page is revoked; ``stopped_on``,
    ``stopped_reason`` and ``stopped_by`` say when, why and by whom. Their pending conversions are
    rejected, and no signal approves them again. The callbacks that were not sent yet are cancelled,
    and the partner is not notified of the rejections. Approved conversions stay approved. A
    conversion that is recorded at the same moment may be missed; the function can be called again.

    Args:
        partner: The partner. The new values are set on it.
        reason: The reason, kept with each rejected conversion and each cancelled callback.
        by: The user who decides, if any.

    Returns:
        The number of conversions that were rejected.
    """
    now = timezone.now()
    stopped = {
        "stopped_on": now,
        "stopped_reason": reason[:255],
        "stopped_by": by,
        "stopped_by_name": account_name(by),
    }
    conversions = Conversion.objects.using(db.write_alias())
    # Read before the transaction: on SQLite a transaction that reads before it writes would fail.
    undecided = conversions.filter(
        Q(status=Status.PENDING) | Q(may_be_paid=True), partner=partner
    ).order_by("pk")
    keys = list(undecided.values_list("pk", flat=True))
    visitors = _visitors_of(undecided)
    count = 0
    with transaction.atomic(using=db.write_alias()):
        # In the lock order of a decision: the visitors, the conversions, then their callbacks.
        _lock_visitors(visitors)
        for start in range(0, len(keys), _BATCH):
            batch = conversions.filter(pk__in=keys[start : start + _BATCH])
            db.lock_rows(batch)
            batch.update(may_be_paid=False)
            count += batch.filter(status_in(Status.PENDING)).update(
                status=Status.REJECTED,
                reason=reason[:255],
                approve_on=None,
                decided_on=now,
                decided_by=by,
                decided_by_name=account_name(by),
                decided_via=Via.PERSON,
                released=F("pk"),
            )
            # For the conversions that were settled before they were reopened.
            for conversion in batch.filter(settlement__isnull=False, decided_on=now):
                adjustments.adjust_after_decision(conversion)
        row = Partner.objects.filter(pk=partner.pk)
        row.update(active=False, page_key="")
        # If the partner is stopped already, the first person and reason stay.
        row.filter(stopped_on=None).update(**stopped)
        outbox.cancel_all(partner, reason)
        rejected = conversions.filter(partner=partner, status=Status.REJECTED, decided_on=now)
        transaction.on_commit(
            lambda: [
                conversion_decided.send_robust(Conversion, conversion=conversion)
                for conversion in rejected.select_related("visitor", "partner")
            ],
            using=db.write_alias(),
            robust=True,
        )
    partner.refresh_from_db(db.write_alias(), ["active", "page_key", *stopped])
    return count


def change_status(
    conversion: Conversion,
    status: str,
    *,
    reason: str = "",
    by: AbstractBaseUser | None = None,
    via: Via,
    may_be_paid: bool = False,
    expected: Mapping[str, object] = {},
    order: Money | None = None,
) -> bool:
    """
    Do what ``decide()`` does, by staff or otherwise, if the row has the ``expected`` values.

    ``via`` says how the decision is made. An approval compares the amount with that of the
    ``order``, if it is given; see ``_compare()``.
    """
    if status == conversion.status:
        return False
    if status not in TRANSITIONS[conversion.status]:
        raise ValueError(f"A conversion that is {conversion.status} cannot become {status}.")
    changes = _changes(conversion, status, reason, by, via) | {"may_be_paid": may_be_paid}
    alias = db.write_alias()
    visitor = Visitor.objects.using(alias).filter(pk=conversion.visitor_id)
    earlier = conversion.status
    try:
        with transaction.atomic(using=alias):
            _lock_place(visitor, conversion, status)
            unchanged = Conversion.objects.using(alias).filter(
                status_in(earlier), pk=conversion.pk, **expected
            )
            if not unchanged.update(**changes):
                return False
            for name, value in changes.items():
                setattr(conversion, name, value)
            _follow(conversion, earlier, visitor, order)
    except IntegrityError:
        if Conversion.objects.using(alias).in_place_of(conversion).exists():
            raise NotCredited(
                Reason.ALREADY_COUNTED, conversion.visitor, conversion.reference
            ) from None
        raise
    return True


def _lock_place(visitor: VisitorQuerySet, conversion: Conversion, status: str) -> None:
    """Lock the visitor, as recording does first, and the reference that a reopening takes back."""
    if Status.REJECTED in (conversion.status, status):
        db.lock_rows(visitor)
    if conversion.status == Status.REJECTED:
        Conversion.objects.using(db.write_alias()).lock_reference(conversion)


def _follow(
    conversion: Conversion, earlier: str, visitor: VisitorQuerySet, order: Money | None
) -> None:
    """Write what follows from a decision, in its transaction, and queue the callbacks."""
    if conversion.closes and conversion.status == Status.REJECTED:
        _reopen_referral(visitor, conversion)
    elif conversion.closes and earlier == Status.REJECTED:
        visitor.close(timezone.now())
    adjustments.adjust_after_decision(conversion)
    if order is not None:
        _compare(conversion, order)
    outbox.queue_decision(conversion)
    if conversion.status != earlier:
        announce(conversion_decided, using=db.write_alias(), conversion=conversion)


def _compare(conversion: Conversion, order: Money) -> None:
    """
    Compare the amount of a conversion that is being approved with that of its order now.

    A lower amount is written as an adjustment, before the callback of the approval is rendered. A
    higher one changes nothing. If the payout depends on an amount that is missing, zero or in
    another currency, the conversion is pending again and needs review: neither the end of a hold
    period nor a signal approves it.
    """
    adjustments.refresh(conversion)
    is_comparable = order.currency == conversion.currency and not order.problem
    if conversion.depends_on_amount and not (is_comparable and order.amount):
        problem = order.problem or (OTHER_CURRENCY if order.amount else payouts.NO_AMOUNT)
        _save(conversion, _review(Reason.NO_AMOUNT, problem))
    elif is_comparable and order.amount is not None:
        lower(conversion, order.amount, LOWER_AMOUNT)
        if order.amount > adjustments.current(conversion).amount:
            _save(conversion, {"reason": HIGHER_AMOUNT})


def lower(conversion: Conversion, amount: Decimal, reason: str) -> Adjustment | None:
    """
    Do what ``adjustments.lower()`` does, and let staff adjust a payout that has no rule.

    If ``AFFILIATE_PAYOUT`` has calculated the payout in another currency than the order's, no rule
    says how it changes. Then only the amount is adjusted, and the conversion is pending for review,
    even if it was approved.
    """
    adjustment = adjustments.lower(conversion, amount, reason)
    if adjustment is not None and conversion.is_in_two_currencies:
        _save(conversion, _review(Reason.NO_PAYOUT, payouts.NOT_ADJUSTED))
        outbox.withdraw_approval(conversion)
    return adjustment


def _review(code: Reason, text: str) -> dict[str, object]:
    """Return the values of a conversion that needs review, whatever was decided."""
    return {
        "status": Status.PENDING,
        "review_reason": code.value,
        "review_text": text,
        "reason": text,
        "approve_on": None,
        "decided_on": None,
        "decided_by": None,
        "decided_by_name": "",
        "decided_via": "",
        "notice_due": False,
    }


def _save(conversion: Conversion, changes: Mapping[str, object]) -> None:
    for name, value in changes.items():
        setattr(conversion, name, value)
    conversion.save(using=db.write_alias(), update_fields=list(changes))


def _changes(
    conversion: Conversion, status: str, reason: str, by: AbstractBaseUser | None, via: Via
) -> dict[str, object]:
    """Return the values of a conversion after a decision."""
    changes: dict[str, object] = {
        "status": status,
        "reason": reason[:255],
        "approve_on": None,
        "decided_on": None if status == Status.PENDING else timezone.now(),
        "decided_by": by,
        # A signal may name a customer, whose name must not be kept.
        "decided_by_name": account_name(by) if via == Via.PERSON else "",
        "decided_via": via.value,
        "released": conversion.pk if status == Status.REJECTED else 0,
        "notice_due": conversion.is_noticed(status),
    }
    if conversion.status == Status.REJECTED and via == Via.PERSON:
        changes["is_reopened"] = True
    return changes


def _visitors_of(conversions: QuerySet[Conversion]) -> list[int]:
    return sorted(set(conversions.order_by().values_list("visitor", flat=True)))


def _lock_visitors(keys: Sequence[int]) -> None:
    visitors = Visitor.objects.using(db.write_alias())
    for start in range(0, len(keys), _BATCH):
        db.lock_rows(visitors.filter(pk__in=keys[start : start + _BATCH]))


def _reopen_referral(visitor: VisitorQuerySet, conversion: Conversion) -> None:
    """Open the referral that a conversion has closed, unless another conversion closes it."""
    closing = Conversion.objects.standing().filter(visitor=conversion.visitor_id, closes=True)
    # It stays closed if the partner was stopped for fraud, or if staff have stopped the visitor.
    trusted = Partner.objects.filter(pk=conversion.partner_id, stopped_on=None)
    visitor.filter(~Exists(closing), Exists(trusted), stopped_on=None).update(closed_on=None)


def log_fields(conversion: Conversion) -> dict[str, object]:
    return logs.fields(partner=conversion.partner_id, conversion=conversion.pk)


def _approve(conversion: Conversion) -> bool:
    try:
        # Not if it was decided since it was read. It may still be pending then, for review.
        still_due = {"approve_on__isnull": False}
        return change_status(conversion, Status.APPROVED, via=Via.SCHEDULE, expected=still_due)
    except Exception:
        fields = log_fields(conversion)
        logger.exception("Conversion %s could not be approved.", conversion.pk, extra=fields)
        return False
