"""
Daily totals of the clicks, for sites with so many that a report would count them for seconds.

They are a part of the visitors counted beforehand: those with the lowest keys. A report counts the
others as they stand, so that it is right whether somebody counts or not; and who arrives or buys
writes no total and waits for none. Conversions have no totals: a decision changes them long after.

Whoever counts visitors into the totals or takes them out again holds the one row of ``ClickCount``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

from django.db import connections, router, transaction
from django.db.models import Count, F, Max, Min, QuerySet, Sum, Value
from django.utils import timezone

from affiliations.models import ClickCount, DailyClicks, Visitor
from affiliations.models.visitor import SUB_IDS
from affiliations.periods import Period, day_of

#: So many visitors are counted in one transaction.
BATCH = 100_000
#: No landing takes so long to get into the table.
MARGIN = timedelta(hours=1)

#: By its name, the number of a sub id; 0 is the visitor as such.
NUMBERS = {name: number for number, name in enumerate(SUB_IDS, start=1)}


def count(*, batch: int = BATCH, margin: timedelta = MARGIN) -> Iterator[int]:
    """
    Count the visitors that are not in the totals yet; yield how many keys a transaction has passed.

    Only those who stood in the table when this was last called, ``margin`` ago or longer.
    """
    # By itself, since two that insert it and then want to write it would wait for each other.
    ClickCount.objects.using(_alias()).get_or_create(pk=1)
    passed = 1
    while passed:
        with held() as state:
            is_old = timezone.now() - state.seen_on >= margin
            last = _last_of(state, batch) if is_old else state.counted
            passed = last - state.counted
            if passed:
                _count_keys(state.counted, last)
                state.counted = last
            elif is_old:
                newest = Visitor.objects.using(_alias()).aggregate(last=Max("pk"))["last"] or 0
                state.seen, state.seen_on = max(newest, state.counted), timezone.now()
            state.save(using=_alias())
        if passed:
            yield passed


def rebuild(*, batch: int = BATCH, margin: timedelta = MARGIN) -> Iterator[int]:
    """Throw the totals away and count all over again, as after a change of the time zone."""
    ClickCount.objects.using(_alias()).get_or_create(pk=1)
    with held() as state:
        DailyClicks.objects.using(_alias()).all().delete()
        state.counted = 0
        state.save(using=_alias())
    yield from count(batch=batch, margin=margin)


@contextmanager
def held() -> Iterator[ClickCount]:
    """
    Hold, in a transaction, how far the visitors are counted: nobody else counts meanwhile.

    Where nobody has ever counted there is nothing to hold, and nobody is counted in the next hour.
    """
    with transaction.atomic(using=_alias()):
        state = ClickCount.objects.using(_alias()).filter(pk=1)
        # Written before anything is read: for SQLite, and for what the transaction then sees.
        yield state.get() if state.update(counted=F("counted")) else ClickCount()


def take_out(state: ClickCount, visitors: Iterable[Visitor]) -> None:
    """Take visitors who are being removed out of the totals, as far as they are in them."""
    _write(
        Counter(
            (one.partner_id, day, number, label)
            for one, day in _counted(state, visitors)
            for number, label in [(0, ""), *_labels(one)]
        ),
        sign=-1,
    )


def blank(state: ClickCount, visitors: Iterable[Visitor]) -> None:
    """Take the labels of visitors, as these still have them, out of the totals."""
    kinds = Counter(
        (one.partner_id, day, number, label)
        for one, day in _counted(state, visitors)
        for number, label in _labels(one)
        if label
    )
    _write(kinds, sign=-1)
    nameless: Counter[_Kind] = Counter()
    for (partner, day, number, _label), times in kinds.items():
        nameless[partner, day, number, ""] += times
    _write(nameless)
    _remove_labels(kinds)


#: The partner, the day, the number of the sub id and its label.
_Kind = tuple[int, date, int, str]


def _last_of(state: ClickCount, batch: int) -> int:
    """Return up to which key the next visitors are counted, however far their keys lie apart."""
    keys = Visitor.objects.using(_alias()).filter(pk__gt=state.counted, pk__lte=state.seen)
    of_batch = keys.order_by("pk").values_list("pk", flat=True)[batch - 1 : batch]
    return next(iter(of_batch), state.seen)


def _count_keys(first: int, last: int) -> None:
    """Count the visitors above the one key, and up to the other."""
    rows = Visitor.objects.using(_alias()).filter(pk__gt=first, pk__lte=last, is_test=False)
    ends = rows.aggregate(first=Min("referred_on"), last=Max("referred_on"))
    if ends["first"] is None:
        return
    came = Period(day_of(ends["first"]), day_of(ends["last"])).day_of("referred_on")
    for name, number in {"": 0, **NUMBERS}.items():
        label = F(name) if name else Value("")
        kinds = rows.order_by().values_list("partner", came, Value(number), label)
        _insert(kinds.annotate(Count("pk")))


def _insert(kinds: QuerySet[Any, Any]) -> None:
    """Write down how many visitors there are of each kind, within the database."""
    connection = connections[_alias()]
    table, *columns = map(
        connection.ops.quote_name,
        (DailyClicks._meta.db_table, "partner_id", "day", "sub_id", "label", "count"),
    )
    select, values = kinds.query.get_compiler(_alias()).as_sql()
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({', '.join(columns)}) {select}", values)


def _counted(state: ClickCount, visitors: Iterable[Visitor]) -> Iterator[tuple[Visitor, date]]:
    """Yield those who are in the totals, and under which day."""
    for one in visitors:
        if one.pk <= state.counted and not one.is_test:
            yield one, day_of(one.referred_on)


def _labels(visitor: Visitor) -> Iterator[tuple[int, str]]:
    for name, number in NUMBERS.items():
        yield number, getattr(visitor, name)


def _write(kinds: dict[_Kind, int], *, sign: int = 1) -> None:
    """Write down so many more visitors of each kind, or fewer."""
    DailyClicks.objects.using(_alias()).bulk_create(
        (
            DailyClicks(partner_id=partner, day=day, sub_id=number, label=label, count=sign * times)
            for (partner, day, number, label), times in kinds.items()
        ),
        batch_size=1000,
    )


def _remove_labels(kinds: Iterable[_Kind]) -> None:
    """Remove the rows of labels that no visitor has any more: they may tell of a person."""
    rows = DailyClicks.objects.using(_alias())
    for partner, day, number, label in kinds:
        same = rows.filter(sub_id=number, day=day, partner=partner, label=label)
        if not same.aggregate(sum=Sum("count"))["sum"]:
            same.delete()


def _alias() -> str:
    return router.db_for_write(Visitor)
