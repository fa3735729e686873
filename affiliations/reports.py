"""
The numbers of the field, by partner, trigger, sub id, day, week and month.

Clicks are the counted visitors, also those who have been purged since. A conversion is in the
numbers of the day on which it was made, whenever it was decided on. Tests are in no number. Money
is kept by currency, and never added up over several. Days are those of the site's time zone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from heapq import nsmallest

from django.db.models import OuterRef, Subquery, Sum

from affiliations.amounts import kept
from affiliations.models import Conversion, Partner, UncountedClicks, Visitor
from affiliations.periods import Period, Step
from affiliations.tallies import By, Key, Question

__all__ = ["By", "Key", "Numbers", "Period", "Report", "Step", "by_partner", "report", "uncounted"]

Status = Conversion.Status


@dataclass
class Numbers:
    """The numbers of one partner, trigger, day or whatever else they are of."""

    clicks: int = 0
    pending: int = 0
    approved: int = 0
    rejected: int = 0
    #: What the approved conversions earn, less what was taken back since, by currency.
    payouts: dict[str, Decimal] = field(default_factory=dict)
    #: The last click of all, whatever the period; of a partner only, see ``by_partner``.
    last_click: datetime | None = None

    @property
    def conversions(self) -> int:
        """Those that are not rejected."""
        return self.pending + self.approved

    @property
    def rate(self) -> Decimal | None:
        """The conversion rate, CR: conversions for each click; ``None`` without a click."""
        return Decimal(self.conversions) / self.clicks if self.clicks else None

    @property
    def per_click(self) -> dict[str, Decimal]:
        """The earnings per click, EPC: the approved payout for each click, by currency."""
        if not self.clicks:
            return {}
        return {currency: payout / self.clicks for currency, payout in self.payouts.items()}

    def _earn(self, currency: str, payout: Decimal | None) -> None:
        if payout is not None:
            self.payouts[currency] = self.payouts.get(currency, Decimal(0)) + kept(payout)


@dataclass
class Report:
    """Numbers, and those of all of it."""

    rows: dict[Key, Numbers]
    total: Numbers
    #: How many rows there are, with those that were left out.
    count: int

    @property
    def currencies(self) -> list[str]:
        """Those in which something was earned."""
        return sorted(self.total.payouts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has happened."""
        return self.total == Numbers()


def report(
    period: Period,
    *,
    step: Step | None = None,
    by: By | None = None,
    partners: Collection[Partner] | None = None,
    trigger: str | None = None,
    sub_id: tuple[By, str] | None = None,
    most: int | None = None,
) -> Report:
    """
    Return the numbers of a period, in as many queries however much there is.

    With ``step`` for each day, week or month, empty ones included unless there is a ``by`` as well;
    with ``by`` for each partner, trigger or label of which there is anything. Only of what these
    ``partners``, a ``trigger`` or a ``sub_id``, such as ``(By.SUB1, "summer")``, has brought. There
    are no numbers of two different sub ids at once: ``ValueError``. With ``most`` there are the
    first rows only, for a label may be another one for each click.

    Nobody clicks on a trigger: the clicks of one are all clicks.
    """
    asked = Question(period, step, by, partners, trigger, sub_id)
    rows: defaultdict[Key, Numbers] = defaultdict(Numbers)
    total = Numbers()
    if not by:
        starts = period.starts(step) if step else [None]
        rows.update({(start, None): Numbers() for start in starts})
    for key, status, count, currency, payout in asked.conversions():
        for numbers in (rows[key], total):
            setattr(numbers, status, getattr(numbers, status) + count)
            if status == Status.APPROVED:
                numbers._earn(currency, payout)
    for key, currency, payout in asked.corrections():
        rows[key]._earn(currency, payout)
        total._earn(currency, payout)
    clicks: Counter[Key] = Counter()
    for key, count in asked.clicks():
        clicks[key] += count
    total.clicks = clicks.total()

    def clicked(key: Key) -> int:
        return clicks[(key[0], None) if by is By.TRIGGER else key]

    def place(key: Key) -> tuple[date, int, int, str]:
        """Order by time, then the most clicked first, or what has the most conversions."""
        conversions = rows[key].conversions if key in rows else 0
        return key[0] or date.min, -clicked(key), -conversions, str(key[1])

    keys = set(rows) if by is By.TRIGGER else {*rows, *clicks}
    shown = sorted(keys, key=place) if most is None else nsmallest(most, keys, key=place)
    for key in shown:
        rows[key].clicks = clicked(key)
    return Report({key: rows[key] for key in shown}, total, len(keys))


def by_partner(partners: Collection[Partner], period: Period) -> dict[int, Numbers]:
    """Return the numbers of each of these partners, with their last click, by the partner's key."""
    found = report(period, by=By.PARTNER, partners=partners).rows
    numbers = {partner.pk: found.get((None, partner.pk), Numbers()) for partner in partners}
    visitors = Visitor.objects.filter(partner=OuterRef("pk"), is_test=False)
    last = Subquery(visitors.order_by("-referred_on").values("referred_on")[:1])
    rows = Partner.objects.filter(pk__in=numbers).order_by()
    for pk, moment in rows.annotate(last_click=last).values_list("pk", "last_click"):
        numbers[pk].last_click = moment
    return numbers


def uncounted(period: Period, partner: Partner | None = None) -> list[tuple[str, int]]:
    """Return the reasons why clicks were not counted, and of how many each, the most first."""
    rows = UncountedClicks.objects.filter(day__range=(period.first, period.last)).order_by()
    if partner is not None:
        rows = rows.filter(partner=partner)
    sums = rows.values_list("reason").annotate(sum=Sum("count"))
    return sorted(sums, key=lambda reason_and_sum: (-reason_and_sum[1], reason_and_sum[0]))
