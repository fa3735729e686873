"""
Measure a visitor's waiting time if a partner's server hangs: ``python -m benchmarks.visitor``.

Measures, under gunicorn and for each dispatcher, the request that converts and the next one on the
same connection. A second server, whose partner has no callback URL, is the comparison. The two are
requested in turn, so that other work on the machine affects both alike.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from contextlib import ExitStack
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings_hosted")
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "benchmarks_visitor")
# Includes the tables that the dispatcher "tasks" needs.
os.environ.setdefault("AFFILIATIONS_TEST_SERVICES", "django-tasks-db")
ENGINE = {"TASKS": {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}}
django.setup()

from django.db import connection  # noqa: E402

from affiliations.models import Partner, Subscription  # noqa: E402
from benchmarks.partner import answering_after  # noqa: E402
from benchmarks.tables import tables  # noqa: E402
from tests.hosts import DISPATCHERS, GUNICORN, Browser, running, serving  # noqa: E402
from tests.settings import NAME  # noqa: E402

HANGING = 3600.0
#: Pause between two requests, so that work started by one does not affect the next.
PAUSE = 0.05

CELERY = {
    "CELERY_BROKER_URL": os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
    "CELERY_TASK_DEFAULT_QUEUE": NAME,
    "CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP": True,
}
#: Each dispatcher, with its settings and its worker.
WORKERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "thread": ({}, ()),
    "worker": ({}, ("django", "deliver_callbacks", "--loop")),
    "tasks": (ENGINE, ("django", "db_worker", "--no-startup-delay")),
    "celery": (CELERY, ("celery", "-A", "tests.celery_app", "worker", "--concurrency=2")),
}


def made(name: str, callback_url: str) -> Partner:
    """Create a partner with a subscription to every order; without a URL, no callback is sent."""
    partner = Partner.objects.create(name=name, active=True)
    Subscription.objects.create(
        partner=partner,
        trigger="Order placed",
        counting="every",
        closes_referral=False,
        callback_url=callback_url,
    )
    return partner


def timed(browser: Browser, method: str, path: str) -> float:
    """Return the milliseconds that a request takes on the browser's connection."""
    connection, began = browser.connection, time.perf_counter()
    connection.request(method, path, headers={"Cookie": browser.cookie})
    # gunicorn sends a response in two parts; the second would wait 40 ms for our delayed ACK.
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    with connection.getresponse() as response:
        response.read()
    assert response.status == 200
    return (time.perf_counter() - began) * 1000


def measure(dispatcher: str, url: str, visits: int) -> tuple[list[float], list[float]]:
    """Return the medians of both requests in milliseconds, with and without the callback."""
    settings, command = WORKERS[dispatcher]
    settings = settings | {"AFFILIATE_CALLBACK_DISPATCHER": DISPATCHERS + dispatcher}
    server = (*GUNICORN, "--worker-class=gthread", "--threads=4", "--keep-alive=60")
    with ExitStack() as stack:
        browsers = []
        for partner in (made("Hanging", f"{url}?v={{visitor_id}}"), made("Silent", "")):
            _, browser = stack.enter_context(serving(*server, **settings))
            assert browser.send("GET", partner.link("/page/")) == 302
            browsers.append(browser)
        if command:
            stack.enter_context(running(*command, **settings))
        times: list[list[list[float]]] = [[[], []], [[], []]]
        for visit in range(visits + 5):
            for browser, (converting, following) in zip(browsers, times, strict=True):
                took = timed(browser, "POST", "/order/"), timed(browser, "GET", "/page/")
                if visit >= 5:  # skip the first requests of a process
                    converting.append(took[0])
                    following.append(took[1])
                time.sleep(PAUSE)
    with_partner, without = (
        [statistics.median(kind) for kind in of_browser] for of_browser in times
    )
    return with_partner, without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dispatchers", nargs="*", help=f"All by default: {', '.join(WORKERS)}.")
    parser.add_argument("--visits", type=int, default=200, help="Visits per median; 200.")
    options = parser.parse_args()
    print(f"{connection.vendor}; the aim is a ratio of at most 1.1")
    print(
        f"{'':10}{'converting':>14}{'without':>11}{'ratio':>7}{'the next':>14}{'without':>11}",
        end="",
    )
    print(f"{'ratio':>7}{'both':>9}")
    with tables(), answering_after(HANGING) as url:
        for dispatcher in options.dispatchers or WORKERS:
            ours, without = measure(dispatcher, url, options.visits)
            both = sum(ours) / sum(without)
            print(f"{dispatcher:10}", end="")
            for one, other in zip(ours, without, strict=True):
                print(f"{one:11.2f} ms{other:8.2f} ms{one / other:7.2f}", end="")
            print(f"{both:9.2f}", flush=True)


if __name__ == "__main__":
    main()
