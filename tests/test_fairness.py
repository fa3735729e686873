"""Partners who hang, beside one who answers: a worker process with its defaults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from affiliations.models import Callback, Subscription
from tests.counting_partner import CountingPartner, counting_partner
from tests.factories import SubscriptionFactory
from tests.hosts import Process, manage, until
from tests.raw_partner import RawPartner, hanging_after

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.server, pytest.mark.slow]

#: Seconds after which another partner's callback has to have left.
SOON = 5
#: What waits for each partner who hangs.
BACKLOG = 12


def queue(url: str, count: int = 1) -> Subscription:
    """Queue callbacks of a new partner."""
    subscription: Subscription = SubscriptionFactory(callback_url=url + "?v={visitor_id}")
    Callback.objects.bulk_create(
        Callback(subscription=subscription, partner=subscription.partner, url=url)
        for _ in range(count)
    )
    return subscription


@contextmanager
def working() -> Iterator[Process]:
    """Run a worker that is killed at the end: its calls hang."""
    with manage("deliver_callbacks", "--loop") as worker:
        yield worker
        worker.kill()


@contextmanager
def hanging(hosts: int) -> Iterator[list[RawPartner]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RawPartner(hanging_after())) for _ in range(hosts)]


def wait_for(partner: CountingPartner, url: str) -> float:
    """Return how long it takes until a callback that is queued now has left."""
    began = time.monotonic()
    queue(partner.url + url)
    until(lambda: partner.told().get(url))
    return time.monotonic() - began


@pytest.mark.parametrize("hosts", [1, 16])
@pytest.mark.parametrize("hang", [4, 16])
def test_a_callback_leaves_within_five_seconds_while_partners_hang(hang: int, hosts: int) -> None:
    with counting_partner() as honest, hanging(hosts) as servers:
        for number in range(hang):
            queue(f"{servers[number % hosts].url}/{number}", BACKLOG)
        # In the first round, behind all that waits for those who hang.
        queue(honest.url + "/first")
        with working() as worker:
            until(lambda: any(server.requests for server in servers))
            began = time.monotonic()
            until(lambda: honest.told().get("/first"))
            waits = [time.monotonic() - began]
            # And at any moment after it: their calls end after ten seconds.
            while time.monotonic() - began < 16:
                waits.append(wait_for(honest, f"/{len(waits)}"))
                time.sleep(1)
            assert worker.is_running()
    assert max(waits) < SOON, waits


def test_partners_who_begin_to_hang_one_after_the_other_delay_nobody() -> None:
    """Each gets its slots before the next begins."""
    with counting_partner() as honest, hanging(16) as servers, working():
        waits = []
        for number, server in enumerate(servers):
            queue(server.url, BACKLOG)
            time.sleep(0.5)
            waits.append(wait_for(honest, f"/{number}"))
    assert max(waits) < SOON, waits


def test_another_partner_of_the_host_that_hangs_has_its_turn() -> None:
    """The same server answers those and hangs for these."""

    def answer(connection: object) -> None:
        if b"/hang" in server.requests[-1]:
            hanging_after()(connection)  # type: ignore[arg-type]
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]

    with RawPartner(answer) as server:
        for number in range(16):
            queue(f"{server.url}/hang/{number}", BACKLOG)
        honest = queue(server.url + "/honest")
        with working():
            until(lambda: honest.callbacks.filter(status="delivered").exists(), SOON + 5)
