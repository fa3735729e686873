"""
What a partner is shown of the rows that are about them: what they need to check what they earn.

Nobody's name is among it, and of a reference no more than its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import QuerySet
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import batches, settlements
from affiliations.models import Conversion, Settlement, Subscription

#: So much of a reference is shown, and never more than half of it.
_END = 4

CONVERSION_COLUMNS = (
    _("Date"), _("Trigger"), _("Reference"), _("Click id"), _("Sub id 1"), _("Sub id 2"),
    _("Sub id 3"), _("Sub id 4"), _("Sub id 5"), _("Amount"), _("Currency"), _("Payout"),
    _("Payout currency"), _("Status"), _("Reason"), _("Corrected by"), _("Why corrected"),
)  # fmt: skip
STATEMENT_COLUMNS = (
    _("Date"), _("What"), _("Trigger"), _("Reference"), _("Click id"), _("Amount"), _("Currency"),
    _("Payout"), _("Payout currency"), _("Reason"),
)  # fmt: skip


def shortened(reference: str) -> str:
    """
    Return the end of a reference, by which two who both have it know it again.

    The end, since an e-mail address that somebody uses as one begins with a person.
    """
    shown = min(_END, len(reference) // 2)
    return reference and f"…{reference[len(reference) - shown :]}"


@dataclass(frozen=True)
class ShownConversion:
    """A conversion, as its partner is shown it."""

    created_on: datetime
    trigger: str
    click_id: str
    sub_ids: tuple[str, ...]
    #: Shortened.
    reference: str
    #: Of the order, where the payout is a part of it.
    amount: Decimal | None
    currency: str
    #: As it was reckoned; ``None`` where nothing is.
    payout: Decimal | None
    payout_currency: str
    status: str
    status_label: str
    #: Why it waits or was rejected, in the reader's language where it is a text of ours.
    reason: str
    #: What all corrections add to the payout, if there are any, and why.
    corrected: Decimal | None
    why_corrected: str

    @classmethod
    def of(cls, conversion: Conversion) -> ShownConversion:
        """Show one, whose visitor and corrections have been fetched."""
        visitor = conversion.visitor
        is_share = conversion.payout_type == Subscription.PayoutType.PERCENT
        waits_or_was_rejected = conversion.status != Conversion.Status.APPROVED
        corrections = sorted(conversion.corrections.all(), key=lambda one: one.pk)
        return cls(
            created_on=conversion.created_on,
            trigger=conversion.trigger,
            click_id=visitor.click_id,
            sub_ids=(visitor.sub1, visitor.sub2, visitor.sub3, visitor.sub4, visitor.sub5),
            reference=shortened(conversion.reference),
            amount=conversion.amount if is_share else None,
            currency=conversion.currency if is_share else "",
            payout=conversion.payout,
            payout_currency=conversion.payout_currency,
            status=conversion.status,
            status_label=conversion.get_status_display(),
            reason=_told(conversion.reason) if waits_or_was_rejected else "",
            corrected=sum((one.payout for one in corrections), Decimal(0)) if corrections else None,
            why_corrected=" ".join(dict.fromkeys(_told(one.reason) for one in corrections)),
        )

    @property
    def is_rejected(self) -> bool:
        """Whether it earns nothing."""
        return self.status == Conversion.Status.REJECTED

    @property
    def earns(self) -> Decimal | None:
        """What it earns, as far as is known today; of a rejected one, what it would have earned."""
        if self.payout is None or self.is_rejected:
            return self.payout
        return self.payout + (self.corrected or 0)

    def row(self) -> Sequence[object]:
        """Return it under ``CONVERSION_COLUMNS``."""
        return [
            self.created_on,
            self.trigger,
            self.reference,
            self.click_id,
            *self.sub_ids,
            self.amount,
            self.currency,
            self.payout,
            self.payout_currency,
            self.status_label,
            self.reason,
            self.corrected,
            self.why_corrected,
        ]


@dataclass(frozen=True)
class ShownLine:
    """A line of a statement, as the partner is shown it."""

    created_on: datetime
    #: Whether it is a conversion, or what made a correction of one necessary.
    what: str
    trigger: str
    reference: str
    click_id: str
    amount: Decimal | None
    currency: str
    payout: Decimal
    payout_currency: str
    reason: str
    is_correction: bool

    def row(self) -> Sequence[object]:
        """Return it under ``STATEMENT_COLUMNS``."""
        return list(vars(self).values())[: len(STATEMENT_COLUMNS)]


def conversions(rows: QuerySet[Conversion]) -> QuerySet[Conversion]:
    """Fetch with conversions what ``ShownConversion.of()`` asks for."""
    return rows.select_related("visitor").prefetch_related("corrections")


def all_conversions(rows: QuerySet[Conversion]) -> Iterator[ShownConversion]:
    """Yield conversions, the oldest first, in flat memory."""
    yield from map(ShownConversion.of, batches.by_key(conversions(rows)))


def statement(settlement: Settlement) -> Iterator[ShownLine]:
    """Yield the lines of a partner's settlement, in flat memory."""
    for line in settlements.statement(settlement):
        conversion = line.conversion
        is_share = conversion.payout_type == Subscription.PayoutType.PERCENT
        yield ShownLine(
            created_on=line.created_on,
            what=line.what,
            trigger=conversion.trigger,
            reference=shortened(conversion.reference),
            click_id=line.click_id,
            amount=line.amount if is_share else None,
            currency=conversion.currency if is_share else "",
            payout=line.payout,
            payout_currency=settlement.currency,
            reason=line.why,
            is_correction=line.correction is not None,
        )


def _told(reason: str) -> str:
    """Return a reason in the reader's language, where it is a text of ours."""
    return gettext(reason) if reason else ""
