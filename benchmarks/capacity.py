"""
Measure what a server can take: ``python -m benchmarks.capacity``.

Requests pages, landings and conversions from gunicorn with one worker process and with two, on the
database that AFFILIATIONS_TEST_DATABASE names. Beside the requests a second, it prints the CPU time
that one request takes in gunicorn's workers and in the processes of the database, if these run on
this machine. They say how many requests a core can serve on a machine that has more of them.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle
from pathlib import Path
from typing import NamedTuple

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "benchmarks")
django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection, connections  # noqa: E402

from affiliations.models import Conversion, Visitor  # noqa: E402
from benchmarks.costs import BROWSER, stored_session, subscribed  # noqa: E402
from benchmarks.tables import tables  # noqa: E402
from tests.hosts import GUNICORN, serving  # noqa: E402

PARTNERS, VISITORS = 20, 200
DATABASE_PROCESSES = {"postgres", "mariadbd", "mysqld"}
TICK = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    name: str
    parent: int
    seconds: float


def processes() -> dict[int, Process]:
    """Return the processes of this machine, with their CPU time."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition(" (")[2].rpartition(") ")
        except OSError:  # It has just ended.
            continue
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12])
        found[int(path.parent.name)] = Process(name, int(fields[1]), ticks / TICK)
    return found


def request(port: int, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head)
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer


def head(line: str, cookie: str = "") -> bytes:
    names = {name[5:].replace("_", "-").title(): value for name, value in BROWSER.items()}
    headers = {"Host": "localhost", "Connection": "close", "Content-Length": "0", **names}
    if cookie:
        headers["Cookie"] = cookie
    lines = [f"{line} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def requests() -> dict[str, tuple[Iterator[bytes], bytes]]:
    """Return the requests of each kind, and the status of their responses."""
    subscriptions = [subscribed(name=f"Partner {number}") for number in range(PARTNERS)]
    cookies = []
    for number in range(VISITORS):
        partner = subscriptions[number % PARTNERS].partner
        visitor = Visitor.objects.create(partner=partner, click_id=str(number))
        session = stored_session(
            affiliate_visitor_id=visitor.pk, affiliate_visitor_id_fingerprint=visitor.fingerprint
        )
        cookies.append(f"sessionid={session.session_key}")
    uids = cycle([subscription.partner.uid for subscription in subscriptions])
    landings = (
        head(f"GET /page/?affiliate_id={uid}&click_id={number}&sub1=blog")
        for number, uid in zip(count(), uids)
    )
    orders = (head("POST /order/", cookie) for cookie in cycle(cookies))
    pages = (head("GET /page/") for _ in count())
    return {"page": (pages, b"200"), "landing": (landings, b"302"), "conversion": (orders, b"200")}


def measure(workers: int, number: int) -> None:
    """Print a line for each kind of request."""
    default = settings.DATABASES["default"] | {"CONN_MAX_AGE": 600}
    options = {
        "DATABASES": {"default": default, "other": settings.DATABASES["large"]},
        "DATABASE_ROUTERS": [],
        "AFFILIATE_CALLBACK_DISPATCHER": "affiliations.dispatchers.worker",
    }
    with serving(*GUNICORN, f"--workers={workers}", "--backlog=512", **options) as (
        server,
        browser,
    ):
        for kind, (heads, status) in requests().items():

            def send(line: bytes, status: bytes = status) -> None:
                answer = request(browser.port, line)
                assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]

            with ThreadPoolExecutor(4 * workers) as clients:
                list(clients.map(send, [next(heads) for _ in range(100)]))
                lines = [next(heads) for _ in range(number)]
                before, began = processes(), time.perf_counter()
                list(clients.map(send, lines))
                seconds, after = time.perf_counter() - began, processes()
            spent = {
                pid: row.seconds - (before[pid].seconds if pid in before else 0.0)
                for pid, row in after.items()
            }
            own = [pid for pid, row in after.items() if row.parent == server.popen.pid]
            of_database = [pid for pid, row in after.items() if row.name in DATABASE_PROCESSES]
            web, database = (
                sum(spent[pid] for pid in pids) / number * 1000 for pids in (own, of_database)
            )
            print(
                f"{connection.vendor:12}{workers:>8}  {kind:12}{number / seconds:>10,.0f}"
                f"{web:>10.2f} ms{database:>10.2f} ms",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1500, help="Requests of a kind; 1500.")
    options = parser.parse_args()
    print(f"{'':12}{'workers':>8}  {'':12}{'a second':>10}{'CPU web':>13}{'CPU database':>13}")
    with tables():
        for workers in (1, 2):
            measure(workers, options.requests)
            assert Conversion.objects.count() == workers * (options.requests + 100)
        connections.close_all()


if __name__ == "__main__":
    main()
