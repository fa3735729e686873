"""
Twenty requests at the same moment, each in a thread with a connection of its own.

Of one browser or of many, in transactions and in autocommit: what is counted is counted once, and
what they earn is the sum of what was counted. tests/test_decision_races.py has the decisions.
"""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from affiliations.models import (
    Callback,
    Conversion,
    FilteredClicks,
    FollowedTestLink,
    Partner,
    Visitor,
)
from affiliations.testing import start_referral
from affiliations.tracking import consent
from affiliations.triggers import complete_trigger
from tests.browsers import FIREFOX
from tests.factories import PartnerFactory, SubscriptionFactory
from tests.servers import serving
from tests.test_races import (
    MANY,
    at_once,
    atomic_requests,
    browsers_of,
    errors,
)
from tests.testapp.models import Newsletter
from tests.urls import urlpatterns as urlpatterns_of_tests

__all__ = ["atomic_requests", "errors"]  # the fixtures

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.urls(__name__),
    pytest.mark.usefixtures("atomic_requests", "errors"),
]

Request = Callable[[], Any]


@csrf_exempt
def complete(request: HttpRequest, trigger: str, reference: str) -> HttpResponse:
    """Complete a trigger behind work of the host's own, for whoever the browser is."""
    Newsletter.objects.create()
    conversion = complete_trigger(
        request, trigger, reference=reference, amount="99.90", currency="EUR"
    )
    return HttpResponse("" if conversion is None else str(conversion.pk))


@csrf_exempt
def decide(request: HttpRequest, answer: str) -> HttpResponse:
    """Hear, behind work of the host's own, whether somebody wants to be remembered."""
    Newsletter.objects.create()
    if answer == "yes":
        consent.register_visitor(request)
    else:
        consent.forget_visitor(request)
    return HttpResponse()


def undecided(request: HttpRequest) -> None:
    """Say that nobody has been asked yet."""


urlpatterns = [
    path("complete/<trigger>/<reference>/", complete),
    path("decide/<answer>/", decide),
    *urlpatterns_of_tests,
]


def deal(**triggers: dict[str, Any]) -> Partner:
    """Make a partner who earns a tenth by each of these triggers."""
    partner = PartnerFactory()
    for trigger, options in triggers.items():
        SubscriptionFactory(
            partner=partner,
            trigger=trigger,
            **{"payout_type": "percent", "payout_value": 10, "call_on_approval": True} | options,
        )
    return partner


def come(partner: Partner) -> Client:
    """Follow a partner's link in a new browser."""
    client = Client()
    start_referral(client, partner)
    return client


def completing(clients: Sequence[Client], paths: Sequence[str]) -> list[str]:
    """Let each client ask for its path, all at once; return the keys of what was counted."""

    def asking(client: Client, path: str) -> Request:
        return lambda: client.post(f"/complete/{path}/")

    responses = at_once(*map(asking, clients, paths))
    assert Counter(response.status_code for response in responses) == {200: MANY}
    assert Newsletter.objects.count() == MANY
    return [response.content.decode() for response in responses if response.content]


def assert_counted(counted: Sequence[str], *expected: tuple[str, str]) -> None:
    """Look for what is expected, told once each way and paid for, and for nothing else."""
    rows = Conversion.objects.order_by("trigger", "reference")
    assert [(row.trigger, row.reference) for row in rows] == sorted(expected)
    assert sorted(counted) == sorted(str(row.pk) for row in rows)
    events = Counter(Callback.objects.values_list("conversion", "event"))
    assert events == {(row.pk, event): 1 for row in rows for event in ("conversion", "approval")}
    assert rows.aggregate(Sum("payout"))["payout__sum"] == Decimal("9.99") * len(expected)


EVERY = {"counting": "every", "closes_referral": False}
ONCE = {"counting": "once", "closes_referral": False}
CLOSING = {"counting": "once", "closes_referral": True}


@pytest.mark.parametrize("options", [EVERY, ONCE, CLOSING, EVERY | {"closes_referral": True}])
def test_the_same_order(options: dict[str, Any]) -> None:
    tabs = browsers_of(come(deal(Order=options)), MANY)
    counted = completing(tabs, ["Order/17"] * MANY)
    assert_counted(counted, ("Order", "17"))


