"""Who may send which callbacks, and when: on a real database, with real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.callbacks import claims, suspension
from affiliations.callbacks.slots import Slots
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription
from tests.claiming import claim
from tests.factories import CallbackFactory, PartnerFactory, SubscriptionFactory

pytestmark = pytest.mark.django_db

Status = Callback.Status


def due(count: int, subscription: Subscription, **fields: Any) -> list[Callback]:
    """Make callbacks of a subscription that have been due for a second."""
    fields.setdefault("next_attempt_on", timezone.now() - timedelta(seconds=1))
    rows = Callback.objects.bulk_create(
        Callback(
            subscription=subscription,
            partner=subscription.partner,
            url="https://partner.example/cb",
            **fields,
        )
        for _ in range(count)
    )
    webhook_ids = [row.webhook_id for row in rows]
    return list(Callback.objects.filter(webhook_id__in=webhook_ids).order_by("pk"))


def answering(*partners: Partner) -> Slots:
    """Return the slots of a worker whose calls to these partners, or to all, have ended in time."""
    slots = Slots()
    subscriptions = Subscription.objects.filter(partner__in=partners or Partner.objects.all())
    for subscription in subscriptions.select_related("partner"):
        callback = Callback(subscription=subscription, partner=subscription.partner)
        call = slots.add(callback, 0)
        slots.note(call, "")
        slots.remove(call)
    return slots


class TestAClaim:
    def test_makes_a_callback_ones_own_until_the_lease_ends(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_LEASE = 50
        CallbackFactory()
        before = timezone.now()
        (claimed,) = claim()
        lease = timedelta(seconds=50)
        assert before + lease <= claimed.next_attempt_on <= timezone.now() + lease
        assert claimed.lease_token
        assert claim() == []

    def test_counts_as_an_attempt_from_the_beginning(self) -> None:
        CallbackFactory(attempt_count=3)
        (claimed,) = claim()
        assert claimed.attempt_count == 4
        assert Callback.objects.get().attempt_count == 4

    def test_can_be_made_again_when_the_lease_of_a_dead_worker_has_ended(self) -> None:
        CallbackFactory()
        (first,) = claim()
        Callback.objects.update(next_attempt_on=timezone.now())
        (second,) = claim()
        assert second.pk == first.pk
        assert second.lease_token != first.lease_token

    def test_reads_no_conversions(self) -> None:
        CallbackFactory(conversion__is_test=True)
        with CaptureQueriesContext(connection) as queries:
            (claimed,) = claim()
            assert claimed.is_test
        assert not [query for query in queries if "affiliations_conversion" in query["sql"]]

    def test_takes_no_more_than_there_are_free_places(self) -> None:
        due(9, SubscriptionFactory())
        slots = answering()
        assert [len(claims.claim(4, slots)) for _ in range(4)] == [4, 4, 1, 0]

    def test_takes_what_has_been_due_longest_first(self) -> None:
        now = timezone.now()
        for age in [5, 50, 20, 1, 30]:
            CallbackFactory(url=f"/{age}", next_attempt_on=now - timedelta(seconds=age))
        assert [claim(1)[0].url for _ in range(5)] == ["/50", "/30", "/20", "/5", "/1"]

    @pytest.mark.parametrize("status", [status for status in Status if status != Status.QUEUED])
    def test_leaves_what_is_not_to_be_sent(self, status: str) -> None:
        CallbackFactory(status=status)
        assert claim() == []

    def test_leaves_what_is_not_due_yet(self) -> None:
        CallbackFactory(next_attempt_on=timezone.now() + timedelta(minutes=1))
        assert claim() == []

    def test_of_certain_callbacks_takes_no_others(self) -> None:
        wanted, _ = CallbackFactory(), CallbackFactory()
        assert claim(100, [wanted.pk]) == [wanted]

    def test_brings_all_that_is_needed_to_send(self, django_assert_num_queries: Any) -> None:
        CallbackFactory()
        (claimed,) = claim()
        with django_assert_num_queries(0):
            assert claimed.partner.signing_secret
            assert claimed.subscription.trigger

    def test_leaves_no_transaction_open(self, transactional_db: None) -> None:
        CallbackFactory()
        claim()
        assert not connection.in_atomic_block

    def test_costs_the_same_however_many_are_due(self) -> None:
        counts = []
        for _ in range(2):
            for subscription in SubscriptionFactory.create_batch(8):
                due(20, subscription)
            with CaptureQueriesContext(connection) as queries:
                assert len(claims.claim(16, answering())) == 16
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 9


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("locked", [1, 30])
def test_what_somebody_locks_for_long_is_left_and_nobody_waits_for_it(
    locked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_MAX_LOCKED", 10)
    subscription = SubscriptionFactory()
    rows = due(locked, subscription)
    picks: list[object] = []
    pick = claims._pick

    def counted(*args: Any) -> list[int]:
        picks.append(None)
        return pick(*args)

    monkeypatch.setattr(claims, "_pick", counted)

    def claim_beside() -> list[Callback]:
        try:
            return claims.claim(10, Slots())
        finally:
            connection.close()

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        keys = [row.pk for row in rows]
        Callback.objects.filter(pk__in=keys).update(reason="a slow transaction of the host's")
        assert pool.submit(claim_beside).result(timeout=30) == []
    assert len(picks) <= 12


class TestEndpoints:
    """One callback of each before the second of any, however many wait."""

    def test_take_turns(self) -> None:
        crowd, few = SubscriptionFactory.create_batch(2)
        due(30, crowd, next_attempt_on=timezone.now() - timedelta(hours=1))
        due(2, few)
        claimed = claims.claim(100, answering())
        assert [row.subscription for row in claimed] == [crowd, few, crowd, few, crowd, crowd]

    def test_come_longest_due_first_where_none_had_a_turn(self) -> None:
        now = timezone.now()
        for age in [5, 50, 20, 1, 30]:
            CallbackFactory(url=f"/{age}", next_attempt_on=now - timedelta(seconds=age))
        assert [row.url for row in claims.claim(3, Slots())] == ["/50", "/30", "/20"]

    def test_are_found_behind_any_number_of_callbacks_of_others(self) -> None:
        for _ in range(5):
            due(80, SubscriptionFactory(), next_attempt_on=timezone.now() - timedelta(hours=1))
        behind = CallbackFactory()
        assert behind in claims.claim(16, answering())

    def test_of_one_partner_share_its_slots(self, partner: Partner) -> None:
        for _ in range(3):
            due(3, SubscriptionFactory(partner=partner))
        assert len(claims.claim(100, answering())) == 4

    def test_share_them_among_certain_callbacks_too(self) -> None:
        rows = due(9, SubscriptionFactory()) + due(1, SubscriptionFactory())
        claimed = claims.claim(100, answering(), [row.pk for row in rows])
        assert len(claimed) == 5
        assert rows[-1] in claimed

    def test_that_are_suspended_or_paused_cost_nothing_however_much_waits(
        self, django_assert_num_queries: Any
    ) -> None:
        later = timezone.now() + timedelta(hours=1)
        for field in ("callbacks_suspended_on", "callbacks_paused_until"):
            due(100, SubscriptionFactory(**{field: later}))
        with django_assert_num_queries(1):
            assert claims.claim(16, Slots()) == []

    def test_that_are_resumed_are_found(self) -> None:
        subscription = SubscriptionFactory(callbacks_suspended_on=timezone.now())
        rows = due(1, subscription)
        suspension.resume(subscription)
        assert claim() == rows


class TestWhatIsClaimedAndNotSent:
    def test_does_not_stand_before_what_can_be_sent(self, subscription: Subscription) -> None:
        """A claim that finds only such rows goes on to the next."""
        due(40, subscription, attempt_count=10)
        other = CallbackFactory(next_attempt_on=timezone.now())
        assert claims.claim(1, Slots()) == [other]
        assert not Callback.objects.filter(attempt_count__gt=10).exists()

    def test_ends_when_it_has_killed_each_worker_that_sent_it(
        self, settings: Any, django_capture_on_commit_callbacks: Callable[..., Any]
    ) -> None:
        settings.AFFILIATE_CALLBACK_RETRY_SCHEDULE = [0, 5, 5]
        callback = CallbackFactory()
        for _ in range(3):
            assert claim() == [callback]
            Callback.objects.update(next_attempt_on=timezone.now())
        assert claim() == []
        callback.refresh_from_db()
        assert (callback.status, callback.attempt_count) == (Status.EXHAUSTED, 3)
        assert not CallbackAttempt.objects.exists()


class TestManyWorkers:
    """Each in a thread of its own, with a connection of its own, at the same moment."""

    WORKERS = 6

    def together(self, work: Callable[[], Any]) -> list[Any]:
        barrier = threading.Barrier(self.WORKERS)

        def run() -> Any:
            try:
                barrier.wait(10)
                return work()
            finally:
                connection.close()

        with ThreadPoolExecutor(self.WORKERS) as pool:
            return [running.result(30) for running in [pool.submit(run) for _ in range(6)]]

    def test_one_row_is_claimed_by_one(self, transactional_db: None) -> None:
        for _ in range(5):
            callback = CallbackFactory()
            assert sorted(len(found) for found in self.together(claim)) == [0, 0, 0, 0, 0, 1]
            callback.refresh_from_db()
            assert callback.attempt_count == 1

    def test_many_rows_are_claimed_once_each(self, transactional_db: None) -> None:
        for partner in PartnerFactory.create_batch(3):
            due(50, SubscriptionFactory(partner=partner))

        def everything() -> list[int]:
            mine: list[int] = []
            while found := claims.claim(7, Slots()):
                mine += [row.pk for row in found]
            return mine

        claimed = [pk for mine in self.together(everything) for pk in mine]
        # What one has looked at and not taken is passed over by another at this moment, no longer.
        claimed += everything()
        assert sorted(claimed) == sorted(Callback.objects.values_list("pk", flat=True))
        assert set(Callback.objects.values_list("attempt_count", flat=True)) == {1}
