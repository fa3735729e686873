"""
Measure what a long history costs: ``python -m benchmarks.backlog``.

The figures of ``benchmarks.delivery``, before and after a million finished callbacks and half a
million held or exhausted ones stand in the table, all of them older than what is due. Then how fast
the others' callbacks are claimed behind 300,000 due ones of one partner, who hangs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence

from benchmarks.delivery import CONCURRENCY, SLOW, queue, say, subscribe, typical
from benchmarks.partner import answering_after
from benchmarks.tables import tables

# Below benchmarks.delivery, which sets Django up.
from django.db import connection  # isort: skip
from django.db.models import F  # isort: skip

from affiliations.callbacks import claims  # isort: skip
from affiliations.callbacks.delivery import PER_PARTNER  # isort: skip
from affiliations.callbacks.health import health  # isort: skip
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription  # isort: skip

FINISHED = 1_000_000
WAITING = 500_000
#: Callbacks of all partners that are due, and of the one who hangs.
DUE = 200
CROWD = 300_000

#: Numbers from 1 on, as the first table of a query.
NUMBERS = {
    "postgresql": "generate_series(1, %d) AS numbers(n)",
    "mysql": "(SELECT seq AS n FROM seq_1_to_%d) AS numbers",
    "sqlite": "(WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted "
    "LIMIT %d) SELECT n FROM counted) AS numbers",
}
AGO = {
    "postgresql": "now() - interval '30 days' + n * interval '1 second'",
    "mysql": "utc_timestamp(6) - interval 30 day + interval n second",
    "sqlite": "datetime('now', '-30 days', n || ' seconds')",
}
RANDOM = {
    "postgresql": "md5(random()::text || n)",
    "mysql": "md5(concat(rand(), n))",
    "sqlite": "lower(hex(randomblob(16)))",
}


def insert(count: int, subscriptions: Sequence[Subscription], status: str, delivered: str) -> None:
    """Insert callbacks of these in turn, by the database itself, one for each second of a month."""
    first, vendor = subscriptions[0], connection.vendor
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO affiliations_callback (subscription_id, partner_id, event, edition, url, "
            "status, reason, attempt_count, resend_count, is_manual, next_attempt_on, lease_token, "
            "delivered_on, created_on, webhook_id) "
            f"SELECT {first.pk} + n %% {len(subscriptions)}, "
            f"{first.partner_id} + n %% {len(subscriptions)}, 'conversion', 1, "
            f"'https://partner.example/cb?v=1', {status}, '', 1, 0, %s, {AGO[vendor]}, '', "
            f"{delivered}, {AGO[vendor]}, {RANDOM[vendor]} "
            f"FROM {NUMBERS[vendor] % count}",
            [False],
        )


def settle() -> None:
    """Do as the database does by itself before long, and then not while something is measured."""
    vendor = connection.vendor
    command = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE", "sqlite": "ANALYZE"}
    with connection.cursor() as cursor:
        for model in (Callback, CallbackAttempt, Partner):
            cursor.execute(f"{command[vendor]} {model._meta.db_table}")
        if vendor == "postgresql":
            cursor.execute("CHECKPOINT")


def fill(finished: int, waiting: int) -> None:
    """Insert the history: callbacks, and an attempt at each finished."""
    last = Callback.objects.order_by("-pk").first()
    insert(
        finished + waiting,
        subscribe(),
        f"CASE WHEN n <= {finished} THEN 'delivered' WHEN n %% 2 = 0 THEN 'held' "
        "ELSE 'exhausted' END",
        f"CASE WHEN n <= {finished} THEN {AGO[connection.vendor]} END",
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO affiliations_callbackattempt (callback_id, number, manual, started_on, "
            "duration_ms, status_code, error, message, response_excerpt) "
            "SELECT id, 1, %s, created_on, 200, 200, '', '', 'ok' FROM affiliations_callback "
            "WHERE id > %s AND status = 'delivered'",
            [False, last.pk if last else 0],
        )
    settle()


def claims_a_second(times: int, busy: Mapping[int, int], seconds: float = 2) -> float:
    """Return how often a courier's places can be filled; what was claimed is due again at once."""
    rates = []
    for _ in range(times):
        spent, count = 0.0, 0
        while spent < seconds:
            began = time.perf_counter()
            claimed = claims.claim(CONCURRENCY, per_partner=PER_PARTNER, busy=busy)
            spent += time.perf_counter() - began
            count += 1
            assert len(claimed) == CONCURRENCY, len(claimed)
            Callback.objects.filter(pk__in=[callback.pk for callback in claimed]).update(
                next_attempt_on=F("created_on"), lease_token="", attempt_count=1
            )
        rates.append(count / spent)
    return statistics.median(rates)


def crowd(times: int, count: int) -> None:
    """Print what it costs the others that one partner has very many due in front of theirs."""
    queue("https://partner.example/cb", DUE)
    settle()
    alone = claims_a_second(times, {})
    say(f"claims, {DUE} due", alone)
    hanging = subscribe()[:1]
    insert(count, hanging, "'queued'", "NULL")
    settle()
    front = f"{count:,} of one partner in front"
    for name, busy in (
        (f"claims, {front}", {}),
        (f"claims, {front}, who is busy", {hanging[0].partner_id: PER_PARTNER}),
    ):
        rate = claims_a_second(times, busy)
        say(name, rate, f"{rate / alone:.2f} of {alone:,.1f}; aim: 0.67")


def figures(times: int, seconds: float) -> dict[str, float]:
    """Measure each thing once; all but the last two in callbacks a second."""
    found: dict[str, float] = {}
    with answering_after(SLOW) as url:
        for threads in (32, 64):
            count = int(threads / SLOW * seconds)
            found[f"{SLOW * 1000:.0f} ms, {threads} threads"] = typical(times, url, count, threads)
    with answering_after(0) as url:
        count = int(500 * seconds)
        found["at once"] = typical(times, url, count, CONCURRENCY)
        if connection.vendor != "sqlite":
            found["at once, two processes"] = typical(
                times, url, 2 * count, CONCURRENCY, processes=2
            )
    found["claims a second, with nothing due"] = a_second(
        lambda: claims.claim(50, per_partner=4, busy={})
    )
    found["measurements of health a second"] = a_second(health)
    return found


def a_second(call: object, seconds: float = 2) -> float:
    assert callable(call)
    call()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="Take the median of so many; 3.")
    parser.add_argument("--seconds", type=float, default=8, help="About so long each; 8.")
    parser.add_argument("--finished", type=int, default=FINISHED)
    parser.add_argument("--waiting", type=int, default=WAITING, help="Held or exhausted.")
    parser.add_argument("--crowd", type=int, default=CROWD, help="Due callbacks of one partner.")
    options = parser.parse_args()
    with tables():
        before = figures(options.times, options.seconds)
        began = time.perf_counter()
        fill(options.finished, options.waiting)
        print(
            f"{connection.vendor}: {options.finished:,} finished and {options.waiting:,} held or "
            f"exhausted in front, in {time.perf_counter() - began:.0f} s"
        )
        after = figures(options.times, options.seconds)
        crowd(options.times, options.crowd)
    for name, rate in after.items():
        say(name, rate, f"{rate / before[name]:.2f} of {before[name]:,.1f}; aim: 0.90")


if __name__ == "__main__":
    main()
