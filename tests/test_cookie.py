"""
The signed cookie: it keeps the referral over logout and the end of the session.

Each is asked under WSGI and under ASGI.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from http.cookies import Morsel, SimpleCookie
from importlib import import_module

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from affiliations.models import Conversion, Visitor
from affiliations.tracking import consent, visitors
from affiliations.triggers import complete_trigger
from tests.arrivals import remember
from tests.browsers import HANDLERS, Answer, Browser
from tests.factories import PartnerFactory, SubscriptionFactory, VisitorFactory
from tests.test_visitors import OURS, SESSIONS

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_visitors")]

NAME = "referral"
NOW = timezone.now()


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def cookie(settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = NAME


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def set_by(answer: Answer) -> Morsel[str] | None:
    """Return what the answer says of our cookie."""
    for name, value in answer.headers:
        if name.lower() == "set-cookie" and NAME in (jar := SimpleCookie(value.decode())):
            return jar[NAME]
    return None


def whose(browser: Browser) -> str:
    return browser.get(f"{browser.views}whose/").body.decode()


def signed(visitor: Visitor, key: str | None = None, salt: str = "affiliations.visitor") -> str:
    """Return what a browser keeps of a visitor."""
    return signing.Signer(key=key, salt=salt).sign(f"{visitor.pk}:{visitor.fingerprint}")


def test_a_landing_sets_it_as_the_session_s_but_for_as_long_as_the_window(browser, partner) -> None:
    cookie = set_by(browser.get(partner.link("/")))

    assert cookie is not None
    assert cookie["httponly"]
    assert (cookie["samesite"], cookie["path"], cookie["domain"]) == ("Lax", "/", "")
    assert not cookie["secure"]
    assert timedelta(days=30) - timedelta(seconds=int(cookie["max-age"])) < timedelta(minutes=1)


def test_it_is_secure_and_has_domain_and_path_as_the_session_s(browser, partner, settings) -> None:
    settings.SESSION_COOKIE_SECURE = True
    settings.SESSION_COOKIE_DOMAIN = ".shop.example"
    settings.SESSION_COOKIE_PATH = "/shop/"

    cookie = set_by(browser.get(partner.link("/")))

    assert cookie is not None
    assert cookie["secure"]
    assert (cookie["domain"], cookie["path"]) == (".shop.example", "/shop/")


@pytest.mark.parametrize(
    ("general", "own", "lasts"),
    [
        (timedelta(days=7), None, timedelta(days=7)),
        (timedelta(days=7), timedelta(days=90), timedelta(days=90)),
        (None, timedelta(days=1), timedelta(days=1)),
        (None, None, None),
        (timedelta(days=30), timedelta(days=36_500), timedelta(days=400)),
    ],
)
def test_it_lasts_as_long_as_the_partners_window(browser, settings, general, own, lasts) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = general
    partner = PartnerFactory(window=own)

    cookie = set_by(browser.get(partner.link("/")))

    assert cookie is not None
    if lasts is None:
        assert not cookie["max-age"]
        assert not cookie["expires"]
    else:
        assert (
            timedelta(0) <= lasts - timedelta(seconds=int(cookie["max-age"])) < timedelta(minutes=1)
        )


@pytest.mark.parametrize("end", ["expiry", "logout"])
def test_the_visitor_is_known_after_the_end_of_the_session(browser, partner, end: str) -> None:
    browser.get(partner.link("/"))
    if end == "expiry":
        del browser.cookies["sessionid"]
    else:
        browser.get(f"{browser.views}log-out/")
    assert list(browser.cookies) == [NAME]

    answer = browser.get(f"{browser.views}whose/")

    assert answer.body.decode() == str(Visitor.objects.get().pk)
    assert answer["Vary"] == b"Cookie"
    assert "Set-Cookie" not in answer


def test_without_a_session_middleware_the_visitor_is_known_too(browser, partner, settings) -> None:
    settings.MIDDLEWARE = [OURS]
    browser.get(partner.link("/"))

    assert whose(browser) == str(Visitor.objects.get().pk)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", [[SESSIONS, OURS], [OURS]])
def test_an_order_after_the_session_is_credited_and_keeps_it(
    browser, partner, settings, middleware: list[str]
) -> None:
    settings.MIDDLEWARE = middleware
    SubscriptionFactory(partner=partner)
    browser.get(partner.link("/"))
    browser.cookies.pop("sessionid", None)

    answer = browser.get(f"{browser.views}order/")

    assert answer.body == b"nobody"
    assert Conversion.objects.get().visitor == Visitor.objects.get()
    assert set_by(answer) is None
    assert list(browser.cookies) == [NAME]


@pytest.mark.django_db(transaction=True)
def test_a_referral_that_was_closed_elsewhere_counts_as_absent_until_it_is_open_again(
    browser, partner
) -> None:
    browser.get(partner.link("/"))
    del browser.cookies["sessionid"]
    Visitor.objects.update(closed_on=timezone.now())

    assert whose(browser) == "nobody"
    assert list(browser.cookies) == [NAME]

    Visitor.objects.update(closed_on=None)
    assert whose(browser) == str(Visitor.objects.get().pk)


@pytest.mark.parametrize("lapse", ["expired", "inactive"])
def test_a_referral_that_may_count_again_keeps_it(browser, partner, lapse: str) -> None:
    browser.get(partner.link("/"))
    del browser.cookies["sessionid"]
    if lapse == "expired":
        Visitor.objects.update(referred_on=timezone.now() - timedelta(days=31))
        browser.cookies[NAME] = signed(Visitor.objects.get())
    else:
        partner.active = False
        partner.save()

    assert whose(browser) == "nobody"
    assert NAME in browser.cookies


def test_what_was_written_here_is_believed(browser) -> None:
    """Else the next tests would show nothing."""
    visitor = VisitorFactory()
    browser.cookies[NAME] = signed(visitor)

    assert whose(browser) == str(visitor.pk)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda visitor: str(visitor.pk),
        lambda visitor: f"{visitor.pk}:",
        lambda visitor: ":",
        lambda visitor: "",
        lambda visitor: signed(visitor)[:-1],
        lambda visitor: signed(visitor) + "x",
        lambda visitor: signed(visitor)[1:],
        lambda visitor: "1" + signed(visitor),
        lambda visitor: signed(visitor).upper(),
        lambda visitor: signed(visitor, key="another site's"),
        lambda visitor: signed(visitor, salt="another purpose"),
        lambda visitor: signed(visitor) * 100,
        lambda visitor: "x" * 60_000,
        lambda visitor: '"\\377\\000"',
        lambda visitor: "é\udc80".encode(errors="surrogateescape").decode("latin-1"),
    ],
)
def test_what_was_tampered_with_counts_as_absent(browser, spoil) -> None:
    browser.cookies[NAME] = spoil(VisitorFactory())

    answer = browser.get(f"{browser.views}whose/")

    assert (answer.status, answer.body) == (200, b"nobody")


def test_a_visitor_who_was_deleted_counts_as_absent(browser, partner) -> None:
    browser.get(partner.link("/"))
    del browser.cookies["sessionid"]
    Visitor.objects.all().delete()

    assert whose(browser) == "nobody"


def test_it_outlives_a_change_of_the_secret_key_for_as_long_as_the_host_wants(
    browser, partner, settings
) -> None:
    browser.get(partner.link("/"))
    del browser.cookies["sessionid"]
    visitor = str(Visitor.objects.get().pk)

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "the next", [settings.SECRET_KEY]
    assert whose(browser) == visitor

    settings.SECRET_KEY_FALLBACKS = []
    assert whose(browser) == "nobody"


def test_the_session_comes_before_it(browser, partner) -> None:
    browser.get(partner.link("/"))
    browser.cookies[NAME] = signed(VisitorFactory())

    assert whose(browser) == str(Visitor.objects.get(partner=partner).pk)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("since", [{"closed_on": NOW}, {"referred_on": NOW - timedelta(days=60)}])
def test_a_referral_of_the_session_that_is_not_open_hides_no_open_one_of_the_cookie(
    browser, partner, settings, since
) -> None:
    """As where two sites of one domain have a session each, and share the cookie."""
    browser.get(partner.link("/"))
    Visitor.objects.update(**since)
    remember(SessionStore(browser.cookies["sessionid"]), Visitor.objects.get())
    other = SubscriptionFactory(closes_referral=False, counting="every").partner
    there = VisitorFactory(partner=other)
    browser.cookies[NAME] = signed(there)

    assert whose(browser) == str(there.pk)

    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(
        browser.cookies["sessionid"]
    )
    request.COOKIES[NAME] = signed(there)
    conversion = complete_trigger(request, "Order placed", reference="17")
    assert conversion is not None
    assert conversion.visitor == there


@pytest.mark.django_db(transaction=True)
def test_a_closed_referral_of_the_cookie_gives_way_to_whoever_has_just_come() -> None:
    closed = VisitorFactory(closed_on=timezone.now())
    request, response = HttpRequest(), HttpResponse()
    request.COOKIES[NAME] = signed(closed)
    assert visitors.current_visitor(request) is None

    visitor = visitors.register(request, PartnerFactory())
    visitors.leave(request, response)

    assert response.cookies[NAME].value == signed(visitor)


def test_without_sessions_who_has_just_come_is_known_to_the_triggers_of_the_same_request() -> None:
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner)
    for before in ({}, {NAME: signed(VisitorFactory())}):
        request = HttpRequest()
        request.COOKIES.update(before)

        visitor = visitors.register(request, partner)
        conversion = complete_trigger(request, "Order placed", reference=str(visitor.pk))

        assert conversion is not None
        assert conversion.visitor == visitor


def test_without_sessions_who_was_forgotten_is_unknown_in_the_same_request() -> None:
    request = HttpRequest()
    request.COOKIES[NAME] = signed(VisitorFactory())

    consent.forget_visitor(request)

    assert visitors.remembers_no_visitor(request)
    assert visitors.current_visitor(request) is None


def test_the_next_link_takes_over_and_knows_whom_it_displaces(browser, partner) -> None:
    browser.get(partner.link("/"))
    del browser.cookies["sessionid"]
    browser.get(PartnerFactory().link("/"))
    del browser.cookies["sessionid"]

    first, second = Visitor.objects.order_by("pk")
    assert second.previous == first
    assert whose(browser) == str(second.pk)


def test_the_first_link_stays_where_the_first_wins(browser, partner, settings) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = "first_click"
    browser.get(partner.link("/"))
    del browser.cookies["sessionid"]

    answer = browser.get(PartnerFactory().link("/"))

    assert Visitor.objects.count() == 2
    assert set_by(answer) is None
    assert whose(browser) == str(Visitor.objects.earliest("pk").pk)


def test_without_the_setting_there_is_none_and_none_is_read(browser, partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = None
    browser.cookies[NAME] = signed(VisitorFactory())

    answer = browser.get(f"{browser.views}whose/")

    assert answer.body == b"nobody"
    assert set_by(answer) is None
    assert set_by(browser.get(partner.link("/"))) is None


@pytest.mark.parametrize("known", [False, True])
def test_a_page_that_does_not_ask_costs_nothing(
    browser, known: bool, django_assert_num_queries
) -> None:
    """(D19) No query, no look into the cookie, no ``Vary``."""
    if known:
        browser.cookies[NAME] = signed(VisitorFactory())

    with django_assert_num_queries(0):
        answer = browser.get(f"{browser.views}plain/")

    assert answer.body == b"plain"
    assert "Vary" not in answer
    assert "Set-Cookie" not in answer


def test_to_ask_where_there_is_none_costs_no_query_but_the_answer_varies(
    browser, django_assert_num_queries
) -> None:
    with django_assert_num_queries(0):
        answer = browser.get(f"{browser.views}whose/")

    assert answer.body == b"nobody"
    assert answer["Vary"] == b"Cookie"


def test_to_ask_costs_one_query(browser, django_assert_num_queries) -> None:
    browser.cookies[NAME] = signed(VisitorFactory())

    with django_assert_num_queries(1):
        whose(browser)
