"""The queries of conversions."""

from __future__ import annotations

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Count, F, Q, Sum

from affiliations import db
from affiliations.amounts import kept

if TYPE_CHECKING:
    from affiliations.models.conversion import Conversion


def reference_key(reference: str, *, is_test: bool = False) -> str | None:
    """
    Return the hash of a reference, for the unique key; ``None`` without a reference.

    It is a hash, because a reference may be longer than its column, and because collations ignore
    case, blanks and accents: order ``a1`` is not order ``A1``. The key of a test begins with ``t``,
    which no hash has, so that a test never uses up the reference of an order.
    """
    if not reference:
        return None
    key = hashlib.sha256(reference.encode()).hexdigest()
    return f"t{key[1:]}" if is_test else key


class ConversionQuerySet(models.QuerySet["Conversion"]):
    def pending(self) -> ConversionQuerySet:
        return self.filter(status=self.model.Status.PENDING)

    def needing_review(self) -> ConversionQuerySet:
        """Keep the pending conversions that only staff can approve."""
        # Not "exclude", which no index serves.
        return self.pending().filter(review_reason__gt="")

    def review_queue(self) -> ConversionQuerySet:
        """Keep those that need review, without tests, which pay nothing; the oldest first."""
        # By an expression: by the key itself, a database might read all older rows as well.
        return self.needing_review().filter(is_test=False).order_by(F("pk") + 0)

    def due(self, now: datetime) -> ConversionQuerySet:
        """Keep the pending conversions whose hold period has ended."""
        return self.pending().filter(approve_on__lte=now)

    def payouts(self) -> tuple[int, dict[str, Decimal]]:
        """
        Return the number of conversions, and their payouts after adjustments by currency.

        It takes two queries. A reopened conversion counts with what an approval would restore.
        """
        from affiliations.models.settlement import Adjustment

        rows = self.order_by()
        count, sums = 0, {}
        for currency, number, payout in rows.values_list("payout_currency").annotate(
            rows=Count("*"), sum=Sum("payout")
        ):
            count += number
            if payout is not None:
                sums[currency] = kept(payout)
        adjusted = rows.filter(adjustments__kind=Adjustment.Kind.ADJUSTED)
        for currency, payout in adjusted.values_list("payout_currency").annotate(
            Sum("adjustments__payout")
        ):
            sums[currency] = sums.get(currency, Decimal(0)) + kept(payout)
        return count, sums

    def notice_due(self) -> ConversionQuerySet:
        """Keep those whose decision no notice has told the partner of."""
        return self.filter(db.is_true("notice_due"))

    def with_adjustments(self) -> ConversionQuerySet:
        """Read the adjustments too, in one query, for the current amounts and payouts."""
        return self.prefetch_related("adjustments")

    def of_reference(self, trigger: str, reference: str) -> list[Conversion]:
        """
        Return the conversion of a reference and its test, in the lock order of their visitors.

        A rejected one is returned only if no other has its reference.
        """
        keys = [reference_key(reference, is_test=is_test) for is_test in (False, True)]
        rows = self.filter(trigger=trigger, reference_key__in=keys)
        # Of several rows with one key, the last in this order stays.
        in_order = sorted(rows, key=lambda row: (not row.released, row.pk))
        found = {row.reference_key: row for row in in_order}
        return sorted(found.values(), key=lambda row: row.visitor_id)

    def standing(self) -> ConversionQuerySet:
        """Leave out the rejected conversions."""
        return self.filter(released=0)

    def lock_reference(self, conversion: Conversion) -> None:
        """
        Lock the conversions of a reference before one of them, or a new one, takes it again.

        So one of two transactions waits here. Otherwise InnoDB would end one of them with a
        deadlock at the unique key, whose index may still have the entry from before a rejection.
        """
        if conversion.reference_key is not None:
            db.lock_rows_by_key(
                self.filter(trigger=conversion.trigger, reference_key=conversion.reference_key)
            )

    def in_place_of(self, conversion: Conversion, *, of_signal: bool = False) -> ConversionQuerySet:
        """
        Keep the conversions beside which ``conversion`` would count an event twice.

        These are conversions that are not rejected and have its visitor (if each visitor counts
        once) or its reference. If ``conversion`` is ``of_signal``, rejected ones are kept too,
        unless both have a reference and these differ: after a rejection, a signal can credit the
        visitor only with another reference.
        """
        key = conversion.reference_key
        taken = Q(dedupe_key=conversion.dedupe_key)
        same_reference = Q() if key is None else Q(reference_key=key)
        if not of_signal:
            taken = (taken | same_reference) & Q(released=0)
        elif key is not None:
            taken = same_reference | (taken & (Q(released=0) | Q(reference_key=None)))
        rows = self.filter(taken, trigger=conversion.trigger)
        return rows if conversion._state.adding else rows.exclude(pk=conversion.pk)
