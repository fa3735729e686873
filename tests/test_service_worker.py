"""A site with a service worker, in Chromium: which requests through the worker are clicks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.core.signals import request_started
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from affiliations.models import Partner, Visitor
from tests.chromium import Window
from tests.factories import PartnerFactory

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
    pytest.mark.urls(__name__),
]

#: The destination, mode and site of each request.
Requests = list[tuple[str, ...]]

WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => event.respondWith(fetch(event.request)));
"""
INSTALL = """async () => {
    const controlled = new Promise((resolve) =>
        navigator.serviceWorker.addEventListener("controllerchange", resolve));
    await navigator.serviceWorker.register("/worker.js");
    await controlled;
}"""
#: Each loads a URL in the background, and waits until that has succeeded or failed.
IMAGE = """(url) => new Promise((resolve) => {
    const image = new Image();
    image.onload = image.onerror = () => resolve();
    image.src = url;
})"""
FRAME = """(url) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.onload = () => resolve();
    frame.src = url;
    document.body.append(frame);
})"""
CLICK = """(url) => {
    const link = document.createElement("a");
    link.href = url;
    link.click();
}"""
NO_CORS = "(url) => fetch(url, {mode: 'no-cors'}).then(() => null)"
FETCH = "(url) => fetch(url).then(() => null)"


def worker(request: HttpRequest) -> HttpResponse:
    return HttpResponse(WORKER, content_type="text/javascript")


def framed(request: HttpRequest) -> HttpResponse:
    """Answer with a page that a page of the site may show in a frame."""
    response = HttpResponse("<p>A page")
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    return response


urlpatterns = [
    path("worker.js", worker),
    path("framed/", framed),
    path("", include("tests.urls")),
]


@pytest.fixture
def site(live_server: Any) -> str:
    # A service worker needs https, or this name.
    return str(live_server.url).replace("127.0.0.1", "localhost")


@pytest.fixture
def other_site(site: str, settings: Any) -> str:
    settings.ALLOWED_HOSTS = ["*"]
    return site.replace("localhost", "127.0.0.1")


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """Open a page of the site."""
    with Window.open(browser) as window:
        window.page.goto(f"{site}/framed/")
        yield window.page


@pytest.fixture
def worker_page(page: Page) -> Page:
    """Return to the site, whose service worker is installed by now."""
    page.evaluate(INSTALL)
    page.reload()
    assert page.evaluate("navigator.serviceWorker.controller !== null")
    return page


@pytest.fixture
def link(site: str) -> str:
    return site + PartnerFactory().link("/framed/?a=1")


@pytest.fixture
def asked() -> Iterator[Requests]:
    """List the Sec-Fetch headers of each request for the link."""
    found: Requests = []

    def note(environ: dict[str, str], **kwargs: Any) -> None:
        if "affiliate_id" in environ["QUERY_STRING"]:
            names = ("HTTP_SEC_FETCH_DEST", "HTTP_SEC_FETCH_MODE", "HTTP_SEC_FETCH_SITE")
            found.append(tuple(environ[name] for name in names))

    request_started.connect(note)
    yield found
    request_started.disconnect(note)


def test_a_returning_customer_s_click_counts(
    worker_page: Page, other_site: str, link: str, asked: Requests
) -> None:
    worker_page.goto(f"{other_site}/framed/")

    worker_page.evaluate(CLICK, link)
    worker_page.wait_for_url("**/?a=1")

    assert asked == [("empty", "navigate", "cross-site")]
    visitor = Visitor.objects.get()
    assert visitor.partner == Partner.objects.get()
    assert visitor.referrer == f"{other_site}/"
    assert not visitor.is_internal


def test_a_click_in_an_e_mail_is_not_internal(
    worker_page: Page, link: str, asked: Requests
) -> None:
    """Without a worker the site is "none"."""
    worker_page.goto(link)

    assert asked == [("empty", "navigate", "same-origin")]
    assert not Visitor.objects.get().is_internal


def test_a_click_on_a_page_of_the_site_is_internal(worker_page: Page, link: str) -> None:
    worker_page.evaluate(CLICK, link)
    worker_page.wait_for_url("**/?a=1")

    assert Visitor.objects.get().is_internal


def test_what_a_page_loads_in_the_background_does_not_count(
    worker_page: Page, link: str, asked: Requests
) -> None:
    for load in (IMAGE, NO_CORS, FETCH):
        worker_page.evaluate(load, link)

    assert not Visitor.objects.exists()
    assert asked == [
        ("empty", "no-cors", "same-origin"),
        ("empty", "no-cors", "same-origin"),
        ("empty", "cors", "same-origin"),
    ]


@pytest.mark.parametrize("opened", ["page", "worker_page"])
def test_what_scripts_follow_counts_with_the_setting(
    request: pytest.FixtureRequest, opened: str, link: str, settings: Any
) -> None:
    page = request.getfixturevalue(opened)
    page.evaluate(FETCH, link)
    assert not Visitor.objects.exists()
    settings.AFFILIATE_COUNT_FETCHES = True

    page.evaluate(NO_CORS, link)
    assert not Visitor.objects.exists()
    page.evaluate(FETCH, link)

    assert Visitor.objects.get().is_internal


def test_what_is_followed_in_a_frame_counts_with_the_setting(
    page: Page, link: str, settings: Any, asked: Requests
) -> None:
    page.evaluate(FRAME, link)
    assert not Visitor.objects.exists()
    settings.AFFILIATE_COUNT_FRAMES = True

    page.evaluate(FRAME, link)

    assert Visitor.objects.get().is_internal
    assert asked == [("iframe", "navigate", "same-origin")] * 2
