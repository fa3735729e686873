"""
What a request meets on its way through the middleware.

Each test is run under WSGI and under ASGI, with the views of either kind.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import tls
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf.urls.i18n import i18n_patterns
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils.decorators import async_only_middleware
from django.views.decorators.csrf import csrf_exempt

from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware
from affiliations.models import Visitor
from affiliations.tracking import binding, visitors
from tests.arrivals import held
from tests.browsers import HANDLERS, Browser, WSGIBrowser
from tests.factories import PartnerFactory, UserFactory, VisitorFactory

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"

pytestmark = pytest.mark.urls(__name__)


SYNC_ONLY = f"{__name__}.sync_only"
ASYNC_ONLY = f"{__name__}.async_only"


def sync_only(get_response: Any) -> Any:
    """Do nothing, as a middleware of a host's that knows no asyncio."""
    return lambda request: get_response(request)


@async_only_middleware
def async_only(get_response: Any) -> Any:
    async def middleware(request: HttpRequest) -> HttpResponse:
        return await get_response(request)

    return middleware


# The pages of the site, each once sync and once async.


def whose(request: HttpRequest) -> HttpResponse:
    """Say whose visitor it is, and that the other way to ask says the same."""
    visitor = visitors.current_visitor(request)
    assert bool(request.affiliate_visitor) == (visitor is not None)
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


async def awhose(request: HttpRequest) -> HttpResponse:
    visitor = await visitors.acurrent_visitor(request)
    assert bool(request.affiliate_visitor) == (visitor is not None)
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


@csrf_exempt
def echo(request: HttpRequest) -> HttpResponse:
    """Say what has come through to the view."""
    return HttpResponse(f"{request.method} {request.META['QUERY_STRING']} {request.body.decode()}")


@csrf_exempt
async def aecho(request: HttpRequest) -> HttpResponse:
    return echo(request)


def bound(request: HttpRequest) -> HttpResponse:
    """Say what django-tls has bound."""
    is_this = binding.current_request() is request
    return HttpResponse(f"{is_this} {tls.request.path} {tls.request.GET['n']}")


async def abound(request: HttpRequest) -> HttpResponse:
    in_a_thread = await sync_to_async(bound)(request)
    assert in_a_thread.content == bound(request).content
    return in_a_thread


