"""Caches: a page that asks for the visitor is not served to another visitor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.cache import cache
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    StreamingHttpResponse,
)
from django.template import engines
from django.template.response import TemplateResponse
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware
from django.views.decorators.cache import cache_control, cache_page
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.vary import vary_on_cookie

from affiliations.models import Visitor
from affiliations.tracking import (
    acurrent_visitor,
    aforget_visitor,
    aregister_visitor,
    current_visitor,
    forget_visitor,
    register_visitor,
)
from affiliations.triggers import acomplete_trigger, complete_trigger
from tests.browsers import HANDLERS, Answer, Browser
from tests.factories import PartnerFactory

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
UPDATE = "django.middleware.cache.UpdateCacheMiddleware"
FETCH = "django.middleware.cache.FetchFromCacheMiddleware"
CONDITIONAL = "django.middleware.http.ConditionalGetMiddleware"

#: The paths of the views that have run.
served: list[str] = []


def name(visitor: Visitor | None) -> str:
    return f"from {visitor.partner.name}" if visitor else "from nowhere"


def attribute(request: HttpRequest) -> HttpResponse:
    served.append(request.path)
    return HttpResponse(name(request.affiliate_visitor))


def template(request: HttpRequest) -> HttpResponse:
    served.append(request.path)
    text = "from {{ request.affiliate_visitor.partner|default:'nowhere' }}"
    return TemplateResponse(request, engines["django"].from_string(text))


def function(request: HttpRequest) -> HttpResponse:
    served.append(request.path)
    return HttpResponse(name(current_visitor(request)))


def trigger(request: HttpRequest) -> HttpResponse:
    complete_trigger(request, "Order placed")
    return HttpResponse("done")


def register(request: HttpRequest) -> HttpResponse:
    register_visitor(request, request.GET.get("link", ""))
    return HttpResponse("done")


def forget(request: HttpRequest) -> HttpResponse:
    forget_visitor(request)
    return HttpResponse("done")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([name(current_visitor(request))]))


def streaming(request: HttpRequest) -> StreamingHttpResponse:
    """Ask when the headers have been sent."""

    def body() -> Iterator[str]:
        yield name(current_visitor(request))

    return StreamingHttpResponse(body())


def unmodified(request: HttpRequest) -> HttpResponse:
    current_visitor(request)
    return HttpResponseNotModified()


def missing(request: HttpRequest) -> HttpResponse:
    current_visitor(request)
    raise Http404


def crash(request: HttpRequest) -> HttpResponse:
    current_visitor(request)
    raise ZeroDivisionError


def plain(request: HttpRequest) -> HttpResponse:
    served.append(request.path)
    return HttpResponse("plain")


async def aattribute(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(attribute)(request)


async def atemplate(request: HttpRequest) -> HttpResponse:
    response = template(request)
    await sync_to_async(response.render)()
    return response


async def afunction(request: HttpRequest) -> HttpResponse:
    served.append(request.path)
    return HttpResponse(name(await acurrent_visitor(request)))


async def atrigger(request: HttpRequest) -> HttpResponse:
    await acomplete_trigger(request, "Order placed")
    return HttpResponse("done")


async def aregister(request: HttpRequest) -> HttpResponse:
    await aregister_visitor(request, request.GET.get("link", ""))
    return HttpResponse("done")


async def aforget(request: HttpRequest) -> HttpResponse:
    await aforget_visitor(request)
    return HttpResponse("done")


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    visitor = await acurrent_visitor(request)

    async def body() -> AsyncIterator[str]:
        yield name(visitor)

    return StreamingHttpResponse(body())


async def astreaming(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[str]:
        yield name(await acurrent_visitor(request))

    return StreamingHttpResponse(body())


async def aunmodified(request: HttpRequest) -> HttpResponse:
    await acurrent_visitor(request)
    return HttpResponseNotModified()


async def amissing(request: HttpRequest) -> HttpResponse:
    await acurrent_visitor(request)
    raise Http404


async def acrash(request: HttpRequest) -> HttpResponse:
    await acurrent_visitor(request)
    raise ZeroDivisionError


async def aplain(request: HttpRequest) -> HttpResponse:
    return plain(request)


class Wrapper:
    """A request as that of Django REST framework, which passes on what it does not have."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def wrapped(view: Callable[[Any], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    return lambda request: view(Wrapper(request))


def names_and_trigger(request: HttpRequest) -> HttpResponse:
    complete_trigger(request, "Order placed")
    return attribute(request)


WAYS = ["attribute", "template", "function", "trigger", "register", "forget", "stream",
        "unmodified", "missing", "crash"]  # fmt: skip
sync_views = [path(f"{way}/", csrf_exempt(globals()[way])) for way in [*WAYS, "plain", "streaming"]]
async_views = [
    path(f"{way}/", csrf_exempt(globals()[f"a{way}"])) for way in [*WAYS, "plain", "streaming"]
]
pages = [
    path(f"cached/{way}/", cache_page(60)(globals()[way]))
    for way in ("attribute", "template", "function", "plain")
]
public = [path("public/register/", cache_control(public=True, max_age=60)(register))]
api = [
    path("api/function/", wrapped(cache_page(60)(function))),
    path("api/trigger/", wrapped(cache_page(60)(names_and_trigger))),
    path("api/attribute/", wrapped(cache_page(60)(vary_on_cookie(attribute)))),
    path("api/plain/", wrapped(cache_page(60)(plain))),
]
urlpatterns = [*sync_views, *pages, *public, *api, path("async/", include(async_views))]


