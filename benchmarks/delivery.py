"""
Measure the delivery pipeline, from the claim to the record: ``python -m benchmarks.delivery``.

For comparison it measures sequential calls, as 0.12 made them inside the visitor's request.
AFFILIATIONS_TEST_DATABASE selects the database, as for the tests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import django
import requests

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.delivery_settings")
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "benchmarks")
django.setup()

from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402

from affiliations.callbacks.worker import CONCURRENCY, DeliveryWorker  # noqa: E402
from affiliations.models import (  # noqa: E402
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Subscription,
    Visitor,
)
from benchmarks.partner import answering_after  # noqa: E402
from benchmarks.tables import tables  # noqa: E402

SLOW = 0.2
#: Enough partners that the limit per partner does not limit the total.
PARTNERS = 64


def subscribe() -> list[Subscription]:
    """Return the partners' subscriptions; create them if there are none."""
    if not Subscription.objects.exists():
        for number in range(PARTNERS):
            partner = Partner.objects.create(name=f"Partner {number}", active=True)
            Subscription.objects.create(partner=partner, trigger="Order placed", counting="every")
            Visitor.objects.create(partner=partner)
    return list(Subscription.objects.filter(trigger="Order placed").order_by("pk"))


def queue(url: str, count: int) -> None:
    """Queue callbacks of the partners in turn, with their conversions."""
    CallbackAttempt.objects.filter(callback__conversion__isnull=False).delete()
    Callback.objects.filter(conversion__isnull=False).delete()
    Conversion.objects.all().delete()
    subscriptions = subscribe()
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


def pipeline(url: str, count: int, concurrency: int, *, processes: int = 1) -> float:
    """Return how many callbacks a second the processes send and record."""
    queue(url, count)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.delivery", "--worker", str(concurrency)],
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
    assert Callback.objects.filter(conversion__isnull=False, status="delivered").count() == count
    assert CallbackAttempt.objects.filter(callback__conversion__isnull=False).count() == count
    return count / (ended - began)


def work(concurrency: int) -> None:
    """Run one worker, like ``manage.py deliver_callbacks``, without measuring its start."""
    connection.ensure_connection()
    Callback.objects.due(timezone.now()).exists()
    print("ready", flush=True)
    sys.stdin.readline()
    DeliveryWorker(concurrency=concurrency).run()
    print(time.time())


def one_by_one(get: Callable[[str], requests.Response], url: str, count: int) -> float:
    """Return how many sequential calls a second are made, without recording."""
    began = time.perf_counter()
    for number in range(count):
        get(f"{url}?v={number}")
    return count / (time.perf_counter() - began)


def typical(times: int, url: str, count: int, concurrency: int, *, processes: int = 1) -> float:
    """Return the median of several measurements of the pipeline."""
    rates = [pipeline(url, count, concurrency, processes=processes) for _ in range(times)]
    return statistics.median(rates)


def say(what: str, rate: float, aim: str = "") -> None:
    print(f"{what:58}{rate:9,.1f} a second   {aim}", flush=True)


def compare(times: int, seconds: float) -> None:
    """Print all figures with their aims."""
    print(f"{connection.vendor}, a partner who answers after {SLOW * 1000:.0f} ms")
    with answering_after(SLOW) as url:
        say("requests.get, one by one", one_by_one(requests.get, url, 15))
        with requests.Session() as session:
            say("Session.get, one by one", one_by_one(session.get, url, 15))
        for threads in (32, 64):
            ideal = threads / SLOW
            rate = typical(times, url, int(ideal * seconds), threads)
            say(
                f"the pipeline with {threads} threads",
                rate,
                f"{rate / ideal:.0%} of {ideal:.0f}; aim: 85 %",
            )
    print(f"{connection.vendor}, a partner who answers at once")
    with answering_after(0) as url:
        say("requests.get, one by one", one_by_one(requests.get, url, 500))
        with requests.Session() as session:
            say("Session.get, one by one", one_by_one(session.get, url, 1000))
        count = int(500 * seconds)
        one = typical(times, url, count, CONCURRENCY)
        say(f"the pipeline with {CONCURRENCY} threads", one, "aim: 500")
        if connection.vendor != "sqlite":
            two = typical(times, url, 2 * count, CONCURRENCY, processes=2)
            say("two processes", two, f"{two / one:.2f} times one; aim: 1.7")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="Measurements per median; 3.")
    parser.add_argument("--seconds", type=float, default=8, help="Seconds per measurement; 8.")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
    else:
        with tables():
            compare(options.times, options.seconds)


if __name__ == "__main__":
    main()