def crash(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


async def acrash(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


def nesting(request: HttpRequest) -> HttpResponse:
    """Serve another request in the middle of this one."""
    inner = [WSGIBrowser().get(target) for target in ("/bound/?n=2", "/crash/")]
    assert [answer.status for answer in inner] == [200, 500]
    assert inner[0].body == b"True /bound/ 2"
    return bound(request)


async def anesting(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(nesting)(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Answer piece by piece, after the request has left the middleware."""

    def pieces() -> Iterator[str]:
        for number in range(3):
            yield f"{number} {binding.current_request() is request}\n"

    return StreamingHttpResponse(pieces())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            yield f"{number} {binding.current_request() is request}\n"

    return StreamingHttpResponse(pieces())


def page(request: HttpRequest) -> HttpResponse:
    """Show a template that asks for the visitor."""
    template = engines["django"].from_string(
        "{% if request.affiliate_visitor %}from {{ request.affiliate_visitor.partner }}"
        "{% else %}from nowhere{% endif %}"
    )
    return HttpResponse(template.render({}, request))


async def apage(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(page)(request)


sync_views = [
    path("", echo),
    path("whose/", whose),
    path("echo/", echo),
    path("bound/", bound),
    path("crash/", crash),
    path("nesting/", nesting),
    path("stream/", stream),
    path("page/", page),
]
async_views = [
    path("", aecho),
    path("whose/", awhose),
    path("echo/", aecho),
    path("bound/", abound),
    path("crash/", acrash),
    path("nesting/", anesting),
    path("stream/", astream),
    path("page/", apage),
]
urlpatterns = [*sync_views, path("async/", include(async_views))]


class InManyLanguages:
    """The same site with the language in front of each path."""

    urlpatterns = i18n_patterns(*urlpatterns)


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Fail every test in which something of ours went wrong and was only logged."""
    caplog.set_level(logging.INFO, "affiliations")
    yield caplog
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def log_in(browser: Browser, user: Any) -> None:
    client = Client()
    client.force_login(user)
    browser.cookies["sessionid"] = client.cookies["sessionid"].value


# Arriving.


def test_a_partners_link_registers_a_visitor_and_goes_on_to_the_page(browser, partner) -> None:
    """(D2)"""
    answer = browser.get(f"{browser.views}echo/?a=1&affiliate_id={partner.uid}&b=2")

    assert answer.status == 302
    assert answer["Location"] == f"{browser.views}echo/?a=1&b=2".encode()
    assert b"no-store" in answer["Cache-Control"]
    assert answer.body == b""
    visitor = Visitor.objects.get()
    assert visitor.partner == partner
    assert visitor.user is None
    assert visitor.entry_point == f"http://shop.example{browser.views}echo/?a=1&b=2"
    assert visitor.successful_on is None
    assert visitor.closed_on is None


def test_the_next_request_knows_the_visitor(browser, partner) -> None:
    """(D3)"""
    browser.get(f"/?affiliate_id={partner.uid}")
    visitor = Visitor.objects.get()

    for _ in range(2):
        assert browser.get(f"{browser.views}whose/").body.decode() == str(visitor.pk)
    assert browser.get(f"{browser.views}page/").body.decode() == f"from {partner.name}"


def test_somebody_who_came_by_themselves_is_nobodys_visitor(browser, partner) -> None:
    assert browser.get(f"{browser.views}whose/").body == b"nobody"
    assert browser.get(f"{browser.views}page/").body == b"from nowhere"


def test_the_session_holds_the_visitors_id(browser, partner, settings) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.AFFILIATE_SESSION_KEY = "from_a_partner"
    browser.get(f"/?affiliate_id={partner.uid}")

    from django.contrib.sessions.backends.signed_cookies import SessionStore

    session = SessionStore(browser.cookies["sessionid"])
    visitor = Visitor.objects.get()
    assert dict(session.items()) == {
        "from_a_partner": visitor.pk,
        "from_a_partner_fingerprint": visitor.fingerprint,
    }


def test_a_visitor_who_is_logged_in_is_registered_with_the_user(browser, partner) -> None:
    user = UserFactory()
    log_in(browser, user)

    browser.get(f"/?affiliate_id={partner.uid}")

    assert Visitor.objects.get().user == user
    assert browser.get(f"{browser.views}whose/").body.decode() == str(Visitor.objects.get().pk)


def test_the_last_link_wins(browser, partner) -> None:
    other = PartnerFactory()
    browser.get(f"/?affiliate_id={partner.uid}")
    browser.get(f"/?affiliate_id={other.uid}")

    assert [visitor.partner for visitor in Visitor.objects.order_by("pk")] == [partner, other]
    last = Visitor.objects.latest("pk")
    assert browser.get(f"{browser.views}whose/").body.decode() == str(last.pk)


def test_a_visit_without_the_key_clears_nothing(browser, partner) -> None:
    browser.get(f"/?affiliate_id={partner.uid}")
    browser.get("/")
    browser.get("/?affiliate_id=unknown1")

    assert browser.get(f"{browser.views}whose/").body.decode() == str(Visitor.objects.get().pk)


def test_the_last_of_several_values_wins(browser, partner) -> None:
    other = PartnerFactory()

    answer = browser.get(f"/?affiliate_id={other.uid}&a=1&affiliate_id={partner.uid}")

    assert answer["Location"] == b"/?a=1"
    assert Visitor.objects.get().partner == partner


def test_the_key_counts_when_its_letters_are_escaped(browser, partner) -> None:
    """(D6)"""
    answer = browser.get(f"/?affiliate%5Fid={partner.uid}&a=1")

    assert answer["Location"] == b"/?a=1"
    assert Visitor.objects.get().partner == partner


@pytest.mark.parametrize(
    "key", ["affiliate id", "ref+", "партнёр", ("ref", "affiliate_id"), ["ref"], "a&b=c"]
)
def test_the_key_may_be_any_text_or_several(browser, partner, settings, key) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = key

    answer = browser.get(partner.link("/?a=1"))

    assert answer.status == 302
    assert answer["Location"] == b"/?a=1"
    assert Visitor.objects.get().partner == partner


def test_a_key_beyond_ascii_counts_without_escapes_too(browser, partner, settings) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = "партнёр"

    assert browser.get(f"/?партнёр={partner.uid}&a=1")["Location"] == b"/?a=1"
    assert Visitor.objects.get().partner == partner


@pytest.mark.parametrize("key", ["ref", "affiliate_id"])
def test_each_of_several_keys_is_read(browser, partner, settings, key: str) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = ("ref", "affiliate_id")

    assert browser.get(f"/?{key}={partner.uid}&a=1")["Location"] == b"/?a=1"
    assert Visitor.objects.get().partner == partner


@pytest.mark.parametrize(
    "target",
    [
        "affiliate_id/",
        "?x_affiliate_id=1",
        "?next=/?affiliate_id=moox6esi",
        "?next=affiliate_id",
        "?a=1;affiliate_id=moox6esi",
        "?affiliate_id%20=moox6esi",
        "?affiliate_id+=moox6esi",
    ],
)
def test_only_the_parsed_parameter_counts(browser, target: str) -> None:
    """(D6)"""
    answer = browser.get(browser.views + target)

    assert answer.status == (404 if target.endswith("/") else 200)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/?affiliate_id=", "/"),
        ("/?affiliate_id", "/"),
        ("/echo/?affiliate_id&a", "/echo/?a"),
        ("/?affiliate_id=&a=&b&=", "/?a=&b&="),
    ],
)
@pytest.mark.django_db
def test_a_key_without_a_value_is_taken_out(browser, target: str, location: str) -> None:
    """(D7)"""
    answer = browser.get(target)

    assert (answer.status, answer["Location"]) == (302, location.encode())
    assert not Visitor.objects.exists()


@pytest.mark.parametrize(
    "others",
    [
        b"a=&b&=&==",
        b"a=1&b=2&a=3&a=",
        b"&&a&&",
        b"q=caf%e9+%E9&q=caf%c3%a9&q=%C3%A9",
        b"q=a b".replace(b" ", b"+"),
        b"q=%zz%&q=%&q=%f",
        b"q=%00%0d%0a%0D%0A",
        b"q='\"<>()[]{}|\\^`~!*@:;,$/?",
        b"%61=%62",
        b"utm_source=x%26affiliate_id%3Dy",
        "q=é&q=日本".encode(),
    ],
)
def test_every_other_byte_of_the_query_stays(browser, partner, others: bytes) -> None:
    """(D9)"""
    key = b"affiliate_id=" + partner.uid.encode()

    for query in (key + b"&" + others, others + b"&" + key):
        browser.cookies.clear()  # somebody else's visit
        assert browser.get(b"/echo/?" + query)["Location"] == b"/echo/?" + others
    assert Visitor.objects.count() == 2


@pytest.mark.django_db
def test_bytes_that_are_no_text_stay_where_the_handler_lets_them_in(partner) -> None:
    """(D9) Under ASGI Django itself answers them with 400."""
    answer = WSGIBrowser().get(b"/?q=\xff\xfe&affiliate_id=%s" % partner.uid.encode())

    assert answer["Location"] == b"/?q=\xff\xfe"
    assert Visitor.objects.get().entry_point == "http://shop.example/?q=%FF%FE"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//evil.example/?affiliate_id=x", "/%2Fevil.example/"),
        ("//evil.example?affiliate_id=x", "/%2Fevil.example"),
        ("///evil.example/?affiliate_id=x", "/%2F/evil.example/"),
        ("/%2Fevil.example/?affiliate_id=x", "/%2Fevil.example/"),
        ("/%2F%2Fevil.example/?affiliate_id=x", "/%2F/evil.example/"),
        ("/%5Cevil.example/?affiliate_id=x", "/%5Cevil.example/"),
        ("/\\evil.example/?affiliate_id=x", "/%5Cevil.example/"),
        ("/%09/evil.example/?affiliate_id=x", "/%09/evil.example/"),
        ("/%0D%0ALocation:%20//evil.example/?affiliate_id=x", "/%0D%0ALocation:%20//evil.example/"),
    ],
)
def test_the_redirect_never_leaves_the_site(browser, target: str, location: str) -> None:
    """(D8)"""
    answer = browser.get(target)

    assert (answer.status, answer["Location"]) == (302, location.encode())


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    ["http://evil.example/", "http:evil.example", "evil.example/", "\\evil.example/", "*", "", "@"],
)
def test_a_request_line_that_no_browser_writes_leads_nowhere_else(browser, path: str) -> None:
    """(D8)"""
    location = browser.get(f"{path}?affiliate_id=x")["Location"]

    assert location.startswith(b"/")
    assert not location.startswith((b"//", b"/\\"))


