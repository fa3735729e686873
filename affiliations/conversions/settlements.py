"""
Settle with partners: create payout statements from what is unpaid.

No money is moved. A conversion has one column for its settlement, which is set by compare-and-set,
so no conversion is in two settlements.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import transaction
from django.db.models import BigIntegerField, Case, Count, F, Q, QuerySet, Sum, Value, When
from django.utils import timezone

from affiliations import db
from affiliations.amounts import kept
from affiliations.conversions.unpaid import (
    Balance,
    CutOff,
    LeftOut,
    Unpaid,
    is_in_time,
    partners_by_key,
    unpaid_balances,
    unsettled_adjustments,
    unsettled_conversions,
)
from affiliations.models import Conversion, Partner, Settlement, StatementLock
from affiliations.models.accounts import account_name, known_user

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

#: The number of rows that change in one statement.
_BATCH = 500


class SettleResult(NamedTuple):
    """What ``settle_all()`` has created and left out."""

    settlements: list[Settlement]
    left_out: list[tuple[Unpaid, LeftOut]]


def settle_all(
    before: datetime,
    *,
    cut_off: CutOff = CutOff.APPROVED,
    by: AbstractBaseUser | None = None,
    reference: str = "",
    chosen: Mapping[tuple[int, str], Balance] | None = None,
) -> SettleResult:
    """
    Settle many balances, each in a transaction of its own.

    Args:
        before: As for ``settle()``.
        cut_off: As for ``settle()``.
        by: The user who settles, if any.
        reference: As for ``settle()``.
        chosen: The balances to settle, by the partner's primary key and the currency, as the user
            was shown them; by default all that are above zero and reach the partner's minimum
            payout.

    Returns:
        The statements, and each balance that was left out, with the reason.
    """
    # Before anything is read: see StatementLock.acquire().
    StatementLock.acquire(db.write_alias())
    result = SettleResult([], [])
    rows = unpaid_balances(before, cut_off=cut_off)
    for row in rows:
        if chosen is None:
            expected, why = row.balance, row.left_out
        elif row.key in chosen and not row.partner.is_stopped:
            expected, why = chosen[row.key], None
        else:
            expected, why = row.balance, row.left_out or LeftOut.NOT_CHOSEN
        if why is None:
            options: dict[str, Any] = {"by": by, "reference": reference, "expected": expected}
            settlement = settle(row.partner, row.currency, before, cut_off=cut_off, **options)
            if settlement is not None:
                result.settlements.append(settlement)
                continue
            why = LeftOut.CHANGED
        result.left_out.append((row, why))
    gone = set(chosen or ()) - {row.key for row in rows}
    partners = partners_by_key({key for key, _currency in gone})
    result.left_out.extend(
        (Unpaid(partners[key], currency, Balance()), LeftOut.NOTHING)
        for key, currency in sorted(gone)
        if key in partners
    )
    return result


def settle(
    partner: Partner,
    currency: str,
    before: datetime,
    *,
    by: AbstractBaseUser | None = None,
    reference: str = "",
    expected: Balance | None = None,
    cut_off: CutOff = CutOff.APPROVED,
) -> Settlement | None:
    """
    Create the payout statement of a partner, in one currency, up to a moment.

    In one transaction, this takes the approved conversions with a payout that are in no settlement
    yet, with all of their adjustments. It also takes the adjustments, made before the moment, of
    conversions that were settled earlier. Tests of a deal are never settled, and neither is a
    partner who was stopped for fraud. No row is ever taken twice.

    Args:
        partner: The partner who is paid.
        currency: The code of ISO 4217, such as ``"EUR"``.
        before: The moment; one in the future counts as now.
        by: The user who settles, if any.
        reference: Your own reference, such as the number of the voucher. Cut to 255 characters.
            ``{year}``, ``{month}`` and ``{number}`` are replaced by those of the statement.
        expected: The balance that the user was shown.
        cut_off: What must be before the moment. ``CutOff.APPROVED``: the approval of a conversion.
            ``CutOff.ORDERED``: the conversion itself, whenever it was approved, also for
            adjustments of conversions that were settled earlier.

    Returns:
        The settlement, whose total may be below zero; or ``None``, with nothing changed, if there
        is nothing to settle, the partner is stopped, or the balance is not ``expected`` any more.
    """
    alias = db.write_alias()
    # MariaDB may compare without regard to case, but the statement keeps the code as it is given.
    currency = currency.upper()
    before = min(before, timezone.now())
    with transaction.atomic(using=alias):
        # Written first: on SQLite a transaction that reads before it writes would fail.
        settlement = Settlement.objects.using(alias).create(
            partner=partner,
            currency=currency,
            cut_off=cut_off,
            before=before,
            notice_due=True,
            created_by=known_user(by),
            created_by_name=account_name(by),
        )
        StatementLock.acquire(alias)
        _take(
            unsettled_conversions(before, cut_off).filter(
                partner=partner, payout_currency=currency
            ),
            settlement,
            status=Conversion.Status.APPROVED,
            **is_in_time(before, cut_off),
        )
        # Read while those conversions are locked: an adjustment of one of them waits.
        adjustments = unsettled_adjustments(
            before, cut_off, along=Q(conversion__settlement=settlement)
        )
        _take(adjustments.filter(partner=partner, currency=currency), settlement)
        taken = _taken(settlement)
        if not taken or (expected is not None and taken != expected):
            transaction.set_rollback(True, using=alias)
            return None
        for name, value in vars(taken).items():
            setattr(settlement, name, value)
        settlement.number_next(alias)
        settlement.reference = settlement.filled_in(reference)[:255]
        settlement.save()
    return settlement


def next_reference(pattern: str) -> str:
    """Return the reference that the next statement gets, unless another one is created first."""
    settlement = Settlement()
    settlement.number_next(db.write_alias())
    return settlement.filled_in(pattern)


def _take(found: QuerySet[Any], settlement: Settlement, **still: object) -> None:
    """
    Write the settlement into rows that have none, and for which ``still`` holds.

    The rows are locked by primary key and in its order, as decisions lock them. If InnoDB used the
    index of another column, it would lock that index before the row, and a decision locks the row
    first. So the condition is in the assigned value, where no index can be used for it.
    """
    free = When(settlement=None, **still, then=Value(settlement.pk))
    taken = Case(free, default=F("settlement"), output_field=BigIntegerField())
    keys = list(found.order_by("pk").values_list("pk", flat=True))
    rows = found.model._base_manager.using(found.db)
    for start in range(0, len(keys), _BATCH):
        batch = rows.filter(pk__in=keys[start : start + _BATCH])
        db.lock_rows(batch)
        batch.update(settlement=taken)


def _taken(settlement: Settlement) -> Balance:
    alias = db.write_alias()
    conversions, adjustments = (
        rows.using(alias).aggregate(number=Count("pk"), total=Sum("payout"))
        for rows in (settlement.conversions, settlement.adjustments)
    )
    return Balance(
        conversion_count=conversions["number"],
        earned=kept(conversions["total"] or Decimal(0)),
        adjustment_count=adjustments["number"],
        adjusted=kept(adjustments["total"] or Decimal(0)),
    )
