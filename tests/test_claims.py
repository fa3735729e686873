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

from affiliations.callbacks import claims, results, suspension
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription
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


def claim(limit: int = 100, **options: Any) -> list[Callback]:
    return claims.claim(limit, **{"per_partner": 100, "busy": {}} | options)


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

    def test_takes_no_more_than_there_are_free_places(self) -> None:
        due(9, SubscriptionFactory())
        assert [len(claim(4)) for _ in range(4)] == [4, 4, 1, 0]

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
        assert claim(ids=[wanted.pk]) == [wanted]

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
            due(100, SubscriptionFactory())
            with CaptureQueriesContext(connection) as queries:
                assert len(claim(16)) == 16
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 6


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.django_db(transaction=True)
def test_a_row_that_somebody_holds_for_long_is_left_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = SubscriptionFactory()
    due(30, busy, next_attempt_on=timezone.now() - timedelta(hours=1))
    held = CallbackFactory()
    picks: list[object] = []
    pick = claims._pick

    def counted(*args: Any, **options: Any) -> list[int] | None:
        picks.append(None)
        assert len(picks) < 9, "It never ends."
        return pick(*args, **options)

    monkeypatch.setattr(claims, "_pick", counted)

    def claim_beside() -> list[Callback]:
        try:
            return claim(10, per_partner=4, busy={busy.partner_id: 4})
        finally:
            connection.close()

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        Callback.objects.filter(pk=held.pk).update(reason="a slow transaction of the host's")
        assert pool.submit(claim_beside).result(timeout=30) == []
    assert len(picks) == 1


class TestThePlacesOfAPartner:
    def test_are_limited_so_that_the_others_get_theirs(self) -> None:
        due(30, SubscriptionFactory(), next_attempt_on=timezone.now() - timedelta(hours=1))
        late = [CallbackFactory(), CallbackFactory()]
        claimed = claim(10, per_partner=4)
        assert len(claimed) == 6
        assert [row.pk for row in claimed[-2:]] == [row.pk for row in late]

    def test_are_shared_by_all_of_the_partners_subscriptions(self, partner: Partner) -> None:
        for _ in range(3):
            due(3, SubscriptionFactory(partner=partner))
        assert len(claim(per_partner=4)) == 4

    def test_that_are_in_use_are_not_given_again(self, partner: Partner) -> None:
        due(9, SubscriptionFactory(partner=partner))
        assert len(claim(per_partner=4, busy={partner.pk: 3})) == 1
        assert claim(per_partner=4, busy={partner.pk: 4}) == []

    def test_are_found_behind_any_number_of_callbacks_of_others(self) -> None:
        """However many a hanging partner has in front, the search goes on behind them."""
        for _ in range(5):
            due(80, SubscriptionFactory(), next_attempt_on=timezone.now() - timedelta(hours=1))
        behind = CallbackFactory()
        assert behind in claim(16, per_partner=3)

    def test_are_limited_among_certain_callbacks_too(self) -> None:
        rows = due(9, SubscriptionFactory()) + due(1, SubscriptionFactory())
        claimed = claim(per_partner=4, ids=[row.pk for row in rows])
        assert len(claimed) == 5
        assert rows[-1] in claimed