@pytest.mark.parametrize("target", ["/%s/", "/echo/?q=%s"])
def test_a_long_url_is_stored_or_cut(browser, partner, target: str) -> None:
    """(D10)"""
    for length in (201, 1_900, 100_000):
        browser.cookies.clear()
        page = target % ("x" * length)
        answer = browser.get(partner.link(page))
        assert answer["Location"].decode() == page
        url = f"http://shop.example{page}"
        assert Visitor.objects.latest("pk").entry_point == url[:2048]


@pytest.mark.parametrize(
    "behind", ["", ".", ")", "/", "%20", "+", ",", "%E2%80%9D", "%0D%0A", "%C2%A0", "…", "%3E"]
)
def test_what_a_chat_puts_behind_a_link_does_not_matter(browser, partner, behind: str) -> None:
    browser.get(f"/?affiliate_id={partner.uid}{behind}")

    assert Visitor.objects.get().partner == partner


@pytest.mark.parametrize(
    "spoiled",
    ["{}%00", "%00{}", "{}%00.", "{}x", "{}.x", "+{}", "{0}{0}", "{}-1", "", "%FF", "é", "0", "%"],
)
def test_what_is_no_uid_is_nobodys(browser, partner, spoiled: str) -> None:
    """(D10)"""
    answer = browser.get(f"/?affiliate_id={spoiled.format(partner.uid)}&a=1")

    assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    assert not Visitor.objects.exists()


