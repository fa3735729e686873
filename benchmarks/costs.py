"""The costs of requests and saves, with the app and without it: in memory, in CPU time."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import django

from benchmarks.measure import Row, Work, fastest, quartiles

PROCESSES, VALUES, TURNS = 3, 3, 30
GOALS = {"save": "1.05", "landing": "1.15", "conversion": "1.15", "request": "1.04"}

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
PINAX = "pinax.referrals.middleware.SessionJumpingMiddleware"
BROWSER = {
    "HTTP_USER_AGENT": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en",
    "HTTP_SEC_FETCH_DEST": "document",
    "HTTP_SEC_FETCH_MODE": "navigate",
    "HTTP_SEC_FETCH_SITE": "cross-site",
}
# The cookie of a session that does not exist; the session should not be read.
COOKIE = "sessionid=abcdefghijklmnopqrstuvwxyz012345"

#: Works by name; the others are compared with the first.
Group = dict[str, Work]


def nothing(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Be a middleware that does nothing."""

    def middleware(request: Any) -> Any:
        return get_response(request)

    return middleware


def made(handler: Callable[[], Any], middleware: str = "") -> Any:
    """Return a handler with Django's middleware and one more, or none."""
    from django.conf import settings
    from django.test import override_settings

    stack = [path for path in settings.MIDDLEWARE if path != OURS]
    with override_settings(MIDDLEWARE=[*stack, middleware] if middleware else stack):
        return handler()


def page(
    path: str, middleware: str = "", *, method: str = "GET", cookie: str = "", status: int = 200
) -> Work:
    """Request a page through the whole of Django, as a WSGI server does."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import RequestFactory

    handler = made(WSGIHandler, middleware)
    environ = RequestFactory(**BROWSER).generic(method, path, HTTP_COOKIE=cookie).environ

    def start_response(line: str, headers: list[tuple[str, str]]) -> None:
        assert line.startswith(str(status)), line

    def run(count: int) -> None:
        for _ in range(count):
            response = handler(environ | {"wsgi.input": io.BytesIO()}, start_response)
            b"".join(response)
            response.close()

    return Work(run)


def async_page(middleware: str = "") -> Work:
    """Request a page through the whole of Django, as an ASGI server does."""
    from django.core.handlers.asgi import ASGIHandler

    handler = made(ASGIHandler, middleware)
    headers = [(name[5:].lower().replace("_", "-"), value) for name, value in BROWSER.items()]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/async/",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), *((n.encode(), v.encode()) for n, v in headers)],
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


def plain_requests(cookie: str = "") -> Group:
    from django.conf import settings

    group = {
        "bare Django": page("/", cookie=cookie),
        "a middleware that does nothing": page("/", "benchmarks.costs.nothing", cookie=cookie),
        "this app": page("/", OURS, cookie=cookie),
    }
    if settings.HAS_PINAX:
        group["pinax-referrals"] = page("/", PINAX, cookie=cookie)
    return group


def receive(sender: object, **sent: object) -> None:
    """Be a receiver that does nothing."""


def connected(receiver: str = "") -> Callable[[], None]:
    """Return a function that connects to each save of an order: a trigger, nothing, or neither."""
    from django.db.models.signals import post_save

    from affiliations import registry
    from tests.testapp.models import Order

    def connect() -> None:
        registry.disconnect()
        post_save.disconnect(receive, sender=Order)
        if receiver == "nothing":
            post_save.connect(receive, sender=Order)
        elif receiver:
            registry.connect()

    return connect


def saves(*, in_request: bool = False, has_read: bool = False) -> Group:
    """Save orders: outside of a request, in one of a new browser, in one with a read session."""
    from django.contrib.sessions.backends.db import SessionStore
    from django.test import RequestFactory

    from affiliations.tracking import binding
    from tests.testapp.models import Order

    request = RequestFactory().post("/")
    key = stored_session().session_key if has_read else None

    def run(count: int) -> None:
        for _ in range(count):
            request.session = SessionStore(key)
            request.__dict__.pop("_affiliations", None)
            if has_read:
                request.session.get("basket")
            with binding.binding(request) if in_request else nullcontext():
                Order(note="tea").save()

    return {
        "without a trigger": Work(run, connected()),
        "a receiver that does nothing": Work(run, connected("nothing")),
        "this app, a trigger": Work(run, connected("trigger")),
    }


def landings() -> Group:
    """Follow a partner's link."""
    from affiliations.models import Partner

    partner = Partner.objects.create(active=True)
    query = f"?affiliate_id={partner.uid}&click_id=42&sub1=blog"
    return same_queries(
        page(f"/by-hand/{query}", status=302), page(f"/page/{query}", OURS, status=302)
    )


