"""
Correct what a partner earns with a conversion, whose facts stay and whose settlement stands.

A correction is written once. Whoever writes one holds the conversion's row by an update, so that
what there is already is read by one at a time. This module knows no HTTP and no request.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from affiliations import payouts
from affiliations.models import Conversion, Correction

if TYPE_CHECKING:
    from django.contrib.auth.models import User

Kind = Correction.Kind
Status = Conversion.Status

# Why a decision has corrected something, where nobody says it: kept in English, shown translated.
REJECTED = gettext_noop("Rejected after it was settled.")
BROUGHT_BACK = gettext_noop("Brought back after it was rejected.")

#: A digit less than the columns hold, as for all money here.
_TOO_MUCH = 10**14


class _Entry(NamedTuple):
    """What has been written down about a payout: by a settlement, or by a correction."""

    kind: str | None
    amount: Decimal
    payout: Decimal


def left(conversion: Conversion) -> Decimal:
    """Return what is left of the payout of a conversion, settled or not, after its corrections."""
    corrections = [entry.payout for entry in _entries(conversion) if entry.kind]
    return sum(corrections, conversion.payout or Decimal(0))


def follow(conversion: Conversion) -> Correction | None:
    """
    Correct what a decision has made untrue, in its transaction; return the correction, if any.

    The conversion has just been decided, so its row is held. What is not approved leaves the
    partner nothing: what is settled and what was corrected is taken back. What is approved again is
    what it was before it was rejected. While nothing is settled or corrected, nothing is written.
    """
    if conversion.payout is None:
        return None
    kind, entries = Kind.REJECTED, _entries(conversion)
    if conversion.status == Status.APPROVED:
        kind = Kind.BROUGHT_BACK
        entries = [entry for entry in entries if entry.kind in (Kind.REJECTED, Kind.BROUGHT_BACK)]
    payout = -sum((entry.payout for entry in entries), Decimal(0))
    if not payout:
        return None
    return _write(
        conversion,
        kind=kind,
        amount=-sum((entry.amount for entry in entries), Decimal(0)),
        payout=payout,
        reason=conversion.reason or (REJECTED if kind == Kind.REJECTED else BROUGHT_BACK),
        created_by=conversion.decided_by,
    )


def correct(
    conversion: Conversion,
    *,
    payout: Decimal,
    reason: str,
    amount: Decimal | None = None,
    by: User | None = None,
    expected: Decimal | None = None,
) -> Correction | None:
    """
    Add to the payout of an approved conversion or, with a minus, take from it, as after a refund.

    ``payout`` is in the conversion's ``payout_currency``; ``amount``, in its ``currency``, is what
    the order has become worth more or less. The correction goes into the next settlement where the
    conversion is settled, or else into the same one.

    ``None``, and nothing is written, where the conversion is not approved any more, or where what
    is ``left()`` is not what is ``expected``: what somebody was shown. ``ValidationError`` where it
    is no correction, such as one that takes more than there is.
    """
    if conversion.payout is None or conversion.is_test:
        raise ValidationError(_("Nothing is paid for it, so there is nothing to correct."))
    if not reason.strip():
        raise ValidationError({"reason": _("Say why: the partner reads it on the statement.")})
    _check("payout", payout, conversion.payout_currency)
    if amount is not None:
        _check("amount", amount, conversion.currency)
    if not payout:
        raise ValidationError({"payout": _("A correction of nothing changes nothing.")})
    alias = router.db_for_write(Correction)
    with transaction.atomic(using=alias):
        # Written, which holds it on every database until the end, and keeps SQLite from failing.
        same = Conversion.objects.using(alias).filter(pk=conversion.pk, status=Status.APPROVED)
        if not same.update(status=Status.APPROVED):
            return None
        so_far = left(conversion)
        if expected is not None and expected != so_far:
            return None
        if so_far + payout < 0:
            currency = conversion.payout_currency
            kept = {"left": number_format(payouts.rounded(so_far, currency)), "currency": currency}
            message = _("Only %(left)s %(currency)s are left of this payout.")
            raise ValidationError({"payout": message % kept})
        return _write(
            conversion,
            kind=Kind.ADJUSTED,
            amount=amount,
            payout=payout,
            reason=reason.strip()[:255],
            created_by=by,
        )


def _check(field: str, value: Decimal, currency: str) -> None:
    """Refuse what is no amount of a currency."""
    if not value.is_finite() or value.copy_abs() >= _TOO_MUCH:
        raise ValidationError({field: _("That is too much.")})
    if currency and payouts.rounded(value, currency) != value:
        message = _("%(currency)s has no such small unit.")
        raise ValidationError({field: message % {"currency": currency}})


def _entries(conversion: Conversion) -> list[_Entry]:
    """Read, in one query, whether a conversion is settled and how it was corrected."""
    rows = Conversion.objects.using(router.db_for_write(Correction)).filter(pk=conversion.pk)
    names = ("settlement", "corrections__kind", "corrections__amount", "corrections__payout")
    found = list(rows.values_list(*names))
    settled = [
        _Entry(None, conversion.amount or Decimal(0), conversion.payout or Decimal(0))
        for settlement, *_ in found[:1]
        if settlement
    ]
    return settled + [
        _Entry(kind, amount or Decimal(0), payout) for _, kind, amount, payout in found if kind
    ]


def _write(conversion: Conversion, **facts: object) -> Correction:
    return Correction.objects.using(router.db_for_write(Correction)).create(
        conversion=conversion,
        partner_id=conversion.partner_id,
        currency=conversion.payout_currency,
        **facts,
    )
