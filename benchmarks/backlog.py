"""
Measure delivery with a long history: ``python -m benchmarks.backlog``.

Compares the figures of ``benchmarks.delivery`` before and after the table holds a million finished
callbacks and half a million on which the app gave up, all older than the due ones. Then measures
how fast callbacks are claimed beside 3,000 other endpoints, of which 500 have half a million due
callbacks that are suspended or paused, and behind 300,000 due ones of a partner whose server hangs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta

from benchmarks.delivery import CONCURRENCY, SLOW, queue, say, subscribe, typical
from benchmarks.partner import answering_after
from benchmarks.tables import tables

# Below benchmarks.delivery, which sets Django up.
from django.db import connection  # isort: skip
from django.db.models import F  # isort: skip
from django.utils import timezone  # isort: skip

from affiliations.callbacks import claims  # isort: skip
from affiliations.callbacks.maintenance import health  # isort: skip
from affiliations.callbacks.slots import Slots  # isort: skip
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription  # isort: skip

FINISHED = 1_000_000
WAITING = 500_000
#: Due callbacks of all partners, and of the one whose server hangs.
DUE = 200
CROWD = 300_000
#: Endpoints beside those that have due callbacks, and how many of them are suspended or paused.
ENDPOINTS = 3_000
KEPT_BACK = 500

#: The numbers from 1, as the first table of a query.
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
    """Insert callbacks of the subscriptions in turn, one second apart, inside the database."""
    first, vendor = subscriptions[0], connection.vendor
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO affiliations_callback (subscription_id, partner_id, event, version, url, "
            "body, status, reason, attempt_count, resend_count, is_manual, next_attempt_on, "
            "lease_token, delivered_on, created_on, webhook_id) "
            f"SELECT {first.pk} + n %% {len(subscriptions)}, "
            f"{first.partner_id} + n %% {len(subscriptions)}, 'conversion', 1, "
            f"'https://partner.example/cb?v=1', '', {status}, '', 1, 0, %s, {AGO[vendor]}, '', "
            f"{delivered}, {AGO[vendor]}, {RANDOM[vendor]} "
            f"FROM {NUMBERS[vendor] % count}",
            [False],
        )


def settle() -> None:
    """Run the maintenance that the database would otherwise start during a measurement."""
    vendor = connection.vendor
    command = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE", "sqlite": "ANALYZE"}
    with connection.cursor() as cursor:
        for model in (Callback, CallbackAttempt, Partner, Subscription):
            cursor.execute(f"{command[vendor]} {model._meta.db_table}")
        if vendor == "postgresql":
            cursor.execute("CHECKPOINT")


def fill(finished: int, waiting: int) -> None:
    """Insert the history: callbacks, and an attempt for each finished one."""
    last = Callback.objects.order_by("-pk").first()
    insert(
        finished + waiting,
        subscribe(),
        f"CASE WHEN n <= {finished} THEN 'delivered' ELSE 'exhausted' END",
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


class Warm(Slots):
    """The slots of a worker to whom all partners have answered in time, but for some."""

    def __init__(self, hanging: Sequence[Subscription] = ()) -> None:
        super().__init__()
        known = (key for row in subscribe() for key in (row.partner_id, ""))
        self._in_time = dict.fromkeys(known, True)
        self._slow.update(row.partner_id for row in hanging)


def claims_a_second(times: int, hanging: Sequence[Subscription] = (), seconds: float = 2) -> float:
    """Return how often a second a worker's slots can be filled; claimed callbacks are released."""
    rates = []
    for _ in range(times):
        spent, count = 0.0, 0
        while spent < seconds:
            slots = Warm(hanging)
            began = time.perf_counter()
            claimed = claims.claim(CONCURRENCY, slots)
            spent += time.perf_counter() - began
            count += 1
            assert len(claimed) == CONCURRENCY, len(claimed)
            Callback.objects.filter(pk__in=[callback.pk for callback in claimed]).update(
                next_attempt_on=F("created_on"), lease_token="", attempt_count=1
            )
        rates.append(count / spent)
    return statistics.median(rates)


def crowd(times: int, waiting: int, count: int) -> None:
    """Print how much other endpoints and their due callbacks slow down a claim."""
    queue("https://partner.example/cb", DUE)
    settle()
    alone = claims_a_second(times)
    say(f"claims, {DUE} due", alone)
    partners = [Partner(name=f"Other {number}") for number in range(ENDPOINTS)]
    first = Partner.objects.bulk_create(partners)[0].pk or 0
    others = Subscription.objects.bulk_create(
        Subscription(partner_id=partner.pk, trigger="Other", callback_url="https://p.example/")
        for partner in Partner.objects.filter(pk__gte=first, name__startswith="Other").order_by(
            "pk"
        )
    )
    others = list(Subscription.objects.filter(trigger="Other").order_by("pk"))
    settle()
    beside = claims_a_second(times)
    say(f"claims, beside {ENDPOINTS:,} endpoints", beside)
    kept_back = others[:KEPT_BACK]
    now = timezone.now()
    for number, fields in enumerate(
        [{"callbacks_suspended_on": now}, {"callbacks_paused_until": now + timedelta(days=1)}]
    ):
        keys = [row.pk for row in kept_back[number::2]]
        Subscription.objects.filter(pk__in=keys).update(**fields)
    insert(waiting, kept_back, "'queued'", "NULL")
    settle()
    say(
        f"claims, and {waiting:,} suspended or paused",
        rate := claims_a_second(times),
        f"{rate / beside:.2f} of {beside:,.1f}; aim: 0.83",
    )
    hanging = subscribe()[:1]
    insert(count, hanging, "'queued'", "NULL")
    settle()
    for name, slow in (("", []), (", who hangs", hanging)):
        rate = claims_a_second(times, slow)
        aim = f"{rate / beside:.2f} of {beside:,.1f}; aim: 0.83"
        say(f"claims, and {count:,} of one partner{name}", rate, aim)


def figures(times: int, seconds: float) -> dict[str, float]:
    """Return all figures; all but the last two are in callbacks a second."""
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
    found["claims a second, with nothing due"] = a_second(lambda: claims.claim(50, Slots()))
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
    parser.add_argument("--times", type=int, default=3, help="Measurements per median; 3.")
    parser.add_argument("--seconds", type=float, default=8, help="Seconds per measurement; 8.")
    parser.add_argument("--finished", type=int, default=FINISHED)
    parser.add_argument(
        "--waiting", type=int, default=WAITING, help="Gave up, suspended or paused."
    )
    parser.add_argument("--crowd", type=int, default=CROWD, help="Due callbacks of one partner.")
    options = parser.parse_args()
    with tables():
        before = figures(options.times, options.seconds)
        began = time.perf_counter()
        fill(options.finished, options.waiting)
        print(
            f"{connection.vendor}: inserted {options.finished:,} finished and {options.waiting:,} "
            f"exhausted callbacks in {time.perf_counter() - began:.0f} s"
        )
        after = figures(options.times, options.seconds)
        crowd(options.times, options.waiting, options.crowd)
    for name, rate in after.items():
        say(name, rate, f"{rate / before[name]:.2f} of {before[name]:,.1f}; aim: 0.90")


if __name__ == "__main__":
    main()
