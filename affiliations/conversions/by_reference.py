"""
What a host's signals do to the conversion of a reference: approve, reject or adjust it.

Signals may be sent twice and in any order, so they can do less than staff.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from django.db import transaction

from affiliations import db
from affiliations.amounts import Money, parse
from affiliations.conversions import adjustments, decisions
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Conversion
from affiliations.signals import announce, conversion_decided

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger("affiliations")

Status = Conversion.Status
Via = Conversion.Via

#: For each status that a signal can set: the statuses that it can replace, each with the values
#: that the row must have. A payment may follow a rejection only if the rejecting trigger allows it.
_BEFORE_SIGNALS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    Status.APPROVED: {
        Status.PENDING: {"review_reason": ""},
        Status.REJECTED: {"review_reason": "", "may_be_paid": True},
    },
    Status.REJECTED: {
        Status.PENDING: {"is_reopened": False},
        Status.APPROVED: {"is_reopened": False},
    },
}


def decide(
    trigger: str,
    reference: str,
    status: str,
    *,
    reason: str = "",
    by: Callable[[], User | None] = lambda: None,
    may_be_paid: bool = False,
    order: Callable[[], Money | None] = lambda: None,
) -> Conversion:
    """
    Decide on the conversion of a trigger and a reference, and on its test.

    A host's signals, such as that of a payment, may be sent twice and in any order. So only a
    pending conversion that needs no review is approved, and a rejected one stays rejected, unless
    it was rejected by a signal with ``may_be_paid``. No signal changes a rejection by staff, or
    rejects what staff have reopened. ``by`` is called only if there is something to decide.
    ``order`` is called for an approval, and returns the current amount of the order, or ``None`` if
    it is not known. See ``decisions.change_status()``.

    Returns:
        The conversion; the test, if only that has changed.

    Raises:
        NotCredited: With the reason, if nothing changes.
    """

    def decide_one(conversion: Conversion) -> None:
        earlier = _BEFORE_SIGNALS[status]
        is_possible = _has(conversion, earlier.get(conversion.status))
        order_now = order() if is_possible and status == Status.APPROVED else None
        if is_possible and _decide_from(
            earlier, conversion, status, reason, by(), may_be_paid, order_now
        ):
            return
        if status == Status.REJECTED and not may_be_paid and _make_final(conversion):
            return
        raise NotCredited(_refusal(conversion, status), conversion.visitor, reference)

    return _for_reference(trigger, reference, decide_one)


def adjust(
    trigger: str,
    reference: str,
    amount: object,
    currency: str | None = None,
    *,
    reason: str = "",
    by: Callable[[], User | None] = lambda: None,
) -> Conversion:
    """
    Adjust the conversion of a trigger and a reference, and its test, to a lower amount.

    A host's signals, such as those of refunds, may be sent twice and out of order. So they never
    raise an amount. A new amount of zero is a rejection. A missing amount is not filled in. See
    ``decisions.lower()`` for a payout that this site has calculated in another currency.

    Args:
        trigger: The name of the trigger that counted the conversion.
        reference: The reference of the conversion.
        amount: The amount of the order now, not a difference.
        currency: Its currency; ``None`` for that of the conversion.
        reason: The reason, which the partner reads on the statement.
        by: Returns the user who rejects the conversion if the amount is zero.

    Returns:
        The conversion; the test, if only that has changed.

    Raises:
        NotCredited: With the reason, if nothing changes. An unusable amount and another currency
            are logged as errors.
    """

    def adjust_one(conversion: Conversion) -> None:
        code = conversion.currency if currency is None else currency
        order = parse(amount, code)
        if order.amount is None or order.amount < 0 or order.currency != conversion.currency:
            logger.error(
                "Conversion %s of trigger “%s”, reference “%s”, cannot be adjusted to the amount "
                "%r and the currency %r: its own currency is “%s”.",
                conversion.pk,
                trigger,
                reference,
                amount,
                code,
                conversion.currency,
                extra=decisions.log_fields(conversion),
            )
            raise NotCredited(Reason.NO_AMOUNT, conversion.visitor, reference)
        if not order.amount:
            decide(trigger, reference, Status.REJECTED, reason=reason, by=by)
            return
        with transaction.atomic(using=db.write_alias()):
            is_locked = adjustments.lock(conversion, Status.PENDING, Status.APPROVED)
            earlier = conversion.status
            is_adjusted = is_locked and decisions.lower(conversion, order.amount, reason)
            if conversion.status != earlier:  # It needs review.
                announce(conversion_decided, using=db.write_alias(), conversion=conversion)
        if not is_adjusted:
            is_missing = conversion.may_get_amount
            code = Reason.NO_AMOUNT if is_missing else Reason.ALREADY_COUNTED
            raise NotCredited(code, conversion.visitor, reference)

    return _for_reference(trigger, reference, adjust_one)


def _for_reference(
    trigger: str, reference: str, change: Callable[[Conversion], object]
) -> Conversion:
    """
    Change the conversion of a trigger and a reference, and its test; return the first one changed.

    ``change`` raises ``NotCredited`` for a conversion that it does not change.

    Raises:
        NotCredited: With the reason, if neither changes.
    """
    if not reference:
        raise NotCredited(Reason.NO_REFERENCE)  # Many conversions have no reference.
    changed: dict[bool, Conversion] = {}
    refusals: dict[bool, NotCredited] = {}
    rows = Conversion.objects.using(db.write_alias()).select_related("visitor", "partner")
    for conversion in rows.of_reference(trigger, reference):
        try:
            change(conversion)
            changed[conversion.is_test] = conversion
        except NotCredited as refusal:
            refusals[conversion.is_test] = refusal
    if changed:
        return changed[min(changed)]
    if refusals:
        raise refusals[min(refusals)]
    raise NotCredited(Reason.NO_CONVERSION, reference=reference)


def _decide_from(
    earlier: Mapping[str, Mapping[str, object]],
    conversion: Conversion,
    status: str,
    reason: str,
    by: User | None,
    may_be_paid: bool,
    order: Money | None,
) -> bool:
    """
    Decide a conversion that has one of the statuses ``earlier``, by a signal.

    Since the conversion was read, its status may have become a later one of these: a refund must
    not be lost because the payment is reported at the same moment.
    """
    statuses = list(earlier)
    for expected in statuses[statuses.index(conversion.status) :]:
        conversion.status = expected
        if decisions.change_status(
            conversion,
            status,
            reason=reason,
            by=by,
            via=Via.SIGNAL,
            may_be_paid=may_be_paid,
            expected=earlier[expected],
            order=order,
        ):
            if conversion.status != status:  # Its amount needs review.
                raise NotCredited(Reason.NO_AMOUNT, conversion.visitor, conversion.reference)
            return True
    return False


def _has(conversion: Conversion, values: Mapping[str, object] | None) -> bool:
    return values is not None and all(
        getattr(conversion, name) == value for name, value in values.items()
    )


def _make_final(conversion: Conversion) -> bool:
    """Make a rejection final after which a payment was possible; ``False`` if none was."""
    rows = Conversion.objects.using(db.write_alias()).filter(pk=conversion.pk, may_be_paid=True)
    return bool(rows.update(may_be_paid=False))


def _refusal(conversion: Conversion, status: str) -> Reason:
    """Return why a signal does not change a conversion."""
    if status == Status.APPROVED:
        if conversion.needs_review:
            codes = {code.value: code for code in (Reason.NO_AMOUNT, Reason.NO_PAYOUT)}
            return codes.get(conversion.review_reason, Reason.SCREENED)
        is_by_staff = conversion.status == Status.REJECTED and conversion.decided_via == Via.PERSON
    else:
        is_by_staff = conversion.is_reopened
    return Reason.DECIDED_BY_STAFF if is_by_staff else Reason.ALREADY_COUNTED