@pytest.mark.django_db
def test_a_uid_in_the_wrong_case_is_nobodys(browser) -> None:
    """MariaDB takes the two for the same."""
    PartnerFactory(uid="moox6esi")

    for uid in ("MOOX6ESI", "Moox6esi", "moox6esI"):
        answer = browser.get(f"/?affiliate_id={uid}&a=1")
        assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    assert not Visitor.objects.exists()


@pytest.mark.django_db
def test_the_link_of_an_inactive_partner_registers_nothing(browser) -> None:
    partner = PartnerFactory(active=False)

    answer = browser.get(partner.link("/?a=1"))

    assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    assert "Set-Cookie" not in answer
    assert not Visitor.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    # As a uid, and as a code.
    ("uid", "queries"),
    [
        ("unknown1", 2),
        ("unknown-code", 1),
        ("no uid at all!?-!", 1),
        ("_no uid, no code", 0),
        ("", 0),
    ],
)
def test_an_unknown_uid_touches_neither_session_nor_user(
    browser, uid: str, queries: int, django_assert_max_num_queries
) -> None:
    with django_assert_max_num_queries(queries):
        answer = browser.get(f"/?affiliate_id={uid.replace(' ', '+')}")

    assert answer.status == 302
    assert "Set-Cookie" not in answer
    assert "Vary" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_pass_through_untouched(browser, partner, method: str) -> None:
    query = f"affiliate_id={partner.uid}&a=1"

    answer = browser.request(method, f"{browser.views}echo/?{query}", body=b"b=2")

    assert answer.status == 200
    assert answer.body.decode() == f"{method} {query} b=2"
    assert not Visitor.objects.exists()


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com)"}),
        ("GET", {"User-Agent": "facebookexternalhit/1.1"}),
        ("GET", {"Sec-Fetch-Dest": "image"}),
        ("GET", {"Sec-Fetch-Dest": "iframe"}),
        ("GET", {"Sec-Fetch-Dest": "empty"}),
        ("GET", {"Sec-Fetch-Dest": "script"}),
    ],
)
def test_what_is_no_visit_is_redirected_and_not_counted(
    browser, partner, method: str, headers: dict[str, str], django_assert_num_queries
) -> None:
    with django_assert_num_queries(1):  # whose link it is
        answer = browser.request(method, partner.link("/?a=1"), headers)

    assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    assert b"no-store" in answer["Cache-Control"]
    assert "Set-Cookie" not in answer
    assert not Visitor.objects.exists()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Dest": "document"},
        {"User-Agent": ""},
        {"User-Agent": "Some new browser"},
        {"Sec-Purpose": "nothing that we know"},
    ],
)
def test_whoever_is_not_known_to_be_no_visitor_is_counted(browser, partner, headers) -> None:
    answer = browser.request("GET", partner.link("/"), headers)

    assert answer.status == 302
    assert Visitor.objects.count() == 1


def test_the_log_says_why_a_click_was_not_counted(client, partner, caplog) -> None:
    """Whoever tries a link with curl would look for the reason for an hour."""
    with caplog.at_level("DEBUG", logger="affiliations"):
        client.get(partner.link("/"), headers={"User-Agent": "curl/8.5.0"})

    [message] = caplog.messages
    assert "curl" in message


