"""Many at once: threads with connections of their own, and real servers."""

from __future__ import annotations

import http.client
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection, connections, transaction
from django.test import Client

from affiliations.exceptions import Reason
from affiliations.models import Callback, Conversion, Visitor
from affiliations.testing import start_referral
from affiliations.triggers import complete_trigger
from tests.arrivals import referred
from tests.factories import PartnerFactory, SubscriptionFactory
from tests.servers import serving
from tests.testapp.models import Newsletter, Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

MANY = 20


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Do all jobs at the same moment, each in a thread with a connection of its own."""
    barrier = threading.Barrier(len(jobs), timeout=60)

    def do(job: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait()
            return job()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(do, jobs))


@pytest.fixture(params=[True, False], ids=["in_transactions", "in_autocommit"])
def atomic_requests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    in_transactions: bool = request.param
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", in_transactions)
    return in_transactions


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where anything was logged as an error."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def browsers_of(client: Client, number: int) -> list[Client]:
    """Make more clients with the same cookies, as the tabs of one browser."""
    browsers = [Client() for _ in range(number)]
    for browser in browsers:
        browser.cookies.load({name: morsel.value for name, morsel in client.cookies.items()})
    return browsers


@pytest.mark.usefixtures("atomic_requests", "errors")
def test_many_requests_of_one_visitor_at_once_are_one_conversion_and_one_callback() -> None:
    # D28
    client = Client()
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner)
    visitor = start_referral(client, partner)

    responses = at_once(*[lambda tab=tab: tab.post("/order/") for tab in browsers_of(client, MANY)])

    assert Counter(response.status_code for response in responses) == {200: MANY}
    assert Order.objects.count() == MANY
    assert Conversion.objects.get().visitor == visitor
    assert Callback.objects.count() == 1


@pytest.mark.usefixtures("atomic_requests", "errors")
def test_many_orders_of_one_visitor_at_once_are_each_counted_where_every_order_counts() -> None:
    client = Client()
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner, counting="every", closes_referral=False)
    start_referral(client, partner)

    responses = at_once(*[lambda tab=tab: tab.post("/order/") for tab in browsers_of(client, MANY)])

    assert Counter(response.status_code for response in responses) == {200: MANY}
    orders = {f"testapp.order:{pk}" for pk in Order.objects.values_list("pk", flat=True)}
    assert set(Conversion.objects.values_list("reference", flat=True)) == orders
    assert len(orders) == Conversion.objects.count() == Callback.objects.count() == MANY


def crediting(in_transaction: bool, visitor: Visitor, trigger: str, reference: str) -> Any:
    """Make a job that credits the visitor after work of the host's, as a payment's webhook does."""

    def credit() -> Conversion | None:
        Newsletter.objects.create()
        return complete_trigger(None, trigger, visitor=visitor, reference=reference)

    return transaction.atomic(credit) if in_transaction else credit


@pytest.mark.usefixtures("errors")
@pytest.mark.parametrize("counting", ["once", "every"])
def test_two_visitors_with_one_reference_are_one_conversion(
    atomic_requests: bool, counting: str
) -> None:
    visitors = [referred(counting=counting) for _ in range(2)]
    found = at_once(
        *[
            crediting(atomic_requests, visitor, "Order placed", "17")
            for visitor in visitors * (MANY // 2)
        ]
    )
    [conversion] = [conversion for conversion in found if conversion is not None]
    assert conversion == Conversion.objects.get()
    [loser] = [visitor for visitor in visitors if visitor != conversion.visitor]
    loser.refresh_from_db()
    assert loser.closed_on is loser.successful_on is None
    assert Callback.objects.count() == 1


@pytest.mark.usefixtures("errors")
def test_two_closing_triggers_at_once_are_one_conversion(atomic_requests: bool) -> None:
    visitor = referred("Order placed")
    SubscriptionFactory(partner=visitor.partner, trigger="User registered")
    found = at_once(
        *[
            crediting(atomic_requests, visitor, trigger, "17")
            for trigger in ["Order placed", "User registered"] * (MANY // 2)
        ]
    )
    [conversion] = [conversion for conversion in found if conversion is not None]
    assert conversion == Conversion.objects.get()
    assert Callback.objects.count() == 1


@pytest.mark.usefixtures("errors")
def test_one_trigger_of_one_visitor_is_counted_once_though_the_referral_stays_open(
    atomic_requests: bool,
) -> None:
    visitor = referred(closes_referral=False)
    found = at_once(
        *[crediting(atomic_requests, visitor, "Order placed", str(n)) for n in range(MANY)]
    )
    [conversion] = [conversion for conversion in found if conversion is not None]
    assert conversion == Conversion.objects.get()
    assert Callback.objects.count() == 1


@pytest.mark.usefixtures("errors")
@pytest.mark.parametrize("counting", ["once", "every"])
@pytest.mark.parametrize("same_visitor", [True, False])
@pytest.mark.parametrize(
    "in_transaction",
    # On SQLite who has read in a transaction can only begin anew when another has written.
    [pytest.param(True, marks=pytest.mark.only_on("postgresql", "mariadb")), False],
)
def test_who_has_read_before_the_others_commit_is_still_refused(
    same_visitor: bool, in_transaction: bool, counting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two conversions of one order, each of which has seen that there is none."""
    caplog.set_level(logging.DEBUG, logger="affiliations")
    first = referred(counting=counting)
    second = first if same_visitor else referred(counting=counting)
    read = threading.Event()

    def tell(execute: Any, sql: str, *arguments: Any) -> Any:
        if sql.startswith("UPDATE"):
            read.set()
        return execute(sql, *arguments)

    def late() -> Conversion | None:
        assert begin.wait(30)
        with connection.execute_wrapper(tell):
            return complete_trigger(None, "Order placed", visitor=second, reference="17")

    def early() -> Conversion | None:
        with transaction.atomic():
            conversion = complete_trigger(None, "Order placed", visitor=first, reference="17")
            begin.set()
            assert read.wait(30)
        return conversion

    begin = threading.Event()
    counted, refused = at_once(early, transaction.atomic(late) if in_transaction else late)

    assert counted == Conversion.objects.get()
    assert refused is None
    assert Callback.objects.count() == 1
    reason = Reason.REFERRAL_CLOSED if same_visitor else Reason.ALREADY_COUNTED
    reasons = [vars(record).get("reason") for record in caplog.records]
    assert reasons.count(reason.value) == 1
    assert set(reasons) <= {reason.value, "", None}
    if not same_visitor:
        second.refresh_from_db()
        assert second.closed_on is second.successful_on is None


