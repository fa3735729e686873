"""From when until when a request counts, and whose order it is that is placed outside of that."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
import tls
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import Client, RequestFactory
from django.urls import include, path
from django.utils.deprecation import MiddlewareMixin

from affiliations.models import Conversion, Visitor
from affiliations.tracking import binding
from tests.arrivals import referred
from tests.test_asgi import ask, cookie_of
from tests.testapp.models import Order

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls(__name__),
    # Django leaves the body of a request open if the response fails or the visitor leaves.
    pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning"),
]

ABOVE = f"{__name__}."
#: Tasks and threads that views have begun, with what lets them go on.
begun: list[tuple[Any, Any]] = []


def place(note: str = "") -> str:
    Order.objects.create(note=note)
    return note


def place_in_thread(note: str) -> str:
    """Place an order in a thread of which no end of a request closes the connection."""
    try:
        return place(note)
    finally:
        connection.close()


aplace = sync_to_async(place_in_thread)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "begun"
        yield place("in the stream")

    return StreamingHttpResponse(parts())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "begun"
        yield await aplace("in the stream")

    return StreamingHttpResponse(parts())


def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    begin_thread()

    def parts() -> Iterator[str]:
        yield "begun"
        raise ZeroDivisionError

    return StreamingHttpResponse(parts())


async def abroken_stream(request: HttpRequest) -> StreamingHttpResponse:
    begin_task()

    async def parts() -> AsyncIterator[str]:
        yield "begun"
        raise ZeroDivisionError

    return StreamingHttpResponse(parts())


def guarded_stream(request: HttpRequest) -> StreamingHttpResponse:
    """Place an order at the end, however it comes."""

    def parts() -> Iterator[str]:
        try:
            yield "begun"
            yield "ended"
        finally:
            place("at the end")

    return StreamingHttpResponse(parts())


async def endless_stream(request: HttpRequest) -> StreamingHttpResponse:
    begin_task()

    async def parts() -> AsyncIterator[str]:
        yield "begun"
        await asyncio.Event().wait()

    return StreamingHttpResponse(parts())


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(BytesIO(b"the price list"))


def begin_thread() -> None:
    """Begin a thread that has the context, as that of a pool may have."""
    go_on = threading.Event()

    def work() -> None:
        assert go_on.wait(30)
        place_in_thread("of a stranger")

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    begun.append((thread, go_on))


def begin_task() -> None:
    """Begin a task, which has the context."""
    go_on = asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        await aplace("of a stranger")

    begun.append((asyncio.create_task(work()), go_on))


def with_thread(request: HttpRequest) -> HttpResponse:
    begin_thread()
    return HttpResponse("done")


async def with_task(request: HttpRequest) -> HttpResponse:
    begin_task()
    return HttpResponse("done")


async def with_awaited_task(request: HttpRequest) -> HttpResponse:
    begin_task()
    task, go_on = begun.pop()
    go_on.set()
    await task
    return HttpResponse("done")


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


urlpatterns = [
    path("stream/", stream),
    path("astream/", astream),
    path("broken/", broken_stream),
    path("abroken/", abroken_stream),
    path("guarded/", guarded_stream),
    path("endless/", endless_stream),
    path("file/", file),
    path("thread/", with_thread),
    path("task/", with_task),
    path("awaited/", with_awaited_task),
    path("plain/", plain),
    path("", include("tests.urls")),
]


# What a host may list above the app's middleware.


class PlacingMiddleware(MiddlewareMixin):
    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        place("above")
        return response


class TransactionMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with transaction.atomic():
            transaction.on_commit(lambda: place("after the commit") and None)
            return self.get_response(request)


class ReplacingMiddleware(MiddlewareMixin):
    """Send the body of the view in a response of its own."""

    def process_response(self, request: HttpRequest, response: Any) -> HttpResponseBase:
        return StreamingHttpResponse(response.streaming_content)


class SlowMiddleware:
    """Take so long after the view that the visitor leaves."""

    sync_capable, async_capable = False, True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        await self.get_response(request)
        left.set()
        await asyncio.Event().wait()
        raise AssertionError


left = threading.Event()


@pytest.fixture(autouse=True)
def visitor(settings: Any) -> Iterator[Visitor]:
    begun.clear()
    visitor = referred(counting="every", closes_referral=False)
    yield visitor
    assert binding.current_request() is None
    assert not tls.request
    gc.collect()  # What Django leaves open.


def browser_of(visitor: Visitor) -> Client:
    client = Client()
    name, _, value = cookie_of(visitor).partition("=")
    client.cookies[name] = value
    return client


def credited() -> list[tuple[str, int]]:
    """Return the orders that are credited, each with its visitor."""
    return [
        (Order.objects.get(pk=reference.partition(":")[2]).note, visitor)
        for reference, visitor in Conversion.objects.order_by("pk").values_list(
            "reference", "visitor"
        )
    ]


def placed() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("note", flat=True))


def serve_wsgi(visitor: Visitor, target: str, *, parts: int | None = None) -> list[bytes]:
    """Do what a WSGI server does; stop after some parts if the visitor leaves then."""
    environ = RequestFactory().get(target, HTTP_COOKIE=cookie_of(visitor)).environ
    response: Any = get_wsgi_application()(environ, lambda *args: None)
    try:
        body = iter(response)
        return list(body) if parts is None else [next(body) for _ in range(parts)]
    finally:
        response.close()


def serve_asgi(
    visitor: Visitor, target: str, then: Callable[[], Any] = lambda: asyncio.sleep(0)
) -> str:
    cookie = cookie_of(visitor)

    async def main() -> str:
        _, _, body = await ask(get_asgi_application(), target, "GET", cookie=cookie)
        await then()
        return body

    return asyncio.run(main())


async def asking(target: str, cookie: str) -> ApplicationCommunicator:
    """Send a request, and leave the answer to the caller."""
    communicator = ApplicationCommunicator(
        get_asgi_application(),
        {
            "type": "http",
            "method": "GET",
            "path": target,
            "query_string": b"",
            "headers": [(b"host", b"testserver"), (b"cookie", cookie.encode())],
        },
    )
    await communicator.send_input({"type": "http.request"})
    return communicator


async def end_tasks() -> None:
    for task, go_on in begun:
        go_on.set()
        await task


def end_threads() -> None:
    for thread, go_on in begun:
        go_on.set()
        thread.join()


# Streams


@pytest.mark.parametrize(
    ("target", "serve"),
    [
        ("/stream/", serve_wsgi),
        ("/astream/", serve_asgi),
        pytest.param(
            "/stream/", serve_asgi, marks=pytest.mark.filterwarnings("ignore:StreamingHttp")
        ),
        pytest.param(
            "/astream/", serve_wsgi, marks=pytest.mark.filterwarnings("ignore:StreamingHttp")
        ),
    ],
)
def test_an_order_in_a_streamed_answer_credits_the_visitor(
    visitor: Visitor, target: str, serve: Callable[..., Any]
) -> None:
    serve(visitor, target)
    assert credited() == [("in the stream", visitor.pk)]


@pytest.mark.parametrize("target", ["/stream/", "/astream/"])
@pytest.mark.filterwarnings("ignore:StreamingHttp")
def test_two_streams_that_take_turns_in_one_thread_credit_each_their_own_visitor(
    visitor: Visitor, target: str
) -> None:
    other = referred(counting="every", closes_referral=False)
    answers = [browser_of(whose).get(target) for whose in (visitor, other)]
    for answer in answers:
        b"".join(answer)
    assert credited() == [("in the stream", visitor.pk), ("in the stream", other.pk)]


@pytest.mark.parametrize("target", ["/stream/", "/file/"])
def test_what_a_test_does_beside_an_open_stream_is_nobodys(visitor: Visitor, target: str) -> None:
    answer = browser_of(visitor).get(target)
    place("of the test")
    answer.close()
    assert credited() == []


def test_a_stream_that_the_visitor_leaves_counts_until_it_is_closed(visitor: Visitor) -> None:
    assert serve_wsgi(visitor, "/guarded/", parts=1) == [b"begun"]
    place("afterwards")
    assert placed() == ["at the end", "afterwards"]
    assert credited() == [("at the end", visitor.pk)]


def test_a_stream_that_fails_counts_no_longer(visitor: Visitor) -> None:
    with pytest.raises(ZeroDivisionError):
        serve_wsgi(visitor, "/broken/")
    end_threads()
    assert placed() == ["of a stranger"]
    assert credited() == []


def test_an_async_stream_that_fails_counts_no_longer(visitor: Visitor) -> None:
    cookie = cookie_of(visitor)

    async def main() -> None:
        communicator = await asking("/abroken/", cookie)
        await communicator.receive_output(30)
        with pytest.raises(ZeroDivisionError):
            await communicator.wait(30)
        await end_tasks()

    asyncio.run(main())
    assert placed() == ["of a stranger"]
    assert credited() == []


def test_another_middleware_may_send_the_stream_in_a_response_of_its_own(
    visitor: Visitor, settings: Any
) -> None:
    settings.MIDDLEWARE = [f"{ABOVE}ReplacingMiddleware", *settings.MIDDLEWARE]
    serve_wsgi(visitor, "/stream/")
    serve_asgi(visitor, "/astream/")
    assert credited() == [("in the stream", visitor.pk)] * 2


def test_a_file_stays_one_that_a_server_sends_by_itself(visitor: Visitor) -> None:
    sent: list[bytes] = []
    environ = RequestFactory().get("/file/").environ
    environ["wsgi.file_wrapper"] = lambda file, size: sent.append(file.read()) or file
    get_wsgi_application()(environ, lambda *args: None).close()
    assert sent == [b"the price list"]


# Tasks and threads


def test_a_task_of_an_async_view_is_nobodys_after_the_answer(visitor: Visitor) -> None:
    serve_asgi(visitor, "/task/", end_tasks)
    assert placed() == ["of a stranger"]
    assert credited() == []


def test_a_task_that_an_async_view_awaits_is_the_visitors(visitor: Visitor) -> None:
    serve_asgi(visitor, "/awaited/")
    assert credited() == [("of a stranger", visitor.pk)]


def test_a_thread_with_the_context_is_nobodys_after_the_answer(visitor: Visitor) -> None:
    serve_wsgi(visitor, "/thread/")
    end_threads()
    assert placed() == ["of a stranger"]
    assert credited() == []


@pytest.mark.parametrize(("target", "above"), [("/endless/", []), ("/task/", ["SlowMiddleware"])])
def test_a_visitor_who_leaves_takes_the_request_with_them(
    visitor: Visitor, settings: Any, target: str, above: list[str]
) -> None:
    settings.MIDDLEWARE = [*(ABOVE + name for name in above), *settings.MIDDLEWARE]
    left.clear()

    cookie = cookie_of(visitor)

    async def main() -> None:
        communicator = await asking(target, cookie)
        if above:
            while not left.is_set():  # noqa: ASYNC110 -- another thread may set it
                await asyncio.sleep(0.001)
        else:
            await communicator.receive_output(30)
            assert (await communicator.receive_output(30))["body"] == b"begun"
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait(30)
        # A response that Django does not close is lost, but asgiref may keep it in a cycle.
        gc.collect()
        await end_tasks()

    asyncio.run(main())
    assert placed() == ["of a stranger"]
    assert credited() == []


# Above the app's middleware


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
@pytest.mark.parametrize(
    ("above", "note"),
    [("PlacingMiddleware", "above"), ("TransactionMiddleware", "after the commit")],
)
def test_an_order_that_is_placed_above_the_middleware_is_the_visitors(
    visitor: Visitor, settings: Any, serve: Callable[..., Any], above: str, note: str
) -> None:
    settings.MIDDLEWARE = [ABOVE + above, *settings.MIDDLEWARE]
    serve(visitor, "/plain/")
    assert credited() == [(note, visitor.pk)]


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_an_order_that_is_placed_when_the_request_has_finished_is_nobodys(
    visitor: Visitor, serve: Callable[..., Any]
) -> None:
    def finished(**kwargs: object) -> None:
        place_in_thread("too late")

    request_finished.connect(finished)
    try:
        serve(visitor, "/plain/")
    finally:
        request_finished.disconnect(finished)
    assert placed() == ["too late"]
    assert credited() == []
