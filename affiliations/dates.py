"""
Periods of whole days, weeks and months in the time zone of the site.

No query uses the time zones of the database: on MySQL and MariaDB they may not be installed.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from datetime import timezone as fixed
from typing import TypeVar

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
from django.utils.timezone import template_localtime  # type: ignore[attr-defined] # not in the stubs
from django.utils.translation import gettext_lazy as _

_T = TypeVar("_T")
_DAY = timedelta(days=1)
#: Far enough from the limits of ``date`` to convert between time zones.
FIRST, LAST = date(1900, 1, 1), date(9000, 12, 31)
#: More days and weeks than these are too many rows or bars; three months, and a year.
_MANY_DAYS, _MANY_WEEKS = 92, 53
#: The named periods, by their value in a query string; see ``Period.preset()``.
PRESETS = {
    "7": _("Past 7 days"),
    "30": _("Past 30 days"),
    "90": _("Past 90 days"),
    "month": _("This month"),
    "last-month": _("Last month"),
    "year": _("This year"),
    "last-year": _("Last year"),
}


class Interval(TextChoices):
    """The length of a report's rows: ``DAY``, ``WEEK`` or ``MONTH``. Weeks begin on Monday."""

    DAY = "day", _("day")
    WEEK = "week", _("week")
    MONTH = "month", _("month")

    def start(self, day: date) -> date:
        if self is Interval.WEEK:
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self is Interval.MONTH else day


@dataclass(frozen=True)
class Period:
    """
    Whole days in the time zone of the site (``TIME_ZONE``), whatever time zone is activated.

    Args:
        first: The first day.
        last: The last day, included.
        months: The number of calendar months that it stands for, complete or not yet: 1 for "this
            month", 12 for "last year"; 0 for any other days. Only ``before`` depends on it.
    """

    first: date
    last: date
    months: int = field(default=0, compare=False, repr=False)

    @classmethod
    def past(cls, count: int, interval: Interval = Interval.DAY) -> Period:
        first = last = today()
        for _number in range(count - 1):
            first = interval.start(first) - _DAY
        return cls(interval.start(first), last)

    @classmethod
    def preset(cls, name: str) -> Period | None:
        """Return a period by its name in ``PRESETS``."""
        last = today()
        month, year = last.replace(day=1), last.replace(month=1, day=1)
        return {
            **{str(days): cls.past(days) for days in (7, 30, 90)},
            "month": cls(month, last, 1),
            "last-month": cls(_months_before(month, 1), month - _DAY, 1),
            "year": cls(year, last, 12),
            "last-year": cls(_months_before(year, 12), year - _DAY, 12),
        }.get(name)

    @property
    def before(self) -> Period:
        """
        The period to compare with, of the same length, ending on the day before.

        Calendar months are compared with the same number of earlier months. The first days of a
        month or year are compared with the same days of the previous month or year.
        """
        if not self.months:
            return Period(self.first - (self.last - self.first) - _DAY, self.first - _DAY)
        return Period(
            _months_before(self.first, self.months),
            # The last day of a month is before the first one of another.
            _months_before(self.last + _DAY, self.months) - _DAY
            if (self.last + _DAY).day == 1
            else _months_before(self.last, self.months),
            self.months,
        )

    @property
    def interval(self) -> Interval:
        """The interval by which it has few enough rows to be read at a glance."""
        days = (self.last - self.first).days
        if days < _MANY_DAYS:
            return Interval.DAY
        return Interval.WEEK if days < _MANY_WEEKS * 7 else Interval.MONTH

    def __iter__(self) -> Iterator[date]:
        for number in range((self.last - self.first).days + 1):
            yield self.first + number * _DAY

    def starts(self, interval: Interval) -> list[date]:
        """Return the start of each day, week or month that is at least partly in the period."""
        return list(dict.fromkeys(interval.start(day) for day in self))

    def parts(self, interval: Interval | None, size: int) -> Iterator[Period]:
        """Yield this period in parts of ``size`` intervals; in one part without an interval."""
        starts = self.starts(interval)[::size] if interval else [self.first]
        firsts = [max(start, self.first) for start in starts]
        for first, following in zip(firsts, [*firsts[1:], self.last + _DAY], strict=True):
            yield Period(first, following - _DAY)

    def within(self, name: str) -> dict[str, datetime]:
        """Return filter arguments for moments of this period in the field ``name``."""
        return {f"{name}__gte": midnight(self.first), f"{name}__lt": midnight(self.last + _DAY)}

    def day_of(self, name: str) -> Combinable:
        """
        Return an expression for the day of the moment ``name``, which must be in this period.

        It adds the offset from UTC, with one ``WHEN`` for each span of days with the same offset. A
        day on which the clocks change has a ``WHEN`` of its own, whose result is the day itself.
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
                # Without the cast MySQL and MariaDB return text.
                then=Cast(Value(last, DateField()), DateField())
                if offset is None
                else _shifted(name, offset),
            )
            for offset, last in spans
        ]
        return Case(*cases, output_field=DateField())


def in_active_zone(moment: _T) -> _T:
    """Convert an aware moment to the active time zone, and return everything else as it is."""
    converted: _T = template_localtime(moment)
    return converted


def day_of(moment: datetime) -> date:
    """Return the day of a moment in the time zone of the site, whatever zone is activated."""
    if timezone.is_aware(moment):
        moment = timezone.localtime(moment, timezone.get_default_timezone())
    return moment.date()


def _months_before(day: date, count: int) -> date:
    return months_after(day, -count)


def months_after(day: date, count: int) -> date:
    """Return the same day some months later; the last of that month if it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + count, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def today() -> date:
    return day_of(timezone.now())


def midnight(day: date) -> datetime:
    """Return the start of a day in the time zone of the site."""
    moment = datetime.combine(day, time())
    if not django_settings.USE_TZ:
        return moment
    # In UTC, since Python compares two moments of one zone without their offsets.
    return timezone.make_aware(moment, timezone.get_default_timezone()).astimezone(fixed.utc)


def last_day(moment: datetime) -> date:
    """Return the day that ends at a moment; the moment itself if it is within a day."""
    day = day_of(moment)
    return day - _DAY if midnight(day) == moment else moment


def _offset(day: date) -> timedelta | None:
    """Return the offset from UTC; ``None`` on a day that does not have 24 hours."""
    start = midnight(day)
    if midnight(day + _DAY) - start != _DAY:
        return None
    return datetime.combine(day, time(), fixed.utc) - start


def _shifted(name: str, offset: timedelta) -> Combinable:
    moment: Combinable = F(name)
    if offset:
        moment = ExpressionWrapper(moment + Value(offset), output_field=DateTimeField())
    return TruncDate(moment, tzinfo=fixed.utc)
