"""The thread dispatcher in real processes: web servers, forks, and commands that end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from affiliations.callbacks.worker import DeliveryWorker
from affiliations.models import Callback, CallbackAttempt, Partner
from tests.factories import CallbackFactory, SubscriptionFactory
from tests.hosts import (
    DISPATCHERS,
    FOR_EVER,
    GUNICORN,
    PATIENT,
    UVICORN,
    end_leases,
    manage,
    serving,
    until,
)
from tests.raw_partner import OK, RawPartner

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
    pytest.mark.slow,
]

SETTINGS = PATIENT | {"AFFILIATE_CALLBACK_DISPATCHER": DISPATCHERS + "thread"}

RUNSERVER = ["django", "runserver", "{port}"]
SERVERS = [
    pytest.param(GUNICORN, id="gunicorn sync"),
    pytest.param([*GUNICORN, "--threads=2"], id="gunicorn threads"),
    pytest.param([*GUNICORN, "--preload", "--workers=2"], id="gunicorn preload"),
    pytest.param(UVICORN, id="uvicorn"),
    pytest.param(RUNSERVER, id="runserver with its reloader"),
]


class Hanging(RawPartner):
    """A partner who answers once the test lets them."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        super().__init__(self.hang)

    def hang(self, connection: Any) -> None:
        self.may_answer.wait(FOR_EVER)
        connection.sendall(OK)


@pytest.fixture
def server(partner: Partner, settings: Any) -> Iterator[Hanging]:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with Hanging() as server:
        SubscriptionFactory(partner=partner, callback_url=server.url + "?v={visitor_id}")
        yield server
        server.may_answer.set()


def delivered() -> int:
    return Callback.objects.filter(status=Callback.Status.DELIVERED).count()


def sweep() -> None:
    """Do what `manage.py deliver_callbacks` does in cron."""
    DeliveryWorker().run()