def conversions() -> Group:
    """Place orders as a partner's visitor; each is a conversion with a callback."""
    from affiliations.models import Subscription, Visitor

    subscription = subscribed()
    visitor = Visitor.objects.create(partner=subscription.partner, click_id="42")
    assert subscription.counting == Subscription.Counting.EVERY
    values = {
        f"{name}{suffix}": value
        for name in ("referred_by", "affiliate_visitor_id")
        for suffix, value in (("", visitor.pk), ("_fingerprint", visitor.fingerprint))
    }
    cookie = f"sessionid={stored_session(**values).session_key}"
    by_hand = page("/by-hand/order/", method="POST", cookie=cookie)
    ours = page("/order/", OURS, method="POST", cookie=cookie)
    return same_queries(Work(by_hand.run, connected()), Work(ours.run, connected("trigger")))


def subscribed(url: str = "https://partner.example/?c={click_id}", name: str = "") -> Any:
    """Return the subscription of a new partner to every order."""
    from affiliations.models import Partner

    return Partner.objects.create(active=True, name=name).subscriptions.create(
        trigger="Order placed", callback_url=url, counting="every", closes_referral=False
    )


def same_queries(by_hand: Work, ours: Work) -> Group:
    """Compare a view by hand with the app, after a look at the queries of both."""
    from django.db import connections
    from django.test.utils import CaptureQueriesContext

    from benchmarks.tables import Router

    counts = []
    for work in (by_hand, ours):
        work.begin()
        work.run(1)
        with CaptureQueriesContext(connections[Router.alias]) as queries:
            work.run(1)
        counts.append(len(queries))
    assert counts[0] == counts[1], counts
    return {f"a view by hand, {counts[0]} queries": by_hand, f"this app, {counts[1]} queries": ours}


def stored_session(**values: object) -> Any:
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session.update({"basket": "tea"} | values)
    session.save()
    return session


#: Title, kind of the goal, the works, and how often each is done in one turn.
GROUPS: list[tuple[str, str, Callable[[], Group], int]] = [
    ("A plain request", "request", plain_requests, 10),
    ("A plain request with a session cookie", "request", partial(plain_requests, COOKIE), 10),
    (
        "A plain request to an async view",
        "request",
        lambda: {"bare Django": async_page(), "this app": async_page(OURS)},
        2,
    ),
    ("Saving an order", "save", saves, 10),
    ("Saving an order in a request", "save", partial(saves, in_request=True), 10),
    (
        "Saving an order in a request whose session is read",
        "save",
        partial(saves, in_request=True, has_read=True),
        10,
    ),
    ("A landing", "landing", landings, 2),
    ("A conversion", "conversion", conversions, 2),
]


def rows() -> Iterator[Row | str]:
    """Start the processes that measure, and yield the titles and the rows."""
    found: list[dict[str, list[dict[str, float]]]] = []
    for _ in range(PROCESSES):
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.costs"],
            env=os.environ | {"BENCHMARKS_IN_MEMORY": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
        found.append(json.loads(process.stdout))
    for title, kind, _, _ in GROUPS:
        yield title
        yield from group_rows([value for one in found for value in one[title]], GOALS[kind])


def group_rows(values: list[dict[str, float]], goal: str) -> Iterable[Row]:
    """Yield the rows of a group from the seconds of its works, each measured a few times."""
    first, *others = values[0]
    yield Row(first, microseconds(value[first] for value in values))
    for name in others:
        ratios = [value[name] / value[first] for value in values]
        figure = microseconds(value[name] for value in values)
        yield Row(name, figure, ratios, goal if name.startswith("this app") else "")


def microseconds(values: Iterable[float]) -> str:
    return f"{quartiles(list(values))[1] * 1e6:,.0f} µs"


def main() -> None:
    import gc

    from django.core.management import call_command

    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    found = {}
    for title, _, prepare, count in GROUPS:
        works = prepare()
        # Exclude all existing objects from garbage collection.
        gc.collect()
        gc.freeze()
        found[title] = [fastest(works, count, TURNS) for _ in range(VALUES)]
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    main()
