"""
Measure what a long history costs: ``python -m benchmarks.backlog``.

The figures of ``benchmarks.delivery``, before and after a million finished callbacks and half a
million held or exhausted ones stand in the table, all of them older than what is due.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.delivery import CONCURRENCY, SLOW, say, subscribe, tables, typical
from benchmarks.partner import answering_after

# Below benchmarks.delivery, which sets Django up.
from django.db import connection  # isort: skip

from affiliations.callbacks import claims  # isort: skip
from affiliations.callbacks.health import health  # isort: skip
from affiliations.models import Callback  # isort: skip

FINISHED = 1_000_000
WAITING = 500_000

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


def fill(finished: int, waiting: int) -> None:
    """Insert the history, by the database itself: callbacks, and an attempt at each finished."""
    subscriptions = subscribe()
    first = subscriptions[0]
    vendor, last = connection.vendor, Callback.objects.order_by("-pk").first()
    beyond = last.pk if last else 0
    status = (
        f"CASE WHEN n <= {finished} THEN 'delivered' WHEN n %% 2 = 0 THEN 'held' "
        "ELSE 'exhausted' END"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO affiliations_callback (subscription_id, partner_id, event, edition, url, "
            "status, reason, attempt_count, resend_count, is_manual, next_attempt_on, lease_token, "
            "delivered_on, created_on, webhook_id) "
            f"SELECT {first.pk} + n %% {len(subscriptions)}, "
            f"{first.partner_id} + n %% {len(subscriptions)}, 'conversion', 1, "
            f"'https://partner.example/cb?v=1', {status}, '', 1, 0, %s, {AGO[vendor]}, '', "
            f"CASE WHEN n <= {finished} THEN {AGO[vendor]} END, {AGO[vendor]}, {RANDOM[vendor]} "
            f"FROM {NUMBERS[vendor] % (finished + waiting)}",
            [False],
        )
        cursor.execute(
            "INSERT INTO affiliations_callbackattempt (callback_id, number, manual, started_on, "
            "duration_ms, status_code, error, message, response_excerpt) "
            "SELECT id, 1, %s, created_on, 200, 200, '', '', 'ok' FROM affiliations_callback "
            "WHERE id > %s AND status = 'delivered'",
            [False, beyond],
        )
        # As the database does by itself before long, and then not while something is measured.
        command = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE", "sqlite": "ANALYZE"}
        for table in ("affiliations_callback", "affiliations_callbackattempt"):
            cursor.execute(f"{command[vendor]} {table}")
        if vendor == "postgresql":
            cursor.execute("CHECKPOINT")


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
    for name, rate in after.items():
        say(name, rate, f"{rate / before[name]:.2f} of {before[name]:,.1f}; aim: 0.90")


if __name__ == "__main__":
    main()
