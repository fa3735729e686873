"""
Settle with a partner, once and only once; and say what a settlement consists of.

No money is moved: a settlement says what is to be paid. What it has taken is never taken again,
since a conversion has one column for its settlement, which is set by compare-and-set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import router, transaction
from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.utils import timezone
from django.utils.translation import gettext, pgettext

from affiliations import batches
from affiliations.amounts import kept
from affiliations.models import Conversion, Correction, Partner, Settlement, Visitor

if TYPE_CHECKING:
    from django.contrib.auth.models import User

#: So many rows change in one statement.
_BATCH = 500


@dataclass(frozen=True)
class Balance:
    """Conversions and corrections of one partner and currency: how many, and their sums."""

    conversion_count: int = 0
    earned: Decimal = Decimal(0)
    correction_count: int = 0
    corrected: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        """What the partner is owed; below zero it is what they owe."""
        return self.earned + self.corrected

    def __bool__(self) -> bool:
        return bool(self.conversion_count or self.correction_count)


class Line(NamedTuple):
    """One line of a statement: a conversion, or a correction of one."""

    #: The correction, if it is one.
    correction: Correction | None
    conversion: Conversion
    #: The partner's own, of the click that it came from.
    click_id: str
    created_on: datetime
    #: Of the order, in ``conversion.currency``.
    amount: Decimal | None
    #: In the settlement's currency.
    payout: Decimal

    @property
    def what(self) -> str:
        """Whether it is a conversion, or what made a correction of one necessary."""
        if self.correction is None:
            return pgettext("line of a statement", "Conversion")
        return gettext("Correction: %(kind)s") % {"kind": self.correction.get_kind_display()}

    @property
    def why(self) -> str:
        """Why something was corrected, in the reader's language where it is a text of ours."""
        reason = self.correction.reason if self.correction else ""
        return gettext(reason) if reason else ""


def balances(before: datetime, partner: Partner | None = None) -> dict[tuple[int, str], Balance]:
    """
    Return what could be settled, by the partner's key and the currency, in two queries.

    ``before`` as for ``settle()``; ``partner`` asks for the currencies of one partner only.
    """
    alias = router.db_for_write(Settlement)  # A replica may still show what was settled.
    rows: tuple[QuerySet[Any], ...] = (
        Conversion.objects.using(alias)
        .filter(_earned(before))
        .values_list("partner", "payout_currency"),
        Correction.objects.using(alias)
        .filter(_corrected(before, along=_earned(before, "conversion__")))
        .values_list("partner", "currency"),
    )
    names = ("conversion_count", "earned"), ("correction_count", "corrected")
    found: dict[tuple[int, str], Balance] = {}
    for kinds, (count, total) in zip(rows, names, strict=True):
        if partner is not None:
            kinds = kinds.filter(partner=partner)
        for key, currency, number, amount in kinds.annotate(Count("pk"), Sum("payout")).order_by():
            so_far = found.get((key, currency), Balance())
            found[key, currency] = replace(so_far, **{count: number, total: kept(amount)})
    return found


def balance(partner: Partner, currency: str, before: datetime) -> Balance:
    """Return what ``settle()`` would take now."""
    return balances(before, partner).get((partner.pk, currency), Balance())


def settle(
    partner: Partner,
    currency: str,
    before: datetime,
    *,
    by: User | None = None,
    reference: str = "",
    expected: Balance | None = None,
) -> Settlement | None:
    """
    Settle everything of a partner and currency that was decided before a moment.

    Taken are the conversions that are approved and have a payout, in no settlement and no test,
    with all of their corrections; and the corrections until then of what was settled earlier. A
    ``before`` that is to come is now. ``currency`` is a code of ISO 4217, ``by`` whoever settles,
    ``reference`` their own number of it.

    ``None``, and nothing has changed, where there is nothing to take, or where it is not what is
    ``expected``: the balance that somebody was shown. All of it happens in one transaction; the
    settlement's total can be below zero.
    """
    alias = router.db_for_write(Settlement)
    before = min(before, timezone.now())
    with transaction.atomic(using=alias):
        # Written first: on SQLite a transaction that reads before it writes would fail.
        settlement = Settlement.objects.using(alias).create(
            partner=partner,
            currency=currency,
            reference=reference[:255],
            before=before,
            created_by=by,
        )
        earned = Conversion.objects.using(alias).filter(
            _earned(before), partner=partner, payout_currency=currency
        )
        _take(earned, settlement, status=Conversion.Status.APPROVED, decided_on__lt=before)
        # Read while those conversions are held: whoever corrects one now comes after.
        corrected = Correction.objects.using(alias).filter(
            _corrected(before, along=Q(conversion__settlement=settlement)),
            partner=partner,
            currency=currency,
        )
        _take(corrected, settlement)
        taken = _taken(settlement)
        if not taken or (expected is not None and taken != expected):
            transaction.set_rollback(True, using=alias)
            return None
        for name, value in vars(taken).items():
            setattr(settlement, name, value)
        settlement.save(update_fields=list(vars(taken)))
    return settlement