class asking_outside:  # noqa: N801 -- a middleware that asks on the way out
    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if iscoroutinefunction(self):
            return self.acall(request)
        response = self.get_response(request)
        current_visitor(request)
        return response

    async def acall(self, request: HttpRequest) -> HttpResponse:
        response = await self.get_response(request)
        await acurrent_visitor(request)
        return response


def asking_first(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Ask on the way in, before a cache below."""

    def middleware(request: HttpRequest) -> HttpResponse:
        bool(request.affiliate_visitor)
        return get_response(request)

    return middleware


@sync_and_async_middleware
def replacing(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer in the place of the view, below our middleware."""
    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> HttpResponse:
            return HttpResponse((await get_response(request)).content.upper())

        return amiddleware

    def middleware(request: HttpRequest) -> HttpResponse:
        return HttpResponse(get_response(request).content.upper())

    return middleware


@pytest.fixture(params=HANDLERS, ids=["wsgi", "asgi"])
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(params=["session", "cookie", "no storage"])
def store(request: pytest.FixtureRequest, settings: Any) -> str:
    """Where visitors are remembered."""
    settings.MIDDLEWARE = [OURS]
    if request.param == "session":
        settings.MIDDLEWARE = [SESSIONS, OURS]
    elif request.param == "cookie":
        settings.AFFILIATE_COOKIE_NAME = "referral"
    return request.param


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    served.clear()
    cache.clear()
    yield
    cache.clear()


def is_varying(answer: Answer) -> bool:
    return "Vary" in answer and "Cookie" in answer["Vary"].decode().split(", ")


# Whoever asks varies.


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("way", WAYS)
def test_whoever_asks_varies_by_cookie(
    browser: Browser, store: str, way: str, method: str, is_known: bool
) -> None:
    if is_known:
        assert browser.get(PartnerFactory().link("/")).status == 302

    assert is_varying(browser.request(method, f"{browser.views}{way}/"))


@pytest.mark.parametrize("is_known", [True, False])
def test_who_asks_for_nobody_does_not_vary(browser: Browser, store: str, is_known: bool) -> None:
    if is_known:
        browser.get(PartnerFactory().link("/"))

    assert "Vary" not in browser.get(f"{browser.views}plain/")


def test_a_page_that_asks_in_a_post_varies_and_a_trigger_there_does_not(
    browser: Browser, store: str
) -> None:
    """No cache stores the answer to a POST."""
    assert is_varying(browser.request("POST", f"{browser.views}function/"))
    for way in ("trigger", "register", "forget"):
        assert "Vary" not in browser.request("POST", f"{browser.views}{way}/")


def test_a_body_that_asks_while_it_is_streamed_is_too_late_and_is_no_error(
    browser: Browser, store: str
) -> None:
    """The headers have been sent; the docs say so."""
    answer = browser.get(f"{browser.views}streaming/")
    assert (answer.status, answer.body) == (200, b"from nowhere")


def test_a_middleware_outside_that_asks_on_the_way_out_varies(
    browser: Browser, store: str, settings: Any
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.asking_outside", *settings.MIDDLEWARE]

    assert is_varying(browser.get(f"{browser.views}plain/"))


def test_a_response_that_another_middleware_has_put_in_the_place_of_the_views_varies(
    browser: Browser, store: str, settings: Any
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.replacing"]

    answer = browser.get(f"{browser.views}function/")

    assert answer.body == b"FROM NOWHERE"
    assert is_varying(answer)


@pytest.mark.parametrize("is_outside", [True, False])
def test_a_page_that_was_not_modified_varies(
    browser: Browser, store: str, settings: Any, is_outside: bool
) -> None:
    own = settings.MIDDLEWARE
    settings.MIDDLEWARE = [CONDITIONAL, *own] if is_outside else [*own, CONDITIONAL]
    etag = browser.get(f"{browser.views}function/")["ETag"]

    answer = browser.get(f"{browser.views}function/", If_None_Match=etag)

    assert answer.status == 304
    assert is_varying(answer)


# Django's caches.


@pytest.fixture(params=["outside", "inside", "around the view"])
def cached(request: pytest.FixtureRequest, settings: Any) -> str:
    """Where Django caches: outside or inside of our middleware; return the start of the paths."""
    settings.MIDDLEWARE = {
        "outside": [UPDATE, SESSIONS, OURS, FETCH],
        "inside": [SESSIONS, OURS, UPDATE, FETCH],
        "around the view": [SESSIONS, OURS],
    }[request.param]
    return "/cached/" if request.param == "around the view" else "/"


@pytest.mark.parametrize("cookie_name", [None, "referral"])
@pytest.mark.parametrize("way", ["attribute", "template", "function"])
def test_a_cached_page_that_asks_is_served_to_no_other_visitor(
    settings: Any, cached: str, way: str, cookie_name: str | None
) -> None:
    settings.AFFILIATE_COOKIE_NAME = cookie_name
    handler = HANDLERS[0]
    partners = PartnerFactory.create_batch(2)
    browsers = [handler(), *[handler() for _ in partners], handler()]
    names = ["nowhere", *[partner.name for partner in partners], "nowhere"]
    for partner, its in zip(partners, browsers[1:], strict=False):
        assert its.get(partner.link("/")).status == 302

    for _ in range(2):
        for its, whom in zip(browsers, names, strict=True):
            answer = its.get(f"{cached}{way}/")
            assert answer.body.decode() == f"from {whom}"
            assert is_varying(answer)


@pytest.mark.parametrize("way", ["attribute", "template", "function"])
def test_a_page_that_asks_after_a_middleware_has_asked_is_served_to_no_other_visitor(
    settings: Any, cached: str, way: str
) -> None:
    position = settings.MIDDLEWARE.index(OURS) + 1
    settings.MIDDLEWARE = [*settings.MIDDLEWARE]
    settings.MIDDLEWARE.insert(position, f"{__name__}.asking_first")
    partner = PartnerFactory()
    visitor, stranger = HANDLERS[0](), HANDLERS[0]()
    visitor.get(partner.link("/"))

    for browser, whom in ((visitor, partner.name), (stranger, "nowhere"), (visitor, partner.name)):
        answer = browser.get(f"{cached}{way}/")
        assert answer.body.decode() == f"from {whom}"
        assert is_varying(answer)


@pytest.mark.parametrize("outside", [[], [UPDATE]])
@pytest.mark.parametrize("way", ["function", "trigger", "attribute"])
def test_a_cached_method_with_a_request_around_djangos_is_served_to_no_other_visitor(
    settings: Any, way: str, outside: list[str]
) -> None:
    settings.MIDDLEWARE = [*outside, SESSIONS, OURS]
    partner = PartnerFactory()
    visitor, stranger = HANDLERS[0](), HANDLERS[0]()
    visitor.get(partner.link("/"))

    for browser, whom in ((visitor, partner.name), (stranger, "nowhere"), (visitor, partner.name)):
        assert browser.get(f"/api/{way}/").body.decode() == f"from {whom}"


def test_a_cached_method_that_does_not_ask_is_cached_for_all(settings: Any) -> None:
    settings.MIDDLEWARE = [SESSIONS, OURS]
    for _ in range(2):
        assert HANDLERS[0]().get("/api/plain/").body == b"plain"
    assert len(served) == 1


def test_a_cache_outside_keeps_the_page_of_each_visitor(settings: Any) -> None:
    settings.MIDDLEWARE = [UPDATE, SESSIONS, OURS, FETCH]
    browser = HANDLERS[0]()
    partner = PartnerFactory()
    browser.get(partner.link("/"))

    bodies = [browser.get("/function/").body.decode() for _ in range(2)]

    assert bodies == [f"from {partner.name}"] * 2
    assert served == ["/function/"]


def test_a_page_that_does_not_ask_is_cached_for_all(cached: str) -> None:
    visitor = HANDLERS[0]()
    visitor.get(PartnerFactory().link("/"))
    for browser in (visitor, HANDLERS[0]()):
        assert browser.get(f"{cached}plain/").body == b"plain"
    assert len(served) == 1


# One visitor's cookie.


@pytest.mark.parametrize("cookie_name", [None, "referral"])
def test_a_landing_is_stored_by_no_cache(
    browser: Browser, settings: Any, cookie_name: str | None
) -> None:
    settings.AFFILIATE_COOKIE_NAME = cookie_name
    settings.MIDDLEWARE = [UPDATE, SESSIONS, OURS, FETCH]
    partner = PartnerFactory()

    answers = [type(browser)().get(partner.link(f"{browser.views}plain/")) for _ in range(2)]

    assert Visitor.objects.count() == 2
    for answer in answers:
        assert answer.status == 302
        assert "Set-Cookie" in [name for name, _ in answer.headers]
        control = answer["Cache-Control"].decode().split(", ")
        assert {"no-store", "private"} <= set(control)
        assert "public" not in control


@pytest.mark.parametrize("cookie_name", [None, "referral"])
def test_a_page_that_registers_a_visitor_is_for_this_browser_only(
    settings: Any, cookie_name: str | None
) -> None:
    """Or a cache in front of the site would hand on the cookie."""
    settings.AFFILIATE_COOKIE_NAME = cookie_name
    settings.MIDDLEWARE = [SESSIONS, OURS]
    browser, link = HANDLERS[0](), PartnerFactory().link("/").replace("?", "%3F")

    answer = browser.get(f"/public/register/?link={link}")

    assert Visitor.objects.count() == 1
    control = answer["Cache-Control"].decode().split(", ")
    assert "private" in control
    assert "public" not in control
    assert "private" not in browser.get("/public/register/")["Cache-Control"].decode()
