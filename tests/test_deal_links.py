"""
Trying a deal: the signed link, and what comes through it.

Each is asked under WSGI and under ASGI.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.signing import TimestampSigner
from django.http import HttpRequest
from django.utils import timezone

from affiliations import db, links
from affiliations.models import (
    Callback,
    Conversion,
    FilteredClicks,
    FollowedTestLink,
    Partner,
    Visitor,
)
from affiliations.tracking import consent, visitors
from affiliations.triggers import complete_trigger
from tests.arrivals import commit, request_of
from tests.browsers import FIREFOX, HANDLERS, Browser
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_visitors")]

HOUR = 60 * 60
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36"


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
    return list(FilteredClicks.objects.values_list("partner", "reason"))


def followed() -> list[tuple[str, str, int | None]]:
    """Return the reason, the browser and the visitor of each link that was followed."""
    commit()
    rows = FollowedTestLink.objects.order_by("followed_on", "pk")
    return list(rows.values_list("reason", "browser", "visitor"))


def another(browser: Browser) -> Browser:
    return type(browser)(headers={"User-Agent": CHROME})


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


def test_each_link_is_a_new_test_however_soon(browser, partner) -> None:
    for number in (1, 2):
        browser.get(partner.test_link("/"))
        assert Visitor.objects.count() == number

    assert whose(browser) == str(Visitor.objects.latest("pk").pk)
    assert uncounted() == []


def test_the_same_browser_that_follows_it_again_is_the_same_test(browser, partner) -> None:
    link = partner.test_link("/page/")
    for _ in range(3):
        answer = browser.get(link)
        assert (answer.status, answer["Location"]) == (302, b"/page/")

    visitor = Visitor.objects.get()
    assert whose(browser) == str(visitor.pk)
    assert followed() == [("", "Firefox", visitor.pk)]


def test_any_other_browser_that_follows_it_is_nobody(browser, partner) -> None:
    link, stranger = partner.test_link("/page/"), another(browser)
    browser.get(link)

    answer = stranger.get(link)

    assert (answer.status, answer["Location"]) == (302, b"/page/")
    assert whose(stranger) == "nobody"
    visitor = Visitor.objects.get()
    assert whose(browser) == str(visitor.pk)
    assert followed() == [("", "Firefox", visitor.pk), ("test_used", "Chrome", None)]
    assert uncounted() == []


def test_a_test_that_has_ended_does_not_begin_again(browser, partner) -> None:
    link = partner.test_link("/")
    browser.get(link)
    Visitor.objects.update(closed_on=timezone.now())

    browser.get(link)

    assert whose(browser) == "nobody"
    assert [reason for reason, _, _ in followed()] == ["", "test_used"]


def test_however_often_it_is_followed_there_are_few_rows(browser, partner) -> None:
    link = partner.test_link("/")
    for _ in range(2):
        for agent in (CHROME, FIREFOX, "curl/8.5.0"):
            type(browser)(headers={"User-Agent": agent}).get(link)

    assert sorted(row[:2] for row in followed()) == [
        ("", "Chrome"),
        ("bot", ""),
        ("test_used", "Firefox"),
    ]


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_test_never_takes_the_place_of_a_real_click(
    browser, partner, settings, model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    competitor = PartnerFactory()
    browser.get(competitor.link("/"))

    answer = browser.get(partner.test_link("/page/"))

    assert (answer.status, answer["Location"]) == (302, b"/page/")
    visitor = Visitor.objects.get()
    assert whose(browser) == str(visitor.pk)
    assert followed() == [("open_referral", "Firefox", visitor.pk)]
    assert uncounted() == []


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_real_click_takes_the_place_of_a_test(browser, partner, settings, model: str) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    other = PartnerFactory()

    for link in (partner.test_link("/"), other.test_link("/"), partner.link("/")):
        browser.get(link)
        assert whose(browser) == str(Visitor.objects.latest("pk").pk)

    assert [visitor.is_test for visitor in Visitor.objects.order_by("pk")] == [1, 1, 0]


def test_a_link_that_met_a_real_click_is_not_used_up(browser, partner) -> None:
    browser.get(PartnerFactory().link("/"))
    link, private_window = partner.test_link("/"), another(browser)
    browser.get(link)

    private_window.get(link)

    assert whose(private_window) == str(Visitor.objects.get(is_test=True).pk)


@pytest.mark.parametrize("model", ["last_click", "first_click"])
class TestOfAUserOnAnotherDevice:
    @pytest.fixture(autouse=True)
    def buyer(self, settings, model: str, db: None) -> None:
        settings.AFFILIATE_ATTRIBUTE_BY_USER = True
        settings.AFFILIATE_ATTRIBUTION_MODEL = model
        self.user = UserFactory()
        self.real = VisitorFactory(user=self.user)
        SubscriptionFactory(partner=self.real.partner)

    def follow(self, request: HttpRequest, partner: Partner) -> Visitor | None:
        SubscriptionFactory(partner=partner)
        request.META |= {"HTTP_HOST": "shop.example", "HTTP_USER_AGENT": FIREFOX}
        return consent.register_visitor(request, partner.test_link("/"))

    def test_a_real_click_keeps_its_place(self, partner) -> None:
        request = request_of(None, self.user)

        assert self.follow(request, partner) == self.real

        assert followed() == [("open_referral", "Firefox", self.real.pk)]
        conversion = complete_trigger(request, "Order placed", reference="17")
        assert conversion.visitor == self.real

    def test_a_real_click_is_credited_though_a_test_was_there_before_the_login(
        self, partner
    ) -> None:
        request = request_of(None)
        test = self.follow(request, partner)
        assert test.is_test
        request.user = self.user
        visitors.link_user(None, self.user, request)

        conversion = complete_trigger(request, "Order placed", reference="17")

        assert conversion.visitor == self.real

    def test_a_test_is_one_where_the_real_click_has_ended(self, partner) -> None:
        Visitor.objects.update(closed_on=timezone.now())
        request = request_of(None, self.user)
        test = self.follow(request, partner)

        assert complete_trigger(request, "Order placed", reference="17").visitor == test


def test_the_partners_own_link_after_a_test_is_no_duplicate(browser, partner) -> None:
    browser.get(partner.test_link("/"))
    browser.get(partner.link("/"))

    assert [visitor.is_test for visitor in Visitor.objects.order_by("pk")] == [True, False]
    assert uncounted() == []


@pytest.mark.parametrize(("age", "is_followed"), [(HOUR - 60, True), (HOUR + 60, False)])
def test_it_can_be_followed_for_an_hour(browser, partner, monkeypatch, age, is_followed) -> None:
    link = signed_before(age, lambda: partner.test_link("/page/"), monkeypatch)

    answer = browser.get(link)

    assert (answer.status, answer["Location"]) == (302, b"/page/")
    assert Visitor.objects.exists() == is_followed
    assert [reason for reason, _, _ in followed()] == ["" if is_followed else "test_expired"]
    assert uncounted() == []


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
    ("active", "method", "headers", "reason", "name"),
    [
        (False, "GET", {}, "partner_inactive", "Firefox"),
        (True, "HEAD", {}, "head", "Firefox"),
        (True, "GET", {"User-Agent": "curl/8.5.0"}, "bot", ""),
        (True, "GET", {"Sec-Purpose": "prefetch"}, "prefetch", "Firefox"),
        (True, "GET", {"Sec-Fetch-Dest": "image"}, "subresource", "Firefox"),
    ],
)
def test_one_that_is_not_counted_is_in_no_number_and_uses_nothing_up(
    browser, active, method, headers, reason, name
) -> None:
    """Such as by the scanner of a mail program, before the reader."""
    partner = PartnerFactory(active=active)
    link = partner.test_link("/")

    browser.request(method, link, headers)

    assert not Visitor.objects.exists()
    assert followed() == [(reason, name, None)]
    assert uncounted() == []
    Partner.objects.update(active=True)
    browser.get(link)
    assert whose(browser) == str(Visitor.objects.get().pk)


def test_one_of_a_partner_who_is_gone_is_nobodys(browser, partner) -> None:
    link = partner.test_link("/")
    partner.delete()

    assert browser.get(link).status == 302

    assert (followed(), uncounted()) == ([], [])


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox"),
        (CHROME, "Chrome"),
        (f"{CHROME} Edg/142.0", "Edge"),
        (f"{CHROME} OPR/120.0", "Opera"),
        ("Mozilla/5.0 (iPhone) AppleWebKit/605.1.15 CriOS/142.0 Safari/604.1", "Chrome"),
        ("Mozilla/5.0 (iPhone) AppleWebKit/605.1.15 Version/18.0 Safari/604.1", "Safari"),
        ("Lynx/2.9", ""),
    ],
)
def test_staff_see_which_browser_it_was(browser, partner, agent: str, name: str) -> None:
    browser.get(partner.test_link("/"), User_Agent=agent)

    assert followed() == [("", name, Visitor.objects.get().pk)]


# Consent


def undecided(request: HttpRequest) -> bool | None:
    """Tell what the header says, which stands for a banner of the host."""
    return {"yes": True, "no": False}.get(request.headers.get("X-Consent", ""))


class TestWithConsent:
    @pytest.fixture(autouse=True)
    def asks(self, settings) -> None:
        settings.AFFILIATE_CONSENT = f"{__name__}.undecided"

    def agree(self, browser: Browser) -> None:
        """Follow something else, which registers what waits."""
        browser.get("/?affiliate_id=unknown", X_Consent="yes")

    def test_a_link_is_not_used_up_while_nobody_has_decided(self, browser, partner) -> None:
        link, second = partner.test_link("/"), another(browser)
        browser.get(link)
        browser.get(link)
        assert (Visitor.objects.count(), followed()) == (0, [])

        second.get(link, X_Consent="yes")

        test = Visitor.objects.get()
        assert whose(second) == str(test.pk)
        browser.get(link, X_Consent="yes")
        assert whose(browser) == "nobody"
        assert followed() == [("", "Chrome", test.pk), ("test_used", "Firefox", None)]

    def test_a_click_within_the_hour_counts_though_the_answer_takes_longer(
        self, browser, partner, monkeypatch
    ) -> None:
        link = partner.test_link("/")
        browser.get(link)
        later = time.time() + 2 * HOUR
        monkeypatch.setattr("django.core.signing.time.time", lambda: later)

        browser.get(PartnerFactory(active=True).test_link("/"), X_Consent="yes")

        assert Visitor.objects.earliest("pk").partner == partner

    def test_who_refuses_is_told_so(self, browser, partner) -> None:
        browser.get(partner.test_link("/"), X_Consent="no")

        assert not Visitor.objects.exists()
        assert followed() == [("no_consent", "Firefox", None)]
        assert uncounted() == []

    @pytest.mark.parametrize("model", ["last_click", "first_click"])
    def test_waiting_tests_leave_the_real_clicks_their_place(
        self, browser, partner, settings, model: str
    ) -> None:
        settings.AFFILIATE_ATTRIBUTION_MODEL = model
        real = PartnerFactory()
        for number in range(7):
            is_real = number == (1 if model == "last_click" else 6)
            browser.get(real.link("/") if is_real else partner.test_link("/"))

        browser.get(partner.test_link("/"), X_Consent="yes")

        assert whose(browser) == str(Visitor.objects.get(is_test=False).pk)

    def test_the_page_may_state_the_link(self, partner, monkeypatch) -> None:
        link, old = (
            partner.test_link("/"),
            signed_before(2 * HOUR, partner.test_link, monkeypatch),
        )
        first, second = request_of(None), request_of(None)
        for request in (first, second):
            request.META |= {"HTTP_HOST": "shop.example", "HTTP_USER_AGENT": FIREFOX}

        assert consent.register_visitor(first, old) is None
        test = consent.register_visitor(first, link)
        assert test.is_test
        assert consent.register_visitor(first, link) == test
        assert consent.register_visitor(second, link) is None

        commit()
        reasons = FollowedTestLink.objects.order_by("pk").values_list("reason", flat=True)
        assert list(reasons) == ["test_expired", "", "test_used"]

    def test_the_same_click_that_is_registered_twice_is_one_test(self, partner) -> None:
        """As by two requests of one browser, each with the session of before."""
        requests = [request_of(None), request_of(None)]
        now = timezone.now() - timedelta(minutes=1)
        for request in requests:
            visitor = visitors.register(request, partner, referred_on=now, test_nonce="1")
            assert visitor == Visitor.objects.get()
            assert visitors.current_visitor(request) == visitor


def meanwhile(module: Any, work: Callable[[], Any], monkeypatch: Any) -> None:
    """Do something right before the next transaction of a module."""
    atomic = module.transaction.atomic

    def late(**options: Any) -> Any:
        monkeypatch.undo()
        work()
        return atomic(**options)

    monkeypatch.setattr(module.transaction, "atomic", late)


def test_two_who_follow_it_at_once_are_one_test(partner, monkeypatch) -> None:
    """The second has looked before the first was there."""
    request = request_of(None)
    meanwhile(
        visitors,
        lambda: Visitor.objects.create(partner=partner, is_test=True, test_nonce="1"),
        monkeypatch,
    )

    assert visitors.register(request, partner, test_nonce="1") is None

    assert Visitor.objects.count() == 1
    assert [reason for reason, _, _ in followed()] == ["test_used"]


def test_two_reasons_at_once_are_one_row(partner, monkeypatch) -> None:
    add = FollowedTestLink.objects.add
    meanwhile(db, lambda: add(partner, "1", "bot", "", None), monkeypatch)

    add(partner, "1", "bot", "Chrome", None)

    assert FollowedTestLink.objects.get().browser == "Chrome"
