"""Under ASGI: whose request it is where many are served in one thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import tls
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import connection
from django.db.models.signals import post_save
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from affiliations import triggers
from affiliations.models import Callback, Conversion, Visitor
from affiliations.tracking import binding, visitors
from affiliations.triggers import acomplete_trigger, object_created, object_saved
from tests.arrivals import referred, remember
from tests.factories import PartnerFactory, SubscriptionFactory
from tests.testapp.models import Newsletter, Order
from tests.testapp.signals import something_happened

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_asgi")]

MANY = 50


class Meeting:
    """Where requests wait until all are under way, so that each is served among all others."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.changing = threading.Lock()
        self.complete = threading.Event()
        # Servers of databases have few connections; that all are under way needs none.
        self.few = threading.Semaphore(10)

    def arrive(self) -> None:
        with self.changing:
            self.expected -= 1
            if self.expected == 0:
                self.complete.set()

    def wait(self) -> None:
        self.arrive()
        assert self.complete.wait(30)

    async def await_all(self) -> None:
        self.arrive()
        while not self.complete.is_set():  # noqa: ASYNC110 -- threads set it
            await asyncio.sleep(0.001)


meeting = Meeting(0)
#: (the number that the request was sent with, the number of the request that a receiver saw)
seen: list[tuple[str, str]] = []


def number(request: HttpRequest) -> str:
    return str(request.headers["X-Number"])


def place_order(request: HttpRequest) -> None:
    with meeting.few:
        Order.objects.create(note=number(request))
        connection.close()


def sync_view(request: HttpRequest) -> HttpResponse:
    meeting.wait()
    something_happened.send(sender=HttpRequest, number=number(request))
    place_order(request)
    return HttpResponse("done")


async def async_view(request: HttpRequest) -> HttpResponse:
    await meeting.await_all()
    await something_happened.asend(sender=HttpRequest, number=number(request))
    await sync_to_async(place_order)(request)
    return HttpResponse("done")


async def view_of_async_receivers(request: HttpRequest) -> HttpResponse:
    """Credit by an async receiver, without an order."""
    await meeting.await_all()
    await something_happened.asend(sender=Visitor, number=number(request))
    return HttpResponse("done")


def sync_receiver(sender: object, number: str, **kwargs: object) -> None:
    """Remember whose request is bound here."""
    seen.append((number, tls.request.headers["X-Number"]))


async def async_receiver(sender: object, number: str, **kwargs: object) -> None:
    seen.append((number, tls.request.headers["X-Number"]))
    await asyncio.sleep(0.001)
    seen.append((number, tls.request.headers["X-Number"]))


async def async_crediting_receiver(
    sender: object, number: str, affiliate_trigger_name: str, **kwargs: object
) -> None:
    await asyncio.sleep(0.001)
    await acomplete_trigger(tls.request, affiliate_trigger_name, reference=number)


async def paid_view(request: HttpRequest) -> HttpResponse:
    """Credit a visitor that is stated, in a request whose session nobody has read."""
    conversion = await acomplete_trigger(
        request, "Order placed", visitor=request.headers["X-Number"]
    )
    return HttpResponse(str(conversion is not None))


async def wrong_view(request: HttpRequest) -> HttpResponse:
    """Send synchronously in async code, where Django forbids to ask the database."""
    something_happened.send(sender=Newsletter)
    return HttpResponse("done")


