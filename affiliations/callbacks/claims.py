"""
Claim due callbacks, so that no other worker sends them.

A claim writes a new token and moves the next attempt to the end of the lease, so the callbacks of a
dead worker become due again. When a worker records a result, the token shows whether its claim
still holds.

A claim first looks for endpoints (subscriptions) that have due callbacks and are neither suspended
nor paused. It then takes the first callbacks of those that have a free slot. Both queries use an
index by status and endpoint, so callbacks that wait for one endpoint do not slow down the others.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from itertools import starmap
from uuid import uuid4

from django.db import connections, transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery

from affiliations import db
from affiliations.callbacks import results
from affiliations.callbacks.slots import Endpoint, Slots
from affiliations.conf import settings
from affiliations.db import status_in
from affiliations.models import Callback, Subscription

#: A claim ends if more callbacks than this are locked by other transactions, which may be long.
_MAX_LOCKED = 500


def claim(limit: int, slots: Slots, ids: Collection[int] | None = None) -> list[Callback]:
    """
    Claim up to ``limit`` due callbacks and return them in the order in which to send them.

    With ``ids``, only these callbacks are claimed. A claimed callback without attempts left is
    exhausted.
    """
    locked: set[int] = set()
    while len(locked) <= _MAX_LOCKED and (picked := _pick(limit, slots, ids, locked)):
        claimed = _take(picked)
        # If none can be sent, or other workers were quicker, other callbacks may be due.
        if to_send := results.skip_undeliverable(claimed):
            return to_send
        locked |= set(picked).difference(callback.pk for callback in claimed)
    return []


def release(callbacks: Collection[Callback]) -> None:
    """Make claimed callbacks due again, without counting an attempt."""
    Callback.objects.as_claimed(*callbacks).update(
        next_attempt_on=db.now(), lease_token="", attempt_count=F("attempt_count") - 1
    )


def _pick(
    limit: int, slots: Slots, ids: Collection[int] | None, locked: Collection[int]
) -> list[int]:
    """Choose due callbacks: the first of each endpoint, then the second of each, and so on."""
    now = db.now()
    # Not from a replica, which may not have the latest claims.
    due = Callback.objects.using(db.write_alias()).due(now)
    endpoints = Subscription.objects.using(db.write_alias()).sendable(now)
    if ids is not None:
        due = due.filter(pk__in=ids)
        endpoints = endpoints.filter(callbacks__in=ids).distinct()
    if locked:
        due = due.exclude(pk__in=locked)
        # A locked callback may be the probe that another worker is claiming.
        endpoints = endpoints.filter(callbacks_paused_until=None)
    in_order = due.filter(subscription=OuterRef("pk")).order_by("next_attempt_on")
    first = Subquery(in_order.values("next_attempt_on")[:1])
    # Not an Exists, which PostgreSQL may turn into a join that reads all due callbacks.
    waiting = endpoints.annotate(due_on=first).filter(due_on__isnull=False).order_by()
    names = ("pk", "partner", "callback_url", "callbacks_paused_until", "due_on")
    shares = slots.share(limit, starmap(Endpoint, waiting.values_list(*names)))
    if not shares:
        return []
    rounds = range(max(shares.values()))
    # After a pause one probe is sent. It is looked for in the query that finds the next callback:
    # otherwise another worker could claim one in between.
    probes = Callback.objects.in_flight(now).filter(
        # The second condition limits the range of the index to claims.
        subscription=OuterRef("pk"),
        next_attempt_on__lte=now + 2 * settings.callback_lease,
    )
    rows = (
        endpoints.filter(Q(callbacks_paused_until=None) | ~Exists(probes), pk__in=shares)
        .annotate(**{f"callback_{n}": Subquery(in_order.values("pk")[n : n + 1]) for n in rounds})
        .order_by()
        .values_list("pk", *(f"callback_{n}" for n in rounds))
    )
    found = {endpoint: callbacks for endpoint, *callbacks in rows}
    return [
        found[endpoint][n]
        for n in rounds
        for endpoint, share in shares.items()
        if n < share and endpoint in found and found[endpoint][n] is not None
    ]


def _take(picked: list[int]) -> list[Callback]:
    """Claim those of the callbacks that no other worker has claimed or locked."""
    token, now, alias = uuid4().hex, db.now(), db.write_alias()
    due = Callback.objects.using(alias).filter(status_in(Callback.Status.QUEUED))
    due = due.filter(next_attempt_on__lte=now)
    skip_locked = connections[alias].features.has_select_for_update_skip_locked
    # No transaction without SKIP LOCKED: on SQLite a transaction that reads before it writes fails
    # if another connection writes in between. The update then decides which worker was first.
    with transaction.atomic(using=alias) if skip_locked else nullcontext():
        free = picked
        if skip_locked:
            rows = due.filter(pk__in=picked).select_for_update(skip_locked=True)
            free = list(rows.values_list("pk", flat=True))
        due.filter(pk__in=free).update(
            lease_token=token,
            next_attempt_on=now + settings.callback_lease,
            # Counted now, so that a callback that crashes its worker runs out of attempts.
            attempt_count=F("attempt_count") + 1,
        )
    claimed = Callback.objects.using(alias).filter(pk__in=free, lease_token=token)
    claimed = claimed.select_related("subscription", "partner")
    for callback in claimed:
        # Not when it is signed, in a thread that must not use the database.
        callback.partner.ensure_signing_secret()
    return sorted(claimed, key=lambda callback: picked.index(callback.pk))