def test_crawlers_count_where_the_site_wants_it(browser, partner, settings) -> None:
    settings.AFFILIATE_IGNORE_BOTS = False

    browser.get(partner.link("/"), User_Agent="Googlebot/2.1")

    assert Visitor.objects.count() == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Sec-Purpose": "prefetch;anonymous-client-ip", "Sec-Fetch-Dest": "empty"},
        {"Sec-Purpose": "prerender"},
        {"Purpose": "prefetch"},
        {"X-Moz": "prefetch"},
    ],
)
def test_a_prefetch_is_sent_away_so_that_the_click_itself_comes(
    browser, partner, headers: dict[str, str], django_assert_num_queries
) -> None:
    with django_assert_num_queries(1):  # whose link it is
        answer = browser.request("GET", partner.link("/"), headers)

    assert answer.status == 503
    assert b"no-store" in answer["Cache-Control"]
    assert "Location" not in answer
    assert browser.get(partner.link("/")).status == 302
    assert Visitor.objects.count() == 1


def test_a_prefetch_of_a_plain_page_is_served(browser) -> None:
    assert browser.get(browser.views, Sec_Purpose="prefetch").status == 200


def test_the_view_of_a_landing_does_not_run(browser, partner) -> None:
    """(D20)"""
    answer = browser.get(partner.link(f"{browser.views}crash/"))

    assert (answer.status, answer["Location"].decode()) == (302, f"{browser.views}crash/")


def test_a_link_to_a_page_that_does_not_exist_is_counted(browser, partner) -> None:
    answer = browser.get(partner.link("/gone/"))

    assert (answer.status, answer["Location"]) == (302, b"/gone/")
    assert Visitor.objects.get().entry_point == "http://shop.example/gone/"


# What the visitor brings along.


def test_the_partners_ids_are_kept_and_stay_in_the_url(browser, partner) -> None:
    link = partner.link("/", click_id="4 2&/é", sub1="mail", sub2="top", sub5="x=y")

    location = browser.get(link)["Location"].decode()

    assert location == "/?click_id=4+2%26%2F%C3%A9&sub1=mail&sub2=top&sub5=x%3Dy"
    visitor = Visitor.objects.get()
    assert visitor.click_id == "4 2&/é"
    assert [visitor.sub1, visitor.sub2, visitor.sub3, visitor.sub4, visitor.sub5] == [
        "mail",
        "top",
        "",
        "",
        "x=y",
    ]


def test_the_ids_have_the_names_of_the_settings(browser, partner, settings) -> None:
    settings.AFFILIATE_CLICK_ID_KEY = "cid"
    settings.AFFILIATE_SUB_ID_KEYS = ("campaign",)

    browser.get(f"/?affiliate_id={partner.uid}&cid=42&campaign=spring&click_id=1&sub1=2&sub2=3")

    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.sub1, visitor.sub2) == ("42", "spring", "")


@pytest.mark.parametrize("name", ["click_id", "sub1", "sub5"])
@pytest.mark.parametrize("hostile", ["%00", "a%00b", "%ED%A0%80", "%FF", "a%C3", "%C0%80"])
def test_what_no_database_can_hold_is_stored_as_empty(
    browser, partner, name: str, hostile: str
) -> None:
    answer = browser.get(f"/?{name}={hostile}&affiliate_id={partner.uid}")

    assert answer["Location"].decode() == f"/?{name}={hostile}"
    assert getattr(Visitor.objects.get(), name) == ""


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
def test_a_click_id_that_is_too_long_is_empty_and_a_sub_id_cut(browser, partner, letter) -> None:
    """A cut click id is another click's."""
    browser.get(partner.link("/", click_id=letter * 500, sub1=letter * 255))
    browser.get(partner.link("/", click_id=letter * 501, sub1=letter * 256))

    first, second = Visitor.objects.order_by("pk")
    assert (first.click_id, first.sub1) == (letter * 500, letter * 255)
    assert (second.click_id, second.sub1) == ("", letter * 255)


def test_the_last_of_several_click_ids_wins(browser, partner) -> None:
    browser.get(f"/?click_id=1&affiliate_id={partner.uid}&click_id=2")

    assert Visitor.objects.get().click_id == "2"


