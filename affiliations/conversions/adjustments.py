"""
Adjust the payout and the amount of a conversion.

An adjustment is a row of its own. It changes neither the conversion nor a settlement, and is never
changed itself. An update locks the conversion's row before the earlier adjustments are read, so
that only one transaction at a time adds to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from affiliations import db
from affiliations.amounts import TOO_MUCH, Money, money, parse, rounded
from affiliations.conversions import payouts
from affiliations.db import status_in
from affiliations.models import Adjustment, Conversion
from affiliations.models.accounts import account_name

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

Kind = Adjustment.Kind
Status = Conversion.Status

# The reasons of adjustments after a decision without a reason: stored in English, shown in the
# reader's language.
REJECTED = gettext_noop("Rejected after it was in a statement.")
APPROVED_AGAIN = gettext_noop("Approved again after it was rejected.")

#: What a conversion pays, and by which rule.
PAYOUT_FIELDS = ("payout_type", "payout_value", "payout", "payout_currency")

PAYOUT_TOO = gettext_lazy(
    "This site calculated the payout in another currency than the order’s. Enter the new payout "
    "too."
)
REJECT_INSTEAD = gettext_lazy("The order would be worth nothing. Reject the conversion instead.")


class _Booking(NamedTuple):
    """An amount booked for a conversion: its payout in a settlement, or an adjustment."""

    #: ``None`` for the payout in the settlement.
    kind: str | None
    amount: Decimal
    payout: Decimal


class Sum(NamedTuple):
    amount: Decimal
    payout: Decimal


def current(conversion: Conversion) -> Sum:
    """Return the amount and the payout of a conversion after all of its adjustments."""
    adjusted = _sum(booking for booking in _bookings(conversion) if booking.kind)
    return Sum(
        (conversion.amount or Decimal(0)) + adjusted.amount,
        (conversion.payout or Decimal(0)) + adjusted.payout,
    )


def so_far(conversion: Conversion) -> Sum:
    """Return what ``current()`` returns, as it was read, of a conversion that is not rejected."""
    return Sum(conversion.current_amount or Decimal(0), conversion.current_payout or Decimal(0))


def lock(conversion: Conversion, *statuses: str) -> bool:
    """
    Lock the row of a conversion and read it again; ``False`` if it has none of these statuses.

    Call it inside a transaction.
    """
    rows = Conversion.objects.using(db.write_alias()).filter(pk=conversion.pk)
    # An update locks the row on every database, and keeps SQLite from failing later.
    if not rows.filter(status_in(*statuses)).update(trigger=F("trigger")):
        return False
    refresh(conversion)
    return True


def refresh(conversion: Conversion) -> None:
    """Read the status and the money of a conversion again, now that its row is locked."""
    fields = ["status", "amount", "currency", *PAYOUT_FIELDS]
    conversion.refresh_from_db(using=db.write_alias(), fields=fields)


def lower(conversion: Conversion, amount: Decimal, reason: str) -> Adjustment | None:
    """
    Adjust a conversion to the lower amount of its order, by its own payout rule.

    Call it inside a transaction, with the conversion's row locked. See ``change_by_rule()``.

    Returns:
        The adjustment, or ``None``, with nothing written, if the amount is not lower, or if staff
        still have to fill it in.
    """
    so_far = current(conversion)
    if conversion.amount is None or conversion.needs_amount or amount >= so_far.amount:
        return None
    change = change_by_rule(conversion, amount, so_far)
    return _write(
        conversion, kind=Kind.ADJUSTED, amount=change.amount, payout=change.payout, reason=reason
    )


def change_by_rule(conversion: Conversion, amount: Decimal, so_far: Sum) -> Sum:
    """
    Return by how much a conversion changes if its order is worth ``amount`` now.

    The payout changes by the difference between what the conversion's own payout rule pays for the
    new amount and for the amount so far. Earlier adjustments by staff stay. The payout does not
    drop below zero. If it does not depend on the amount, or is in another currency, only the amount
    changes.
    """
    change = Decimal(0)
    is_by_rule = conversion.depends_on_amount and not conversion.is_in_two_currencies
    if is_by_rule and conversion.payout is not None:
        change = _by_rule(conversion, amount) - _by_rule(conversion, so_far.amount)
    return Sum(amount - so_far.amount, max(change, -so_far.payout))


def statement_display(conversion: Conversion, change: Sum | None = None) -> str:
    """Return which statement an adjustment will be in, for staff."""
    is_pending = conversion.status == Status.PENDING
    if conversion.partner.is_stopped:
        return _("None: the partner was stopped for fraud.")
    if conversion.settlement is None and is_pending:
        return _("With its conversion, once it is approved.")
    if conversion.settlement is None:
        return _("With its conversion, in the next one.")
    if change is not None and not change.payout:
        return _("None: the payout does not change.")
    if is_pending:
        return _("The next one after the conversion is approved again.")
    number = conversion.settlement.number
    return _("The next one. Statement %(number)s does not change.") % {"number": number}


def missing_amount(conversion: Conversion, amount: Decimal, currency: str) -> Money:
    """
    Return a missing amount, or payout, as staff have entered it.

    Raises:
        ValidationError: If it is invalid. Only a payout may be zero.
    """
    entered = parse(amount, currency)
    is_zero_valid = conversion.needs_payout
    if entered.problem or entered.amount is None or not (entered.amount or is_zero_valid):
        field = "amount" if entered.currency else "currency"
        raise ValidationError({field: _(entered.problem or payouts.NO_AMOUNT)})
    _check_unit("amount", entered.amount, Decimal(0), entered.currency)
    return entered


def fill_in(conversion: Conversion, amount: Decimal, currency: str) -> bool:
    """
    Fill in the missing amount of a conversion, and calculate the payout by its own rule.

    If ``AFFILIATE_PAYOUT`` has failed to calculate the payout, the payout is filled in instead. A
    rejected conversion is filled in only if an approval would otherwise pay nothing.

    Args:
        conversion: The conversion. The new values are set on it.
        amount: The amount of the order, or the payout.
        currency: The currency of the amount, a code of ISO 4217.

    Returns:
        ``False``, with nothing changed, if the conversion has an amount or was decided meanwhile.

    Raises:
        ValidationError: If the amount or the currency is not valid.
    """
    entered = missing_amount(conversion, amount, currency)
    with transaction.atomic(using=db.write_alias()):
        if not lock(conversion, conversion.status):
            return False
        if conversion.needs_payout:
            payout = entered
        elif conversion.needs_amount or conversion.may_get_amount:
            payout = payouts.by_frozen_rule(conversion, entered)
            # An amount of zero may have been adjusted before; it is the order's amount now.
            adjusted = current(conversion).amount - (conversion.amount or Decimal(0))
            conversion.amount = (entered.amount or Decimal(0)) - adjusted
            conversion.currency = entered.currency
        else:
            return False
        conversion.payout, conversion.payout_currency = payout.amount, payout.currency
        conversion.save(
            using=db.write_alias(),
            update_fields=["amount", "currency", "payout", "payout_currency"],
        )
    return True


def adjust_after_decision(conversion: Conversion) -> Adjustment | None:
    """
    Write the adjustment that a decision needs, and return it.

    Call it inside the transaction that decides, with the conversion's row locked. A rejected
    conversion pays nothing, so its settled payout and its adjustments are taken back. One that is
    reopened or approved again has the same payout as before its rejection. Nothing is written if
    nothing was settled or adjusted.
    """
    if conversion.payout is None:
        return None
    kind, reason, bookings = Kind.REJECTED, REJECTED, _bookings(conversion)
    if conversion.status != Status.REJECTED:
        kind, reason = Kind.BROUGHT_BACK, APPROVED_AGAIN
        bookings = [row for row in bookings if row.kind in (Kind.REJECTED, Kind.BROUGHT_BACK)]
    amount, payout = _sum(bookings)
    if not payout:
        return None
    return _write(
        conversion,
        kind=kind,
        amount=-amount,
        payout=-payout,
        # The reason of a pending conversion says why it is pending, not why it was adjusted.
        reason=reason if conversion.status == Status.PENDING else conversion.reason or reason,
        created_by=conversion.decided_by,
        created_by_name=conversion.decided_by_name,
    )


def adjust(
    conversion: Conversion,
    *,
    payout: Decimal = Decimal(0),
    reason: str,
    amount: Decimal | None = None,
    by: AbstractBaseUser | None = None,
    expected: Decimal | None = None,
    expected_amount: Decimal | None = None,
) -> Adjustment | None:
    """
    Add to the payout of a conversion that is not rejected; a negative number is a clawback.

    The adjustment goes into the same settlement as the conversion, or into the next one if the
    conversion is settled.

    Args:
        conversion: The conversion. Its own payout does not change.
        payout: The difference, in ``conversion.payout_currency``.
        reason: The reason, which the partner reads on the statement.
        amount: The change of the order's amount, in ``conversion.currency``.
        by: The user who adjusts it, if any.
        expected: The payout after all earlier adjustments, as it was shown to that user.
        expected_amount: The amount after them, as it was shown to that user.

    Returns:
        The adjustment, or ``None``, with nothing written, if the conversion is rejected, or its
        payout or amount is not the expected one any more.

    Raises:
        ValidationError: If there is no reason, if nothing changes, or if the conversion has no
            payout or no amount to change. Also if a change has more decimals than the currency, or
            takes back more than there is.
    """
    alias = db.write_alias()
    with transaction.atomic(using=alias):
        if not lock(conversion, Status.PENDING, Status.APPROVED):
            return None
        so_far = current(conversion)
        if expected not in (None, so_far.payout) or expected_amount not in (None, so_far.amount):
            return None
        check(conversion, so_far, Sum(amount or Decimal(0), payout), reason)
        return _write(
            conversion,
            kind=Kind.ADJUSTED,
            amount=amount,
            payout=payout,
            reason=reason.strip()[:255],
            created_by=by,
            created_by_name=account_name(by),
        )


def check(conversion: Conversion, so_far: Sum, change: Sum, reason: str) -> None:
    """Raise ``ValidationError``, as ``adjust()`` does, if a conversion cannot change like this."""
    if change.payout and not conversion.is_paid:
        raise ValidationError(_("This conversion has no payout, so it cannot be adjusted."))
    if change.amount and conversion.amount is None:
        raise ValidationError(_("This conversion has no amount, so there is no amount to adjust."))
    if not reason.strip():
        raise ValidationError(
            {"reason": _("Enter a reason. The partner sees it on the payout statement.")}
        )
    for field, value in change._asdict().items():
        if not value.is_finite() or value.copy_abs() >= TOO_MUCH:
            raise ValidationError({field: _("Enter a smaller number.")})
    if not any(change):
        if conversion.payout is None:
            raise ValidationError(_("Nothing changes. Enter a different amount."))
        raise ValidationError(
            {"payout": _("The payout does not change. Enter a different payout.")}
        )
    if so_far.payout + change.payout < 0:
        left = money(so_far.payout, conversion.payout_currency)
        message = _("Only %(left)s of this payout can be taken back.")
        raise ValidationError({"payout": message % {"left": left}})
    if so_far.amount + change.amount < 0:
        raise ValidationError({"amount": _("The amount cannot be below zero.")})
    _check_unit("payout", change.payout, so_far.payout, conversion.payout_currency)
    _check_unit("amount", change.amount, so_far.amount, conversion.currency)


def _check_unit(field: str, change: Decimal, so_far: Decimal, currency: str) -> None:
    """Refuse a change if both it and the new value have more decimals than the currency."""
    if currency and not any(rounded(one, currency) == one for one in (change, so_far + change)):
        message = _("Enter fewer decimals: %(currency)s has no smaller unit.")
        raise ValidationError({field: message % {"currency": currency}})


def _by_rule(conversion: Conversion, amount: Decimal) -> Decimal:
    """Return what the rule of a conversion pays for an amount; nothing for zero."""
    order = Money(amount, conversion.currency)
    return payouts.by_frozen_rule(conversion, order).amount or Decimal(0)


def _sum(bookings: Iterable[_Booking]) -> Sum:
    bookings = list(bookings)
    return Sum(
        sum((booking.amount for booking in bookings), Decimal(0)),
        sum((booking.payout for booking in bookings), Decimal(0)),
    )


def _bookings(conversion: Conversion) -> list[_Booking]:
    """Read, in one query, whether a conversion is settled and how it was adjusted."""
    rows = Conversion.objects.using(db.write_alias()).filter(pk=conversion.pk)
    names = ("settlement", "adjustments__kind", "adjustments__amount", "adjustments__payout")
    # A row for each adjustment; without adjustments a single row, without a kind.
    found = list(rows.values_list(*names))
    settled = [
        _Booking(None, conversion.amount or Decimal(0), conversion.payout or Decimal(0))
        for settlement, *_adjustment in found[:1]
        if settlement
    ]
    return settled + [
        _Booking(kind, amount or Decimal(0), payout)
        for _settlement, kind, amount, payout in found
        if kind
    ]


def _write(conversion: Conversion, **values: object) -> Adjustment:
    return Adjustment.objects.using(db.write_alias()).create(
        conversion=conversion,
        partner_id=conversion.partner_id,
        currency=conversion.payout_currency,
        **values,
    )
