"""The management commands, as cron, a supervisor and somebody at a terminal run them."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from affiliations.callbacks import maintenance
from affiliations.conversions import decisions
from affiliations.management.commands import deliver_callbacks
from affiliations.management.commands.deliver_callbacks import Command
from affiliations.models import Callback, Conversion
from affiliations.signals import conversion_decided
from tests.factories import CallbackFactory, PartnerFactory, SubscriptionFactory
from tests.hosts import FOR_EVER, HANG, environment, manage, until
from tests.raw_partner import OK, RawPartner, hanging_after, redirecting
from tests.test_dispatchers import waits_for

pytestmark = pytest.mark.django_db
#: For what other threads or processes are to see.
committed = pytest.mark.django_db(transaction=True)

Status = Callback.Status


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


class Terminal(io.StringIO):
    """Somebody looks at what is written."""

    def isatty(self) -> bool:
        return True


def due(count: int, url: str) -> None:
    subscription = SubscriptionFactory()
    Callback.objects.bulk_create(
        Callback(subscription=subscription, partner=subscription.partner, url=url)
        for _ in range(count)
    )


def delivered() -> int:
    return Callback.objects.filter(status=Status.DELIVERED).count()


class TestDeliverCallbacksFromCron:
    def test_sends_all_that_is_due_says_how_many_and_ends(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with RawPartner() as good, RawPartner(b"HTTP/1.1 500 No\r\n\r\n") as bad:
            due(20, good.url)
            due(3, bad.url)
            call_command("deliver_callbacks")
        assert capsys.readouterr().out == "20 delivered, 3 failed.\n"
        assert delivered() == 20

    def test_says_so_where_nothing_is_due(self, capsys: pytest.CaptureFixture[str]) -> None:
        CallbackFactory(next_attempt_on=timezone.now() + timedelta(hours=1))
        call_command("deliver_callbacks")
        assert capsys.readouterr().out == "0 delivered, 0 failed.\n"

    def test_approves_first_what_is_to_be_approved_by_now(self) -> None:
        with RawPartner() as partner:
            conversion = waits_for(timezone.now(), partner)
            call_command("deliver_callbacks")
        conversion.refresh_from_db()
        assert conversion.status == Conversion.Status.APPROVED
        assert delivered() == 1

    def test_sends_no_more_than_the_limit(self, capsys: pytest.CaptureFixture[str]) -> None:
        with RawPartner() as partner:
            due(5, partner.url)
            call_command("deliver_callbacks", limit=2)
        assert capsys.readouterr().out == "2 delivered, 0 failed.\n"
        assert delivered() == 2

    def test_talks_to_no_more_partners_at_once_than_it_is_told(self) -> None:
        most: list[int] = []
        now: list[int] = []

        def answer(caller: socket.socket) -> None:
            now.append(1)
            most.append(len(now))
            time.sleep(0.05)
            now.pop()
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            for _ in range(5):
                due(1, partner.url)
            call_command("deliver_callbacks", concurrency=2)
        assert max(most) == 2

    @pytest.mark.parametrize("options", [{"concurrency": 0}, {"limit": 0}, {"limit": -1}])
    def test_refuses_what_makes_no_sense(self, options: dict[str, int]) -> None:
        with pytest.raises(CommandError, match="--concurrency and --limit must be 1 or more"):
            call_command("deliver_callbacks", **options)

    @pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": 5.0, "loop": True}])
    def test_refuses_an_end_that_makes_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(CommandError, match="--seconds must be greater than 0, and cannot"):
            call_command("deliver_callbacks", **options)

    @pytest.mark.slow
    def test_ends_after_so_long_though_more_is_due(self) -> None:
        def answer(caller: socket.socket) -> None:
            time.sleep(1)
            caller.sendall(OK)

        with RawPartner(answer) as partner:
            due(30, partner.url)
            call_command("deliver_callbacks", seconds=2)
        assert 0 < delivered() < 30
        assert Callback.objects.due(timezone.now()).count() == 30 - delivered()

    def test_leaves_the_signals_of_the_process_as_they_were(self) -> None:
        """A host may call it from code of its own, or from a test."""
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        call_command("deliver_callbacks")
        assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    @committed
    def test_runs_in_a_thread_of_a_hosts_scheduler(self) -> None:
        def run() -> None:
            try:
                call_command("deliver_callbacks")
            finally:
                connection.close()

        with RawPartner() as partner:
            due(1, partner.url)
            scheduler = threading.Thread(target=run)
            scheduler.start()
            scheduler.join(20)
        assert delivered() == 1

    def test_counts_on_a_terminal_while_it_works(self) -> None:
        terminal = Terminal()
        with RawPartner() as partner:
            due(3, partner.url)
            call_command("deliver_callbacks", stdout=terminal)
        *progress, last, end = terminal.getvalue().split("\n")
        assert progress[0].startswith("\r")
        assert progress[0].rpartition("\r")[2] == "3 delivered, 0 failed"
        assert (last, end) == ("3 delivered, 0 failed.", "")

    @pytest.mark.server
    @committed
    def test_counts_on_a_real_terminal(self) -> None:
        with RawPartner() as partner:
            due(3, partner.url)
            ours, theirs = pty.openpty()
            process = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "django", "deliver_callbacks"],
                env=environment({}),
                stdout=theirs,
                timeout=30,
                check=False,
            )
            os.close(theirs)
            said = os.read(ours, 4096).decode()
            os.close(ours)
        assert process.returncode == 0
        assert said.startswith("\r")
        assert said.endswith("\r3 delivered, 0 failed\r\n3 delivered, 0 failed.\r\n")


@committed
class TestDeliverCallbacksForEver:
    @pytest.mark.server
    def test_sends_what_comes_within_a_second_or_so_and_ends_when_told_to(self) -> None:
        with RawPartner() as partner, manage("deliver_callbacks", "--loop") as process:
            for count in (1, 2):
                due(1, partner.url)
                until(lambda: delivered() == count)  # noqa: B023
            assert process.is_running()
            assert process.stop() == 0
            assert process.said() == "2 delivered, 0 failed.\n"

    @pytest.mark.server
    def test_logs_its_numbers_and_failures_where_the_host_has_no_handler(self) -> None:
        logging = {"version": 1, "disable_existing_loggers": False}
        with (
            RawPartner(redirecting("/", 404)) as partner,
            manage("deliver_callbacks", "--loop", LOGGING=logging) as process,
        ):
            due(1, partner.url)
            until(lambda: " failed: " in process.said())
            assert process.stop() == 0
            said, key = process.said(), Callback.objects.get().pk
        assert re.search(r"^[-\d]+ [:,\d]+ INFO \d delivered, \d failed\.$", said, re.MULTILINE)
        host = partner.url.split("/")[2]
        assert (
            f" INFO callback {key} to {host} failed: the partner’s server returned an error (HTTP "
            "404), attempt 1 of 10. Tell the partner: “Your server refused the callback."
        ) in said

    @pytest.mark.server
    def test_approves_what_comes_due_meanwhile(self) -> None:
        with RawPartner() as partner, manage("deliver_callbacks", "--loop") as process:
            due(1, partner.url)
            until(lambda: delivered() == 1)
            waits_for(timezone.now() + timedelta(seconds=1), partner)
            until(lambda: delivered() == 2)
            assert process.stop() == 0

    @pytest.mark.server
    def test_approves_while_a_partner_hangs_and_much_waits_for_them(self) -> None:
        patience = {"AFFILIATE_CALLBACK_TIMEOUT": [1, 1]}
        with (
            RawPartner(hanging_after()) as hanging,
            RawPartner() as partner,
            manage("deliver_callbacks", "--loop", **patience) as process,
        ):
            due(400, hanging.url)
            until(lambda: hanging.requests)
            conversion = waits_for(timezone.now(), partner)
            until(lambda: delivered() == 1)
            conversion.refresh_from_db()
            assert conversion.status == Conversion.Status.APPROVED
            assert process.stop() == 0

    def test_ends_though_more_is_to_be_approved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In this process, where the signal comes while it approves."""
        monkeypatch.setattr(decisions, "_BATCH", 2)

        def decided(**kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        conversion_decided.connect(decided)
        try:
            with RawPartner() as partner:
                for _ in range(6):
                    waits_for(timezone.now(), partner)
                call_command("deliver_callbacks", loop=True)
        finally:
            conversion_decided.disconnect(decided)
        approved = Conversion.objects.filter(status=Conversion.Status.APPROVED)
        assert approved.count() == 2

    @pytest.mark.server
    def test_ends_with_ctrl_c(self) -> None:
        with RawPartner() as partner, manage("deliver_callbacks", "--loop") as process:
            due(1, partner.url)
            until(lambda: delivered() == 1)
            assert process.stop(signal.SIGINT) == 0
            assert "Traceback" not in process.said()

    def test_ends_after_as_many_as_the_limit(self, capsys: pytest.CaptureFixture[str]) -> None:
        with RawPartner() as partner:
            due(5, partner.url)
            call_command("deliver_callbacks", loop=True, limit=3)
        assert capsys.readouterr().out == "3 delivered, 0 failed.\n"

    def test_looks_again_until_it_is_told_to_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In this process, where the signal comes while it rests."""
        rests: list[int] = []

        def rest(command: Command, woken: Any) -> None:
            rests.append(1)
            if len(rests) == 1:
                due(1, partner.url)
            else:
                threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
                monkeypatch.setattr(command, "POLL", FOR_EVER)
            real(command, woken)

        real = Command._rest
        monkeypatch.setattr(Command, "_rest", rest)
        with RawPartner() as partner:
            due(1, partner.url)
            began = time.monotonic()
            call_command("deliver_callbacks", loop=True)
        assert delivered() == 2
        assert time.monotonic() - began < HANG


class TestTheOthers:
    @pytest.mark.server
    @pytest.mark.parametrize(("minutes", "code"), [(1, 0), (10, 1)])
    @committed
    def test_check_callbacks_exits_with_1_past_a_limit(self, minutes: int, code: int) -> None:
        CallbackFactory(next_attempt_on=timezone.now() - timedelta(minutes=minutes))
        with manage("check_callbacks") as process:
            assert process.wait() == code
            assert process.said().startswith("Callbacks due: 1 (oldest: ")

    def test_purge_affiliations_counts_on_a_terminal_while_it_works(self) -> None:
        old = timezone.now() - timedelta(days=2 * maintenance.DAYS)
        for _ in range(3):
            CallbackFactory(status=Status.DELIVERED, delivered_on=old)
        terminal = Terminal()
        call_command("purge_affiliations", batch=2, stdout=terminal)
        assert terminal.getvalue() == ("\r2 removed\r3 removed\n3 delivered callbacks removed.\n")

    def test_replace_signing_secret_prints_the_new_secret_alone(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        partner = PartnerFactory()
        call_command("replace_signing_secret", partner.uid)
        partner.refresh_from_db()
        assert capsys.readouterr().out == f"{partner.signing_secret}\n"


def test_a_host_without_a_handler_gets_one_for_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = logging.getLogger("tests.alone")
    alone.propagate = False
    monkeypatch.setattr(deliver_callbacks, "logger", alone)
    command = Command()
    command._log_to_stdout()
    command._log_to_stdout()
    alone.info("Once.")
    assert capsys.readouterr().out.count("INFO Once.") == 1
