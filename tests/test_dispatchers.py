"""Who sends: the thread of this process, from the commit to the partner's real server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import Client

from affiliations.callbacks import dispatchers
from affiliations.models import Callback, Conversion, Partner
from affiliations.triggers import complete_trigger
from tests.factories import CallbackFactory, SubscriptionFactory, VisitorFactory
from tests.raw_partner import OK, RawPartner, hanging_after

pytestmark = pytest.mark.django_db(transaction=True)

THREAD = "affiliations-callbacks"


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def delivered() -> int:
    return Callback.objects.filter(status=Callback.Status.DELIVERED).count()


@pytest.fixture
def connected() -> Iterator[list[BaseDatabaseWrapper]]:
    """Collect the database connections that the sending thread makes."""
    found: list[BaseDatabaseWrapper] = []

    def created(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if threading.current_thread().name == THREAD:
            found.append(connection)

    connection_created.connect(created)
    yield found
    connection_created.disconnect(created)


@pytest.fixture(autouse=True)
def sender(
    settings: Any, monkeypatch: pytest.MonkeyPatch, connected: list[BaseDatabaseWrapper]
) -> Iterator[dispatchers._Sender]:
    """Begin as a process that has sent nothing yet, and end with no connection left open."""
    settings.AFFILIATE_CALLBACK_DISPATCHER = "affiliations.callbacks.dispatchers.thread"
    settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
    fresh = dispatchers._Sender()
    monkeypatch.setattr(fresh, "IDLE", 0.05, raising=False)
    monkeypatch.setattr(dispatchers, "_sender", fresh)
    yield fresh
    until(lambda: all(connection.connection is None for connection in connected))


@pytest.fixture
def visitor(partner: Partner, client: Client) -> Client:
    """Return the browser of a visitor whom the partner has sent."""
    client.get(partner.link("/", click_id="42"))
    return client


def convert(partner: Partner) -> None:
    """Credit a new visitor of the partner."""
    visitor = VisitorFactory(partner=partner, click_id="42")
    assert complete_trigger(None, "Order placed", visitor=visitor) is not None


def subscribe(partner: Partner, url: str) -> None:
    SubscriptionFactory(partner=partner, callback_url=url + "?v={visitor_id}&c={click_id}")


class TestTheVisitor:
    def test_does_not_wait_for_a_partner_who_hangs(self, partner: Partner, visitor: Client) -> None:
        """(D16) In 0.12 the order took as long as the partner did."""
        answering = threading.Event()
        with RawPartner(lambda it: answering.wait(10) and it.sendall(OK)) as server:
            subscribe(partner, server.url)
            assert visitor.post("/order/").status_code == 200
            until(lambda: server.requests)
            assert visitor.get("/page/").status_code == 200
            assert delivered() == 0
            answering.set()
            until(delivered)
        (request,) = server.requests
        visitor_id = Conversion.objects.get().visitor_id
        assert request.startswith(b"GET /cb?v=%d&c=42 HTTP/1.1\r\n" % visitor_id)

    def test_sees_no_error_where_the_partner_is_not_there(
        self, partner: Partner, visitor: Client
    ) -> None:
        """(D16) In 0.12 a refused connection was a server error, and the order was lost."""
        with RawPartner() as server:
            subscribe(partner, server.url)
        assert visitor.post("/order/").status_code == 200
        until(lambda: Callback.objects.get().attempts.exists())
        assert Callback.objects.get().attempts.get().error == "connect"


class TestThePartner:
    def test_is_called_after_the_commit_and_not_before(
        self, partner: Partner, sender: dispatchers._Sender
    ) -> None:
        with RawPartner() as server:
            subscribe(partner, server.url)
            with transaction.atomic():
                convert(partner)
                assert Callback.objects.count() == 1
                assert sender.thread is None
            until(delivered)
        assert len(server.requests) == 1

    def test_is_not_called_where_the_host_rolls_back(
        self, partner: Partner, sender: dispatchers._Sender
    ) -> None:
        """(D15) 0.12 had called by then."""
        with RawPartner() as server:
            subscribe(partner, server.url)
            with transaction.atomic():
                convert(partner)
                transaction.set_rollback(True)
        assert sender.thread is None
        assert server.connections == 0

    def test_is_called_once_for_each_of_many_by_one_thread(
        self, partner: Partner, connected: list[BaseDatabaseWrapper]
    ) -> None:
        with RawPartner() as server:
            subscribe(partner, server.url)
            for _ in range(20):
                convert(partner)
            until(lambda: delivered() == 20)
        lines = [request.split(b"\r\n")[0] for request in server.requests]
        assert len(lines) == len(set(lines)) == 20
        assert len({connection._thread_ident for connection in connected}) == 1

    def test_is_called_although_another_callback_has_vanished(self, caplog: Any) -> None:
        with RawPartner() as server:
            callback = CallbackFactory(url=server.url)
            dispatchers.thread([callback.pk + 1, callback.pk])
            until(delivered)
        assert caplog.messages == [f"Callback {callback.pk + 1} could not be attempted."]


class TestTheThread:
    def test_is_there_from_the_first_commit_on(self, sender: dispatchers._Sender) -> None:
        assert sender.thread is None
        with RawPartner() as server:
            dispatchers.thread([CallbackFactory(url=server.url).pk])
            first = sender.thread
            dispatchers.thread([CallbackFactory(url=server.url).pk])
            until(lambda: delivered() == 2)
        assert first is sender.thread is not None
        assert first.daemon
        assert first.is_alive()

    def test_gives_its_connection_back_when_there_is_nothing_to_do(
        self, connected: list[BaseDatabaseWrapper]
    ) -> None:
        with RawPartner() as server:
            for count in (1, 2):
                dispatchers.thread([CallbackFactory(url=server.url).pk])
                until(lambda: delivered() == count)  # noqa: B023
                until(lambda: connected[-1].connection is None)
                assert len(connected) == count

    def test_is_started_again_if_it_has_ended(self, sender: dispatchers._Sender) -> None:
        sender.thread = threading.Thread()
        with RawPartner() as server:
            dispatchers.thread([CallbackFactory(url=server.url).pk])
            until(delivered)


class TestAProcess:
    def run(self, script: str, *ids: int) -> subprocess.CompletedProcess[str]:
        """Run a script in a process of its own that sends to partners on this machine."""
        preamble = """
