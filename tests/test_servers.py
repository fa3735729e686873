"""Behind the servers that sites run on: a partner who hangs, and whose order it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from affiliations.models import Callback, Conversion, Partner
from tests.factories import SubscriptionFactory
from tests.hosts import FOR_EVER, HANG
from tests.raw_partner import OK, RawPartner
from tests.testapp.models import Order

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
    pytest.mark.slow,
]

GUNICORN = ["gunicorn", "django.core.wsgi:get_wsgi_application()", "--workers=1"]
UVICORN = ["uvicorn", "django.core.asgi:get_asgi_application", "--factory"]
UVICORN += ["--log-level=warning", "--timeout-keep-alive=60"]

#: (the command without its address, whether it keeps a connection alive, the page that converts)
SERVERS = [
    pytest.param(GUNICORN, False, "/order/", id="gunicorn sync"),
    pytest.param([*GUNICORN, "--preload"], False, "/order/", id="gunicorn preload"),
    pytest.param(
        [*GUNICORN, "--threads=2", "--keep-alive=60"], True, "/order/", id="gunicorn threads"
    ),
    pytest.param(UVICORN, True, "/order/", id="uvicorn"),
    pytest.param(UVICORN, True, "/async/order/", id="uvicorn async"),
]


class Browser:
    """A visitor's browser: one connection, kept as long as the server keeps it, and a cookie."""

    def __init__(self, port: int) -> None:
        # What takes longer than this has waited for the partner.
        self.connection = HTTPConnection("127.0.0.1", port, timeout=HANG)
        self.cookie = ""
        self.ports: set[int] = set()

    def send(self, method: str, path: str) -> int:
        self.connection.request(method, path, headers={"Cookie": self.cookie})
        self.ports.add(self.connection.sock.getsockname()[1])
        response = self.connection.getresponse()
        response.read()
        self.cookie = (response.headers["Set-Cookie"] or self.cookie).partition(";")[0]
        return response.status


@pytest.fixture
def start(transactional_db: None, tmp_path: Path) -> Iterator[Callable[[list[str]], Browser]]:
    """Start a server, wait until it answers, and stop it at the end of the test."""
    running: list[subprocess.Popen[bytes]] = []
    browsers: list[Browser] = []
    log = tmp_path / "log"

    def started(command: list[str]) -> Browser:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        bind = f"--bind=127.0.0.1:{port}" if command[0] == "gunicorn" else f"--port={port}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, bind],
                cwd=Path(__file__).parent.parent,
                env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings_served"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running.append(process)
        until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, log.read_text()
        browsers.append(Browser(port))
        return browsers[-1]

    yield started
    for browser in browsers:
        browser.connection.close()
    for process in running:
        process.terminate()
        try:
            process.wait(HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize(("command", "keeps_alive", "page"), SERVERS)
def test_a_partner_who_hangs_delays_neither_the_order_nor_the_next_page(
    start: Callable[[list[str]], Browser],
    partner: Partner,
    command: list[str],
    keeps_alive: bool,
    page: str,
) -> None:
    """
    (D16) In 0.12 both waited.

    The partner hangs for as long as it takes: both answers are here before it says a word.
    """
    visited = threading.Event()

    def hang(connection: Any) -> None:
        visited.wait(FOR_EVER)
        connection.sendall(OK)

    browser = start(command)
    with RawPartner(hang) as server:
        url = server.url + "?v={visitor_id}&c={click_id}"
        SubscriptionFactory(partner=partner, callback_url=url)
        assert browser.send("GET", partner.link("/page/", click_id="42")) == 302
        assert browser.send("POST", page) == 200
        until(lambda: server.requests)
        assert browser.send("GET", "/page/") == 200
        assert browser.send("GET", "/page/") == 200
        callback = Callback.objects.get()
        assert (callback.status, callback.attempt_count) == (Callback.Status.QUEUED, 1)
        assert not callback.attempts.exists()
        visited.set()
        until(Callback.objects.filter(status=Callback.Status.DELIVERED).exists)
    assert (len(browser.ports) == 1) is keeps_alive
    (request,) = server.requests
    visitor = callback.conversion.visitor_id
    assert request.startswith(f"GET /cb?v={visitor}&c=42 HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("command", "page"),
    [
        pytest.param(GUNICORN, "/stream/", id="gunicorn sync"),
        pytest.param([*GUNICORN, "--threads=2"], "/stream/", id="gunicorn threads"),
        pytest.param(UVICORN, "/async/stream/", id="uvicorn async"),
    ],
)
def test_an_order_in_a_streamed_answer_credits_the_visitor(
    start: Callable[[list[str]], Browser], partner: Partner, command: list[str], page: str
) -> None:
    SubscriptionFactory(partner=partner, counting="every", closes_referral=False)
    browser = start(command)
    assert browser.send("GET", partner.link("/page/")) == 302
    assert browser.send("GET", page) == 200
    assert browser.send("GET", page) == 200
    browser.cookie = ""
    assert browser.send("GET", page) == 200
    assert Order.objects.count() == 3
    assert Conversion.objects.filter(visitor__partner=partner).count() == 2


def test_a_background_task_is_not_the_visitor_whose_request_has_begun_it(
    start: Callable[[list[str]], Browser], partner: Partner
) -> None:
    SubscriptionFactory(partner=partner, counting="every", closes_referral=False)
    browser = start(UVICORN)
    assert browser.send("GET", partner.link("/page/")) == 302
    assert browser.send("GET", "/async/queue/") == 200
    browser.cookie = ""
    for _ in range(2):
        assert browser.send("GET", "/async/queue/") == 200
    assert Order.objects.count() == 2
    assert not Conversion.objects.exists()