def statement(settlement: Settlement) -> Iterator[Line]:
    """
    Yield the lines of a settlement: its conversions, then its corrections, the oldest first.

    In flat memory, with one query for up to ``batches.SIZE`` of each.
    """
    alias = router.db_for_write(Settlement)
    return _lines(
        Conversion.objects.using(alias).filter(settlement=settlement),
        Correction.objects.using(alias).filter(settlement=settlement),
    )


def draft(partner: Partner, currency: str, before: datetime) -> Iterator[Line]:
    """Yield the lines that the statement would have, if ``settle()`` was called now."""
    alias = router.db_for_write(Settlement)
    return _lines(
        Conversion.objects.using(alias).filter(
            _earned(before), partner=partner, payout_currency=currency
        ),
        Correction.objects.using(alias).filter(
            _corrected(before, along=_earned(before, "conversion__")),
            partner=partner,
            currency=currency,
        ),
    )


def _lines(conversions: QuerySet[Conversion], corrections: QuerySet[Correction]) -> Iterator[Line]:
    earned: QuerySet[Any] = conversions.annotate(click_id=_click_id("visitor"))
    for one in batches.by_key(earned):
        yield Line(None, one, one.click_id, one.created_on, one.amount, one.payout or Decimal(0))
    changed: QuerySet[Any] = corrections.annotate(click_id=_click_id("conversion__visitor"))
    for each in batches.by_key(changed.select_related("conversion")):
        yield Line(each, each.conversion, each.click_id, each.created_on, each.amount, each.payout)


def _click_id(visitor: str) -> Subquery:
    """
    Read the click id of a row's visitor.

    Not joined: where a partner has few visitors, MariaDB would begin with these, and sort all that
    is left anew for each batch.
    """
    return Subquery(Visitor.objects.filter(pk=OuterRef(visitor)).values("click_id"))


def _earned(before: datetime, of: str = "") -> Q:
    """Match conversions that can be settled; what pays nothing has nothing to settle."""
    conditions = {
        "settlement": None,
        "status": Conversion.Status.APPROVED,
        "decided_on__lt": before,
        "payout__isnull": False,
        "is_test": False,
    }
    return Q(**{f"{of}{name}": value for name, value in conditions.items()})


def _corrected(before: datetime, *, along: Q) -> Q:
    """
    Match corrections that can be settled.

    One of what was settled earlier waits for the statement of its own time. One of what is settled
    now, which ``along`` matches, goes with it, whenever it was made.
    """
    earlier = Q(conversion__settlement__isnull=False, created_on__lt=before)
    return Q(earlier | along, settlement=None)


def _take(found: QuerySet[Any], settlement: Settlement, **still: object) -> None:
    """
    Write the settlement into rows that nobody else has taken, and that ``still`` are so.

    By their primary keys and in their order, as decisions lock them. By any other index InnoDB
    would lock that first and the row second, and a decision the other way round. So the condition
    stands where no index can be chosen for it; whatever it does not fit keeps what it has.
    """
    free = When(settlement=None, **still, then=Value(settlement.pk))
    taken = Case(free, default=F("settlement"), output_field=BigIntegerField())
    keys = list(found.order_by("pk").values_list("pk", flat=True))
    rows = found.model._base_manager.using(found.db)
    for start in range(0, len(keys), _BATCH):
        some = rows.filter(pk__in=keys[start : start + _BATCH])
        batches.hold(some)
        some.update(settlement=taken)


def _taken(settlement: Settlement) -> Balance:
    """Sum up what a settlement has taken."""
    alias = router.db_for_write(Settlement)
    sums = {"count": Count("pk"), "total": Sum("payout")}
    conversions = settlement.conversions.using(alias).aggregate(**sums)
    corrections = settlement.corrections.using(alias).aggregate(**sums)
    return Balance(
        conversions["count"],
        kept(conversions["total"] or Decimal(0)),
        corrections["count"],
        kept(corrections["total"] or Decimal(0)),
    )
