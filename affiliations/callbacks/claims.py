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
from django.db.models import F
from django.utils import timezone

from affiliations.callbacks import results
from affiliations.conf import settings
from affiliations.models import Callback
from affiliations.models.callback import CallbackQuerySet

#: How many rows are looked at for each that may be taken: some partners have their share already.
_LOOK = 4


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
    while claimed := _take(limit, per_partner, busy, ids):
        # Where none of them is to be sent, others may be due behind them.
        if to_send := results.set_aside(claimed):
            return to_send
    return []


def _take(
    limit: int, per_partner: int, busy: Mapping[int, int], ids: Collection[int] | None
) -> list[Callback]:
    """Make up to ``limit`` due callbacks this worker's own."""
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
        if not picked:
            return []
        due.filter(pk__in=picked).update(
            lease_token=token,
            next_attempt_on=now + settings.callback_lease,
            # From here the attempt counts, so that one that kills whoever sends it ends as well.
            attempt_count=F("attempt_count") + 1,
        )
    claimed = Callback.objects.using(alias).filter(pk__in=picked, lease_token=token)
    return list(claimed.select_related("subscription", "partner").order_by("next_attempt_on", "pk"))


def _pick(
    due: CallbackQuerySet,
    limit: int,
    per_partner: int,
    busy: Mapping[int, int],
    ids: Collection[int] | None,
    *,
    skip_locked: bool,
) -> list[int]:
    """Choose among the due, the longest due first, and give each partner their share at most."""
    taken = Counter(busy)
    picked: list[int] = []
    while len(picked) < limit:
        full = [partner for partner, count in taken.items() if count >= per_partner]
        rows = due.exclude(pk__in=picked).order_by("next_attempt_on")
        if ids is not None:
            rows = rows.filter(pk__in=ids)
        if full:
            rows = rows.exclude(partner__in=full)
        if skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        wanted = (limit - len(picked)) * _LOOK
        found = list(rows.values_list("pk", "partner_id")[:wanted])
        for callback, partner in found:
            if len(picked) < limit and taken[partner] < per_partner:
                taken[partner] += 1
                picked.append(callback)
        if len(found) < wanted:
            break  # that was all there is
    return picked
