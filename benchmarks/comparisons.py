"""The comparisons: the same work without this app and with it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import RequestFactory, override_settings

from affiliations import registry
from affiliations.models import Partner, Subscription, Visitor
from affiliations.tracking import binding
from tests.testapp.models import Order

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"

# The cookie of a session that does not exist; the session should not be read.
COOKIE = "sessionid=abcdefghijklmnopqrstuvwxyz012345"


@dataclass(frozen=True)
class Work:
    """``run`` does the work a number of times; ``begin`` runs first and is not measured."""

    run: Callable[[int], None]
    begin: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Comparison:
    """Functions that create the two works, and how often each is done in one turn."""

    without: Callable[[], Work]
    ours: Callable[[], Work]
    count: int


def page(
    path: str = "/", *, method: str = "GET", cookie: str = "", ours: bool = True, status: int = 200
) -> Work:
    """Request a page through the whole of Django, as a WSGI server does."""
    handler = made(WSGIHandler, ours)
    environ = RequestFactory().generic(method, path, HTTP_COOKIE=cookie).environ

    def start_response(line: str, headers: list[tuple[str, str]]) -> None:
        assert line.startswith(str(status)), line

    def run(count: int) -> None:
        for _ in range(count):
            response = handler(environ | {"wsgi.input": io.BytesIO()}, start_response)
            b"".join(response)
            response.close()

    return Work(run)


def async_page(*, cookie: str = "", ours: bool = True) -> Work:
    """Request a page through the whole of Django, as an ASGI server does."""
    handler = made(ASGIHandler, ours)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/async/",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"cookie", cookie.encode())],
    }
    loop = asyncio.new_event_loop()

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200, message

    async def ask(count: int) -> None:
        for _ in range(count):
            messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            messages.put_nowait({"type": "http.request"})
            await handler(dict(scope), messages.get, send)

    return Work(lambda count: loop.run_until_complete(ask(count)))


def made(handler: Callable[[], Any], ours: bool) -> Any:
    """Return a handler with the middleware of the settings, with or without the app's own."""
    stack = [path for path in settings.MIDDLEWARE if ours or path != OURS]
    with override_settings(MIDDLEWARE=stack):
        return handler()


def save(*, session: Callable[[], SessionStore] | None = None, ours: bool = True) -> Work:
    """Save new orders: in requests of a browser with this session, or outside of requests."""
    request = RequestFactory().get("/")
    key = session().session_key if session else None

    def run(count: int) -> None:
        for _ in range(count):
            # As in a new request, whose session has not been read.
            request.session = SessionStore(key)
            with binding.binding(request) if session else nullcontext():
                Order(note="tea").save()

    return Work(run, begin=partial(wire, ours))


def wire(ours: bool) -> None:
    """Connect the triggers of the settings, or disconnect them."""
    registry.connect() if ours else registry.disconnect()


def order(*, ours: bool = True) -> Work:
    """Place orders as a partner's visitor; each is a conversion."""
    partner = Partner.objects.create(active=True)
    partner.subscriptions.create(
        trigger="Order placed",
        callback_url="https://partner.example/?c={click_id}",
        counting=Subscription.Counting.EVERY,
        closes_referral=False,
    )
    visitor = Visitor.objects.create(partner=partner, click_id="42")
    session = stored(
        affiliate_visitor_id=visitor.pk, affiliate_visitor_id_fingerprint=visitor.fingerprint
    )
    placed = page("/order/", method="POST", cookie=f"sessionid={session.session_key}")
    return Work(placed.run, begin=partial(wire, ours))


def landing() -> Work:
    """Follow a partner's link."""
    return page(Partner.objects.create(active=True).link("/", click_id="42"), status=302)


def stored(**values: object) -> SessionStore:
    """Return a stored session for the browser's cookie."""
    session = SessionStore()
    session.update({"basket": "tea"} | values)
    session.save()
    return session


def with_and_without(work: Callable[..., Work], count: int, **options: Any) -> Comparison:
    """Compare the work without and with the app."""
    return Comparison(partial(work, ours=False, **options), partial(work, **options), count)


COMPARISONS = {
    # The same work on both sides, which shows how exact the measurements are.
    "nothing": Comparison(page, page, 10),
    "request": with_and_without(page, 10),
    "request-cookie": with_and_without(page, 10, cookie=COOKIE),
    "async-request": with_and_without(async_page, 2),
    "async-request-cookie": with_and_without(async_page, 2, cookie=COOKIE),
    "save": with_and_without(save, 10),
    "save-in-request": with_and_without(save, 10, session=SessionStore),
    "save-in-request-cookie": with_and_without(save, 10, session=stored),
    "landing": Comparison(page, landing, 1),
    "conversion": with_and_without(order, 1),
}
