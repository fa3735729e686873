"""What arrives and is not counted: each with its reason, in the table, by signal and in the log."""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import DatabaseError
from django.utils import timezone

from affiliations.exceptions import Reason
from affiliations.models import FilteredClicks, Partner, Visitor
from affiliations.signals import click_filtered
from tests.arrivals import commit
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory
from tests.test_races import MANY, at_once

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_middleware")]

AGENT = "Mozilla/5.0 (compatible; ChatGPT-User/1.0; +https://openai.com/bot)"
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"

Heard = list[tuple[Partner | None, Reason]]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Listen to the signal, beside a receiver that fails."""
    told: Heard = []

    def listen(sender: object, partner: Any, reason: Reason, request: Any, **kwargs: Any) -> None:
        assert sender is Partner
        assert "affiliate_id" in request.META["QUERY_STRING"]
        told.append((partner, reason))

    def crash(**kwargs: Any) -> None:
        raise ZeroDivisionError

    click_filtered.connect(crash)
    click_filtered.connect(listen)
    yield told
    click_filtered.disconnect(crash)
    click_filtered.disconnect(listen)


def refuses(request: Any) -> bool:
    """Say that nobody has agreed to anything."""
    return False


def counts() -> dict[tuple[int | None, str], int]:
    """Sum up the rows of each partner and reason."""
    commit()
    summed: Counter[tuple[int | None, str]] = Counter()
    for row in FilteredClicks.objects.all():
        summed[row.partner_id, row.reason] += row.count
    return dict(summed)


def arrive(browser: Browser, reason: Reason, partner: Partner, settings: Any) -> Partner | None:
    """Follow a link as it is not counted for this reason; return whose it is."""
    link, method, headers = partner.link("/page/"), "GET", {}
    if reason is Reason.UNKNOWN_PARTNER:
        link = "/page/?affiliate_id=unknown1"
    elif reason is Reason.PARTNER_INACTIVE:
        partner = PartnerFactory(active=False)
        link = partner.link("/page/")
    elif reason is Reason.HEAD:
        method = "HEAD"
    elif reason is Reason.PREFETCH:
        headers = {"Sec-Purpose": "prefetch"}
    elif reason is Reason.SUBRESOURCE:
        headers = {"Sec-Fetch-Dest": "image"}
    elif reason is Reason.BOT:
        headers = {"User-Agent": GOOGLEBOT}
    elif reason is Reason.AGENT:
        headers = {"User-Agent": AGENT}
    elif reason is Reason.DUPLICATE_CLICK:
        browser.get(link)
    else:
        settings.AFFILIATE_CONSENT = f"{__name__}.refuses"
    browser.request(method, link, headers)
    return None if reason is Reason.UNKNOWN_PARTNER else partner


REASONS = [
    Reason.UNKNOWN_PARTNER,
    Reason.PARTNER_INACTIVE,
    Reason.HEAD,
    Reason.PREFETCH,
    Reason.SUBRESOURCE,
    Reason.BOT,
    Reason.AGENT,
    Reason.DUPLICATE_CLICK,
    Reason.NO_CONSENT,
]


@pytest.mark.parametrize("reason", REASONS)
def test_each_is_counted_told_and_logged_with_its_reason(
    browser, partner, settings, caplog, heard, reason: Reason
) -> None:
    with caplog.at_level(logging.DEBUG, "affiliations"):
        whose = arrive(browser, reason, partner, settings)

    assert counts() == {(whose.pk if whose else None, reason.value): 1}
    assert heard == [(whose, reason)]
    (record,) = (record for record in caplog.records if record.name == "affiliations")
    by = " (by " if reason in (Reason.BOT, Reason.AGENT) else ". "
    assert f" not counted: {reason.label}{by}" in record.getMessage()
    assert record.getMessage().endswith(f". {reason.cure}")
    assert record.reason == reason.value
    assert Visitor.objects.count() == (1 if reason is Reason.DUPLICATE_CLICK else 0)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        *(
            ({"User-Agent": f"Mozilla/5.0 (compatible; {name})"}, Reason.AGENT)
            for name in (
                "ChatGPT-User/1.0; +https://openai.com/bot",
                "Claude-User/1.0; +Claude-User@anthropic.com",
                "Perplexity-User/1.0",
                "PerplexityUser/1.0",
                "MistralAI-User/1.0",
                "Amzn-User",
                "Manus-User/1.0",
                "Google-Agent",
                "GoogleAgent-Mariner",
                "meta-externalfetcher/1.1",
                "AmazonBuyForMe",
                "Novaact/1.0",
                "Amazon-Bedrock-AgentCore-Browser",
            )
        ),
        ({"Signature-Agent": '"https://chatgpt.com"'}, Reason.AGENT),
        ({"User-Agent": "Mozilla/5.0 (compatible; GPTBot/1.0)"}, Reason.BOT),
        ({"User-Agent": "Mozilla/5.0 (compatible; ClaudeBot/1.0)"}, Reason.BOT),
        ({"User-Agent": "Mozilla/5.0 (X11; Userland) Chrome/140.0"}, None),
    ],
)
def test_agents_that_act_for_a_person_have_a_reason_of_their_own(
    browser, partner, settings, headers: dict[str, str | bytes], reason: Reason | None
) -> None:
    browser.request("GET", partner.link("/page/"), headers)
    assert counts() == ({(partner.pk, reason.value): 1} if reason else {})

    settings.AFFILIATE_IGNORE_BOTS = False
    browser.request("GET", partner.link("/page/", click_id="2"), headers)
    assert Visitor.objects.get(click_id="2").source == "link"


@pytest.mark.parametrize("uid", ["", "no+uid+at+all", "%00", "UNKNOWN1"])
def test_what_is_no_uid_is_an_unknown_partner(browser, uid: str) -> None:
    browser.get(f"/?affiliate_id={uid}")

    assert counts() == {(None, "unknown_partner"): 1}


def test_what_came_is_what_is_counted_and_what_is_not(browser, partner, settings) -> None:
    others = PartnerFactory.create_batch(2)
    for number, whose in enumerate([partner, *others]):
        for _ in range(5 + number):
            browser.get(whose.link("/"))
            browser.request("HEAD", whose.link("/"))

    assert Visitor.objects.count() == 3
    assert counts() == {
        (whose.pk, reason): 4 + number + (reason == "head")
        for number, whose in enumerate([partner, *others])
        for reason in ("head", "duplicate_click")
    }


@pytest.mark.django_db(transaction=True)
def test_many_at_the_same_moment_are_all_counted(partner) -> None:
    """Also the first of the day, who make the rows."""
    at_once(*[lambda: FilteredClicks.objects.add(partner, Reason.BOT)] * MANY)
    at_once(*[lambda: FilteredClicks.objects.add(None, Reason.BOT)] * MANY)

    assert counts() == {(partner.pk, "bot"): MANY, (None, "bot"): MANY}
    assert FilteredClicks.objects.count() <= 16


@pytest.mark.django_db(transaction=True)
def test_who_makes_the_row_a_moment_later_counts_in_the_other_s(partner, monkeypatch) -> None:
    """The other's row is made between our two statements."""
    made = FilteredClicks.objects.none().__class__.create

    def slower(queryset: Any, **fields: Any) -> Any:
        monkeypatch.undo()
        at_once(lambda: made(FilteredClicks.objects.all(), **fields))
        return made(queryset, **fields)

    monkeypatch.setattr(FilteredClicks.objects.none().__class__, "create", slower)
    FilteredClicks.objects.add(partner, Reason.HEAD)

    assert counts() == {(partner.pk, "head"): 2}


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_day_is_the_site_s_and_not_the_visitor_s(partner, settings, zone, use_tz) -> None:
    settings.TIME_ZONE = zone
    settings.USE_TZ = use_tz
    with timezone.override("Pacific/Pago_Pago" if "Kiri" in zone else "Pacific/Kiritimati"):
        before = datetime.datetime.now(ZoneInfo(zone)).date()
        FilteredClicks.objects.add(partner, Reason.HEAD)
        after = datetime.datetime.now(ZoneInfo(zone)).date()

    assert before <= FilteredClicks.objects.get().day <= after


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "reason", [Reason.UNKNOWN_PARTNER, Reason.PREFETCH, Reason.BOT, Reason.NO_CONSENT]
)
def test_it_costs_an_update_and_an_insert_beside_the_question_whose_link_it_is(
    browser, partner, settings, monkeypatch, django_assert_num_queries, reason: Reason
) -> None:
    monkeypatch.setattr("random.randrange", lambda slots: 3)
    arrive(browser, reason, partner, settings)

    # What is no uid may be a code.
    with django_assert_num_queries(4 if reason is Reason.UNKNOWN_PARTNER else 3):
        arrive(browser, reason, partner, settings)


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_costs_the_session_the_partner_the_visitor_and_two_writes(
    browser, partner, settings, monkeypatch, django_assert_num_queries
) -> None:
    monkeypatch.setattr("random.randrange", lambda slots: 3)
    arrive(browser, Reason.DUPLICATE_CLICK, partner, settings)

    with django_assert_num_queries(5):
        browser.get(partner.link("/page/"))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("reason", [Reason.BOT, Reason.NO_CONSENT])
def test_a_failure_is_logged_and_never_breaks_the_answer(
    browser, partner, settings, monkeypatch, caplog, reason: Reason
) -> None:
    def broken(*args: Any) -> None:
        raise DatabaseError("no such luck")

    monkeypatch.setattr(FilteredClicks.objects, "add", broken)
    arrive(browser, reason, partner, settings)
    answer = browser.get("/echo/?affiliate_id=unknown1")

    assert (answer.status, answer["Location"]) == (302, b"/echo/")
    assert "no such luck" in caplog.text


def test_counts_stay_when_their_partner_is_deleted(partner) -> None:
    FilteredClicks.objects.add(partner, Reason.HEAD)
    before = counts()
    partner.delete()

    assert counts() == before


def test_a_row_says_what_it_counts(partner) -> None:
    FilteredClicks.objects.add(partner, Reason.HEAD)
    row = FilteredClicks.objects.get()

    assert str(row) == f"{row.day}: 1 head"
