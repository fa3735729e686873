"""
Referrals that code states, by ``refer()`` and ``arefer()``.

Each that has a request is asked under WSGI and under ASGI.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import include, path
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.views.decorators.csrf import csrf_exempt
from hypothesis import given
from hypothesis import strategies as st

from affiliations.exceptions import Reason
from affiliations.links import signed_uid
from affiliations.models import (
    Conversion,
    FilteredClicks,
    FollowedTestLink,
    Partner,
    RecentFilteredClick,
    Visitor,
)
from affiliations.signals import click_filtered, visitor_registered
from affiliations.tracking import arefer, refer
from affiliations.triggers import complete_trigger
from tests.arrivals import KEY, Wrapped, commit, held
from tests.browsers import FIREFOX, HANDLERS, Browser
from tests.factories import (
    PartnerCodeFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_consent import WAITING, aagree, agree
from tests.test_deal_links import signed_before
from tests.test_visitors import awhose, request_with, whose
from tests.testapp.models import Order

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

NOW = timezone.now()


class RolledBackError(Exception):
    """What a view raises to end its transaction."""


def stated(request: HttpRequest) -> dict[str, Any]:
    """Return the arguments that a test has sent, with a user for a key."""
    arguments: dict[str, Any] = json.loads(request.body)
    if "user" in arguments:
        arguments["user"] = get_user_model().objects.get(pk=arguments["user"])
    return arguments


@csrf_exempt
def referred(request: HttpRequest) -> HttpResponse:
    visitor = refer(request=request, **stated(request))
    if "order" in request.GET:
        Order.objects.create(note="in the same request")
    if "fail" in request.GET:
        transaction.set_rollback(True)
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


@csrf_exempt
async def areferred(request: HttpRequest) -> HttpResponse:
    arguments = json.loads(request.body)
    if "user" in arguments:
        arguments["user"] = await get_user_model().objects.aget(pk=arguments["user"])
    visitor = await arefer(request=request, **arguments)
    if "order" in request.GET:
        await Order.objects.acreate(note="in the same request")
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


@csrf_exempt
def order(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Order.objects.create().pk))


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


async def aplain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


staff_pages: Any = ([path("refer/", referred), path("arefer/", areferred)], "desk")

urlpatterns = [
    path("desk/", include(staff_pages)),
    path("page/", plain),
    path("refer/", referred),
    path("whose/", whose),
    path("order/", order),
    path("agree/", agree),
    path(
        "async/",
        include(
            [
                path("page/", aplain),
                path("refer/", areferred),
                path("whose/", awhose),
                path("order/", order),
                path("agree/", aagree),
            ]
        ),
    ),
]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(params=["refer", "arefer"])
def state(request: pytest.FixtureRequest) -> Callable[..., Visitor | None]:
    """Return the function, called from synchronous code."""
    return refer if request.param == "refer" else async_to_sync(arefer)


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Fail every test in which something of ours went wrong and was only logged."""
    caplog.set_level(logging.INFO, "affiliations")
    yield caplog
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def send(browser: Browser, where: str = "refer/", **arguments: object) -> str:
    """Let the browser call the view, as a page of another site would, if browsers did not tell."""
    headers = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
    headers |= {"Sec-Fetch-Dest": "empty", "Referer": "http://shop.example/"}
    body = json.dumps(arguments).encode()
    where = where if where.startswith("/") else browser.views + where
    answer = browser.request("POST", where, headers, body)
    assert answer.status == 200
    return answer.body.decode()


def now_is(browser: Browser) -> str:
    return browser.get(f"{browser.views}whose/").body.decode()


def log_in(browser: Browser, user: Any) -> None:
    client = Client()
    client.force_login(user)
    browser.cookies["sessionid"] = client.cookies["sessionid"].value


def filtered() -> dict[str, int]:
    commit()
    counts: dict[str, int] = {}
    for row in FilteredClicks.objects.all():
        counts[row.reason] = counts.get(row.reason, 0) + row.count
    return counts


# Who is registered.


@pytest.mark.parametrize("kind", ["partner", "uid", "bytes"])
def test_a_partner_or_a_uid_makes_a_visitor_of_our_own_code(state, partner, kind: str) -> None:
    given = {"partner": partner, "uid": partner.uid, "bytes": partner.uid.encode()}[kind]
    before = timezone.now()

    visitor = state(given)

    assert visitor == Visitor.objects.get()
    assert (visitor.partner, visitor.user, visitor.source) == (partner, None, "api")
    assert before <= visitor.referred_on <= timezone.now()
    assert (visitor.is_test, visitor.is_internal, visitor.test_nonce) == (False, False, None)
    assert (visitor.entry_point, visitor.referrer, visitor.click_id) == ("", "", "")
    assert filtered() == {}