import os, sys, time, django
django.setup()
from django.db import connections
from affiliations.callbacks import dispatchers
from affiliations.models import Callback

def send(callback_id):
    dispatchers.thread([callback_id])

def await_delivery(callback_id):
    while Callback.objects.get(pk=callback_id).status != "delivered":
        time.sleep(0.01)

ids = [int(argument) for argument in sys.argv[1:]]
"""
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings_served"}
        # Forking beside a thread is what this is about.
        python = [sys.executable, "-Wignore::DeprecationWarning", "-c", preamble + script]
        return subprocess.run(
            [*python, *map(str, ids)],
            check=False,
            cwd=Path(__file__).parent.parent,
            env=environment,
            timeout=20,
            capture_output=True,
            text=True,
        )

    def test_that_was_forked_sends_by_a_thread_of_its_own(self) -> None:
        script = """
send(ids[0])
await_delivery(ids[0])
connections.close_all()
with dispatchers._sender.starting:  # whatever another thread is just doing
    child = os.fork()
    if child == 0:
        send(ids[1])
        await_delivery(ids[1])
        os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
        with RawPartner() as server:
            callbacks = [CallbackFactory(url=server.url) for _ in range(2)]
            process = self.run(script, *(callback.pk for callback in callbacks))
        assert process.returncode == 0, process.stderr
        assert len(server.requests) == delivered() == 2

    def test_that_ends_does_not_wait_for_a_partner(self) -> None:
        script = """
send(ids[0])
while not Callback.objects.get(pk=ids[0]).attempt_count:
    time.sleep(0.01)
"""
        with RawPartner(hanging_after()) as server:
            callback = CallbackFactory(url=server.url)
            began = time.monotonic()
            process = self.run(script, callback.pk)
            took = time.monotonic() - began
        assert process.returncode == 0, process.stderr
        assert took < 8
        callback.refresh_from_db()
        assert callback.status == Callback.Status.QUEUED
