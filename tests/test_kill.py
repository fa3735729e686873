"""
Workers that are killed again and again under load lose nothing.

AFFILIATIONS_TEST_KILL_ROWS    how many callbacks: 200 by default, 1,000 for a release

As many as one likes: the time that it may take grows with them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from django.utils import timezone

from affiliations.models import Callback, CallbackAttempt
from tests.counting_partner import counting_partner
from tests.factories import CallbackFactory
from tests.hosts import Process, manage, until
from tests.settings import DATABASE, LONG

ROWS = int(os.environ.get("AFFILIATIONS_TEST_KILL_ROWS") or (1_000 if LONG else 200))

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
    pytest.mark.slow,
    # Seconds; about a third of it on two busy cores.
    pytest.mark.timeout(120 + ROWS // 4),
]

PARTNERS = 8
#: On SQLite only one can write at a time; more workers than one are of no use there.
WORKERS = 1 if DATABASE == "sqlite" else 2
#: Seconds, short enough not to wait long for what a dead worker had claimed.
LEASE = 4
#: Seconds that a partner takes to answer.
PAUSE = 0.15
#: Seconds that a worker works before it is killed.
LIFE = 0.8


def queue(url: str) -> None:
    """Put ROWS callbacks into the outbox, for several partners."""
    for first in [CallbackFactory(url=f"{url}/0-{number}") for number in range(PARTNERS)]:
        Callback.objects.bulk_create(
            Callback(
                conversion=first.conversion,
                subscription=first.subscription,
                partner=first.partner,
                version=version,
                url=f"{url}/{version}-{first.pk}",
            )
            for version in range(2, ROWS // PARTNERS + 1)
        )


def in_flight() -> set[int]:
    """Return what is claimed at this moment."""
    claimed = Callback.objects.exclude(lease_token="").filter(
        status=Callback.Status.QUEUED, next_attempt_on__gt=timezone.now()
    )
    return set(claimed.values_list("pk", flat=True))


def attempts() -> int:
    return CallbackAttempt.objects.count()


def test_workers_that_are_killed_again_and_again_lose_nothing(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """And they tell a partner twice only of what was in flight when one of them was killed."""
    waiting = Callback.objects.exclude(status=Callback.Status.DELIVERED)
    may_be_told_again: Counter[int] = Counter()
    kills = 0
    with counting_partner(PAUSE) as partner, ExitStack() as stack:

        def start() -> Process:
            worker = manage("deliver_callbacks", "--loop", AFFILIATE_CALLBACK_LEASE=LEASE)
            return stack.enter_context(worker)

        queue(partner.url)
        workers = [start() for _ in range(WORKERS)]
        # As long as all are at work: the last few would only wait for a lease to end.
        while waiting.count() > ROWS / 10:
            begun = attempts()
            until(lambda: attempts() > begun)  # noqa: B023
            time.sleep(LIFE / WORKERS)
            workers.pop(0).kill()
            kills += 1
            may_be_told_again.update(in_flight())
            workers.append(start())
        until(lambda: not waiting.exists(), 60 + ROWS / 20)
        for worker in workers:
            worker.stop()
        told = partner.told()

    urls = dict(Callback.objects.values_list("pk", "url"))
    again = {pk: told[url.removeprefix(partner.url)] - 1 for pk, url in urls.items()}
    summary = f"{len(urls)} callbacks, {kills} kills, {sum(again.values())} told twice"
    record_testsuite_property(f"kills on {DATABASE}", summary)
    assert len(urls) == len(told) == ROWS
    assert kills >= 2
    assert not {pk: count for pk, count in again.items() if count > may_be_told_again[pk]}
    # What was told and recorded is what was told, but for the calls that a kill has interrupted.
    assert sum(told.values()) - sum(may_be_told_again.values()) <= attempts() <= sum(told.values())