def test_all_that_is_stated_is_kept(state, partner) -> None:
    user = UserFactory()
    subs = {f"sub{number}": f"label {number}" for number in range(1, 6)}

    visitor = state(
        partner,
        user=user,
        click_id="42",
        **subs,
        referrer="https://user:pw@chat.example/share/1?q=tea#part",
        entry_point="https://shop.example/teas/?a=1",
    )

    visitor = Visitor.objects.get(pk=visitor.pk)
    assert visitor.user == user
    assert (visitor.click_id, visitor.lost_click_id) == ("42", "")
    assert {name: getattr(visitor, name) for name in subs} == subs
    assert visitor.referrer == "https://chat.example/share/1"
    assert visitor.entry_point == "https://shop.example/teas/?a=1"


@pytest.mark.parametrize("given", ["SteepNotes", " steepnotes ", "STEEPNOTES."])
def test_a_code_makes_a_visitor_too(browser, partner, given: str) -> None:
    PartnerCodeFactory(partner=partner, code="SteepNotes")

    said = send(browser, partner_or_code=given, click_id="42")

    visitor = Visitor.objects.get()
    assert said == now_is(browser) == str(visitor.pk)
    assert (visitor.partner, visitor.source, visitor.click_id) == (partner, "api", "42")
    assert send(browser, partner_or_code=partner.uid, click_id="42") == said


def test_a_code_that_is_inactive_or_of_an_inactive_partner_refers_nobody(state) -> None:
    PartnerCodeFactory(code="over", active=False)
    PartnerCodeFactory(code="asleep", partner=PartnerFactory(active=False))

    assert state("over") is state("asleep") is None
    assert filtered() == {"unknown_partner": 1, "partner_inactive": 1}


def test_a_referral_after_an_order_with_a_code_is_a_click_of_its_own(partner) -> None:
    by_code = VisitorFactory(partner=partner, user=UserFactory(), source="code")

    visitor = refer(partner, user=by_code.user)

    assert (visitor.source, visitor.previous) == ("api", by_code)
    assert filtered() == {}


@pytest.mark.parametrize("given", ["", b"", None])
def test_a_blank_code_costs_nothing(state, given, django_assert_num_queries) -> None:
    with django_assert_num_queries(0):
        assert state(given) is None
    assert filtered() == {}


