"""
Task engines, with their real workers and brokers.

What they are told of is sent, and so is what they were not told of.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from affiliations.callbacks.worker import DeliveryWorker
from affiliations.models import Callback, CallbackAttempt, Partner
from tests.counting_partner import counting_partner
from tests.factories import CallbackFactory, SubscriptionFactory
from tests.hosts import (
    DISPATCHERS,
    FOR_EVER,
    GUNICORN,
    PATIENT,
    Process,
    end_leases,
    manage,
    running,
    serving,
    until,
)
from tests.raw_partner import OK, RawPartner
from tests.relay import Relay
from tests.settings import NAME

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
    pytest.mark.slow,
]

BROKERS = {
    "rabbitmq": os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
    "redis": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
}


class Celery:
    """A site with Celery, whose queue is no other run's."""

    def __init__(self, broker: str) -> None:
        self.settings: dict[str, Any] = PATIENT | {
            "AFFILIATE_CALLBACK_DISPATCHER": DISPATCHERS + "celery",
            "CELERY_BROKER_URL": BROKERS.get(broker, broker),
            "CELERY_TASK_DEFAULT_QUEUE": NAME,
            "CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP": True,
        }

    @contextmanager
    def working(self, *options: str, **more: Any) -> Iterator[Process]:
        # RabbitMQ refuses a worker whose name another still has: that of a run of the tests beside
        # this one, or one that was killed a moment ago.
        alone = ("--without-gossip", "--without-mingle", "--concurrency=2")
        name = f"--hostname={uuid4().hex}@%h"
        command = ("celery", "-A", "tests.celery_app", "worker", name, *alone, *options)
        with running(*command, **self.settings, **more) as process:
            yield process

    def forget(self) -> None:
        """Leave nothing in the broker."""
        from kombu import Connection, Exchange, Queue

        with Connection(self.settings["CELERY_BROKER_URL"]) as connection:
            queue = Queue(NAME, Exchange(NAME), NAME, channel=connection.default_channel)
            queue.declare()  # With Redis, who has not declared it deletes nothing.
            queue.delete()
            connection.default_channel.exchange_delete(NAME)