@pytest.mark.parametrize(
    ("referer", "kept"),
    [
        ("https://blog.example/deals/?session=secret#part", "https://blog.example/deals/"),
        ("http://blog.example", "http://blog.example"),
        ("https://name:secret@blog.example:8443/x", "https://blog.example:8443/x"),
        ("https://блог.example/å", "https://блог.example/å"),
        ("https://blog.example/" + "x" * 3_000, ("https://blog.example/" + "x" * 3_000)[:2048]),
        ("android-app://com.example.mail/", ""),
        ("javascript:alert(1)", ""),
        ("//blog.example/", ""),
        ("https:///deals/", ""),
        ("about:blank", ""),
        ("", ""),
        ("https://[blog.example/", ""),
        ("https://blog\u2100.example/", ""),
        (b"https://blog.example/\0", ""),
        (b"https://blog.example/\xff", ""),
        (b"https://blog.example/\xed\xa0\x80", ""),
    ],
)
def test_of_the_referrer_the_page_is_kept_and_never_its_query(
    browser, partner, referer: str | bytes, kept: str
) -> None:
    browser.get(partner.link("/"), Referer=referer)

    assert Visitor.objects.get().referrer == kept


def test_no_address_of_the_visitor_is_kept(browser, partner) -> None:
    browser.get(partner.link("/"), X_Forwarded_For="203.0.113.8")

    assert "203.0.113" not in str(Visitor.objects.values().get())