@pytest.mark.parametrize(("options", "number"), [(EVERY, 2), (ONCE, 1), (CLOSING, 1)])
def test_two_orders(options: dict[str, Any], number: int) -> None:
    tabs = browsers_of(come(deal(Order=options)), MANY)
    counted = completing(tabs, ["Order/17", "Order/18"] * (MANY // 2))
    references = ["17", "18"] if number == 2 else [Conversion.objects.get().reference]
    assert_counted(counted, *[("Order", reference) for reference in references])


@pytest.mark.parametrize("options", [EVERY, ONCE])
def test_two_triggers(options: dict[str, Any]) -> None:
    tabs = browsers_of(come(deal(Order=options, Lead=ONCE)), MANY)
    counted = completing(tabs, ["Order/17", "Lead/17"] * (MANY // 2))
    assert_counted(counted, ("Order", "17"), ("Lead", "17"))
    assert Visitor.objects.get().closed_on is None


def test_two_triggers_of_which_one_closes_the_referral() -> None:
    """The other is counted before the closing one, or not at all."""
    tabs = browsers_of(come(deal(Order=CLOSING, Lead=ONCE)), MANY)
    counted = completing(tabs, ["Order/17", "Lead/17"] * (MANY // 2))
    first = [("Lead", "17")] if Conversion.objects.filter(trigger="Lead").exists() else []
    assert_counted(counted, ("Order", "17"), *first)
    if first:
        lead, order = Conversion.objects.order_by("trigger")
        assert lead.pk < order.pk
    assert Visitor.objects.get().closed_on is not None


def test_two_triggers_that_both_close_the_referral() -> None:
    tabs = browsers_of(come(deal(Order=CLOSING, Lead=CLOSING)), MANY)
    counted = completing(tabs, ["Order/17", "Lead/17"] * (MANY // 2))
    winner = Conversion.objects.get()
    assert_counted(counted, (winner.trigger, "17"))
    visitor = Visitor.objects.get()
    assert visitor.closed_on == visitor.successful_on == winner.created_on


@pytest.mark.parametrize("options", [EVERY, ONCE, CLOSING, EVERY | {"closes_referral": True}])
@pytest.mark.parametrize("same_partner", [True, False])
def test_two_visitors_with_one_order(options: dict[str, Any], same_partner: bool) -> None:
    partner = deal(Order=options)
    browsers = [come(partner), come(partner if same_partner else deal(Order=options))]
    tabs = [tab for browser in browsers for tab in browsers_of(browser, MANY // 2)]
    counted = completing(tabs, ["Order/17"] * MANY)
    assert_counted(counted, ("Order", "17"))
    loser = Visitor.objects.exclude(conversions__isnull=False).get()
    assert loser.closed_on is loser.successful_on is None


def test_two_partners_of_whom_one_counts_orders_and_one_visitors() -> None:
    browsers = [come(deal(Order=options)) for options in (EVERY, ONCE)]
    tabs = [tab for browser in browsers for tab in browsers_of(browser, MANY // 2)]
    counted = completing(tabs, ["Order/17"] * MANY)
    assert_counted(counted, ("Order", "17"))


def test_as_many_visitors_with_as_many_orders_that_each_of_them_tells_of() -> None:
    partner = deal(Order=EVERY)
    browsers = [come(partner) for _ in range(MANY)]
    counted = completing(browsers, [f"Order/{number}" for number in range(MANY)])
    assert_counted(counted, *[("Order", str(number)) for number in range(MANY)])
    assert Visitor.objects.exclude(conversions__isnull=False).count() == 0


def test_all_that_arrive_are_counted_or_counted_as_not_counted() -> None:
    """Nobody's click is lost among the others, though many ask to be counted in one row."""
    partner, inactive = PartnerFactory(), PartnerFactory(active=False)
    links = [partner.link("/page/"), inactive.link("/page/"), "/page/?affiliate_id=nobody00"]
    agents = ["Mozilla/5.0", "Googlebot/2.1"]

    def following(number: int) -> Request:
        link, agent = links[number % 3], agents[number % 2]
        return lambda: Client(headers={"user-agent": agent}).get(link)

    responses = at_once(*[following(number) for number in range(MANY)])

    assert Counter(response.status_code for response in responses) == {302: MANY}
    uncounted = Counter()
    for row in FilteredClicks.objects.all():
        uncounted[row.partner_id, row.reason] += row.count
    numbers = range(MANY)
    assert Visitor.objects.filter(partner=partner).count() == len(numbers[::6])
    assert not Visitor.objects.filter(partner=inactive).exists()
    assert sum(uncounted.values()) == MANY - len(numbers[::6])
    by_partner = Counter()
    for (pk, _), count in uncounted.items():
        by_partner[pk] += count
    assert by_partner == {
        partner.pk: len(numbers[3::6]),
        inactive.pk: len(numbers[1::3]),
        None: len(numbers[2::3]),
    }


def uncounted(partner: Partner) -> dict[str, int]:
    """Sum up what was not counted for a partner, by reason."""
    rows = FilteredClicks.objects.filter(partner=partner)
    return dict(rows.values_list("reason").annotate(Sum("count")))


def test_all_who_decide_are_registered_or_counted_as_refusing(settings: Any) -> None:
    """In the host's transaction, and none of them waits there for another."""
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    partner = PartnerFactory()
    browsers = [Client() for _ in range(MANY)]
    for browser in browsers:
        browser.get(partner.link("/page/"))
    assert not Visitor.objects.exists()

    def deciding(number: int) -> Request:
        return lambda: browsers[number].post(f"/decide/{'yes' if number % 2 else 'no'}/")

    responses = at_once(*map(deciding, range(MANY)))

    assert Counter(response.status_code for response in responses) == {200: MANY}
    assert Visitor.objects.filter(partner=partner).count() == MANY // 2
    assert uncounted(partner) == {"no_consent": MANY // 2}


def test_the_same_link_in_many_tabs_of_a_visitor_is_so_many_duplicates() -> None:
    partner = PartnerFactory()
    tabs = browsers_of(come(partner), MANY)

    responses = at_once(*[lambda tab=tab: tab.get(partner.link("/")) for tab in tabs])

    assert Counter(response.status_code for response in responses) == {302: MANY}
    assert Visitor.objects.count() == 1
    assert uncounted(partner) == {"duplicate_click": MANY}


def assert_one_test(partner: Partner, *refused: str) -> None:
    visitor = Visitor.objects.get()
    assert (visitor.partner, visitor.is_test) == (partner, True)
    rows = FollowedTestLink.objects.order_by("reason")
    assert [(row.reason, row.visitor) for row in rows] == [
        ("", visitor),
        *((reason, None) for reason in refused),
    ]


def test_one_test_link_in_many_browsers_is_one_test() -> None:
    partner = PartnerFactory()
    link = partner.test_link("/page/")

    responses = at_once(*[lambda: Client().get(link)] * MANY)

    assert Counter(response.status_code for response in responses) == {302: MANY}
    assert_one_test(partner, "test_used")


def test_one_test_link_of_many_who_agree_is_one_test(settings: Any) -> None:
    """In the host's transaction, which the others wait for."""
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    partner = PartnerFactory()
    link, browsers = partner.test_link("/page/"), [Client() for _ in range(MANY)]
    for browser in browsers:
        browser.get(link)
    assert not Visitor.objects.exists()

    responses = at_once(*[lambda one=one: one.post("/decide/yes/") for one in browsers])

    assert Counter(response.status_code for response in responses) == {200: MANY}
    assert_one_test(partner, "test_used")


def test_one_test_of_a_browser_that_agrees_in_many_tabs(settings: Any) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    partner, browser = PartnerFactory(), Client()
    browser.get(partner.test_link("/page/"))
    tabs = browsers_of(browser, MANY)

    responses = at_once(*[lambda tab=tab: tab.post("/decide/yes/") for tab in tabs])

    assert Counter(response.status_code for response in responses) == {200: MANY}
    assert_one_test(partner)


@pytest.mark.server
@pytest.mark.only_on("postgresql", "mariadb")
def test_one_test_link_in_many_browsers_at_a_server_of_processes_is_one_test() -> None:
    partner = PartnerFactory()
    link = partner.test_link("/page/")

    def follow(port: int) -> tuple[int, bool]:
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        browser.request("GET", link, headers={"User-Agent": FIREFOX})
        response = browser.getresponse()
        browser.close()
        return response.status, "Set-Cookie" in response.headers

    with serving("gunicorn", "--workers", "3", "--threads", "7") as port:
        answers = at_once(*[lambda: follow(port)] * MANY)

    assert Counter(answers) == {(302, True): 1, (302, False): MANY - 1}
    assert_one_test(partner, "test_used")
