"""Hosts whose clocks differ: leases and due times go by the database's clock."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from affiliations import db, dispatchers, retries
from affiliations.callbacks.maintenance import health
from affiliations.conversions import attempts
from affiliations.models import Callback, FailedTrigger
from tests.counting_partner import counting_partner
from tests.factories import CallbackFactory, SubscriptionFactory
from tests.hosts import FOR_EVER, PATIENT, manage, until
from tests.raw_partner import OK, RawPartner

#: Seconds between two hosts.
APART = 300

AHEAD = [pytest.param(APART, id="ahead"), pytest.param(-APART, id="behind")]


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.django_db(transaction=True)
@pytest.mark.server
@pytest.mark.slow
class TestAHostWhoseClockIsFiveMinutes:
    @pytest.mark.parametrize("skew", AHEAD)
    def test_takes_nothing_that_another_is_sending(self, skew: int) -> None:
        may_answer = threading.Event()

        def answer(connection: socket.socket) -> None:
            may_answer.wait(FOR_EVER)
            connection.sendall(OK)

        # Its lease is over by the clock that is ahead.
        patient = PATIENT | {"AFFILIATE_CALLBACK_LEASE": APART - 60}
        with RawPartner(answer) as partner:
            for _ in range(4):
                CallbackFactory(url=partner.url)
            with manage("deliver_callbacks", "--loop", **patient) as right:
                until(lambda: len(partner.requests) == 4)
                wrong = patient | {"AFFILIATIONS_TEST_SKEW": skew}
                with manage("deliver_callbacks", **wrong) as other:
                    assert other.wait() == 0
                    assert "0 delivered, 0 failed." in other.said()
                may_answer.set()
                until(lambda: not Callback.objects.exclude(status="delivered").exists())
                assert right.stop() == 0
            assert len(partner.requests) == 4
        assert set(Callback.objects.values_list("attempt_count", flat=True)) == {1}

    @pytest.mark.parametrize("skew", AHEAD)
    def test_queues_what_others_send_at_once(self, skew: int) -> None:
        with counting_partner() as partner:
            subscription = SubscriptionFactory(callback_url=partner.url + "/?v={visitor_id}")
            script = (
                "from affiliations.models import Visitor\n"
                "from affiliations.triggers import complete_trigger\n"
                f"visitor = Visitor.objects.create(partner_id={subscription.partner_id}, "
                "entry_point='/')\n"
                "assert complete_trigger(None, 'Order placed', visitor=visitor)"
            )
            with manage("shell", "-c", script, AFFILIATIONS_TEST_SKEW=skew) as shell:
                assert shell.wait() == 0
            with manage("deliver_callbacks") as worker:
                assert worker.wait() == 0
            assert len(partner.told()) == 1

    @pytest.mark.parametrize("skew", AHEAD)
    def test_is_told_so(self, skew: int) -> None:
        with manage("check_callbacks", AFFILIATIONS_TEST_SKEW=skew) as check:
            assert check.wait() == 0
            said = check.said()
        seconds = int(said.split("Clock: ")[1].split(" s")[0])
        assert abs(abs(skew) - seconds) <= 5
        assert ("ahead of" if skew > 0 else "behind") in said


@pytest.mark.django_db
class TestTheTime:
    def test_is_that_of_the_database(self) -> None:
        before = timezone.now()
        now = db.now()
        assert abs(now - before) < timedelta(seconds=5)
        assert abs(health().skew) < timedelta(seconds=5)

    @pytest.mark.only_on("postgresql", "mariadb")
    def test_goes_on_whoever_sets_this_hosts_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(db, "_CLOCKS", CLOCKS)
        monkeypatch.setattr(db, "_readings", {})
        right = db.now()
        now = timezone.now()
        monkeypatch.setattr(timezone, "now", lambda: now + timedelta(minutes=5))
        assert abs(db.now() - right) < timedelta(seconds=5)
        assert timedelta(minutes=4) < db.clock_skew() < timedelta(minutes=6)

    @pytest.mark.only_on("postgresql", "mariadb")
    def test_is_that_by_which_a_failed_trigger_is_tried_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(db, "_CLOCKS", CLOCKS)
        monkeypatch.setattr(db, "_readings", {})
        right = timezone.now()
        monkeypatch.setattr(timezone, "now", lambda: right + timedelta(minutes=5))
        failed = FailedTrigger(trigger="Order placed", kind="credit")
        assert attempts._store(failed)
        assert abs(failed.due_on - right) < timedelta(seconds=5)
        monkeypatch.setattr(timezone, "now", lambda: right)
        assert not attempts.retry(failed, lambda: 1 / 0)
        assert abs(failed.due_on - right) < timedelta(seconds=65)

        monkeypatch.setattr(timezone, "now", lambda: right + timedelta(minutes=5))
        assert list(retries.retry_due()) == []
        assert dispatchers._Sender().until_next() > 1

    @pytest.mark.only_on("postgresql", "mariadb")
    def test_is_read_once_a_minute(
        self, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
    ) -> None:
        monkeypatch.setattr(db, "_CLOCKS", CLOCKS)
        monkeypatch.setattr(db, "_readings", {})
        with django_assert_num_queries(1):
            assert db.now() <= db.now()
        (moment, read_at) = db._readings[connection.alias]
        db._readings[connection.alias] = (moment, read_at - 61)
        with django_assert_num_queries(1):
            db.now()

    @pytest.mark.only_on("postgresql", "mariadb")
    def test_is_local_without_use_tz(self, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
        monkeypatch.setattr(db, "_CLOCKS", CLOCKS)
        monkeypatch.setattr(db, "_readings", {})
        db.now()
        settings.USE_TZ = False
        assert abs(db.now() - timezone.now()) < timedelta(seconds=5)

    def test_apart_is_said_by_the_check(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for seconds, said in ((120.4, "Clock: 120 s ahead"), (-9, "Clock: 9 s behind")):
            monkeypatch.setattr(db, "clock_skew", lambda: timedelta(seconds=seconds))  # noqa: B023
            call_command("check_callbacks")
            assert said in capsys.readouterr().out


#: What the other tests leave out, see conftest.py.
CLOCKS = db._CLOCKS.copy()