@pytest.mark.usefixtures("errors")
def test_many_visitors_of_one_partner_do_not_wait_for_ever(atomic_requests: bool) -> None:
    first = referred(counting="every")
    visitors = [first, *(Visitor(partner=first.partner) for _ in range(MANY - 1))]
    Visitor.objects.bulk_create(visitors[1:])
    visitors = list(Visitor.objects.all())
    found = at_once(
        *[
            crediting(atomic_requests, visitor, "Order placed", str(visitor.pk))
            for visitor in visitors
        ]
    )
    assert None not in found
    assert Conversion.objects.count() == MANY


@pytest.mark.server
@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("atomic", [True, False], ids=["in_transactions", "in_autocommit"])
def test_many_requests_to_processes_and_threads_of_gunicorn_are_one_conversion(
    atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "host_settings.py").write_text(
        f"from tests.settings import *\nDATABASES['default']['ATOMIC_REQUESTS'] = {atomic}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    client = Client()
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner)
    visitor = start_referral(client, partner)
    cookie = f"{django_settings.SESSION_COOKIE_NAME}={client.session.session_key}"

    def order(port: int) -> int:
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        browser.request("POST", "/order/", headers={"Cookie": cookie})
        status = browser.getresponse().status
        browser.close()
        return status

    options = ("--workers", "2", "--threads", "10")
    with serving("gunicorn", *options, settings="host_settings") as port:
        assert order(port) is not None
        statuses = at_once(*[lambda: order(port)] * MANY)

    assert Counter(statuses) == {200: MANY}
    assert Order.objects.count() == MANY + 1
    assert Conversion.objects.get().visitor == visitor
    assert Callback.objects.count() == 1
