"""
Stretches of time in whole days, weeks and months, where the site is.

The days of moments are found without the database's knowing of time zones, which MySQL and MariaDB
need to be taught first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from datetime import timezone as fixed

from django.conf import settings as django_settings
from django.db.models import (
    Case,
    DateField,
    DateTimeField,
    ExpressionWrapper,
    F,
    TextChoices,
    Value,
    When,
)
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, TruncDate
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

_DAY = timedelta(days=1)
#: So far from the ends of the calendar every zone can reckon.
FIRST, LAST = date(1900, 1, 1), date(9000, 12, 31)


class Step(TextChoices):
    """How long a stretch of time is that has numbers of its own; weeks begin on Monday."""

    DAY = "day", _("day")
    WEEK = "week", _("week")
    MONTH = "month", _("month")

    def start(self, day: date) -> date:
        """Return the first day of the day, week or month that a day is in."""
        if self is Step.WEEK:
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self is Step.MONTH else day


@dataclass(frozen=True)
class Period:
    """Whole days where the site is, from the first to the last, both included."""

    first: date
    last: date

    @classmethod
    def past(cls, count: int, step: Step = Step.DAY) -> Period:
        """Return the period of so many days, weeks or months of which the last is today's."""
        first = last = today()
        for _number in range(count - 1):
            first = step.start(first) - _DAY
        return cls(step.start(first), last)

    def __iter__(self) -> Iterator[date]:
        """Yield its days."""
        for number in range((self.last - self.first).days + 1):
            yield self.first + number * _DAY

    def starts(self, step: Step) -> list[date]:
        """Return the first days of the days, weeks or months that it is of, whole or not."""
        return list(dict.fromkeys(step.start(day) for day in self))

    def within(self, name: str) -> dict[str, datetime]:
        """Return by what a queryset is filtered to keep the moments ``name`` of this period."""
        return {f"{name}__gte": midnight(self.first), f"{name}__lt": midnight(self.last + _DAY)}

    def day_of(self, name: str) -> Combinable:
        """
        Return the expression of the day that a moment ``name`` of this period is in.

        While a zone keeps its distance from UTC, that is added. A day on which the clocks are
        changed, and which has not 24 hours, is what lies between its ends.
        """
        if not django_settings.USE_TZ:
            return TruncDate(name)
        spans: list[tuple[timedelta | None, date]] = []
        for day in self:
            offset = _offset(day)
            if offset is not None and spans and spans[-1][0] == offset:
                spans.pop()
            spans.append((offset, day))
        cases = [
            When(
                **{f"{name}__lt": midnight(last + _DAY)},
                then=_fixed(last) if offset is None else _shifted(name, offset),
            )
            for offset, last in spans
        ]
        return Case(*cases, output_field=DateField())


def day_of(moment: datetime) -> date:
    """Return the day of a moment where the site is, whatever time zone is activated."""
    if timezone.is_aware(moment):
        moment = timezone.localtime(moment, timezone.get_default_timezone())
    return moment.date()


def today() -> date:
    """Return today's date where the site is."""
    return day_of(timezone.now())


def midnight(day: date) -> datetime:
    """Return when a day begins where the site is."""
    moment = datetime.combine(day, time())
    if not django_settings.USE_TZ:
        return moment
    # UTC, since two moments of one zone are compared by their clocks.
    return timezone.make_aware(moment, timezone.get_default_timezone()).astimezone(fixed.utc)


def _offset(day: date) -> timedelta | None:
    """Return how far the zone is from UTC; ``None`` on a day that has not 24 hours."""
    begins, ends = midnight(day), midnight(day + _DAY)
    if ends - begins != _DAY:
        return None
    return datetime.combine(day, time(), fixed.utc) - begins


def _fixed(day: date) -> Combinable:
    # To MySQL and MariaDB a mere value is a text.
    return Cast(Value(day, DateField()), DateField())


def _shifted(name: str, offset: timedelta) -> Combinable:
    moment: Combinable = F(name)
    if offset:
        moment = ExpressionWrapper(moment + Value(offset), output_field=DateTimeField())
    return TruncDate(moment, tzinfo=fixed.utc)
