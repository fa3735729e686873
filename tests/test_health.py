"""What a host's monitoring is told of the delivery."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from affiliations.callbacks import outbox, results, worker
from affiliations.callbacks.maintenance import Health, health
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.models import Callback, CallbackAttempt, Subscription
from affiliations.placeholders import CLIMBS
from tests.claiming import claim
from tests.factories import CallbackFactory, SubscriptionFactory

pytestmark = pytest.mark.django_db

Status = Callback.Status


def test_the_health_of_one_partner_is_theirs() -> None:
    first = CallbackFactory(status=Status.EXHAUSTED)
    second = CallbackFactory()
    SubscriptionFactory(partner=second.partner, callbacks_suspended_on=timezone.now())
    theirs, others = health(partner=first.partner), health(partner=second.partner)
    assert (theirs.due, theirs.exhausted, theirs.suspended) == (0, 1, 0)
    assert (others.due, others.exhausted, others.suspended) == (1, 0, 1)


def due(minutes: int) -> Callback:
    """Make a callback that has been due for so many minutes."""
    return CallbackFactory(next_attempt_on=timezone.now() - timedelta(minutes=minutes))


def exhausted(days: int) -> None:
    """Make a callback whose last attempt was so many days ago."""
    CallbackFactory(status=Status.EXHAUSTED, next_attempt_on=timezone.now() - timedelta(days=days))


class TestHealth:
    def test_is_all_zero_where_there_is_nothing(self) -> None:
        assert replace(health(), skew=timedelta(0)) == Health(0, timedelta(0), 0, 0, timedelta(0))

    def test_counts_what_is_due_and_how_long_the_oldest_has_been(self) -> None:
        due(5)
        due(10)
        now = health()
        assert now.due == 2
        assert timedelta(minutes=10) <= now.oldest_due < timedelta(minutes=11)

    def test_takes_nothing_that_waits_or_is_being_sent_for_due(self) -> None:
        due(5)
        claim(9)
        due(-5)
        soon = timezone.now() + timedelta(minutes=1)
        CallbackFactory(subscription=SubscriptionFactory(callbacks_suspended_on=soon))
        CallbackFactory(subscription=SubscriptionFactory(callbacks_paused_until=soon))
        assert (health().due, health().oldest_due) == (0, timedelta(0))

    def test_counts_what_waits_for_a_probe_that_nobody_sends(self) -> None:
        ended = timezone.now() - timedelta(minutes=4)
        paused = SubscriptionFactory(callbacks_paused_until=ended)
        CallbackFactory(subscription=paused)
        assert health().due == 0
        Subscription.objects.update(callbacks_paused_until=ended - timedelta(minutes=2))
        assert health().due == 1

    def test_counts_what_would_have_led_to_another_page_of_the_partner(self) -> None:
        CallbackFactory(status=Status.CANCELLED, reason=CLIMBS)
        CallbackFactory(status=Status.CANCELLED, reason=outbox.NO_CLICK_ID)
        assert health().exhausted == 1

    def test_counts_what_has_failed_for_good(self) -> None:
        CallbackFactory(status=Status.EXHAUSTED)
        CallbackFactory(status=Status.DELIVERED)
        assert health().exhausted == 1

    @pytest.mark.parametrize(("ago", "counted"), [(6, 1), (8, 0)])
    def test_forgets_after_a_week_what_has_failed_for_good(self, ago: int, counted: int) -> None:
        exhausted(ago)
        assert health().exhausted == counted

    def test_counts_what_has_failed_for_good_in_so_many_days(self) -> None:
        exhausted(20)
        assert [health(days=days).exhausted for days in (19, 21)] == [0, 1]

    def test_counts_from_the_last_attempt_however_old_the_callback_is(self) -> None:
        long_ago = timezone.now() - timedelta(days=30)
        CallbackFactory(created_on=long_ago, next_attempt_on=long_ago, attempt_count=9)
        (callback,) = claim(9)
        failed = Result(1, error=CallbackAttempt.Error.CONNECT)
        results.record([AttemptResult(callback, timezone.now(), failed)])
        assert health().exhausted == 1

    def test_does_not_count_a_test_callback_that_failed(self) -> None:
        CallbackFactory(status=Status.EXHAUSTED, event=Callback.Event.TEST)
        assert health().exhausted == 0

    def test_does_not_count_a_test_of_the_deal_that_failed(self) -> None:
        CallbackFactory(status=Status.EXHAUSTED, conversion__is_test=True)
        assert health().exhausted == 0

    def test_counts_suspended_subscriptions(self) -> None:
        SubscriptionFactory()
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        assert health().suspended == 1

    def test_costs_three_queries_however_much_there_is(
        self, django_assert_num_queries: Any
    ) -> None:
        for minutes in range(5):
            due(minutes)
        with django_assert_num_queries(3):
            health()


class TestTheCommand:
    def test_says_the_figures_and_that_all_is_well(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        due(1)
        CallbackFactory(status=Status.EXHAUSTED)
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        call_command("check_callbacks")
        said = capsys.readouterr().out
        assert said.startswith("Callbacks due: 1 (oldest: 6")
        assert said.endswith(
            " s), exhausted in the past 7 days: 1. Subscriptions suspended: 1. "
            "Failed triggers waiting: 0, given up: 0.\nClock: 0 s ahead of the database's.\n"
        )

    def test_fails_where_the_oldest_has_been_due_for_more_than_five_minutes(self) -> None:
        due(6)
        with pytest.raises(CommandError) as failure:
            call_command("check_callbacks")
        assert str(failure.value) == "Limits exceeded: age > 300 s."
        assert failure.value.returncode == 1

    def test_takes_another_age(self) -> None:
        due(6)
        call_command("check_callbacks", max_age=600)
        with pytest.raises(CommandError):
            call_command("check_callbacks", max_age=60)

    def test_takes_other_days(self) -> None:
        exhausted(20)
        call_command("check_callbacks", max_exhausted=0)
        with pytest.raises(CommandError):
            call_command("check_callbacks", max_exhausted=0, days=21)

    def test_refuses_no_days(self) -> None:
        with pytest.raises(CommandError, match="--days must be 1 or more"):
            call_command("check_callbacks", days=0)

    def test_fails_past_any_other_limit_and_names_each(self) -> None:
        due(1)
        CallbackFactory(status=Status.EXHAUSTED)
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        call_command("check_callbacks", max_due=1, max_exhausted=1, max_suspended=1)
        with pytest.raises(CommandError) as failure:
            call_command("check_callbacks", max_due=0, max_exhausted=0, max_suspended=0, max_age=1)
        assert str(failure.value) == (
            "Limits exceeded: age > 1 s, due > 0, exhausted > 0, suspended > 0."
        )


class TestFiguresForMachines:
    def test_are_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        due(1)
        exhausted(1)
        call_command("check_callbacks", format="json")
        figures = json.loads(capsys.readouterr().out)
        assert figures["callbacks_due"] == figures["callbacks_exhausted"] == 1
        assert 60 <= figures["callbacks_oldest_due_seconds"] < 90
        assert abs(figures["clock_ahead_seconds"]) < 5

    def test_are_lines_for_prometheus(self, capsys: pytest.CaptureFixture[str]) -> None:
        due(1)
        with pytest.raises(CommandError, match="due > 0"):
            call_command("check_callbacks", format="prometheus", max_due=0)
        lines = capsys.readouterr().out.splitlines()
        for comment, sample in zip(lines[::2], lines[1::2], strict=True):
            name = re.fullmatch(r"# TYPE (affiliations_[a-z_]+) gauge", comment)[1]  # type: ignore[index]
            assert re.fullmatch(rf"{name} -?\d+(\.\d+)?", sample)
        assert "affiliations_callbacks_due 1" in lines


def test_a_log_record_of_a_failure_says_whose_it_is(
    caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    caplog.set_level(logging.INFO, "affiliations")
    callback = CallbackFactory(url="http://127.0.0.1/")
    worker.deliver([callback.pk])
    record = next(record for record in caplog.records if "failed" in record.message)
    assert vars(record).items() >= {
        ("partner", callback.partner_id),
        ("conversion", callback.conversion_id),
        ("callback", callback.pk),
        ("reason", CallbackAttempt.Error.BLOCKED_ADDRESS),
    }