@pytest.mark.parametrize(
    "given",
    ["unknown1", "\0", "\ud800", "é", b"\xff", "x" * 10_000_000, 42, 10**5000, True, 1.5, ["a"]],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_partners_is_filtered_as_a_link_would_be(state, given) -> None:
    assert state(given) is None

    assert filtered() == {"unknown_partner": 1}
    assert len(RecentFilteredClick.objects.get().uid) <= 100
    assert not Visitor.objects.exists()


@pytest.mark.parametrize("by_uid", [True, False])
def test_an_inactive_partner_is_referred_nobody(state, by_uid: bool) -> None:
    partner = PartnerFactory(active=False)

    assert state(partner.uid if by_uid else partner) is None

    assert filtered() == {"partner_inactive": 1}
    recent = RecentFilteredClick.objects.get()
    assert (recent.partner, recent.uid, recent.browser) == (partner, partner.uid, "")


@pytest.mark.parametrize("user", ["anna", 1, Partner(), object()])
def test_something_else_than_a_user_is_a_mistake_of_the_host(state, partner, user) -> None:
    with pytest.raises(TypeError, match="needs a user"):
        state(partner, user=user)


@pytest.mark.parametrize(
    "user",
    [
        AnonymousUser(),
        SimpleNamespace(is_authenticated=True),
        SimpleLazyObject(AnonymousUser),
        SimpleLazyObject(lambda: get_user_model()()),
    ],
    ids=["anonymous", "token", "lazy", "unsaved"],
)
def test_a_user_without_a_row_is_nobody(state, partner, user) -> None:
    assert state(partner, user=user).user is None


def test_another_argument_is_refused(state, partner) -> None:
    with pytest.raises(TypeError, match="sub6"):
        state(partner, sub6="x")


def test_a_failure_is_logged_and_never_the_hosts(state, db, own_log) -> None:
    assert state(Partner(active=True)) is None

    (record,) = own_log.records
    assert (record.getMessage(), record.levelname) == ("A visitor could not be referred.", "ERROR")
    own_log.clear()
    assert not Visitor.objects.exists()


@pytest.mark.parametrize("is_counted", [True, False])
def test_the_signals_have_no_request_where_there_was_none(partner, is_counted: bool) -> None:
    heard: list[Any] = []

    def listen(sender: object, request: Any, **sent: Any) -> None:
        heard.append((request, sent.get("visitor"), sent.get("reason")))

    for signal in (visitor_registered, click_filtered):
        signal.connect(listen)
    try:
        visitor = refer(partner if is_counted else "unknown1")
        commit()
    finally:
        for signal in (visitor_registered, click_filtered):
            signal.disconnect(listen)
    assert heard == [(None, visitor, None if is_counted else Reason.UNKNOWN_PARTNER)]


# Texts, which are those of a link.


@pytest.mark.parametrize(
    ("given", "stored", "lost"),
    [
        (None, "", ""),
        (42, "42", ""),
        (b"42", "42", ""),
        ("é 😀", "é 😀", ""),
        ("x" * 500, "x" * 500, ""),
        ("x" * 501, "", "too_long"),
        ("x" * 10_000_000, "", "too_long"),
        ("a\0b", "", "not_text"),
        ("a\ud800b", "", "not_text"),
        (b"a\xff", "", "not_text"),
        (["a"], "", "not_text"),
        ({"a": 1}, "", "not_text"),
        (10**5000, "", "not_text"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_click_id_is_whole_or_missing_with_the_reason(
    state, partner, given, stored, lost
) -> None:
    state(partner, click_id=given)

    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.lost_click_id) == (stored, lost)


@pytest.mark.parametrize(
    ("given", "stored"),
    [("x" * 300, "x" * 255), ("a\0b", ""), ("\ud800", ""), (["a"], ""), (7, "7"), (None, "")],
    ids=lambda given: type(given).__name__,
)
def test_a_sub_id_is_cut_or_missing(state, partner, given, stored: str) -> None:
    state(partner, sub3=given)

    assert Visitor.objects.get().sub3 == stored


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("/teas/", "/teas/"),
        ("teas/?a=1#part", "/teas/?a=1"),
        ("https://shop.example", "https://shop.example/"),
        ("HTTPS://User:pw@Shop.example:8443/teas/", "https://shop.example:8443/teas/"),
        ("/?affiliate_id={uid}&click_id=42", "/?click_id=42"),
        ("javascript:alert(1)", "/javascript:alert(1)"),
        ("javascript://shop.example/%0Aalert(1)", "/%0Aalert(1)"),
        ("myapp://product/7", "/7"),
        ("//evil.example/", "/%2Fevil.example/"),
        ("https://-evil/x", "/x"),
        ("https://[/x", "/x"),
        ("https:///x", "/x"),
        ('/a b/é/\\"<', "/a%20b/%C3%A9/%5C%22%3C"),
        ("/x?a=<b>\r\nc", "/x?a=<b>%0D%0Ac"),
        ("/hello/anna@shop.example/?token=secret", "/hello/(redacted)/?token=(redacted)"),
        ("/" + "x" * 3_000, "/" + "x" * 2_047),
        ("/" + "x" * 40_000, ""),
        ("x" * 10_000_000, ""),
        ("/a\0b", ""),
        ("/\ud800", ""),
        (["/"], ""),
        (None, ""),
        ("", ""),
        ("#part", ""),
    ],
    ids=lambda given: str(given)[:20],
)
def test_a_landing_page_is_stored_as_that_of_a_link(state, partner, given, stored: str) -> None:
    if isinstance(given, str):
        given = given.replace("{uid}", partner.uid)

    state(partner, entry_point=given)

    assert Visitor.objects.get().entry_point == stored


@pytest.mark.urls("tests.urls")
def test_the_partners_own_page_with_its_token_is_not_stored(state, partner) -> None:
    partner.replace_page_link()
    state(partner, entry_point=partner.page_link())

    assert Visitor.objects.get().entry_point == ""


@pytest.mark.parametrize(
    "given",
    [
        "ftp://a.example/",
        "chat",
        "https://[",
        "https://a.example/\0",
        "\ud800",
        1,
        None,
        "x" * 10**7,
    ],
    ids=lambda given: str(given)[:20],
)
def test_a_referrer_that_is_no_page_is_not_stored(state, partner, given) -> None:
    state(partner, referrer=given)

    assert Visitor.objects.get().referrer == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
TEXTS = ["click_id", "sub1", "sub2", "sub3", "sub4", "sub5", "referrer", "entry_point"]


@given(code=JSON, texts=st.fixed_dictionaries(dict.fromkeys(TEXTS, JSON)))
def test_whatever_a_client_sends_nothing_fails(partner, code, texts) -> None:
    request = request_with(None)
    request.META["HTTP_HOST"] = "shop.example"

    assert refer(code, request=request, **texts) is None
    assert refer(partner, request=request, **texts) == Visitor.objects.latest("pk")
    assert refer(partner, **texts).source == "api"


# The browser.


def test_the_browser_remembers_the_visitor(browser, partner) -> None:
    said = send(browser, partner_or_code=partner.uid, click_id="42", entry_point="/teas/")

    visitor = Visitor.objects.get()
    assert said == now_is(browser) == str(visitor.pk)
    assert SessionStore(browser.cookies["sessionid"]).load() == held(visitor)
    assert (visitor.click_id, visitor.entry_point) == ("42", "/teas/")
    assert (visitor.is_internal, visitor.referrer) == (False, "")


def test_a_cookie_remembers_the_visitor_as_well(browser, partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    said = send(browser, partner_or_code=partner.uid)
    del browser.cookies["sessionid"]

    assert said == now_is(browser)


def test_a_request_without_a_session_and_one_that_is_wrapped(state, partner) -> None:
    assert state(partner, request=RequestFactory().post("/")) is not None

    request = request_with(None)
    visitor = state(partner, request=Wrapped(request))
    assert request.session[KEY] == visitor.pk


def test_neither_headers_nor_crawlers_are_judged(browser, partner) -> None:
    browser.headers = {
        "User-Agent": "okhttp/5.0",
        "Sec-Purpose": "prefetch",
        "Sec-Fetch-Dest": "image",
        "Sec-Fetch-Site": "cross-site",
    }
    assert send(browser, partner_or_code=partner.uid) == str(Visitor.objects.get().pk)


def test_a_click_and_a_referral_replace_each_other_as_two_clicks_do(browser, partner) -> None:
    browser.get(partner.link("/page/"))
    other = PartnerFactory()
    said = send(browser, partner_or_code=other.uid)

    first, second = Visitor.objects.order_by("pk")
    assert said == now_is(browser) == str(second.pk)
    assert (second.partner, second.previous) == (other, first)

    browser.get(partner.link("/page/"))
    assert now_is(browser) == str(Visitor.objects.latest("pk").pk)


def test_under_the_first_click_model_the_browser_keeps_the_first(
    browser, partner, settings
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = "first_click"
    first = send(browser, partner_or_code=partner.uid)
    second = send(browser, partner_or_code=PartnerFactory().uid)

    assert now_is(browser) == first != second


def test_the_user_of_the_request_is_the_visitors(browser, partner) -> None:
    user = UserFactory()
    log_in(browser, user)

    send(browser, partner_or_code=partner.uid)

    assert Visitor.objects.get().user == user
    assert now_is(browser) == str(Visitor.objects.get().pk)


@pytest.mark.parametrize("who", ["nobody", "the same", "another"])
def test_a_stated_user_is_the_visitors_and_not_remembered_in_anothers_browser(
    browser, partner, who: str
) -> None:
    user = UserFactory()
    if who != "nobody":
        log_in(browser, user if who == "the same" else UserFactory())

    said = send(browser, partner_or_code=partner.uid, user=str(user.pk))

    visitor = Visitor.objects.get()
    assert (said, visitor.user) == (str(visitor.pk), user)
    assert now_is(browser) == ("nobody" if who == "another" else said)


@pytest.mark.parametrize("with_user", [True, False])
def test_on_a_staff_page_staff_are_not_the_customer(
    browser, partner, settings, with_user: bool
) -> None:
    settings.AFFILIATE_STAFF_NAMESPACES = ["desk"]
    settings.AFFILIATE_CONSENT = f"{__name__}.refuses"  # which staff have not
    customer = UserFactory()
    log_in(browser, UserFactory())
    browser.headers["User-Agent"] = FIREFOX
    where = "/desk/refer/" if browser.views == "/" else "/desk/arefer/"
    stated = {"user": str(customer.pk)} if with_user else {}

    said = send(browser, where, partner_or_code=partner.uid, **stated)

    visitor = Visitor.objects.get()
    assert (said, visitor.user) == (str(visitor.pk), customer if with_user else None)
    assert now_is(browser) == "nobody"


def test_a_page_that_is_got_varies_and_is_no_caches(partner) -> None:
    request = RequestFactory().get("/")
    request._cache_update_cache = True
    refer("", request=request)
    assert not request._cache_update_cache


# The same again.


@pytest.mark.parametrize("kind", ["browser", "user", "app"])
def test_the_same_referral_soon_after_is_the_same_visitor(browser, partner, kind: str) -> None:
    user = UserFactory()
    arguments: dict[str, Any] = {"click_id": "É 1", "sub1": "a"}

    def again(**changed: Any) -> Visitor | None:
        if kind == "browser":
            return Visitor.objects.get(
                pk=send(browser, partner_or_code=partner.uid, **arguments | changed)
            )
        if kind == "app":  # DRF has told by a token who it is.
            request = RequestFactory().post("/")
            request.user = user
            return refer(partner, request=request, **arguments | changed)
        return refer(partner, user=user, **arguments | changed)

    first = again()
    assert again() == first
    assert Visitor.objects.count() == 1
    assert filtered() == {"duplicate_click": 1}

    assert again(click_id="é 1") != first
    second = again(click_id="e 1", sub1="b")
    assert second.previous is not None
    Visitor.objects.update(referred_on=timezone.now() - timedelta(hours=2))
    assert again(click_id="e 1", sub1="b") != second
    assert Visitor.objects.count() == 4


def test_without_a_browser_or_a_user_each_referral_is_another_customer(partner) -> None:
    assert refer(partner, click_id="42") != refer(partner, click_id="42")


def test_a_referral_of_the_browser_goes_before_that_of_the_user(partner) -> None:
    user = UserFactory()
    of_browser = VisitorFactory(partner=partner)
    VisitorFactory(user=user)
    request = request_with(of_browser, user=user)

    assert refer(partner, user=user, request=request) == of_browser
    of_browser.refresh_from_db()
    assert of_browser.user == user


def test_a_referral_takes_the_place_of_a_test_and_never_its_user(partner) -> None:
    owner, user = UserFactory(), UserFactory()
    test = VisitorFactory(partner=partner, user=user, is_test=True)

    visitor = refer(partner, user=user)

    assert (visitor.is_test, visitor.previous) == (False, test)
    request = request_with(VisitorFactory(partner=partner, user=owner))
    assert refer(partner, user=user, request=request).user == owner


@pytest.mark.django_db(transaction=True)
def test_what_it_costs(partner, django_assert_num_queries) -> None:
    user = UserFactory()
    # The partner, and the row.
    with django_assert_num_queries(2):
        refer(partner.uid)
    # The user's referrals as well.
    with django_assert_num_queries(3):
        refer(partner.uid, user=user)


# Consent.


def refuses(request: HttpRequest) -> bool:
    return False


def undecided(request: HttpRequest) -> bool | None:
    return {"yes": True}.get(request.COOKIES.get("consent", ""))


def test_who_refuses_is_not_referred(browser, partner, settings) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.refuses"

    assert send(browser, partner_or_code=partner.uid) == "nobody"

    assert not Visitor.objects.exists()
    assert "sessionid" not in browser.cookies
    assert filtered() == {"no_consent": 1}


def test_who_has_not_decided_is_referred_later_with_the_time_of_the_referral(
    browser, partner, settings
) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    before = timezone.now()
    assert send(browser, partner_or_code=partner.uid, click_id="x" * 501) == "nobody"
    after = timezone.now()
    assert not Visitor.objects.exists()
    assert list(SessionStore(browser.cookies["sessionid"]).load()) == [WAITING]

    browser.cookies["consent"] = "yes"
    other = PartnerFactory()
    said = send(browser, partner_or_code=other.uid)

    first, second = Visitor.objects.order_by("pk")
    assert (first.partner, first.source, first.lost_click_id) == (partner, "api", "too_long")
    assert before <= first.referred_on <= after
    assert said == now_is(browser) == str(second.pk)
    assert (second.partner, second.previous) == (other, first)
    assert filtered() == {}


def test_the_banner_registers_a_referral_that_waits(browser, partner, settings) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    send(browser, partner_or_code=partner.uid)

    answer = browser.request("POST", f"{browser.views}agree/")

    visitor = Visitor.objects.get()
    assert (answer.body.decode(), visitor.source) == (str(visitor.pk), "api")


# Tests of a deal.


def test_the_uid_of_a_test_link_makes_one_test(browser, partner) -> None:
    uid = signed_uid(partner.uid)

    said = send(browser, partner_or_code=uid)

    visitor = Visitor.objects.get()
    assert said == now_is(browser) == str(visitor.pk) == send(browser, partner_or_code=uid)
    assert (visitor.partner, visitor.is_test, visitor.source) == (partner, True, "api")
    assert send(type(browser)(), partner_or_code=uid) == "nobody"
    assert Visitor.objects.count() == 1
    assert filtered() == {}
    assert [row.reason for row in FollowedTestLink.objects.order_by("pk")] == ["", "test_used"]


def test_a_test_replaces_no_real_referral_and_ends_after_an_hour(
    browser, partner, monkeypatch
) -> None:
    real = send(browser, partner_or_code=partner.uid)
    assert send(browser, partner_or_code=signed_uid(partner.uid)) == real == now_is(browser)
    uid = signed_before(7200, lambda: signed_uid(partner.uid), monkeypatch)
    assert send(type(browser)(), partner_or_code=uid) == "nobody"
    assert not Visitor.objects.filter(is_test=True).exists()
    assert filtered() == {}
    reasons = [row.reason for row in FollowedTestLink.objects.order_by("pk")]
    assert reasons == ["open_referral", "test_expired"]


@pytest.mark.parametrize("by_user", [True, False])
def test_a_test_without_a_browser_is_the_users(partner, settings, by_user: bool) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = by_user
    user = UserFactory()
    test = refer(signed_uid(partner.uid), user=user)
    assert (test.is_test, test.user, test.previous) == (True, user, None)

    real = VisitorFactory(user=user)
    again = refer(signed_uid(partner.uid), user=user)
    assert again == (real if by_user else Visitor.objects.latest("pk"))
    assert (again.is_test, refer(signed_uid("unknown1"))) == (not by_user, None)


def test_a_test_that_waits_for_consent_is_a_test(browser, partner, settings) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    send(browser, partner_or_code=signed_uid(partner.uid))

    answer = browser.request("POST", f"{browser.views}agree/")

    visitor = Visitor.objects.get()
    assert (answer.body.decode(), visitor.is_test) == (str(visitor.pk), True)


# Orders.


def test_an_order_in_the_same_request_is_credited(browser, partner) -> None:
    SubscriptionFactory(partner=partner)

    said = send(browser, "refer/?order", partner_or_code=partner.uid)

    conversion = Conversion.objects.get()
    assert (str(conversion.visitor.pk), conversion.partner) == (said, partner)


def test_a_later_order_of_the_browser_is_credited(browser, partner) -> None:
    SubscriptionFactory(partner=partner)
    said = send(browser, partner_or_code=partner.uid)

    browser.request("POST", f"{browser.views}order/", body=b"a=1")

    assert str(Conversion.objects.get().visitor.pk) == said


@pytest.mark.parametrize("how", ["visitor", "user"])
def test_a_later_order_without_the_browser_is_credited(partner, settings, how: str) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = how == "user"
    SubscriptionFactory(partner=partner)
    user = UserFactory()
    visitor = refer(partner, user=user)

    stated = {"visitor": visitor} if how == "visitor" else {"user": user}
    complete_trigger(None, "Order placed", reference="17", **stated)

    assert Conversion.objects.get().visitor == visitor


@pytest.mark.django_db(transaction=True)
def test_a_request_that_is_rolled_back_refers_nobody(partner, monkeypatch) -> None:
    from django.db import connections

    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    SubscriptionFactory(partner=partner)
    browser = HANDLERS[0]()
    heard: list[Any] = []
    visitor_registered.connect(listener := lambda **sent: heard.append(sent))
    try:
        send(browser, "refer/?order&fail", partner_or_code=partner.uid)
    finally:
        visitor_registered.disconnect(listener)

    assert not Visitor.objects.exists()
    assert not Conversion.objects.exists()
    assert heard == []
    # The database may give the key to another visitor.
    VisitorFactory()
    assert now_is(browser) == "nobody"

    said = send(browser, "refer/?order", partner_or_code=partner.uid)
    assert str(Conversion.objects.get().visitor.pk) == said


def test_a_failure_inside_the_hosts_transaction_leaves_it_usable(db, own_log) -> None:
    with transaction.atomic():
        order = Order.objects.create()
        assert refer(Partner(active=True)) is None
        assert Order.objects.get() == order
    own_log.clear()
