"""Decisions at the same moment, and beside those who send: threads, each with its connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models import Count
from django.dispatch import Signal
from django.utils import timezone

from affiliations.callbacks import maintenance, outbox, results, suspension
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.conversions import decisions
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Subscription,
    Visitor,
)
from affiliations.triggers import (
    approve_conversions,
    complete_trigger,
    object_saved,
    reject_conversions,
)
from tests.arrivals import referred
from tests.claiming import claim
from tests.factories import SubscriptionFactory
from tests.test_races import MANY, at_once
from tests.testapp.models import Newsletter

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.usefixtures("errors"),
]

Status = Conversion.Status
Job = Callable[[], Any]

OK = Result(duration_ms=7, status_code=200)
NO = Result(duration_ms=7, error=CallbackAttempt.Error.CONNECT)

order_paid, order_refunded = Signal(), Signal()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Any:
    """Fail where a decision or a sweep was logged as failed."""
    yield
    failed = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in failed] == []


@pytest.fixture(params=[True, False], ids=["in_transactions", "in_autocommit"])
def kept(request: pytest.FixtureRequest) -> Callable[[Job], Job]:
    """Do a job as hosts do, in a transaction or in none."""
    return transaction.atomic if request.param else lambda job: job


def counted(number: int = 1, **subscription: Any) -> list[Conversion]:
    """Count orders of one visitor that somebody is to decide on."""
    options = {"counting": "every", "approval": "manual", "closes_referral": False}
    calls = {"call_on_approval": True, "call_on_rejection": True}
    visitor = referred(**options | calls | subscription)
    found = [
        complete_trigger(None, "Order placed", visitor=visitor, reference=str(n))
        for n in range(number)
    ]
    assert None not in found
    return found


def told(conversion: Conversion) -> dict[str, str]:
    """Return the status of the callback of each event, of which there is one."""
    rows = Callback.objects.filter(conversion=conversion, version=1)
    found = Counter(rows.values_list("event", flat=True))
    assert set(found.values()) <= {1}
    return dict(rows.values_list("event", "status"))


def sending(result: Result) -> Job:
    """Make a job that sends what is due, as a worker does."""

    def send() -> None:
        for callback in claim(10):
            results.record([AttemptResult(callback, timezone.now(), result)])

    return send


@pytest.mark.parametrize("sent", [True, False])
def test_approve_against_reject_is_one_decision(sent: bool, kept: Any) -> None:
    [conversion] = counted()
    if sent:
        sending(OK)()
    statuses = [Status.APPROVED, Status.REJECTED] * (MANY // 2)

    def deciding(status: str) -> Job:
        mine = Conversion.objects.get()
        return kept(lambda: decisions.decide(mine, status))

    decided = at_once(*[deciding(status) for status in statuses])

    [winner] = [status for status, changed in zip(statuses, decided, strict=True) if changed]
    conversion.refresh_from_db()
    assert conversion.status == winner
    if winner == Status.APPROVED:
        assert told(conversion) == {
            "conversion": "delivered" if sent else "queued",
            "approval": "queued",
        }
    elif sent:
        assert told(conversion) == {"conversion": "delivered", "rejection": "queued"}
    else:
        assert told(conversion) == {"conversion": "cancelled"}


def test_a_payment_against_a_refund_ends_with_the_refund(wire: Any, kept: Any) -> None:
    by_key = {"of": "Order placed", "reference": "pk"}
    wire(
        [
            ("Order placed", Signal(), object_saved, None),
            ("Order paid", order_paid, approve_conversions, None, by_key),
            ("Order refunded", order_refunded, reject_conversions, None, by_key),
        ]
    )
    found = counted(MANY // 2)
    sending(OK)()

    def sent(signal: Signal, reference: str) -> Job:
        def send() -> None:
            Newsletter.objects.create()  # the host's own work, which comes first
            signal.send(sender=None, instance=Newsletter(pk=int(reference)))

        return kept(send)

    at_once(
        *[
            sent(signal, conversion.reference)
            for conversion in found
            for signal in (order_paid, order_refunded)
        ]
    )
    for conversion in found:
        conversion.refresh_from_db()
        assert conversion.status == Status.REJECTED
        assert told(conversion)["rejection"] == "queued"


def test_sweeps_at_once_approve_each_once() -> None:
    found = counted(MANY, approval="automatic", approve_after=14)
    later = timezone.now() + timedelta(days=15)
    approved = at_once(*[lambda: decisions.approve_due(later)] * 8)
    assert sum(approved) == MANY
    for conversion in found:
        assert told(conversion) == {"conversion": "queued", "approval": "queued"}


def test_a_decision_beside_who_sends_tells_each_event_once(kept: Any) -> None:
    """Claims, results of both kinds, rendering anew, and decisions about the same callbacks."""
    found = counted(4)
    for twin in range(2):
        SubscriptionFactory(
            partner=found[0].partner,
            callback_url=f"https://twin{twin}.example/?v={{visitor_id}}",
            call_on_approval=True,
            call_on_rejection=True,
        )

    def deciding(pk: int, *statuses: str) -> Job:
        def decide() -> None:
            for status in statuses:
                mine = Conversion.objects.get(pk=pk)
                if status in decisions.TRANSITIONS[mine.status]:
                    kept(lambda: decisions.decide(mine, status))()  # noqa: B023

        return decide

    def again(conversion: Conversion) -> Job:
        first = Callback.objects.filter(conversion=conversion).earliest("pk").pk
        return lambda: outbox.resend_anew(
            Callback.objects.select_related("conversion", "subscription").get(pk=first)
        )

    for _ in range(3):
        at_once(
            *[deciding(one.pk, Status.APPROVED, Status.REJECTED, Status.PENDING) for one in found],
            *[deciding(one.pk, Status.REJECTED, Status.APPROVED) for one in found],
            *[again(one) for one in found],
            *[sending(result) for result in (OK, NO) * 4],
        )
        Callback.objects.update(next_attempt_on=timezone.now())
    assert not (
        Callback.objects.values("conversion", "subscription", "event", "version")
        .annotate(count=Count("pk"))
        .filter(count__gt=1)
        .exists()
    )
    for conversion in found:
        conversion.refresh_from_db()
        waiting = Callback.objects.filter(conversion=conversion, status="queued")
        if conversion.status == Status.REJECTED:
            assert set(waiting.values_list("event", flat=True)) <= {"rejection", "conversion"}
            assert not waiting.filter(event="conversion", version=1).exists()
        else:
            assert not waiting.filter(event="rejection").exists()


@pytest.mark.parametrize("chunk", [suspension._CHUNK, 2])
def test_resume_against_suspend_loses_no_callback(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspension, "_CHUNK", chunk)
    found = counted(MANY)
    subscription = Subscription.objects.get()
    claimed = claim(MANY)
    long_ago = timezone.now() - timedelta(hours=100)
    Subscription.objects.update(failure_count=9, failing_since=long_ago)

    def failing(callback: Callback) -> Job:
        return lambda: results.record([AttemptResult(callback, timezone.now(), NO)])

    def resuming() -> int:
        return suspension.resume(subscription)

    def rejecting(conversion: Conversion) -> Job:
        return lambda: decisions.decide(conversion, Status.REJECTED)

    half = MANY // 2
    at_once(
        *[failing(callback) for callback in claimed[:half]],
        *[resuming] * half,
        *[rejecting(conversion) for conversion in found[-4:]],
    )

    suspension.resume(subscription)
    assert Callback.objects.filter(event="conversion", status="cancelled").count() == 4
    assert Callback.objects.filter(event="conversion", status="queued").count() == MANY - 4


def test_a_partner_is_stopped_beside_decisions_credits_and_who_sends() -> None:
    found = counted(MANY)
    partner = Partner.objects.get()
    visitor = Visitor.objects.get()

    def crediting(reference: str) -> Job:
        return lambda: complete_trigger(None, "Order placed", visitor=visitor, reference=reference)

    def approving(conversion: Conversion) -> Job:
        return lambda: decisions.decide(conversion, Status.APPROVED)

    at_once(
        lambda: decisions.stop_for_fraud(partner, reason="Own orders"),
        *[approving(conversion) for conversion in found[:6]],
        *[crediting(f"late {number}") for number in range(5)],
        *[sending(result) for result in (OK, NO) * 4],
    )
    # What was credited at that moment is found by saying it again.
    decisions.stop_for_fraud(partner, reason="Own orders")
    assert not Partner.objects.get().active
    assert not Conversion.objects.filter(status=Status.PENDING).exists()
    assert not Callback.objects.filter(status="queued").exists()


def test_a_purge_beside_decisions_forgets_nothing_that_was_told(kept: Any) -> None:
    found = counted(MANY)
    for conversion in found:
        decisions.decide(conversion, Status.APPROVED)
    while Callback.objects.filter(status="queued").exists():
        sending(OK)()
    later = timezone.now() + timedelta(days=1)

    def rejecting(conversion: Conversion) -> Job:
        return kept(lambda: decisions.decide(conversion, Status.REJECTED))

    at_once(
        *[lambda: list(maintenance.purge(later, batch=7))] * 3,
        *[rejecting(conversion) for conversion in reversed(found)],
    )

    assert Callback.objects.filter(event="rejection", status="queued").count() == MANY
    sum(maintenance.purge(later))
    assert Callback.objects.count() == MANY
    expected = [f"{event}:{found[0].subscription_id}" for event in ("approval", "conversion")]
    assert list(Conversion.objects.values_list("notified_events", flat=True)) == [expected] * MANY