class TestUnderAServer:
    @pytest.mark.parametrize("command", SERVERS)
    def test_the_partner_is_told_and_no_visitor_waits(
        self, command: list[str], partner: Partner, server: Hanging
    ) -> None:
        with serving(*command, **SETTINGS) as (_, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            # The partner hangs from here on.
            assert browser.send("GET", "/page/") == 200
            browser.convert(partner)
            assert not CallbackAttempt.objects.exists()
            server.may_answer.set()
            until(lambda: delivered() == 2)
        assert len(server.requests) == 2

    def test_gunicorn_finishes_what_is_in_flight_when_it_is_stopped(
        self, partner: Partner, server: Hanging
    ) -> None:
        with serving(*GUNICORN, **SETTINGS) as (process, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            process.popen.terminate()
            threading.Timer(0.5, server.may_answer.set).start()
            assert process.wait() == 0
        assert delivered() == 1

    def test_uvicorn_ends_without_that_and_the_sweep_tells_the_partner(
        self, partner: Partner, server: Hanging
    ) -> None:
        """It ends itself by the signal that it got, so no Python code runs any more."""
        with serving(*UVICORN, **SETTINGS) as (process, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            process.popen.terminate()
            process.wait()
        server.may_answer.set()
        end_leases()
        sweep()
        assert delivered() == 1

    def test_a_process_that_is_recycled_keeps_no_page_waiting_and_the_next_sends_what_it_left(
        self, partner: Partner, server: Hanging
    ) -> None:
        """gunicorn has one process and replaces it; visitors come, and none of them converts."""
        recycling = [*GUNICORN, "--max-requests=6"]
        with serving(*recycling, **SETTINGS) as (process, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            waits = []

            def visit() -> None:
                began = time.monotonic()
                assert browser.send("GET", "/page/") == 200
                waits.append(time.monotonic() - began)
                browser.connection.close()

            for _ in range(40):
                visit()
                if CallbackAttempt.objects.exists():
                    # The call was given up. Meanwhile the partner's server is up again.
                    server.may_answer.set()
                time.sleep(0.1)
            assert "Autorestarting worker" in process.said()
            server.may_answer.set()
            # The last process may have had no visitor yet.
            until(lambda: visit() or delivered() == 1, 60)
        # Two seconds, and the time in which gunicorn starts another process on a busy machine.
        assert max(waits) < 20, waits
        given_up = CallbackAttempt.objects.earliest("pk")
        assert (given_up.error, "This process ended" in given_up.message) == ("lost", True)
        assert Callback.objects.get().attempt_count == 2
        assert Callback.objects.get().subscription.failure_count == 0

    def test_the_first_visitor_of_a_process_lets_it_send_what_others_have_left(
        self, partner: Partner, server: Hanging
    ) -> None:
        """Such as a server that was killed; nobody converts."""
        server.may_answer.set()
        CallbackFactory(url=server.url)
        with serving(*GUNICORN, **SETTINGS) as (_, browser):
            assert browser.send("GET", "/page/") == 200
            until(lambda: delivered() == 1)

    def test_a_server_that_is_killed_loses_nothing(self, partner: Partner, server: Hanging) -> None:
        with serving(*GUNICORN, **SETTINGS) as (process, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            process.kill()
        server.may_answer.set()
        end_leases()
        sweep()
        assert delivered() == 1
        assert len(server.requests) == 2

    def test_the_reloader_of_runserver_finishes_what_is_in_flight(
        self, partner: Partner, server: Hanging, tmp_path: Path, monkeypatch: Any
    ) -> None:
        """A developer who saves a file while a partner is told."""
        watched = tmp_path / "urls_watched.py"
        watched.write_text("from tests.urls import urlpatterns  # noqa\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with serving(*RUNSERVER, ROOT_URLCONF="urls_watched", **SETTINGS) as (process, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            os.utime(watched, (time.time() + 5, time.time() + 5))
            threading.Timer(1.5, server.may_answer.set).start()
            until(lambda: delivered() == 1)
            browser.connection.close()
            until(lambda: process.said().count("Quit the server") == 2)
            browser.convert(partner)
            until(lambda: delivered() == 2)
        assert len(server.requests) == 2


CONVERT = """
from affiliations import dispatchers
from affiliations.models import Callback, Visitor
from affiliations.triggers import complete_trigger
import os, time

def convert():
    visitor = Visitor.objects.create(partner_id={partner}, entry_point="/")
    assert complete_trigger(None, "Order placed", visitor=visitor)

def until(condition):
    while not condition():
        time.sleep(0.01)

def is_delivered():
    return not Callback.objects.exclude(status="delivered").exists()
"""


class TestACommand:
    @pytest.fixture
    def run(self, partner: Partner) -> Any:
        def run(script: str, **settings: Any) -> Any:
            script = CONVERT.format(partner=partner.pk) + script
            return manage("shell", "-c", script, **SETTINGS | settings)

        return run

    def test_that_converts_and_ends_finishes_what_is_in_flight(
        self, run: Any, server: Hanging, tmp_path: Path
    ) -> None:
        is_called = tmp_path / "is-called"
        with run(f"convert(); until(lambda: os.path.exists({str(is_called)!r}))") as process:
            until(lambda: server.requests)
            is_called.touch()
            time.sleep(0.5)
            assert process.is_running()
            server.may_answer.set()
            assert process.wait() == 0
            assert "Traceback" not in process.said()
        assert delivered() == 1

    @pytest.mark.parametrize("count", [1, 30])
    def test_that_ends_at_once_leaves_the_rest_to_others(
        self, run: Any, server: Hanging, count: int
    ) -> None:
        """Whatever it had begun is finished and recorded; nothing waits for a lease to end."""
        server.may_answer.set()
        with run(f"for _ in range({count}): convert()") as process:
            assert process.wait() == 0
            assert "Traceback" not in process.said()
        assert not Callback.objects.queued().exclude(lease_token="").exists()
        assert delivered() == len(server.requests)
        assert not Callback.objects.queued().filter(attempt_count__gt=0).exists()
        sweep()
        assert delivered() == len(server.requests) == count

    def test_that_ends_waits_for_nothing_where_nothing_is_in_flight(
        self, run: Any, server: Hanging
    ) -> None:
        server.may_answer.set()
        script = "convert(); until(is_delivered); print('ends')"
        with run(script) as process:
            until(lambda: "ends" in process.said())
            # If it waited, then for the deadline of a call, which is longer than this does.
            assert process.wait() == 0

    def test_that_forks_sends_by_a_thread_of_each_process(self, run: Any, server: Hanging) -> None:
        server.may_answer.set()
        # SQLite stays locked in a child that is forked while a thread is in a transaction.
        script = """
import threading
is_resting = threading.Event()

def rest(sender):
    is_resting.set()
    sender.woken.wait()
    is_resting.clear()
    sender.woken.clear()

dispatchers._Sender.rest = rest
convert()
until(is_delivered)
until(lambda: not dispatchers._sender.woken.is_set() and is_resting.is_set())
from django.db import connections
connections.close_all()
starting = dispatchers._sender.starting
starting.acquire()  # as another thread may have; nothing releases it in the child
child = os.fork()
if child:
    starting.release()
convert()
until(is_delivered)
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
else:
    os._exit(0)
"""
        with run(script) as process:
            assert process.wait() == 0, process.said()
        assert delivered() == len(server.requests) == 3