async def streaming_view(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> Any:
        yield f"{binding.current_request() is request} "
        yield str(await acomplete_trigger(tls.request, "Order placed") is not None)

    return StreamingHttpResponse(body())


urlpatterns = [
    path("sync/", csrf_exempt(sync_view)),
    path("async/", csrf_exempt(async_view)),
    path("async/receivers/", csrf_exempt(view_of_async_receivers)),
    path("paid/", csrf_exempt(paid_view)),
    path("wrong/", csrf_exempt(wrong_view)),
    path("streaming/", csrf_exempt(streaming_view)),
    path("", include("tests.urls")),
]


async def ask(
    application: Any, path: str, method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Send one request to the application; return status, headers and body."""
    communicator = ApplicationCommunicator(
        application,
        {
            "type": "http",
            "method": method,
            "path": path.partition("?")[0],
            "query_string": path.partition("?")[2].encode(),
            "headers": [
                (b"host", b"testserver"),
                *(
                    (name.replace("_", "-").encode(), value.encode())
                    for name, value in headers.items()
                ),
            ],
        },
    )
    await communicator.send_input({"type": "http.request"})
    start = await communicator.receive_output(60)
    body = b""
    more = True
    while more:
        part = await communicator.receive_output(60)
        body += part.get("body", b"")
        more = part.get("more_body", False)
    await communicator.wait(60)
    told = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], told, body.decode()


def serve(*requests: Any) -> list[Any]:
    """Serve requests at once, as a server does: one loop, and a thread for each one's sync code."""

    async def main() -> list[Any]:
        assert binding.current_request() is None
        answers = await asyncio.gather(*requests)
        assert binding.current_request() is None
        return answers

    return asyncio.run(main())


def cookie_of(visitor: Visitor) -> str:
    """Return the cookie of a browser whose session remembers the visitor."""
    session = Client().session
    remember(session, visitor)
    return f"sessionid={session.session_key}"


@pytest.fixture
def application() -> Any:
    return get_asgi_application()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.usefixtures("errors")
def test_fifty_requests_at_once_see_each_their_own_request_and_credit_their_own_visitor(
    application: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire(
        [
            ("Order placed", post_save, object_created, Order),
            ("Something", something_happened, async_crediting_receiver, Visitor),
        ]
    )
    partner = PartnerFactory()
    for trigger in ("Order placed", "Something"):
        SubscriptionFactory(partner=partner, trigger=trigger)
    all_visitors = [Visitor(partner=partner, click_id=str(i)) for i in range(MANY)]
    Visitor.objects.bulk_create(all_visitors)
    monkeypatch.setattr("tests.test_asgi.meeting", Meeting(MANY))
    views = ["/sync/", "/async/", "/async/receivers/"]
    seen.clear()
    something_happened.connect(sync_receiver)
    something_happened.connect(async_receiver)
    try:
        answers = serve(
            *[
                ask(application, views[i % 3], x_number=str(i), cookie=cookie_of(visitor))
                for i, visitor in enumerate(Visitor.objects.order_by("pk"))
            ]
        )
    finally:
        something_happened.disconnect(sync_receiver)
        something_happened.disconnect(async_receiver)

    assert [status for status, *_ in answers] == [200] * MANY
    assert sorted(seen) == sorted((str(i), str(i)) for i in range(MANY) for _ in range(3))
    assert Conversion.objects.count() == Callback.objects.count() == MANY
    for conversion in Conversion.objects.select_related("visitor"):
        if conversion.trigger == "Something":
            assert conversion.reference == conversion.visitor.click_id
        else:
            order = Order.objects.get(pk=conversion.reference.partition(":")[2])
            assert order.note == conversion.visitor.click_id


@pytest.mark.usefixtures("errors")
@pytest.mark.parametrize(
    ("landing", "order"), [("/async/", "/async/order/"), ("/page/", "/order/")]
)
def test_the_whole_way_under_asgi(application: Any, landing: str, order: str) -> None:
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner)
    [(status, headers, _)] = serve(ask(application, partner.link(landing), "GET"))
    assert (status, headers["location"]) == (302, landing)
    cookie = headers["set-cookie"].partition(";")[0]
    [(status, _, pk)] = serve(ask(application, order, cookie=cookie))
    assert status == 200
    assert Conversion.objects.get().reference == f"testapp.order:{pk}"
    [(status, _, _)] = serve(ask(application, order, cookie=cookie))
    assert status == 200
    assert Conversion.objects.count() == 1
    assert "affiliate_visitor_id" in session_of(cookie)


def session_of(cookie: str) -> dict[str, Any]:
    client = Client()
    client.cookies["sessionid"] = cookie.partition("=")[2]
    return dict(client.session.items())


@pytest.mark.usefixtures("errors")
@pytest.mark.parametrize("same", [True, False])
def test_a_stated_visitor_is_credited_in_an_async_view_that_never_reads_the_session(
    settings: Any, same: bool
) -> None:
    settings.MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware",
    ]
    application = get_asgi_application()
    visitor = referred()
    cookie = cookie_of(visitor if same else referred())
    [(status, _, body)] = serve(ask(application, "/paid/", cookie=cookie, x_number=str(visitor.pk)))
    assert (status, body) == (200, "True")
    # A closed referral stays in the session, since it may be open again.
    assert "affiliate_visitor_id" in session_of(cookie)


@pytest.mark.usefixtures("errors")
def test_an_async_trigger_that_concerns_nobody_never_changes_the_thread(
    application: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire([("Something", something_happened, async_crediting_receiver, Visitor)])

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("the thread was changed")

    monkeypatch.setattr(triggers, "sync_to_async", forbidden)
    monkeypatch.setattr(visitors, "sync_to_async", forbidden)
    monkeypatch.setattr("tests.test_asgi.meeting", Meeting(1))
    [(status, headers, _)] = serve(ask(application, "/async/receivers/", x_number="1"))
    assert status == 200
    assert "vary" not in headers
    assert not Conversion.objects.exists()


def test_a_signal_that_is_sent_synchronously_in_an_async_view_breaks_nothing_and_says_so(
    application: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Django lets no receiver ask the database there; it is sent with asend(), or in a thread.
    wire([("Something", something_happened, object_saved, Newsletter)])
    visitor = referred("Something")
    [(status, _, _)] = serve(ask(application, "/wrong/", cookie=cookie_of(visitor)))
    assert status == 200
    assert not Conversion.objects.exists()
    assert "Trigger “Something” failed." in caplog.text
    assert "SynchronousOnlyOperation" in caplog.text


@pytest.mark.usefixtures("errors")
def test_a_streaming_body_is_a_part_of_the_request(application: Any) -> None:
    [(status, _, body)] = serve(ask(application, "/streaming/", cookie=cookie_of(referred())))
    assert (status, body) == (200, "True True")


@pytest.mark.usefixtures("errors")
def test_an_async_receiver_credits_in_a_sync_view_under_wsgi_too(client: Client, wire: Any) -> None:
    async def receiver(
        sender: object, instance: Order, affiliate_trigger_name: str, **kwargs: object
    ) -> None:
        await acomplete_trigger(tls.request, affiliate_trigger_name, instance=instance)

    wire([("Order placed", post_save, receiver, Order)])
    visitor = referred()
    name, _, value = cookie_of(visitor).partition("=")
    client.cookies[name] = value
    response = client.post("/order/")
    assert response.status_code == 200
    assert Conversion.objects.get().visitor == visitor