class TestBehindAPartnerWhoHangs:
    """Far more of theirs is due than is looked at, and longer than anything else."""

    @pytest.fixture
    def hanging(self) -> Partner:
        subscription = SubscriptionFactory()
        due(200, subscription, next_attempt_on=timezone.now() - timedelta(hours=1))
        return subscription.partner

    def test_what_is_due_for_others_is_found(self, hanging: Partner) -> None:
        others = due(2, SubscriptionFactory()) + due(1, SubscriptionFactory())
        claimed = claim(16, per_partner=4, busy={hanging.pk: 4})
        assert sorted(row.pk for row in claimed) == sorted(row.pk for row in others)

    def test_the_others_come_longest_due_first(self, hanging: Partner) -> None:
        now = timezone.now()
        for age in [5, 50, 20, 1, 30]:
            CallbackFactory(url=f"/{age}", next_attempt_on=now - timedelta(seconds=age))
        claimed = [claim(1, busy={hanging.pk: 100})[0].url for _ in range(5)]
        assert claimed == ["/50", "/30", "/20", "/5", "/1"]

    def test_the_others_get_no_more_than_their_share(self, hanging: Partner) -> None:
        """What was taken before the hanging partner's counts, and is not taken again."""
        other = SubscriptionFactory()
        front = due(1, other, next_attempt_on=timezone.now() - timedelta(hours=2))
        due(8, other)
        claimed = claim(16, per_partner=3, busy={hanging.pk: 3})
        assert len({row.pk for row in claimed}) == 3
        assert claimed[0] == front[0]
        assert {row.partner for row in claimed} == {other.partner}

    def test_nothing_is_found_where_nothing_is(self, hanging: Partner) -> None:
        CallbackFactory(next_attempt_on=timezone.now() + timedelta(minutes=1))
        assert claim(16, per_partner=4, busy={hanging.pk: 4}) == []

    def test_a_claim_costs_one_query_more_for_each_place_at_most(self, hanging: Partner) -> None:
        for _ in range(20):
            due(2, SubscriptionFactory())
        for busy, places in [({hanging.pk: 4}, 16), ({}, 12)]:
            with CaptureQueriesContext(connection) as queries:
                assert len(claim(16, per_partner=4, busy=busy)) == 16
            # Two looks, the locks, the update, the rows, the beginning and end of the transaction.
            assert len(queries) <= 7 + places / 2  # two are due for each


class TestWhatIsClaimedAndNotSent:
    def test_is_held_when_its_subscription_is_suspended(self, subscription: Subscription) -> None:
        waiting = due(1, subscription, attempt_count=2)[0]
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        assert claim() == []
        waiting.refresh_from_db()
        assert (waiting.status, waiting.attempt_count, waiting.lease_token) == (Status.HELD, 2, "")

    def test_is_not_held_where_the_subscription_was_resumed_at_this_moment(
        self, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        due(1, subscription)
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        set_aside = results.set_aside

        def resumed_meanwhile(claimed: Any) -> Any:
            suspension.resume(subscription)
            return set_aside(claimed)

        monkeypatch.setattr(results, "set_aside", resumed_meanwhile)
        claim()
        assert Callback.objects.get().status == Status.QUEUED

    def test_does_not_stand_before_what_can_be_sent(self, subscription: Subscription) -> None:
        """A sweep that finds only such rows goes on to the next."""
        due(40, subscription)
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        other = CallbackFactory(next_attempt_on=timezone.now())
        assert claim(4) == [other]

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
            while found := claim(7):
                mine += [row.pk for row in found]
            return mine

        claimed = [pk for mine in self.together(everything) for pk in mine]
        # What one has looked at and not taken is passed over by another at this moment, no longer.
        claimed += everything()
        assert sorted(claimed) == sorted(Callback.objects.values_list("pk", flat=True))
        assert set(Callback.objects.values_list("attempt_count", flat=True)) == {1}

    def test_behind_a_partner_who_hangs_each_row_is_claimed_once(
        self, transactional_db: None
    ) -> None:
        hanging = SubscriptionFactory()
        due(100, hanging, next_attempt_on=timezone.now() - timedelta(hours=1))
        others = [row for _ in range(8) for row in due(10, SubscriptionFactory())]
        busy = {hanging.partner_id: 100}

        def everything() -> list[int]:
            mine: list[int] = []
            while found := claim(7, busy=busy):
                mine += [row.pk for row in found]
            return mine

        claimed = [pk for mine in self.together(everything) for pk in mine] + everything()
        assert sorted(claimed) == [row.pk for row in others]
        assert Callback.objects.filter(attempt_count=1).count() == len(others)
