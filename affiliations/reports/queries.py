"""
Clicks, conversions and payouts by partner, trigger, sub id, day, week and month.

A conversion counts on the day of its creation, not of its decision. Tests never count. Money is
summed up by currency. Days are those of the site's time zone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import chain
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import (
    Case,
    CharField,
    Count,
    DateField,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from affiliations.dates import Interval, Period
from affiliations.models import (
    Adjustment,
    Conversion,
    DailyClicks,
    FilteredClicks,
    Partner,
    RollupState,
    Subscription,
    Visitor,
)
from affiliations.reports.numbers import (
    Arrivals,
    Dimension,
    Key,
    Numbers,
    Others,
    ReportResult,
    Sums,
)
from affiliations.reports.rollups import LABEL_NUMBERS

Status = Conversion.Status

#: The maximum of partners, triggers or sub ids in a report. A sub id may differ for each click.
LIMIT = 1000
#: The number of rows by which ``ReportQuery.rows()`` reads a report.
_ROWS = 10_000


def report(
    period: Period,
    *,
    interval: Interval | None = None,
    dimension: Dimension | None = None,
    partners: Collection[Partner] | QuerySet[Partner] | None = None,
    trigger: str | None = None,
    sub_id: tuple[Dimension, str] | None = None,
    limit: int | None = LIMIT,
) -> ReportResult:
    """
    Return clicks, conversions, revenue and payouts of a period, in a constant number of queries.

    A conversion counts on the day of its creation, not of its decision. Tests never count. Clicks
    cannot be split by trigger, so every row by trigger shows all clicks.

    Args:
        period: The days.
        interval: One row for each day, week or month; without ``dimension`` also for those without
            numbers.
        dimension: One row for each partner, group, trigger, source or sub id that has numbers.
        partners: Only the clicks and conversions of these partners.
        trigger: Only the conversions of the trigger with this name.
        sub_id: Only one sub id and value, such as ``(Dimension.SUB1, "summer")``, or one source,
            such as ``(Dimension.SOURCE, "api")``.
        limit: The number of partners, triggers or sub ids with rows of their own: those with the
            most clicks in the period. The database adds up all others to one row, whose key is an
            ``Others``. ``None`` returns all, which may be as many as there are clicks.

    Returns:
        The rows and their total. The key of a row is a pair of the first day of the interval and
        the partner's primary key, the trigger's name, the source, the sub id or ``Others``. Each is
        ``None`` without ``interval`` or ``dimension``.

    Raises:
        ValueError: If ``dimension`` and ``sub_id`` name two different sub ids, or one and a source.
    """
    query = ReportQuery(
        period=period,
        interval=interval,
        dimension=dimension,
        partners=partners,
        trigger=trigger,
        sub_id=sub_id,
    )
    return _result(query if limit is None else query.limited(limit))


def _result(query: ReportQuery) -> ReportResult:
    dimension, interval = query.dimension, query.interval
    rows: defaultdict[Key, Numbers] = defaultdict(Numbers)
    total = Numbers()
    if not dimension:
        starts = query.period.starts(interval) if interval else [None]
        rows.update({(start, None): Numbers() for start in starts})
    for key, sums in chain(query.conversions(), query.adjustments()):
        for numbers in (rows[key], total):
            numbers.add(sums)
    clicks: Counter[Key] = Counter()
    for key, count in query.clicks():
        clicks[key] += count
    total.clicks = clicks.total()
    by_trigger = dimension is Dimension.TRIGGER

    def clicks_of(key: Key) -> int:
        return clicks[(key[0], None) if by_trigger else key]

    def sort_key(key: Key) -> tuple[date, bool, int, int, str]:
        """Sort by time, then by clicks, then by conversions; the row ``Others`` is the last."""
        is_others = isinstance(key[1], Others)
        return (
            key[0] or date.min,
            is_others,
            -rows[key].clicks,
            -rows[key].conversions,
            str(key[1]),
        )

    for key in set(rows) if by_trigger else {*rows, *clicks}:
        rows[key].clicks = clicks_of(key)
    return ReportResult({key: rows[key] for key in sorted(rows, key=sort_key)}, total)


def by_partner(partners: Collection[Partner], period: Period) -> dict[int, Numbers]:
    """
    Return the numbers of each of these partners, in five queries.

    Args:
        partners: The partners.
        period: The days.

    Returns:
        The numbers of every partner, by primary key. ``last_click`` is set, and may be outside the
        period.
    """
    found = report(period, dimension=Dimension.PARTNER, partners=partners, limit=None).rows
    numbers = {partner.pk: found.get((None, partner.pk), Numbers()) for partner in partners}
    for pk, moment in last_clicks(numbers).items():
        numbers[pk].last_click = moment
    return numbers


def top_partners(period: Period, count: int) -> dict[int, Numbers]:
    """
    Return the numbers of the partners with the most clicks, in four queries.

    Args:
        period: The days.
        count: The maximum of partners.

    Returns:
        The numbers by the partner's primary key, the most clicks first.
    """
    query = ReportQuery(period, dimension=Dimension.PARTNER)
    clicks: Counter[int] = Counter()
    for (_start, key), number in query.clicks():
        clicks[key] += number
    first = sorted(clicks, key=lambda key: (-clicks[key], key))[:count]
    partners = Partner.objects.in_bulk(first)
    # The daily totals of a deleted partner are kept.
    numbers = {key: Numbers(clicks=clicks[key]) for key in first if key in partners}
    query = replace(query, partners=list(partners.values()))
    for (_start, key), sums in chain(query.conversions(), query.adjustments()):
        numbers[key].add(sums)
    return numbers


def last_clicks(keys: Iterable[int] | QuerySet[Any]) -> dict[int, datetime | None]:
    """Return the last click of each of these partners, by primary key, in one query."""
    visitors = Visitor.objects.clicks().filter(partner=OuterRef("pk"))
    last = Subquery(visitors.order_by("-referred_on").values("referred_on")[:1])
    rows = Partner.objects.filter(pk__in=keys).order_by()
    return dict(rows.annotate(last_click=last).values_list("pk", "last_click"))


def arrivals(
    period: Period, partner: Partner | None = None, *, counted: int | None = None
) -> Arrivals:
    """
    Return the clicks that arrived: those that were counted, and those that were filtered.

    Args:
        period: The days.
        partner: Only the clicks on this partner's links.
        counted: The number of clicks that were counted, if it is known from a report.
    """
    query = ReportQuery(period, partners=None if partner is None else [partner])
    if counted is None:
        counted = sum(count for _key, count in query.clicks())
    filtered = {reason: count for _key, reason, count in query.filtered_clicks()}
    return Arrivals(counted, Counter(filtered))


def arrivals_by_partner(period: Period) -> dict[int | None, Arrivals]:
    """
    Return the clicks that arrived, by the partner's primary key, the most first.

    The key is ``None`` for links that name no partner.
    """
    query = ReportQuery(period, dimension=Dimension.PARTNER)
    found: defaultdict[int | None, Arrivals] = defaultdict(Arrivals)
    for (_start, partner), count in query.clicks():
        found[partner].counted += count
    for (_start, partner), reason, count in query.filtered_clicks():
        found[partner].filtered[reason] += count
    return dict(sorted(found.items(), key=lambda row: (-row[1].total, row[0] or 0)))


@dataclass(frozen=True)
class ReportQuery:
    """The queries of a report; see ``report()`` for the arguments."""

    period: Period
    interval: Interval | None = None
    dimension: Dimension | None = None
    partners: Collection[Partner] | QuerySet[Partner] | None = None
    trigger: str | None = None
    sub_id: tuple[Dimension, str] | None = None
    #: The partners, triggers or sub ids with rows of their own, if ``others`` has a row.
    groups: Collection[Any] = ()
    others: Others | None = None
    #: The clicks of each of these rows in the whole period, if they are known.
    group_clicks: Mapping[Any, int] | None = None

    def __post_init__(self) -> None:
        dimension = self.dimension
        if (
            self.sub_id
            and dimension
            and dimension.is_of_visitor
            and dimension is not self.sub_id[0]
        ):
            raise ValueError("A report can have only one sub id.")

    def limited(self, limit: int) -> ReportQuery:
        """Return the same report with rows for the first groups, and one row for all others."""
        if self.dimension is None:
            return self
        found = self._first_groups(self.dimension, limit, self._counted())
        while isinstance(found, int):
            found = self._first_groups(self.dimension, limit, found)
        clicks, count, total = found
        others = Others(count - limit) if count > limit else None
        groups = list(clicks)
        if others:
            clicks[others] = total - sum(clicks.values())
        is_known = self.dimension is not Dimension.TRIGGER
        return replace(
            self, groups=groups, others=others, group_clicks=clicks if is_known else None
        )

    def rows(self) -> Iterator[tuple[Key, Numbers]]:
        """Yield the rows of the report, some intervals at a time, so that few are in memory."""
        size = max(1, _ROWS // (len(self.groups) + 1))
        for part in self.period.parts(self.interval, size):
            part_of_it = replace(self, period=part, group_clicks=None)
            yield from _result(part_of_it).rows.items()

    def clicks(self) -> list[tuple[Key, int]]:
        """
        Count the clicks: the daily totals, and the visitors that are not in them yet.

        One query reads both, so that a visitor who is rolled up or purged at this moment counts
        once. The last key of the totals is read before the query, because PostgreSQL reads only the
        end of the table if that key is a constant. The query reads it again, and is repeated if the
        totals have grown in the meantime.
        """
        if self.group_clicks is not None and not self.interval:
            return [((None, key), count) for key, count in self.group_clicks.items() if count]
        found, counted = self._clicks(self._counted())
        while found is None:
            found, counted = self._clicks(counted)
        return found

    def conversions(self) -> Iterator[tuple[Key, Sums]]:
        rows = self._of_conversions(Conversion.objects.filter(is_test=False))
        return self._sums(
            rows,
            ["has_click", "status", "payout_currency", "currency"],
            payouts=Sum("payout"),
            order_values=Sum("amount"),
            count=Count("*"),
            orders=Count("amount"),
            flat_orders=Count("amount", filter=~Q(payout_type=Subscription.PayoutType.PERCENT)),
        )

    def adjustments(self) -> Iterator[tuple[Key, Sums]]:
        """Sum up all kinds: a rejection and a later approval cancel each other out."""
        rows = self._of_conversions(
            Adjustment.objects.filter(conversion__is_test=False), "conversion__"
        ).exclude(conversion__status=Status.REJECTED)
        return self._sums(
            rows,
            ["conversion__has_click", "conversion__status", "currency", "conversion__currency"],
            payouts=Sum("payout"),
            order_values=Sum("amount", filter=Q(conversion__amount__isnull=False)),
        )

    def _sums(
        self, rows: QuerySet[Any], names: list[str], **sums: Any
    ) -> Iterator[tuple[Key, Sums]]:
        columns = self._columns(self.dimension)
        for found in rows.values_list(*columns, *names).annotate(**sums):
            key, facts = found[: len(columns)], found[len(columns) :]
            yield self._key(list(key), self.dimension), Sums(*facts)

    def filtered_clicks(self) -> Iterator[tuple[Key, str, int]]:
        rows = FilteredClicks.objects.filter(day__range=(self.period.first, self.period.last))
        found = self._selected(rows, self.dimension)
        sums = found.values_list(*self._columns(self.dimension), "reason").annotate(Sum("count"))
        for *key, reason, count in sums.order_by("reason"):
            yield self._key(key, self.dimension), reason, int(count)

    def _clicks(self, counted: int) -> tuple[list[tuple[Key, int]] | None, int]:
        """Return the clicks, or ``None`` if the last key differs from ``counted``; and that key."""
        # Clicks cannot be split by trigger.
        dimension = None if self.dimension is Dimension.TRIGGER else self.dimension
        columns = self._columns(dimension)
        parts = [
            rows.annotate(is_state=Value(0)).values_list("is_state", *columns).annotate(sum=total)
            for rows, total in self._clicked(dimension, counted)
        ]
        group = IntegerField() if dimension is Dimension.PARTNER else CharField()
        unused = {
            "on_day": Value(None, DateField()),
            "is_other": Value(0),
            "group": Value(None, group),
        }
        state = RollupState.objects.annotate(is_state=Value(1), **unused)
        last_key = state.values_list("is_state", *columns, "counted")
        found, last = [], 0
        for is_state, *key, count in parts[0].union(parts[1], last_key, all=True):
            if is_state:
                last = count
            elif count:
                found.append((self._key(key, dimension), count))
        return (found if last == counted else None), last

    def _counted(self) -> int:
        return sum(RollupState.objects.values_list("counted", flat=True))

    def _clicked(
        self, dimension: Dimension | None, counted: int
    ) -> list[tuple[QuerySet[Any], Count | Sum]]:
        """Return the visitors and the daily totals, and the expressions that count them."""
        sub_id = self.sub_id[0] if self.sub_id else dimension
        number = LABEL_NUMBERS[sub_id] if sub_id and sub_id.is_of_visitor else 0
        visitors = Visitor.objects.clicks().filter(
            **self.period.within("referred_on"), pk__gt=counted
        )
        daily = DailyClicks.objects.filter(
            day__range=(self.period.first, self.period.last), sub_id=number
        )
        return [
            (self._selected(visitors, dimension, "referred_on"), Count("pk")),
            (self._selected(daily, dimension, label="label"), Sum("count")),
        ]

    def _first_groups(
        self, dimension: Dimension, limit: int, counted: int
    ) -> tuple[dict[Any, int], int, int] | int:
        """
        Find the groups with the most clicks, then conversions.

        Returns:
            Their clicks, the number of all groups and of all clicks; or the last key of the totals,
            if it is not ``counted``. See ``clicks()``.
        """
        conversions = self._of_conversions(Conversion.objects.filter(is_test=False))
        credited = Count("status", filter=~Q(status=Status.REJECTED))
        parts = [conversions.values_list("group").annotate(clicked=Value(0), credited=credited)]
        if dimension is not Dimension.TRIGGER:
            parts += [
                rows.values_list("group").annotate(clicked=total, credited=Value(0))
                for rows, total in self._clicked(dimension, counted)
            ]
        found = parts[0].union(*parts[1:], all=True)
        connection = connections[found.db]
        try:
            select, values = found.query.get_compiler(found.db).as_sql()
        except EmptyResultSet:  # no partners
            return {}, 0, 0
        # Django cannot group the rows of a union.
        quote = connection.ops.quote_name
        group, state = quote("group"), quote(RollupState._meta.db_table)
        first = (
            f"SELECT {group}, SUM(clicked), COUNT(*) OVER (), SUM(SUM(clicked)) OVER (),"  # noqa: S608
            f" (SELECT SUM(counted) FROM {state})"
            f" FROM ({select}) parts GROUP BY {group}"
            f" ORDER BY SUM(clicked) DESC, SUM(credited) DESC, {group} LIMIT {limit + 1}"
        )
        with connection.cursor() as cursor:
            cursor.execute(first, values)
            rows = cursor.fetchall()
        if not rows:
            return {}, 0, 0
        _group, _clicked, count, total, last = rows[0]
        if (last or 0) != counted:
            return int(last)
        return {row[0]: int(row[1]) for row in rows[:limit]}, count, int(total)

    def _of_conversions(self, rows: QuerySet[Any], path: str = "") -> QuerySet[Any]:
        """Filter rows whose conversion is at ``path``, and add the columns of the report."""
        moment = f"{path}created_on"
        rows = rows.filter(**self.period.within(moment))
        if self.trigger is not None:
            rows = rows.filter(**{f"{path}trigger": self.trigger})
        return self._selected(rows, self.dimension, moment, path=path)

    def _selected(
        self,
        rows: QuerySet[Any],
        dimension: Dimension | None,
        moment: str = "",
        *,
        path: str = "",
        label: str = "",
    ) -> QuerySet[Any]:
        """
        Filter by partner and sub id, and add the columns of the report.

        ``path`` leads to the row with the partner and the sub ids. ``label`` is the field of daily
        totals, which have one field for all sub ids. Without ``moment`` the rows have a field
        ``day``.
        """
        if self.partners is not None:
            rows = rows.filter(**{f"{path}partner__in": self.partners})
        if self.sub_id is not None:
            name = label or _field(rows, self.sub_id[0], path)
            rows = rows.filter(**{name: self.sub_id[1]})
        columns: dict[str, Any] = {}
        if self.interval:
            columns["on_day"] = self.period.day_of(moment) if moment else F("day")
        if dimension is Dimension.GROUP:
            name = f"{path}partner__group"
            if label:
                # Daily totals are kept when their partner is deleted. A join would lose them.
                partners = Partner.objects.filter(pk=OuterRef("partner_id")).values("group")
                rows = rows.annotate(partner_group=Coalesce(Subquery(partners), Value("")))
                name = "partner_group"
            columns |= self._group_columns(name)
        elif dimension:
            is_label = label and dimension.is_of_visitor
            name = label if is_label else _field(rows, dimension, path)
            columns |= self._group_columns(name)
        selected: QuerySet[Any] = rows.order_by().annotate(**columns)
        return selected

    def _group_columns(self, name: str) -> dict[str, Any]:
        if self.others is None:
            return {"is_other": Value(0), "group": F(name)}
        is_own = When(**{f"{name}__in": self.groups}, then=0)
        # NULL may be a group, but SQL's IN never matches it.
        is_null = When(**{f"{name}__isnull": True}, then=int(None not in self.groups))
        return {
            "is_other": Case(is_null, is_own, default=1),
            "group": Case(When(is_other=0, then=F(name))),
        }

    def _columns(self, dimension: Dimension | None) -> list[str]:
        return ["on_day"] * bool(self.interval) + ["is_other", "group"] * bool(dimension)

    def _key(self, found: list[Any], dimension: Dimension | None) -> Key:
        start = self.interval.start(found[0]) if self.interval else None
        if dimension is None:
            return start, None
        *_day, is_other, group = found
        return start, self.others if is_other else group


def _field(rows: QuerySet[Any], dimension: Dimension, path: str) -> str:
    """Return the path of the value of a dimension, for visitors, conversions or adjustments."""
    if dimension is Dimension.SOURCE and rows.model is not Visitor:
        path += "visitor__"
    return f"{path}{dimension.value}"
