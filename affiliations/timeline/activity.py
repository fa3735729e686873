"""
The latest events of all visitors of the site, or of one partner.

No query reads more than the newest rows, which an index finds: a site may have a million clicks an
hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Prefetch, Q, QuerySet
from django.utils import timezone

from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    RecentFilteredClick,
    UncreditedTrigger,
    Visitor,
)
from affiliations.timeline.conversions import decision, recorded
from affiliations.timeline.entries import Entry, arrivals, callback_entries, filtered, uncredited

#: The number of the newest uncredited triggers that are sorted by their last time, which has no
#: index.
_NEWEST = 1_000
#: How far back uncredited triggers of one partner are looked for.
_RECENT = timedelta(days=30)


def recent(
    *, partner: Partner | None = None, since: datetime | None = None, limit: int = 20
) -> list[Entry]:
    """
    Return the latest clicks, conversions, uncredited triggers and callbacks, the latest first.

    Filtered clicks are among them, as far as they are kept. It takes at most nine queries.

    Args:
        partner: Only events of this partner.
        since: Only events since this time.
        limit: Return at most this many entries, and one more if there are more.
    """
    entries = sorted(
        (
            *map(filtered, _filtered(partner, limit)),
            *(next(arrivals(visitor)) for visitor in _visitors(partner, since, limit)),
            *map(uncredited, _uncredited(partner, limit)),
            *(
                entry
                for conversion in _conversions(partner, limit)
                for entry in (recorded(conversion), decision(conversion))
            ),
            *(entry for row in _callbacks(partner, limit) for entry in callback_entries(row)),
        ),
        key=_time,
    )
    entries.reverse()
    return [entry for entry in entries if since is None or _time(entry) >= since][: limit + 1]


def _time(entry: Entry) -> datetime:
    return entry.on or timezone.now()


def _of(partner: Partner | None) -> Q:
    return Q() if partner is None else Q(partner=partner)


def _filtered(partner: Partner | None, limit: int) -> Iterable[RecentFilteredClick]:
    rows = RecentFilteredClick.objects.filter(_of(partner)).select_related("partner")
    return rows.order_by("-pk")[: limit + 1]


def _visitors(partner: Partner | None, since: datetime | None, limit: int) -> Iterator[Visitor]:
    rows = Visitor.objects.filter(_of(partner)).select_related("partner", "user")
    if since is not None:
        rows = rows.filter(referred_on__gte=since)
    rows = rows.order_by("-referred_on", "-pk")
    if partner is None:
        yield from rows[: limit + 1]
        return
    for is_test in (False, True):  # The first column of the index.
        yield from rows.filter(is_test=is_test)[: limit + 1]


def _uncredited(partner: Partner | None, limit: int) -> Iterable[UncreditedTrigger]:
    if partner is not None:
        return UncreditedTrigger.objects.of(partner, timezone.now() - _RECENT, limit + 1)
    rows = UncreditedTrigger.objects.order_by("-pk").values_list("last_on", "pk")
    keys = [pk for _last_on, pk in sorted(rows[:_NEWEST], reverse=True)[: limit + 1]]
    return UncreditedTrigger.objects.filter(pk__in=keys).select_related("visitor")


def _conversions(partner: Partner | None, limit: int) -> QuerySet[Any]:
    rows = Conversion.objects.filter(_of(partner)).select_related(
        "user", "decided_by", "credited_by", "subscription", "instead_of__partner"
    )
    return rows.order_by("-pk" if partner is None else "-created_on")[: limit + 1]


def _callbacks(partner: Partner | None, limit: int) -> QuerySet[Any]:
    rows = Callback.objects.filter(_of(partner)).select_related("subscription")
    attempts = Prefetch("attempts", CallbackAttempt.objects.order_by("pk"))
    return rows.prefetch_related(attempts).order_by("-pk")[: limit + 1]
