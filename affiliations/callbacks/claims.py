"""
Claim callbacks that are due, so that nobody else sends them.

A claim writes a fresh token and moves the row's next attempt to the end of the lease. So what is
due is one range of one index, a worker that dies gives its rows back by doing nothing, and whoever
records a result can see whether the row is still theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from uuid import uuid4

from django.db import connections, router, transaction
from django.db.models import F, OuterRef, QuerySet, Subquery
from django.utils import timezone

from affiliations.callbacks import results
from affiliations.conf import settings
from affiliations.models import Callback, Partner
from affiliations.models.callback import CallbackQuerySet
from affiliations.models.status import has_status

#: How many rows are looked at for each that may be taken: some partners have their share already.
_LOOK = 2


def claim(
    limit: int,
    *,
    per_partner: int,
    busy: Mapping[int, int],
    ids: Collection[int] | None = None,
) -> list[Callback]:
    """
    Take up to ``limit`` due callbacks, and of each partner so many that ``per_partner`` are busy.

    ``busy`` says how many of each partner's this process is sending now; with ``ids`` only these
    are taken. What is claimed and must not be sent any more, because its subscription is suspended
    or its attempts are used up, is put where it belongs and not returned.
    """
    while (claimed := _take(limit, per_partner, busy, ids)) is not None:
        # Where none of them is to be sent, or somebody was quicker, others may be due behind them.
        if to_send := results.set_aside(claimed):
            return to_send
    return []


def release(callbacks: Collection[Callback]) -> None:
    """Give back what was claimed and not sent: due now, and no attempt was made."""
    mine = Callback.objects.filter(
        has_status(Callback.Status.QUEUED),
        pk__in=[callback.pk for callback in callbacks],
        lease_token__in={callback.lease_token for callback in callbacks},
    )
    mine.update(
        next_attempt_on=timezone.now(), lease_token="", attempt_count=F("attempt_count") - 1
    )


def _take(
    limit: int, per_partner: int, busy: Mapping[int, int], ids: Collection[int] | None
) -> list[Callback] | None:
    """
    Make up to ``limit`` due callbacks this worker's own.

    None of them, where others have claimed at this moment what was chosen; ``None`` where nothing
    was there to choose, or others hold all of it.
    """
    token = uuid4().hex
    alias = router.db_for_write(Callback)
    skip_locked = connections[alias].features.has_select_for_update_skip_locked
    # Without SKIP LOCKED there is no transaction: on SQLite one that reads before it writes fails
    # as soon as somebody else writes. The update itself then decides who was first.
    with transaction.atomic(using=alias) if skip_locked else nullcontext():
        now = timezone.now()
        # Never from a replica, which does not know yet what the others have claimed.
        due = Callback.objects.using(alias).due(now)
        picked = _pick(due, limit, per_partner, busy, ids, skip_locked=skip_locked)
        if picked is None:
            return None
        Callback.objects.using(alias).filter(
            has_status(Callback.Status.QUEUED), pk__in=picked, next_attempt_on__lte=now
        ).update(
            lease_token=token,
            next_attempt_on=now + settings.callback_lease,
            # From here the attempt counts, so that one that kills whoever sends it ends as well.
            attempt_count=F("attempt_count") + 1,
        )
    claimed = Callback.objects.using(alias).filter(pk__in=picked, lease_token=token).order_by("pk")
    return list(claimed.select_related("subscription", "partner", "conversion"))


def _pick(
    due: CallbackQuerySet,
    limit: int,
    per_partner: int,
    busy: Mapping[int, int],
    ids: Collection[int] | None,
    *,
    skip_locked: bool,
) -> list[int] | None:
    """
    Choose among the due, the longest due first, and give each partner their share at most.

    ``None`` where nothing is there to choose, or others hold all of it: they may for long, and who
    tried again at once would do nothing else. Where one partner's fill the first look, those behind
    them are found by their partners: however many there are, none is read for nothing.
    """
    taken = Counter(busy)
    picked: list[int] = []

    def look(rows: CallbackQuerySet, count: int) -> bool:
        """Take what may be taken of the first ``count``; return whether that was all there is."""
        found = list(rows.order_by("next_attempt_on").values_list("pk", "partner_id")[:count])
        for callback, partner in found:
            if len(picked) < limit and taken[partner] < per_partner:
                taken[partner] += 1
                picked.append(callback)
        return len(found) < count

    in_front = due.select_for_update(skip_locked=True) if skip_locked else due
    if ids is not None:
        look(in_front.filter(pk__in=ids), len(ids))
    elif not look(in_front, limit * _LOOK) and len(picked) < limit:
        full = [partner for partner, count in taken.items() if count >= per_partner]
        mine, behind = len(picked), due.exclude(pk__in=picked)
        for partner in list(_waiting(behind, full)[: limit - mine]):
            if len(picked) == limit:
                break
            look(behind.filter(partner=partner), limit - len(picked))
        if skip_locked and picked:
            # By their keys alone. InnoDB locks what it reads of an index as well, and two workers
            # who come by two indexes would meet in a deadlock.
            rows = Callback.objects.using(due.db).filter(pk__in=picked[mine:])
            locked = rows.select_for_update(skip_locked=True).values_list("pk", flat=True)
            picked[mine:] = list(locked)
    return picked or None


def _waiting(due: CallbackQuerySet, full: Collection[int]) -> QuerySet[Partner, int]:
    """Return the other partners for whom something is due, the longest due first."""
    theirs = due.filter(partner=OuterRef("pk")).order_by("next_attempt_on")
    oldest = Subquery(theirs.values("next_attempt_on")[:1])
    partners = Partner.objects.using(due.db).exclude(pk__in=full).annotate(oldest=oldest)
    waiting = partners.filter(oldest__isnull=False).order_by("oldest")
    return waiting.values_list("pk", flat=True)
