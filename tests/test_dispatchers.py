"""Who sends, after the commit: the thread of this process, a worker, or a task engine."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core import mail
from django.db import DatabaseError, connection, transaction
from django.db.backends.signals import connection_created
from django.test import override_settings
from django.utils import timezone

from affiliations import dispatchers
from affiliations.callbacks.worker import DeliveryWorker
from affiliations.checks import check_dispatcher, check_dispatcher_in_production
from affiliations.models import Callback, Conversion, Partner
from affiliations.triggers import complete_trigger
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.hosts import DISPATCHERS, FOR_EVER, manage, until
from tests.raw_partner import RawPartner, hanging_after

pytestmark = pytest.mark.django_db(transaction=True)

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}


def delivered() -> int:
    return Callback.objects.filter(status=Callback.Status.DELIVERED).count()


@pytest.fixture
def server(partner: Partner, settings: Any) -> Iterator[RawPartner]:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with RawPartner() as server:
        SubscriptionFactory(partner=partner, callback_url=server.url + "?v={visitor_id}")
        yield server


def convert(partner: Partner) -> None:
    assert complete_trigger(None, "Order placed", visitor=VisitorFactory(partner=partner))


def waits_for(approve_on: datetime, server: RawPartner) -> Conversion:
    """Make a conversion that is approved by itself then, and whose partner hears of that alone."""
    subscription = SubscriptionFactory(
        callback_url=server.url + "?v={visitor_id}",
        call_on_conversion=False,
        call_on_approval=True,
    )
    conversion: Conversion = ConversionFactory(
        visitor__partner=subscription.partner,
        subscription=subscription,
        status=Conversion.Status.PENDING,
        approve_on=approve_on,
    )
    return conversion


class TestTheThread:
    @pytest.fixture
    def connected(self) -> Iterator[list[Any]]:
        """Collect the database connections of the thread."""
        found: list[Any] = []

        def created(connection: Any, **kwargs: Any) -> None:
            if threading.current_thread() is dispatchers._sender.thread:
                found.append(connection)

        connection_created.connect(created)
        yield found
        connection_created.disconnect(created)

    @pytest.fixture
    def sender(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch, connected: list[Any]
    ) -> Iterator[dispatchers._Sender]:
        """Begin as a process that has sent nothing yet and is not under test."""
        settings.AFFILIATE_CALLBACK_DISPATCHER = DISPATCHERS + "thread"
        sender = dispatchers._Sender()
        monkeypatch.setattr(sender, "IDLE", 0.05)
        monkeypatch.setattr(sender, "DATABASE_PAUSE", 0.2)
        monkeypatch.setattr(dispatchers, "_sender", sender)
        monkeypatch.setattr(dispatchers, "_is_under_test", lambda: False)
        yield sender
        sender.finish()
        assert sender.thread is None or not sender.thread.is_alive()
        assert all(connection.connection is None for connection in connected)

    def test_begins_at_the_first_commit(
        self, sender: dispatchers._Sender, partner: Partner, server: RawPartner
    ) -> None:
        with transaction.atomic():
            convert(partner)
            assert sender.thread is None
        first = sender.thread
        assert first is not None
        assert first.daemon
        until(delivered)
        convert(partner)
        until(lambda: delivered() == 2)
        assert sender.thread is first

    def test_never_begins_where_the_host_rolls_back(
        self, sender: dispatchers._Sender, partner: Partner, server: RawPartner
    ) -> None:
        with transaction.atomic():
            convert(partner)
            transaction.set_rollback(True)
        assert sender.thread is None

    def test_gives_its_connection_back_when_it_has_nothing_to_do(
        self,
        sender: dispatchers._Sender,
        connected: list[Any],
        partner: Partner,
        server: RawPartner,
    ) -> None:
        for count in (1, 2):
            before = len(connected)
            convert(partner)
            until(lambda: delivered() == count)  # noqa: B023
            until(lambda: connected[-1].connection is None)
            # Not how many: Django asks a MySQL server what it can do by a connection of its own.
            assert len(connected) > before

    def test_sleeps_until_the_next_retry_and_takes_it(
        self, sender: dispatchers._Sender, server: RawPartner
    ) -> None:
        """Also one of another process, such as of one that has ended since."""
        soon = timezone.now() + timedelta(seconds=1)
        CallbackFactory(url=server.url, next_attempt_on=soon)
        assert 0 < sender.until_next() <= 1
        sender.wake()
        until(delivered)
        assert timezone.now() >= soon

    def test_looks_again_each_half_minute(
        self, sender: dispatchers._Sender, server: RawPartner
    ) -> None:
        assert sender.until_next() == 30
        CallbackFactory(next_attempt_on=timezone.now() + timedelta(days=1))
        assert sender.until_next() == 30
        CallbackFactory()
        assert sender.until_next() == 0

    def test_looks_no_more_often_where_the_site_sends_nothing(
        self, sender: dispatchers._Sender, settings: Any
    ) -> None:
        settings.AFFILIATE_SEND_CALLBACKS = False
        CallbackFactory()
        assert sender.until_next() == 30

    @pytest.mark.django_db(transaction=True, databases=["default", "other"])
    def test_asks_no_replica_when_the_next_is_due(
        self, sender: dispatchers._Sender, server: RawPartner, settings: Any
    ) -> None:
        CallbackFactory()
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        assert sender.until_next() == 0

    def test_sleeps_until_the_next_approval_and_makes_it(
        self, sender: dispatchers._Sender, server: RawPartner
    ) -> None:
        conversion = waits_for(timezone.now() + timedelta(days=1), server)
        assert sender.until_next() == 30
        Conversion.objects.update(approve_on=timezone.now() + timedelta(seconds=1))
        assert 0 < sender.until_next() <= 1
        sender.wake()
        until(delivered)
        conversion.refresh_from_db()
        assert conversion.status == Conversion.Status.APPROVED
        assert Callback.objects.get().event == Callback.Event.APPROVAL

    def test_approves_while_a_partner_hangs_and_much_waits_for_them(
        self, sender: dispatchers._Sender, server: RawPartner, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_TIMEOUT = (1, 1)
        with RawPartner(hanging_after()) as hanging:
            subscription = SubscriptionFactory()
            Callback.objects.bulk_create(
                Callback(subscription=subscription, partner=subscription.partner, url=hanging.url)
                for _ in range(400)
            )
            sender.wake()
            until(lambda: hanging.requests)
            conversion = waits_for(timezone.now(), server)
            until(delivered)
            sender.finish()
        conversion.refresh_from_db()
        assert conversion.status == Conversion.Status.APPROVED

    def test_is_woken_from_a_long_sleep(
        self,
        sender: dispatchers._Sender,
        partner: Partner,
        server: RawPartner,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sender, "MAX_PAUSE", FOR_EVER)
        sender.wake()
        time.sleep(4 * sender.IDLE)
        convert(partner)
        until(delivered)

    def test_goes_on_when_the_database_is_back(
        self,
        sender: dispatchers._Sender,
        connected: list[Any],
        partner: Partner,
        server: RawPartner,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Nobody has to convert before the retries go out again."""
        out_of_order = threading.Event()

        def refuse(execute: Any, *args: Any) -> Any:
            if out_of_order.is_set():
                raise DatabaseError("the database is down")
            return execute(*args)

        def watch(connection: Any, **kwargs: Any) -> None:
            if threading.current_thread() is sender.thread:
                connection.execute_wrappers.append(refuse)

        connection_created.connect(watch)
        try:
            out_of_order.set()
            convert(partner)
            until(lambda: caplog.text.count("No callbacks could be claimed.") >= 2)
            assert delivered() == 0
            out_of_order.clear()
            until(delivered)
        finally:
            connection_created.disconnect(watch)

    def test_waits_a_moment_where_the_database_does_not_say_what_is_next(
        self, sender: dispatchers._Sender
    ) -> None:
        def refuse(*args: Any) -> Any:
            raise DatabaseError("the database is down")

        with connection.execute_wrapper(refuse):
            assert sender.until_next() == sender.DATABASE_PAUSE

    def test_is_started_again_by_the_next_commit_if_it_has_ended(
        self,
        sender: dispatchers._Sender,
        partner: Partner,
        server: RawPartner,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("nobody has thought of this")

        with monkeypatch.context() as patched:
            patched.setattr(DeliveryWorker, "run", fail)
            convert(partner)
            until(lambda: sender.thread and not sender.thread.is_alive())
        assert "nobody has thought of this" in caplog.text
        convert(partner)
        until(lambda: delivered() == 2)

    def test_says_nothing_where_it_cannot_start_because_the_interpreter_ends(
        self,
        sender: dispatchers._Sender,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What follows when a command commits and ends; tests/test_threads.py has it for real."""

        def fail(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(DeliveryWorker, "run", fail)
        ended = threading.Thread()
        monkeypatch.setattr(threading, "main_thread", lambda: ended)
        sender.run()
        assert caplog.text == ""

    def test_ends_with_the_process(self, server: RawPartner) -> None:
        """Both threads do, started or not."""
        dispatchers._finish()
        dispatchers._replace_threads()
        assert dispatchers._sender.thread is dispatchers._enqueuer.thread is None

    def test_gives_up_what_hangs_when_the_process_ends(
        self, sender: dispatchers._Sender, partner: Partner, settings: Any
    ) -> None:
        """Within two seconds; it is tried again as after a failure that is not the partner's."""
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
        settings.AFFILIATE_CALLBACK_TIMEOUT = (8, 8)
        with RawPartner(hanging_after()) as hanging:
            callback = CallbackFactory(url=hanging.url)
            sender.wake()
            until(lambda: hanging.requests)
            began = time.monotonic()
            sender.finish()
            took = time.monotonic() - began
        assert took < sender.EXIT_TIMEOUT + 1
        until(lambda: callback.attempts.exists())
        callback.refresh_from_db()
        assert callback.attempts.get().error == "lost"
        assert (callback.status, callback.lease_token) == (Callback.Status.QUEUED, "")
        assert callback.next_attempt_on < timezone.now() + timedelta(seconds=7)
        assert callback.subscription.failure_count == 0

    def test_sends_nothing_any_more_where_the_process_ends_before_it_has_begun(
        self, sender: dispatchers._Sender, server: RawPartner
    ) -> None:
        callback = CallbackFactory(url=server.url)
        sender.finish()
        sender.run()
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Callback.Status.QUEUED, 0)

    def test_stays_silent_under_the_test_runner_of_a_host(
        self, partner: Partner, server: RawPartner, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = DISPATCHERS + "thread"
        convert(partner)
        assert hasattr(mail, "outbox")
        assert dispatchers._sender.thread is None
        assert Callback.objects.get().status == Callback.Status.QUEUED

    def test_is_not_silenced_by_an_email_backend_that_keeps_an_outbox(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As "locmem" does, which some sites use in development."""
        assert dispatchers._is_under_test()
        monkeypatch.delitem(sys.modules, "django.test.utils")
        assert hasattr(mail, "outbox")
        assert not dispatchers._is_under_test()


@pytest.mark.server
@pytest.mark.parametrize("name", ["thread", "worker", "celery", "tasks"])
def test_no_visitor_waits_until_what_sends_is_imported(name: str) -> None:
    """It takes a fraction of a second, in each process of the web server."""
    script = f"""
import sys
from affiliations import dispatchers
dispatchers._Background.start = lambda thread, run: None
dispatchers.{name}([1])
slow = {{"requests", "celery", "affiliations.callbacks.worker"}}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    with manage("shell", "-c", script) as shell:
        assert shell.wait() == 0


class TestAWorker:
    def test_is_told_nothing_and_finds_what_is_due(
        self, partner: Partner, server: RawPartner, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = DISPATCHERS + "worker"
        convert(partner)
        assert server.connections == 0
        DeliveryWorker().run()
        assert delivered() == 1


class TestAHostsOwnDispatcher:
    def test_gets_the_ids_after_the_commit(
        self, partner: Partner, server: RawPartner, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.test_dispatchers.remember"
        remembered.clear()
        with transaction.atomic():
            convert(partner)
            assert remembered == []
        assert remembered == list(Callback.objects.values_list("pk", flat=True))


remembered: list[int] = []


def remember(callback_ids: list[int]) -> None:
    remembered.extend(callback_ids)


class TestTheEnqueuer:
    """Tells an engine, so that the visitor need not wait for it; tests/test_engines.py has them."""

    @pytest.fixture
    def enqueuer(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[dispatchers._Enqueuer]:
        monkeypatch.setattr(dispatchers._Enqueuer, "MAX_CALLS", 2)
        enqueuer = dispatchers._Enqueuer()
        monkeypatch.setattr(enqueuer, "IDLE", 0.05)
        monkeypatch.setattr(enqueuer, "EXIT_TIMEOUT", 0.3)
        monkeypatch.setattr(dispatchers, "_enqueuer", enqueuer)
        monkeypatch.setattr(dispatchers, "_is_under_test", lambda: False)
        yield enqueuer
        enqueuer.finish()

    def test_calls_one_after_the_other_and_goes_on_after_one_that_failed(
        self, enqueuer: dispatchers._Enqueuer, caplog: pytest.LogCaptureFixture
    ) -> None:
        called: list[int] = []

        def fail() -> None:
            called.append(2)
            raise ConnectionError("the broker is down")

        for number, call in enumerate(
            (lambda: called.append(1), fail, lambda: called.append(3)), 1
        ):
            dispatchers._enqueue(call)
            until(lambda: len(called) == number)  # noqa: B023
            time.sleep(0.1)
        assert called == [1, 2, 3]
        assert "the broker is down" in caplog.text
        assert "The sweep sends the callbacks." in caplog.text

    def test_tells_the_next_where_the_database_connection_broke(
        self, enqueuer: dispatchers._Enqueuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As where the database is started anew under an engine that keeps its queue there."""
        monkeypatch.setattr(enqueuer, "IDLE", 20)
        counted: list[int] = []

        def count() -> None:
            counted.append(Callback.objects.count())

        def count_on_a_broken_connection() -> None:
            connection.ensure_connection()
            connection.connection.close()
            count()

        for call in (count, count_on_a_broken_connection, count):
            dispatchers._enqueue(call)
            until(enqueuer.calls.empty)
        until(lambda: len(counted) == 2)

    def test_keeps_nobody_waiting_for_an_engine_that_hangs(
        self, enqueuer: dispatchers._Enqueuer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither who converts, nor a process that ends; and it does not fill the memory."""
        answering = threading.Event()
        ended: list[int] = []

        def hang() -> None:
            answering.wait(FOR_EVER)
            ended.append(1)

        for _ in range(50):
            dispatchers._enqueue(hang)
        enqueuer.finish()
        assert not ended
        assert enqueuer.calls.qsize() == 2
        assert "The task engine hangs." in caplog.text
        answering.set()
        until(enqueuer.calls.empty)
        enqueuer.finish()
        assert enqueuer.thread is not None
        assert not enqueuer.thread.is_alive()


@pytest.fixture
def eager(server: RawPartner, settings: Any) -> None:
    """Run each engine's task where it is enqueued, as a host's tests do."""
    from tests.celery_app import app

    app.conf.task_always_eager = True
    app.set_default()
    settings.TASKS = {"default": {"BACKEND": immediate_backend()}}


def immediate_backend() -> str:
    native = "django.tasks" if hasattr(django_settings, "TASKS") else "django_tasks"
    return f"{native}.backends.immediate.ImmediateBackend"


@pytest.mark.needs("rabbitmq", "django-tasks-db")
class TestTheTaskOf:
    @pytest.mark.parametrize("engine", ["celery", "tasks"])
    def test_an_engine_sends_what_it_is_given(
        self, engine: str, partner: Partner, server: RawPartner, eager: None, settings: Any
    ) -> None:
        """Under a test runner it is told at once, so that the test sees it."""
        settings.AFFILIATE_CALLBACK_DISPATCHER = DISPATCHERS + engine
        other = CallbackFactory(url=server.url)
        convert(partner)
        assert delivered() == 1
        other.refresh_from_db()
        assert other.status == Callback.Status.QUEUED

    def test_celery_sweeps(self, server: RawPartner, eager: None) -> None:
        from affiliations import tasks

        CallbackFactory(url=server.url)
        tasks.sweep.delay()
        assert delivered() == 1

    def test_django_sweeps(self, server: RawPartner, eager: None) -> None:
        from affiliations import background

        CallbackFactory(url=server.url)
        background.sweep.enqueue()
        assert delivered() == 1

    @pytest.mark.parametrize("engine", ["tasks", "background"])
    def test_an_engine_approves_before_it_sends(
        self, engine: str, server: RawPartner, eager: None
    ) -> None:
        from affiliations import background, tasks

        waits_for(timezone.now(), server)
        tasks.sweep.delay() if engine == "tasks" else background.sweep.enqueue()
        assert delivered() == 1


def ids(*messages: Any) -> list[str]:
    return [message.id.removeprefix("affiliations.") for message in messages]


class TestTheChecks:
    @pytest.mark.parametrize("name", ["thread", "worker"])
    def test_pass_dispatchers_that_need_nothing(self, name: str) -> None:
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + name):
            assert check_dispatcher() == []

    def test_name_the_extra_of_celery_where_it_is_missing(self, monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, "celery", None)
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + "celery"):
            [message] = check_dispatcher()
        assert message.id == "affiliations.E010"
        assert "pip install 'django-affiliate-tracking[celery]'" in message.hint

    def test_name_the_extra_of_tasks_where_it_is_missing(self, monkeypatch: Any) -> None:
        """On Django 5.2, which has no tasks of its own."""
        monkeypatch.setitem(sys.modules, "django.tasks", None)
        monkeypatch.setitem(sys.modules, "django_tasks", None)
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + "tasks"):
            [message] = check_dispatcher()
        assert message.id == "affiliations.E010"
        assert "pip install 'django-affiliate-tracking[tasks]'" in message.hint

    @pytest.mark.needs("rabbitmq")
    def test_pass_celery_where_it_is_installed(self) -> None:
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + "celery"):
            assert check_dispatcher() == []


@pytest.mark.needs("django-tasks-db")
class TestTheChecksOfTasks:
    @pytest.fixture(autouse=True)
    def chosen(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = DISPATCHERS + "tasks"

    def test_refuse_the_default_which_runs_a_task_at_once(self) -> None:
        [message] = check_dispatcher()
        assert message.id == "affiliations.E011"
        assert "DatabaseBackend" in message.hint

    def test_refuse_the_backend_that_runs_a_task_at_once(self, settings: Any) -> None:
        settings.TASKS = {"default": {"BACKEND": immediate_backend()}}
        assert ids(*check_dispatcher()) == ["E011"]

    def test_pass_a_backend_with_workers(self, settings: Any) -> None:
        settings.TASKS = TASKS
        assert check_dispatcher() == check_dispatcher_in_production() == []

    @pytest.mark.parametrize(
        "tasks",
        [
            {"default": TASKS["default"] | {"QUEUES": ["mail"]}},
            {"mail": TASKS["default"]},
            {"default": {"BACKEND": "nowhere.Backend"}},
        ],
    )
    def test_tell_of_tasks_that_cannot_be_enqueued(
        self, tasks: Any, settings: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.delitem(sys.modules, "affiliations.background", raising=False)
        settings.TASKS = tasks
        assert ids(*check_dispatcher()) == ["E012"]

    def test_warn_before_a_deployment_of_a_backend_that_runs_nothing(self, settings: Any) -> None:
        dummy = immediate_backend().replace("immediate.Immediate", "dummy.Dummy")
        settings.TASKS = {"default": {"BACKEND": dummy}}
        assert check_dispatcher() == []
        assert ids(*check_dispatcher_in_production()) == ["W005"]


class TestTheChecksBeforeADeployment:
    def test_pass_a_worker(self) -> None:
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + "worker"):
            assert check_dispatcher_in_production() == []

    def test_warn_of_the_thread(self) -> None:
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + "thread"):
            assert ids(*check_dispatcher_in_production()) == ["W003"]
            assert check_dispatcher() == []

    def test_warn_of_private_addresses(self) -> None:
        with override_settings(AFFILIATE_CALLBACK_ALLOWED_NETWORKS=["127.0.0.0/8"]):
            assert ids(*check_dispatcher_in_production()) == ["W004"]
            assert check_dispatcher() == []

    def test_are_made_with_deploy_only(self) -> None:
        from django.core.checks import run_checks

        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=DISPATCHERS + "thread"):
            plain = run_checks(tags=["affiliations"])
            deploy = run_checks(tags=["affiliations"], include_deployment_checks=True)
        assert "affiliations.W003" not in {message.id for message in plain}
        assert "affiliations.W003" in {message.id for message in deploy}