def test_the_entry_point_says_how_the_visitor_came(browser, partner, settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

    browser.get(
        partner.link("/a%20b/?q=é"), Host="www.shop.example:8443", X_Forwarded_Proto="https"
    )

    assert Visitor.objects.get().entry_point == ("https://www.shop.example:8443/a%20b/?q=%C3%A9")


@pytest.mark.django_db
@pytest.mark.parametrize("middleware", [[OURS], [SESSIONS, AUTHENTICATION, OURS]])
def test_a_host_that_is_not_ours_is_refused_as_by_every_page(
    browser, partner, settings, middleware
) -> None:
    settings.MIDDLEWARE = middleware

    answer = browser.get(partner.link("/"), Host="evil.example")

    assert answer.status == 400
    assert "Location" not in answer
    assert not Visitor.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_request_knows_the_visitor_too(copied, asked_before: bool) -> None:
    """As it knows the user."""
    visitor = VisitorFactory()
    request = RequestFactory().get("/")
    request.session = SessionStore()
    request.session.update(held(visitor))
    AffiliateVisitorsRegistrationMiddleware(lambda request: HttpResponse("x"))(request)
    assert not asked_before or request.affiliate_visitor

    assert copied(request).affiliate_visitor == visitor
    assert copied(request.affiliate_visitor) == visitor


# What it costs.


@pytest.mark.django_db
@pytest.mark.parametrize("has_session", [False, True])
@pytest.mark.parametrize("query", ["", "?a=1", "?a=%20+&b=x_affiliate_id"])
def test_a_plain_page_costs_nothing(
    browser, has_session: bool, query: str, django_assert_num_queries
) -> None:
    """(D19) No query, no look into the session, no ``Vary``."""
    if has_session:
        log_in(browser, UserFactory())

    with django_assert_num_queries(0):
        answer = browser.get(f"{browser.views}echo/{query}")

    assert answer.status == 200
    assert "Vary" not in answer
    assert "Set-Cookie" not in answer


@pytest.mark.django_db
def test_to_ask_costs_nothing_where_the_browser_has_no_session(
    browser, django_assert_num_queries
) -> None:
    """(D4)"""
    with django_assert_num_queries(0):
        answer = browser.get(f"{browser.views}whose/")

    assert answer.body == b"nobody"
    assert answer["Vary"] == b"Cookie"


def test_a_landing_makes_two_queries_of_ours(
    browser, partner, settings, django_assert_num_queries
) -> None:
    settings.MIDDLEWARE = [OURS]

    with django_assert_num_queries(2):
        browser.get(partner.link("/", click_id="42"))

    assert Visitor.objects.count() == 1


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_landing_makes_two_queries_of_ours_among_those_of_session_and_user(
    browser, partner, logged_in: bool
) -> None:
    if logged_in:
        log_in(browser, UserFactory())

    with CaptureQueriesContext(connection) as queries:
        browser.get(partner.link("/", click_id="42"))

    ours = [query["sql"] for query in queries if "affiliations_" in query["sql"]]
    assert len(ours) == 2
    assert len(queries) > 2


def test_to_ask_again_costs_nothing_more(browser, partner, django_assert_num_queries) -> None:
    browser.get(partner.link("/"))

    with django_assert_num_queries(2):  # the session, and the visitor with the partner
        browser.get(f"{browser.views}whose/")


# Hosts of all kinds.


@pytest.fixture
def session_files(settings, tmp_path) -> None:
    settings.SESSION_FILE_PATH = str(tmp_path)


@pytest.mark.usefixtures("session_files")
@pytest.mark.parametrize("engine", ["db", "cache", "cached_db", "signed_cookies", "file"])
def test_any_session_engine_remembers_the_visitor(browser, partner, settings, engine: str) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"

    assert browser.get(f"{browser.views}whose/").body == b"nobody"
    browser.get(partner.link("/"))
    first = Visitor.objects.get()
    assert browser.get(f"{browser.views}whose/").body.decode() == str(first.pk)

    browser.get(partner.link("/"))
    second = Visitor.objects.latest("pk")
    assert browser.get(f"{browser.views}whose/").body.decode() == str(second.pk)


def test_without_sessions_the_visit_is_written_down_and_nobody_is_known(
    browser, partner, settings
) -> None:
    settings.MIDDLEWARE = [OURS]

    answer = browser.get(partner.link("/?a=1"))

    assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    assert Visitor.objects.get().partner == partner
    assert browser.get(f"{browser.views}whose/").body == b"nobody"


def test_without_authentication_the_visitor_is_known_and_has_no_user(
    browser, partner, settings
) -> None:
    settings.MIDDLEWARE = [SESSIONS, OURS]
    log_in(browser, UserFactory())

    browser.get(partner.link("/"))

    visitor = Visitor.objects.get()
    assert visitor.user is None
    assert browser.get(f"{browser.views}whose/").body.decode() == str(visitor.pk)


@pytest.mark.parametrize("prefix", ["/shop", "/shop/"])
def test_behind_a_prefix_the_redirect_keeps_it(browser, partner, settings, prefix: str) -> None:
    settings.FORCE_SCRIPT_NAME = prefix

    answer = browser.get(partner.link(f"{browser.views}echo/?a=1"))

    assert answer["Location"].decode() == f"/shop{browser.views}echo/?a=1"
    assert Visitor.objects.get().entry_point == (
        f"http://shop.example/shop{browser.views}echo/?a=1"
    )


def test_where_the_server_has_mounted_the_site_the_redirect_keeps_the_prefix(
    browser, partner
) -> None:
    browser.prefix = "/shop"

    for page in ("echo/?a=1", "?a=1", "shop/?a=1"):
        answer = browser.get(partner.link(browser.views + page))
        assert answer["Location"].decode() == f"/shop{browser.views}{page}"


@pytest.mark.parametrize("prefix", ["//evil.example", "http://evil.example", "evil.example"])
def test_a_prefix_leads_nowhere_else(browser, partner, settings, prefix: str) -> None:
    """(D8) Some servers take the prefix from a header."""
    settings.FORCE_SCRIPT_NAME = prefix

    location = browser.get(partner.link("/"))["Location"]

    assert location.startswith(b"/")
    assert not location.startswith((b"//", b"/\\"))


def test_a_site_of_many_languages_is_entered_in_the_language_of_the_link(
    browser, partner, settings
) -> None:
    settings.ROOT_URLCONF = InManyLanguages
    settings.MIDDLEWARE = [SESSIONS, "django.middleware.locale.LocaleMiddleware", OURS]

    answer = browser.get(partner.link(f"/de{browser.views}echo/?a=1"))
    assert answer["Location"].decode() == f"/de{browser.views}echo/?a=1"
    assert browser.get(answer["Location"]).status == 200

    answer = browser.get(partner.link(f"{browser.views}whose/"))
    answer = browser.get(answer["Location"])
    assert answer["Location"].decode() == f"/en{browser.views}whose/"
    last = Visitor.objects.latest("pk")
    assert browser.get(answer["Location"]).body.decode() == str(last.pk)


def test_a_failure_of_ours_does_not_keep_the_visitor_from_the_page(
    browser, partner, monkeypatch, own_log
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise DatabaseError("no such luck")

    monkeypatch.setattr(Visitor.objects, "create", broken)

    answer = browser.get(partner.link("/?a=1"))

    assert (answer.status, answer["Location"]) == (302, b"/?a=1")
    (record,) = (record for record in own_log.records if record.name == "affiliations")
    assert record.levelname == "ERROR"
    assert "no such luck" in own_log.text
    own_log.clear()


# django-tls.


@pytest.mark.parametrize("views", ["/", "/async/"])
@pytest.mark.parametrize(
    "around",
    [
        [OURS],
        [SYNC_ONLY, OURS],
        [OURS, SYNC_ONLY],
        [ASYNC_ONLY, OURS],
        [SYNC_ONLY, OURS, ASYNC_ONLY],
    ],
)
def test_the_request_is_bound_for_django_tls(browser, settings, views: str, around) -> None:
    """(D24) In sync and async views, among middlewares of either kind."""
    settings.MIDDLEWARE = around

    answer = browser.get(f"{views}bound/?n=1")

    assert answer.body.decode() == f"True {views}bound/ 1"
    assert binding.current_request() is None


def test_after_a_crash_nothing_is_bound(browser, caplog) -> None:
    """(D11)"""
    assert browser.get(f"{browser.views}crash/").status == 500
    assert binding.current_request() is None
    assert not tls.request


def test_a_request_within_a_request_gives_the_outer_one_back(browser) -> None:
    """(D11)"""
    answer = browser.get(f"{browser.views}nesting/?n=1")

    assert answer.body.decode() == f"True {browser.views}nesting/ 1"
    assert binding.current_request() is None


def test_a_streaming_answer_streams_and_its_body_runs_bound(browser) -> None:
    answer = browser.get(f"{browser.views}stream/")

    assert answer.body == b"0 True\n1 True\n2 True\n"
    assert binding.current_request() is None


def test_a_landing_leaves_nothing_bound(browser, partner) -> None:
    browser.get(partner.link("/"))

    assert binding.current_request() is None


# ASGI alone.


async def answered(request: HttpRequest) -> HttpResponse:
    return HttpResponse("answered")


@pytest.fixture
def hops(monkeypatch) -> list[object]:
    """Count whatever is given to another thread, by whomever."""
    given: list[object] = []
    run_in_executor = asyncio.BaseEventLoop.run_in_executor

    def counting(loop: Any, executor: Any, function: Any, *args: Any) -> Any:
        given.append(function)
        return run_in_executor(loop, executor, function, *args)

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", counting)
    return given


@pytest.mark.parametrize("query", ["", "?a=1", "?a=%20+"])
async def test_without_the_key_no_thread_is_changed(hops, query: str) -> None:
    request = AsyncRequestFactory().get(f"/{query}")

    response = await AffiliateVisitorsRegistrationMiddleware(answered)(request)

    assert response.content == b"answered"
    assert hops == []


async def test_a_landing_changes_the_thread_once(hops) -> None:
    request = AsyncRequestFactory().get("/?affiliate_id=no+uid")

    response = await AffiliateVisitorsRegistrationMiddleware(answered)(request)

    assert response.status_code == 302
    assert len(hops) == 1


@pytest.mark.parametrize("middleware", [[], [SESSIONS, AUTHENTICATION]])
def test_in_the_whole_stack_ours_adds_no_hop_to_a_plain_page_and_one_to_a_landing(
    partner, settings, hops, middleware: list[str]
) -> None:
    def hops_of(target: str) -> int:
        hops.clear()
        HANDLERS[-1]().get(target)
        return len(hops)

    settings.MIDDLEWARE = middleware
    without = hops_of("/async/echo/?a=1")
    settings.MIDDLEWARE = [*middleware, OURS]

    assert hops_of("/async/echo/?a=1") == without
    assert hops_of(partner.link("/async/echo/")) == without + 1
    assert Visitor.objects.count() == 1


def test_the_async_test_client_of_django_follows_a_link(partner) -> None:
    @async_to_sync
    async def visit() -> str:
        client = AsyncClient()
        response = await client.get(partner.link("/async/whose/?a=1"), follow=True)
        assert response.redirect_chain == [("/async/whose/?a=1", 302)]
        return response.content.decode()

    assert visit() == str(Visitor.objects.get().pk)


def test_the_middleware_is_as_async_as_what_it_wraps() -> None:
    assert iscoroutinefunction(AffiliateVisitorsRegistrationMiddleware(answered))
    assert not iscoroutinefunction(AffiliateVisitorsRegistrationMiddleware(echo))


def test_a_request_of_a_plain_kind_passes() -> None:
    """As a test of the host's own may make it."""
    request = RequestFactory().get("/")
    del request.META["QUERY_STRING"]

    response = AffiliateVisitorsRegistrationMiddleware(lambda request: HttpResponse("x"))(request)

    assert response.content == b"x"
