"""
The delivery of callbacks: as 0.12 called, as fast as the libraries can, and by this app.

The app claims, sends and records on a real database, in the process of ``deliver_callbacks``.
``python -m benchmarks.delivery THREADS`` is that process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import django
import requests
import urllib3

from benchmarks.measure import Row
from benchmarks.partner import answering_after

SLOW = 0.2
#: Enough partners that the limit per partner does not limit the total.
PARTNERS = 64
TIMES, SECONDS = 3, 3


def queue(url: str, count: int) -> None:
    """Queue callbacks of the partners in turn, with their conversions."""
    from django.db import connection
    from django.utils import timezone

    from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription, Visitor
    from benchmarks.costs import subscribed

    CallbackAttempt.objects.all().delete()
    Callback.objects.all().delete()
    Conversion.objects.all().delete()
    if not Subscription.objects.exists():
        for number in range(PARTNERS):
            Visitor.objects.create(partner=subscribed(name=f"Partner {number}").partner)
    subscriptions = list(Subscription.objects.order_by("pk"))
    visitors = {visitor.partner_id: visitor for visitor in Visitor.objects.all()}
    Conversion.objects.bulk_create(
        Conversion(
            visitor=visitors[subscription.partner_id],
            partner_id=subscription.partner_id,
            subscription=subscription,
            trigger=subscription.trigger,
            dedupe_key=f"r:{number}",
        )
        for number, subscription in enumerate(subscriptions * (count // PARTNERS + 1))
        if number < count
    )
    now = timezone.now()
    Callback.objects.bulk_create(
        Callback(
            conversion=conversion,
            subscription_id=conversion.subscription_id,
            partner_id=conversion.partner_id,
            url=f"{url}?v={number}",
            # In the order of creation, so that the partners alternate.
            next_attempt_on=now - timedelta(microseconds=count - number),
        )
        for number, conversion in enumerate(Conversion.objects.order_by("pk"))
    )
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE affiliations_callback")


def delivered(url: str, count: int, threads: int, processes: int = 1) -> float:
    """Return how many callbacks a second the processes send and record."""
    from affiliations.models import Callback, CallbackAttempt

    queue(url, count)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.delivery", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    began = time.time()
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    ended = max(float(worker.communicate()[0]) for worker in workers)
    assert Callback.objects.filter(status="delivered").count() == count
    assert CallbackAttempt.objects.count() == count
    return count / (ended - began)


def work(threads: int) -> None:
    """Run one worker, like ``manage.py deliver_callbacks``, without measuring its start."""
    from django.db import connection
    from django.utils import timezone

    from affiliations.callbacks.worker import DeliveryWorker
    from affiliations.models import Callback

    connection.ensure_connection()
    Callback.objects.due(timezone.now()).exists()
    print("ready", flush=True)
    sys.stdin.readline()
    DeliveryWorker(concurrency=threads).run()
    print(time.time())


def one_by_one(url: str, count: int) -> float:
    """Return how many calls a second are made as 0.12 made them, in the request of the visitor."""
    began = time.perf_counter()
    for number in range(count):
        requests.get(f"{url}?v={number}")
    return count / (time.perf_counter() - began)


def bare(url: str, count: int, threads: int) -> float:
    """Return how many requests a second a pool of threads with urllib3 makes, and nothing else."""
    pool = urllib3.PoolManager(maxsize=threads)
    with ThreadPoolExecutor(threads) as executor:
        began = time.perf_counter()
        for response in executor.map(
            lambda number: pool.request("GET", f"{url}?v={number}"), range(count)
        ):
            assert response.status == 200
        return count / (time.perf_counter() - began)


def rows() -> Iterator[Row | str]:
    from django.db import connection

    from affiliations.callbacks.slots import CONCURRENCY
    from benchmarks.tables import tables

    with tables():
        for seconds, threads, expected, goal in (
            (SLOW, 32, 32 / SLOW, "0.95"),
            (0.0, CONCURRENCY, 500, "1,000 a second"),
        ):
            how = f"after {seconds * 1000:.0f} ms" if seconds else "at once"
            yield f"Callbacks to partners who answer {how} ({connection.vendor}, {threads} threads)"
            with answering_after(seconds) as url:
                calls = one_by_one(url, int(2 / (seconds or 0.005)))
                yield Row("as in 0.12, one after the other", a_second(calls))
                count = int(expected * SECONDS)
                limits, rates = [], []
                for _ in range(TIMES):
                    limits.append(bare(url, count, threads))
                    rates.append(delivered(url, count, threads))
                yield Row("urllib3 in threads, and no database", a_second(*limits))
                ratios = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
                yield Row("this app", a_second(*rates), ratios, goal)
                if not seconds and connection.vendor != "sqlite":
                    two = [delivered(url, 2 * count, threads, 2) for _ in range(TIMES)]
                    ratios = [rate / limit for rate, limit in zip(two, limits, strict=True)]
                    yield Row("this app in two processes", a_second(*two), ratios, goal)


def a_second(*rates: float) -> str:
    return f"{statistics.median(rates):,.0f} a second"


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    django.setup()
    work(int(sys.argv[1]))