class Tasks:
    """A site with Django's tasks, kept in its database."""

    settings = PATIENT | {
        "AFFILIATE_CALLBACK_DISPATCHER": DISPATCHERS + "tasks",
        "TASKS": {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
    }

    @contextmanager
    def working(self) -> Iterator[Process]:
        command = ("django", "db_worker", "--interval=0.1", "--no-startup-delay")
        with running(*command, **self.settings) as process:
            yield process


@pytest.fixture(
    params=[
        pytest.param("rabbitmq", marks=pytest.mark.needs("rabbitmq")),
        pytest.param("redis", marks=pytest.mark.needs("redis")),
        pytest.param("django-tasks-db", marks=pytest.mark.needs("django-tasks-db")),
    ]
)
def engine(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Celery | Tasks]:
    """Give each engine in turn."""
    if request.param == "django-tasks-db":
        yield Tasks()
    else:
        celery = Celery(request.param)
        yield celery
        celery.forget()


@pytest.fixture
def server(partner: Partner, settings: Any) -> Iterator[RawPartner]:
    """Serve the partner, who answers once the test lets them."""
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    answering = threading.Event()

    def answer(connection: socket.socket) -> None:
        answering.wait(FOR_EVER)
        connection.sendall(OK)

    with RawPartner(answer) as server:
        server.may_answer = answering
        url = server.url + "?v={visitor_id}&id={callback_id}"
        SubscriptionFactory(partner=partner, callback_url=url)
        yield server
        answering.set()


class TestAnEngine:
    def test_tells_the_partner_while_the_visitor_goes_on(
        self, engine: Celery | Tasks, partner: Partner, server: RawPartner
    ) -> None:
        with engine.working(), serving(*GUNICORN, "--threads=2", **engine.settings) as (_, browser):
            browser.convert(partner)
            until(lambda: server.requests)
            # The partner hangs from here on.
            browser.convert(partner)
            assert browser.send("GET", "/page/") == 200
            assert not CallbackAttempt.objects.exists()
            server.may_answer.set()
            until(lambda: are_delivered(2))
        assert len(server.requests) == 2

    def test_hears_of_what_a_command_converts_that_ends_at_once(
        self, engine: Celery | Tasks, partner: Partner, server: RawPartner
    ) -> None:
        server.may_answer.set()
        with engine.working():
            convert_and_end(partner, engine.settings)
            until(is_delivered)

    def test_may_be_killed_while_it_tells_the_partner(
        self, engine: Celery | Tasks, partner: Partner, server: RawPartner
    ) -> None:
        """The sweep tells them again, with the same id, when the lease has ended."""
        with engine.working() as worker:
            convert_and_end(partner, engine.settings)
            until(lambda: server.requests)
            worker.kill()
        server.may_answer.set()
        end_leases()
        sweep()
        assert is_delivered()
        first, second = (
            request.partition(b"\r\nwebhook-id: ")[2][:32] for request in server.requests
        )
        assert first == second == Callback.objects.get().webhook_id.encode()

    def test_sweeps(self, engine: Celery | Tasks, server: RawPartner, tmp_path: Path) -> None:
        """So that a site needs no second kind of process beside its engine."""
        server.may_answer.set()
        CallbackFactory(url=server.url)
        if isinstance(engine, Celery):
            plan = {"affiliations.sweep": {"task": "affiliations.sweep", "schedule": 1.0}}
            beat = ("--beat", f"--schedule={tmp_path / 'beat'}")
            working = engine.working(*beat, CELERY_BEAT_SCHEDULE=plan)
        else:
            run(
                "from affiliations import background as b; b.sweep.enqueue()",
                engine.settings,
            )
            working = engine.working()
        with working:
            until(is_delivered)


@pytest.mark.needs("redis")
def test_the_time_limits_of_a_host_do_not_end_a_sweep_in_the_middle(
    partner: Partner, settings: Any
) -> None:
    """They are made for tasks of a second or two: a partner would be told twice."""
    celery = Celery("redis")
    celery.settings |= {"CELERY_TASK_TIME_LIMIT": 3, "CELERY_TASK_SOFT_TIME_LIMIT": 2}
    with counting_partner(pause=1) as counting:
        for number in range(40):
            CallbackFactory(url=f"{counting.url}/{number}", partner=partner)
        try:
            with celery.working() as worker:
                script = "from affiliations import tasks; tasks.sweep.delay()"
                run(script, celery.settings)
                until(lambda: are_delivered(40))
                assert "Time" not in worker.said()
        finally:
            celery.forget()
        assert set(counting.told().values()) == {1}
        assert len(counting.told()) == 40
    assert set(Callback.objects.values_list("attempt_count", flat=True)) == {1}


@contextmanager
def hanging_broker() -> Iterator[int]:
    """Accept connections and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def no_broker() -> Iterator[int]:
    """Give a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


OUTAGES = [
    pytest.param(outage, url, marks=pytest.mark.needs(needs), id=f"{needs} {name}")
    for needs, url in (
        ("rabbitmq", "amqp://guest:guest@127.0.0.1:{}//"),
        ("redis", "redis://127.0.0.1:{}/0"),
    )
    for name, outage in (("is down", no_broker), ("hangs", hanging_broker))
]


@pytest.mark.parametrize(("outage", "url"), OUTAGES)
def test_a_visitor_does_not_wait_for_a_broker_and_the_sweep_tells_the_partner(
    outage: Callable[[], AbstractContextManager[int]],
    url: str,
    partner: Partner,
    server: RawPartner,
) -> None:
    """Left to itself Celery takes 4 to 6 seconds, and for ever where a Redis hangs: so here."""
    server.may_answer.set()
    with outage() as port:
        settings = Celery(url.format(port)).settings
        settings |= {"CELERY_BROKER_CONNECTION_TIMEOUT": FOR_EVER}
        with serving(*GUNICORN, "--threads=2", **settings) as (gunicorn, browser):
            browser.convert(partner)
            browser.convert(partner)
            assert gunicorn.stop() == 0
        convert_and_end(partner, settings)
    assert server.connections == 0
    sweep()
    assert len(server.requests) == 3
    assert not Callback.objects.exclude(status=Callback.Status.DELIVERED).exists()


@pytest.mark.parametrize(
    "broker", [pytest.param(name, marks=pytest.mark.needs(name)) for name in BROKERS]
)
def test_a_broker_that_goes_while_a_site_is_connected_to_it_loses_nobody_their_callback(
    broker: str, partner: Partner, server: RawPartner
) -> None:
    """And is told again of what comes when it is back, though of nothing that came meanwhile."""
    server.may_answer.set()
    site, worker = Celery(broker), Celery(broker)
    url = urlsplit(site.settings["CELERY_BROKER_URL"])
    try:
        with Relay(url.hostname or "", url.port or 0) as relay:
            way = url.netloc.rpartition("@")[0]
            netloc = f"{way}@127.0.0.1:{relay.port}" if way else f"127.0.0.1:{relay.port}"
            site.settings["CELERY_BROKER_URL"] = urlunsplit(url._replace(netloc=netloc))
            with (
                worker.working(),
                serving(*GUNICORN, "--threads=2", **site.settings) as (gunicorn, browser),
            ):
                browser.convert(partner)
                until(is_delivered)
                assert relay.connections
                relay.cut()
                browser.connection.close()
                # RabbitMQ's client only hears of it with the second message.
                browser.convert(partner)
                browser.convert(partner)
                until(lambda: "The task engine failed." in gunicorn.said())
                relay.open()

                def hears() -> bool:
                    browser.connection.close()  # gunicorn keeps it for 2 seconds
                    browser.convert(partner)
                    newest = Callback.objects.latest("pk")
                    with suppress(AssertionError):
                        until(lambda: is_told(newest), seconds=2)
                    return is_told(newest)

                until(hears)
        assert Callback.objects.exclude(status=Callback.Status.DELIVERED).exists()
        sweep()
        assert not Callback.objects.exclude(status=Callback.Status.DELIVERED).exists()
        assert len(server.requests) == Callback.objects.count()
    finally:
        worker.forget()


@pytest.mark.needs("django-tasks-db")
@pytest.mark.parametrize("backend", ["Hanging", "Broken"])
def test_a_visitor_does_not_wait_for_a_backend_of_tasks_and_the_sweep_tells_the_partner(
    backend: str, partner: Partner, server: RawPartner
) -> None:
    server.may_answer.set()
    tasks = {"default": {"BACKEND": f"tests.task_backends.{backend}"}}
    with serving(*GUNICORN, **Tasks.settings | {"TASKS": tasks}) as (_, browser):
        browser.convert(partner)
        browser.convert(partner)
    assert server.connections == 0
    sweep()
    assert len(server.requests) == 2


def convert_and_end(partner: Partner, settings: dict[str, Any]) -> None:
    """Convert as a command of the host's does, such as one that reads payments from a bank."""
    run(
        "from affiliations.models import Visitor\n"
        "from affiliations.triggers import complete_trigger\n"
        f"visitor = Visitor.objects.create(partner_id={partner.pk}, entry_point='/')\n"
        "assert complete_trigger(None, 'Order placed', visitor=visitor)",
        settings,
    )


def run(script: str, settings: dict[str, Any]) -> None:
    with manage("shell", "-c", script, **settings) as shell:
        assert shell.wait() == 0


def is_delivered() -> bool:
    return Callback.objects.get().status == Callback.Status.DELIVERED


def are_delivered(count: int) -> bool:
    return Callback.objects.filter(status=Callback.Status.DELIVERED).count() == count


def is_told(callback: Callback) -> bool:
    callback.refresh_from_db()
    return callback.status == Callback.Status.DELIVERED


def sweep() -> None:
    """Do what `manage.py deliver_callbacks` does in cron."""
    DeliveryWorker().run()
