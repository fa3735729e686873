"""What stands in the tables of clicks, conversions and corrections, counted and summed up."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from django.db.models import (
    CharField,
    Count,
    DateField,
    F,
    IntegerField,
    QuerySet,
    Sum,
    TextChoices,
    Value,
)
from django.utils.translation import gettext_lazy as _

from affiliations.models import (
    ClickCount,
    Conversion,
    Correction,
    DailyClicks,
    Partner,
    PurgedClicks,
    Visitor,
)
from affiliations.periods import Period, Step
from affiliations.totals import NUMBERS

#: The first day of the stretch of time, and what else the numbers are of: the key of a partner, or
#: a name. Each is ``None`` where it was not asked for.
Key = tuple[date | None, Any]


class By(TextChoices):
    """What there can be numbers of."""

    PARTNER = "partner", _("partner")
    TRIGGER = "trigger", _("trigger")
    SUB1 = "sub1", _("sub id 1")
    SUB2 = "sub2", _("sub id 2")
    SUB3 = "sub3", _("sub id 3")
    SUB4 = "sub4", _("sub id 4")
    SUB5 = "sub5", _("sub id 5")

    @property
    def is_sub_id(self) -> bool:
        """Tell whether it is a label of the partner's."""
        return self not in (By.PARTNER, By.TRIGGER)


@dataclass(frozen=True)
class Question:
    """What numbers are asked for; see ``reports.report``."""

    period: Period
    step: Step | None = None
    by: By | None = None
    partners: Collection[Partner] | None = None
    trigger: str | None = None
    sub_id: tuple[By, str] | None = None

    def __post_init__(self) -> None:
        if self.sub_id and self.by and self.by.is_sub_id and self.by is not self.sub_id[0]:
            raise ValueError("There are numbers of one sub id at a time.")

    def clicks(self) -> list[tuple[Key, int]]:
        """
        Count the clicks: those in the totals, those who are not counted yet, those purged since.

        Who is counted or purged at this moment is in one part of the one query, and in no other. It
        has to know how far the totals go, and is asked again where they have grown meanwhile.
        """
        found, counted = self._clicks(sum(ClickCount.objects.values_list("counted", flat=True)))
        while found is None:
            found, counted = self._clicks(counted)
        return found

    def conversions(self) -> Iterator[tuple[Key, str, int, str, Decimal | None]]:
        """Count the conversions by status, and sum up their payouts by currency."""
        rows = self._of_conversions(Conversion.objects.filter(is_test=False))
        found = rows.values_list(*self._columns(self.by), "status", "payout_currency")
        for *key, status, currency, count, payout in found.annotate(Count("pk"), Sum("payout")):
            yield self._key(key, self.by), status, count, currency, payout

    def corrections(self) -> Iterator[tuple[Key, str, Decimal]]:
        """Sum up what was corrected since about the approved conversions."""
        rows = Correction.objects.filter(conversion__status=Conversion.Status.APPROVED)
        rows = self._of_conversions(rows, "conversion__")
        found = rows.values_list(*self._columns(self.by), "currency")
        for *key, currency, payout in found.annotate(Sum("payout")):
            yield self._key(key, self.by), currency, payout

    def _clicks(self, counted: int) -> tuple[list[tuple[Key, int]] | None, int]:
        """Count them, ``None`` where the totals go up to another visitor; return up to whom."""
        # Nobody clicks on a trigger.
        by = None if self.by is By.TRIGGER else self.by
        label = self.sub_id[0] if self.sub_id else by if by and by.is_sub_id else None
        days = {"day__range": (self.period.first, self.period.last)}
        visitors = Visitor.objects.filter(
            **self.period.within("referred_on"), pk__gt=counted, is_test=False
        )
        daily = DailyClicks.objects.filter(**days, sub_id=NUMBERS[label] if label else 0)
        purged = PurgedClicks.objects.filter(**days)
        columns = self._columns(by)
        parts = [
            rows.annotate(is_state=Value(0)).values_list("is_state", *columns).annotate(sum=total)
            for rows, total in (
                (self._kept(visitors, by, "referred_on"), Count("pk")),
                (self._kept(daily, by, label="label"), Sum("count")),
                (self._kept(purged, by), Sum("count")),
            )
        ]
        of = CharField() if by and by.is_sub_id else IntegerField()
        nothing = {"at": Value(None, DateField()), "of": Value(None, of)}
        state = ClickCount.objects.annotate(is_state=Value(1), **nothing)
        ends = state.values_list("is_state", *columns, "counted")
        found, up_to = [], 0
        for is_state, *key, count in parts[0].union(*parts[1:], ends, all=True):
            if is_state:
                up_to = count
            elif count:
                found.append((self._key(key, by), count))
        return (found if up_to == counted else None), up_to

    def _of_conversions(self, rows: QuerySet[Any], path: str = "") -> QuerySet[Any]:
        """Keep what is of conversions, to which a path leads."""
        moment = f"{path}created_on"
        rows = rows.filter(**self.period.within(moment))
        if self.trigger is not None:
            rows = rows.filter(**{f"{path}trigger": self.trigger})
        return self._kept(rows, self.by, moment, path=path)

    def _kept(
        self,
        rows: QuerySet[Any],
        by: By | None,
        moment: str = "",
        *,
        path: str = "",
        label: str = "",
    ) -> QuerySet[Any]:
        """
        Keep what was asked for, and add the columns that were: the day, and what else.

        ``path`` leads to what has a partner, and labels unless these all stand in ``label``.
        Without a ``moment`` there is a day.
        """
        if self.partners is not None:
            rows = rows.filter(**{f"{path}partner__in": self.partners})
        if self.sub_id is not None:
            rows = rows.filter(**{label or f"{path}{self.sub_id[0].value}": self.sub_id[1]})
        columns: dict[str, Any] = {}
        if self.step:
            columns["at"] = self.period.day_of(moment) if moment else F("day")
        if by:
            columns["of"] = F(label if label and by.is_sub_id else f"{path}{by.value}")
        kept: QuerySet[Any] = rows.order_by().annotate(**columns)
        return kept

    def _columns(self, by: By | None) -> list[str]:
        return ["at"] * bool(self.step) + ["of"] * bool(by)

    def _key(self, found: list[Any], by: By | None) -> Key:
        start = self.step.start(found[0]) if self.step else None
        return start, found[-1] if by else None
