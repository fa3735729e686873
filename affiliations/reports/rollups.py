"""
Daily totals of clicks, for sites with so many visitors that a report would take seconds.

The totals cover the visitors up to a key, and all purged visitors. A report counts the other
visitors from their own table, so it is correct even if the totals are not up to date. Requests
never write a total. Conversions have no totals, since decisions change them much later.

A transaction that changes the totals, or removes visitors, first locks the one row of
``RollupState``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models import Count, F, Max, Min, Q, QuerySet, Sum, Value
from django.utils import timezone

from affiliations import db
from affiliations.dates import Period, day_of, today
from affiliations.exceptions import Reason
from affiliations.models import DailyClicks, FilteredClicks, Partner, RollupState, Visitor
from affiliations.models.visitor import SUB_IDS

#: The number of visitors that are counted in one transaction.
BATCH = 100_000
#: Longer than any transaction of a request.
MARGIN = timedelta(hours=1)
#: The maximum of rows by sub id that a purge leaves for a partner and day.
LABELS = 20
#: The same after clicks were removed. It is higher, because visitors of that day are still in their
#: own table.
_MORE_LABELS = 1000

#: ``DailyClicks.sub_id`` by the field of ``Visitor`` that is the label; 0 stands for the total.
LABEL_NUMBERS = {name: number for number, name in enumerate((*SUB_IDS, "source"), start=1)}
_SOURCE = LABEL_NUMBERS["source"]


class _TotalKey(NamedTuple):
    """The fields by which rows of ``DailyClicks`` are added up."""

    partner_id: int
    day: date
    sub_id: int
    label: str | None


def count(*, batch: int = BATCH, margin: timedelta = MARGIN) -> Iterator[int]:
    """
    Add visitors to the totals; yield the number of keys that each transaction has processed.

    It counts only visitors that a call at least ``margin`` ago has seen in the table.
    """
    ensure_state()
    processed = 1
    while processed:
        with locked_state() as state:
            is_old = timezone.now() - state.seen_on >= margin
            last = _last_of(state, batch) if is_old else state.counted
            processed = last - state.counted
            if processed:
                _count_keys(state.counted, last)
                state.counted = last
            elif is_old:
                newest = Visitor.objects.using(db.write_alias()).aggregate(last=Max("pk"))["last"]
                state.seen, state.seen_on = max(newest or 0, state.counted), timezone.now()
            state.save(using=db.write_alias())
        if processed:
            yield processed


def rebuild(*, batch: int = BATCH, margin: timedelta = MARGIN) -> Iterator[int]:
    """
    Count all visitors again, for example after a change of the time zone.

    Purged visitors cannot be counted again. Their counts stay as they are.
    """
    alias = db.write_alias()
    ensure_state()
    with locked_state() as state:
        DailyClicks.objects.using(alias).filter(purged=0).delete()
        DailyClicks.objects.using(alias).update(count=F("purged"))
        state.counted = 0
        state.save(using=alias)
    yield from count(batch=batch, margin=margin)


def ensure_state() -> None:
    """
    Insert the row that ``locked_state()`` locks.

    In a transaction of its own: two transactions that insert the row and write it would deadlock.
    """
    RollupState.objects.using(db.write_alias()).get_or_create(pk=1)


@contextmanager
def locked_state() -> Iterator[RollupState]:
    """
    Open a transaction, and lock the row with the last key of the totals.

    Without the row no totals exist, and ``count()`` adds no visitors within the next hour.
    """
    alias = db.write_alias()
    with transaction.atomic(using=alias):
        state = RollupState.objects.using(alias).filter(pk=1)
        # Written before the first read, as SQLite requires. All reads then see the latest rows.
        yield state.get() if state.update(counted=F("counted")) else RollupState()


def keep_purged(state: RollupState, visitors: Iterable[Visitor]) -> None:
    """Keep visitors that are about to be deleted in the totals, and add those not yet in them."""
    visitors = list(visitors)
    added = _count_by_key(visitor for visitor in visitors if visitor.pk > state.counted)
    purged = _count_by_key(visitors)
    _write({key: added[key] for key in purged}, purged)


def blank(state: RollupState, visitors: Iterable[Visitor]) -> None:
    """Move visitors whose sub ids are about to be blanked to the totals of empty labels."""
    counted = _count_by_key(visitor for visitor in visitors if visitor.pk <= state.counted)
    labelled = {
        key: number for key, number in counted.items() if key.label and key.sub_id != _SOURCE
    }
    unlabelled: Counter[_TotalKey] = Counter()
    for key, number in labelled.items():
        unlabelled[key._replace(label="")] += number
    _write({key: -number for key, number in labelled.items()})
    _write(unlabelled)
    rows = DailyClicks.objects.using(db.write_alias())
    for key in labelled:
        # A label without visitors is deleted, since it may name a person. After a purge, its
        # visitors may be among those of all other labels.
        same = rows.filter(**key._asdict())
        sums = same.aggregate(count=Sum("count"), purged=Sum("purged"))
        if sums["count"] <= 0:
            same.delete()
            if any(sums.values()):
                others = key._replace(label=None)
                _write({others: int(sums["count"])}, {others: int(sums["purged"])})


def remove(state: RollupState, partner: Partner, visitors: Iterable[Visitor]) -> None:
    """
    Count visitors of a partner as filtered clicks before they are deleted.

    Call ``tidy()`` when all are deleted.
    """
    visitors = list(visitors)
    removed = _count_by_key(visitor for visitor in visitors if visitor.pk <= state.counted)
    _write({key: -number for key, number in removed.items()})
    filtered = FilteredClicks.objects.using(db.write_alias())
    for day, number in Counter(day_of(visitor.referred_on) for visitor in visitors).items():
        filtered.add(partner, Reason.REMOVED, day=day, count=number)


def tidy(partner: Partner, period: Period) -> None:
    """Rewrite the totals of the days of a partner from which visitors were removed."""
    rows = DailyClicks.objects.using(db.write_alias()).filter(
        partner=partner, day__range=(period.first, period.last), count__lt=0
    )
    for day in list(rows.values_list("day", flat=True).distinct()):
        _compact(partner.pk, day, _MORE_LABELS)


def compact() -> None:
    """
    Reduce the rows of each partner and day from which visitors were purged.

    The total and the most frequent sub ids are kept, at most ``LABELS``, and the numbers of all
    others are added up. The slots of filtered clicks are added up too, for days before yesterday.
    """
    alias = db.write_alias()
    days = DailyClicks.objects.using(alias).order_by().values_list("partner_id", "day")
    by_sub_id = Count("pk", filter=~Q(sub_id=_SOURCE))
    counted = days.annotate(rows=by_sub_id, visitors=Sum("purged"))
    for partner, day, *_ in list(counted.filter(rows__gt=1 + LABELS, visitors__gt=0)):
        _compact(partner, day, LABELS)
    # Requests add to the rows of today.
    earlier = FilteredClicks.objects.using(alias).filter(day__lt=today() - timedelta(days=1))
    kinds = earlier.order_by().values_list("partner_id", "day", "reason")
    slots = kinds.annotate(rows=Count("pk"))
    for partner_id, day, reason, _rows in list(slots.filter(rows__gt=1)):
        with locked_state():
            same = earlier.filter(partner_id=partner_id, day=day, reason=reason)
            sums = same.aggregate(first=Min("pk"), count=Sum("count"))
            same.filter(pk=sums["first"]).update(count=sums["count"])
            same.exclude(pk=sums["first"]).delete()


def _compact(partner: int, day: date, labels: int) -> None:
    """Rewrite the totals of a partner and day, with at most this number of rows by sub id."""
    with locked_state():
        rows = DailyClicks.objects.using(db.write_alias()).filter(partner_id=partner, day=day)
        sums = {"counts": Sum("count"), "purges": Sum("purged")}
        by_sub_id = rows.order_by().values_list("sub_id").annotate(**sums)
        others = {
            number: Counter(count=int(count), purged=int(purged))
            for number, count, purged in by_sub_id
        }
        total = others.pop(0, Counter())
        others.pop(_SOURCE, None)
        by_label = rows.filter(sub_id__gt=0, label__isnull=False).values_list("sub_id", "label")
        found: QuerySet[Any, Any] = by_label.annotate(**sums)
        found = found.filter(counts__gt=0)
        most = found.exclude(sub_id=_SOURCE).order_by("-counts", "sub_id", "label")[:labels]
        kept, sources = (_numbers_by_label(part) for part in (most, found.filter(sub_id=_SOURCE)))
        for (number, _label), numbers in kept.items():
            others[number].subtract(numbers)
        while len(kept) + sum(any(numbers.values()) for numbers in others.values()) > labels:
            (number, _label), numbers = kept.popitem()
            others[number].update(numbers)
        rows.delete()
        kept |= {(0, ""): total} | sources
        kept |= {(number, None): row for number, row in others.items()}
        keys = {_TotalKey(partner, day, *key): row for key, row in kept.items()}
        counts = {key: row["count"] for key, row in keys.items() if any(row.values())}
        _write(counts, {key: keys[key]["purged"] for key in counts})


def _numbers_by_label(rows: Iterable[Any]) -> dict[tuple[int, str | None], Counter[str]]:
    return {
        (number, label): Counter(count=int(count), purged=int(purged))
        for number, label, count, purged in rows
    }


def _last_of(state: RollupState, batch: int) -> int:
    """Return the last key of the next batch; there may be gaps between the keys."""
    keys = Visitor.objects.using(db.write_alias()).filter(pk__gt=state.counted, pk__lte=state.seen)
    of_batch = keys.order_by("pk").values_list("pk", flat=True)[batch - 1 : batch]
    return next(iter(of_batch), state.seen)


def _count_keys(counted: int, last: int) -> None:
    visitors = Visitor.objects.using(db.write_alias())
    rows = visitors.clicks().filter(pk__gt=counted, pk__lte=last)
    ends = rows.aggregate(first=Min("referred_on"), last=Max("referred_on"))
    if ends["first"] is None:
        return
    day = Period(day_of(ends["first"]), day_of(ends["last"])).day_of("referred_on")
    for name, number in {"": 0, **LABEL_NUMBERS}.items():
        label = F(name) if name else Value("")
        groups = rows.order_by().values_list("partner", day, Value(number), label)
        _insert(groups.annotate(Count("pk")).annotate(purged=Value(0)))


def _insert(totals: QuerySet[Any, Any]) -> None:
    alias = db.write_alias()
    connection = connections[alias]
    table, *columns = map(
        connection.ops.quote_name,
        (DailyClicks._meta.db_table, "partner_id", "day", "sub_id", "label", "count", "purged"),
    )
    select, values = totals.query.get_compiler(alias).as_sql()
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({', '.join(columns)}) {select}", values)


def _count_by_key(visitors: Iterable[Visitor]) -> Counter[_TotalKey]:
    """Count visitors by each key of the totals that they belong to."""
    counts: Counter[_TotalKey] = Counter()
    for visitor in visitors:
        if visitor.is_click:
            partner, day = visitor.partner_id, day_of(visitor.referred_on)
            counts[_TotalKey(partner, day, 0, "")] += 1
            for name, number in LABEL_NUMBERS.items():
                counts[_TotalKey(partner, day, number, getattr(visitor, name))] += 1
    return counts


def _write(counts: Mapping[_TotalKey, int], purged: Mapping[_TotalKey, int] | None = None) -> None:
    DailyClicks.objects.using(db.write_alias()).bulk_create(
        (
            DailyClicks(**key._asdict(), count=number, purged=purged[key] if purged else 0)
            for key, number in counts.items()
        ),
        batch_size=1000,
    )
