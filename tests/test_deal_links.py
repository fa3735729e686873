"""
Trying a deal: the signed link, and what comes through it.

Each is asked under WSGI and under ASGI.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.signing import TimestampSigner

from affiliations import links
from affiliations.models import Callback, Conversion, Partner, UncountedClicks, Visitor
from tests.arrivals import commit
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory, SubscriptionFactory

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_visitors")]

WEEK = 7 * 24 * 60 * 60


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    caplog.set_level(logging.INFO, "affiliations")
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def signed_before(seconds: float, sign: Callable[[], str], monkeypatch: Any) -> str:
    """Sign something so many seconds ago."""
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("django.core.signing.time.time", lambda: now - seconds)
        return sign()


def whose(browser: Browser) -> str:
    return browser.get(f"{browser.views}whose/").body.decode()


def uncounted() -> list[tuple[int | None, str]]:
    commit()
    return list(UncountedClicks.objects.values_list("partner", "reason"))


def test_who_follows_it_is_a_test_and_all_else_is_as_with_any_link(browser, partner) -> None:
    answer = browser.get(partner.test_link("/page/?a=1", click_id="42", sub1="mail"))

    assert answer.status == 302
    assert answer["Location"] == b"/page/?a=1&click_id=42&sub1=mail"
    visitor = Visitor.objects.get()
    assert visitor.is_test
    assert visitor.partner == partner
    assert (visitor.click_id, visitor.sub1) == ("42", "mail")
    assert visitor.entry_point == "http://shop.example/page/?a=1&click_id=42&sub1=mail"
    assert whose(browser) == str(visitor.pk)


def test_who_follows_the_partners_own_link_is_none(browser, partner) -> None:
    browser.get(partner.link("/"))

    assert not Visitor.objects.get().is_test


def test_it_is_written_with_the_names_of_the_settings(settings) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = ("via", "affiliate_id")
    settings.AFFILIATE_SUB_ID_KEYS = ("campaign",)

    link = Partner(uid="moox6esi").test_link("/?x=1", sub1="spring")

    assert link.startswith("/?x=1&via=moox6esi%3A")
    assert link.endswith("&campaign=spring")
    assert Partner(uid="moox6esi").test_link().startswith("/?via=moox6esi%3A")
    with pytest.raises(TypeError):
        Partner(uid="moox6esi").test_link("/", sub2="lost")


@pytest.mark.django_db(transaction=True)
def test_its_conversion_and_callback_are_tests_and_nothing_goes_out(browser, partner) -> None:
    SubscriptionFactory(partner=partner)
    browser.get(partner.test_link("/"))

    browser.get(f"{browser.views}order/")

    assert Conversion.objects.get().is_test
    assert Callback.objects.get().status == Callback.Status.CANCELLED
    assert whose(browser) == "nobody"


def test_each_is_a_new_test_however_soon(browser, partner) -> None:
    link = partner.test_link("/")
    for number in (1, 2):
        browser.get(link)
        assert Visitor.objects.count() == number

    assert whose(browser) == str(Visitor.objects.latest("pk").pk)
    assert uncounted() == []


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_test_is_in_nobodys_way_and_nobody_in_the_way_of_a_test(
    browser, partner, settings, model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    other = PartnerFactory()

    for link in (partner.link("/"), other.test_link("/"), partner.test_link("/"), other.link("/")):
        browser.get(link)
        assert whose(browser) == str(Visitor.objects.latest("pk").pk)

    assert [visitor.is_test for visitor in Visitor.objects.order_by("pk")] == [0, 1, 1, 0]


def test_the_partners_own_link_after_a_test_is_no_duplicate(browser, partner) -> None:
    browser.get(partner.test_link("/"))
    browser.get(partner.link("/"))

    assert [visitor.is_test for visitor in Visitor.objects.order_by("pk")] == [True, False]
    assert uncounted() == []


@pytest.mark.parametrize(("age", "is_followed"), [(WEEK - 60, True), (WEEK + 60, False)])
def test_it_can_be_followed_for_a_week(browser, partner, monkeypatch, age, is_followed) -> None:
    link = signed_before(age, partner.test_link, monkeypatch)

    assert browser.get(link).status == 302

    assert Visitor.objects.exists() == is_followed
    assert uncounted() == ([] if is_followed else [(None, "unknown_partner")])


@pytest.mark.parametrize("behind", ["", ".", ")", "%20", ",", "%E2%80%9D", "%3E", ":", "/"])
def test_what_a_chat_puts_behind_it_does_not_matter(browser, partner, behind: str) -> None:
    browser.get(f"/?affiliate_id={links.signed_uid(partner.uid)}{behind}")

    assert Visitor.objects.get().is_test


@pytest.mark.parametrize("behind", [":", ":.", "%3A"])
def test_a_colon_behind_the_partners_own_link_makes_no_test(browser, partner, behind: str) -> None:
    browser.get(f"/?affiliate_id={partner.uid}{behind}")

    assert not Visitor.objects.get().is_test


@pytest.mark.parametrize(
    "spoil",
    [
        lambda uid: f"{uid}:1abc2d:x",
        lambda uid: f"{uid}:x",
        lambda uid: f"unknown1{links.signed_uid(uid)[8:]}",
        lambda uid: links.signed_uid(uid)[:-1],
        lambda uid: links.signed_uid(uid).upper(),
        lambda uid: links.signed_uid(uid) + "x",
        lambda uid: "x" + links.signed_uid(uid),
        lambda uid: links.signed_uid(links.signed_uid(uid)),
        lambda uid: TimestampSigner(salt="something else").sign(uid),
        lambda uid: TimestampSigner(salt="affiliations.test", key="another site's").sign(uid),
        lambda uid: links.signed_uid(uid) + "%00",
        lambda uid: links.signed_uid("unknown1"),
        lambda uid: links.signed_uid(uid.upper() + "x"),
        lambda uid: ":" * 60_000,
        lambda uid: "a:b:" + "c" * 60_000,
    ],
)
def test_what_nobody_here_has_signed_is_nobodys(browser, spoil: Callable[[str], str]) -> None:
    partner = PartnerFactory(uid="moox6esi")

    answer = browser.get(f"/?affiliate_id={spoil(partner.uid)}&a=1")

    assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    assert not Visitor.objects.exists()


def test_it_outlives_a_change_of_the_secret_key_for_as_long_as_the_host_wants(
    browser, partner, settings
) -> None:
    link = partner.test_link("/")

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "the next", [settings.SECRET_KEY]
    browser.get(link)
    assert Visitor.objects.count() == 1

    settings.SECRET_KEY_FALLBACKS = []
    browser.get(link)
    assert Visitor.objects.count() == 1


@pytest.mark.parametrize(
    ("active", "method", "headers"),
    [
        (False, "GET", {}),
        (True, "HEAD", {}),
        (True, "GET", {"User-Agent": "curl/8.5.0"}),
        (True, "GET", {"Sec-Purpose": "prefetch"}),
    ],
)
def test_one_that_is_not_counted_is_in_no_number_either(browser, active, method, headers) -> None:
    partner = PartnerFactory(active=active)

    browser.request(method, partner.test_link("/"), headers)

    assert not Visitor.objects.exists()
    assert uncounted() == []
