"""
The current request, for hosts that import ``tls.request`` of django-tls.

0.12 required ``tls.TLSRequestMiddleware``, which does not work in ``MIDDLEWARE`` since Django 1.10.
So the app's middleware binds the request itself. This is the only module that imports django-tls
and Werkzeug.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MethodType
from typing import Any, cast
from weakref import ref

import tls
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from werkzeug.local import LocalProxy

#: What ``tls.request`` reads: a dictionary with the request. The public functions of django-tls
#: create a middleware object for each request, and cannot restore the previous request. Those of
#: Werkzeug copy the dictionary in each request of the site. The names are private, but django-tls
#: is no longer developed. Werkzeug calls the variable by the second name since 2.2.
_bound: ContextVar[dict[str, HttpRequest]] = (
    getattr(tls._local, "_storage", None) or tls._local._Local__storage
)
_NOTHING: dict[str, HttpRequest] = {}

#: The attribute of a request with a weak reference to its response, set when the request leaves the
#: middleware. The reference returns ``None`` once the response is closed. It is not in the context,
#: since a background task has a copy of that, in which the request stays bound.
_RESPONSE = "_affiliations_response"


def bind(request: HttpRequest) -> HttpRequest | None:
    """
    Bind a request to ``tls.request``; return the outer request, inside which it is served, if any.

    ``until_closed()`` or ``end()`` must follow. These are functions because a context manager would
    take twice as long, in each request of the site.
    """
    outer = _bound.get(_NOTHING).get("request")
    _bound.set({"request": request})
    return outer if outer is None or _counts(outer) else None


def until_closed(
    request: HttpRequest, outer: HttpRequest | None, response: HttpResponseBase
) -> HttpResponseBase:
    """
    Keep a request bound until its response is closed, or garbage-collected without being closed.

    If the response is streamed, the request is bound whenever a part of the body is made, since
    other requests may be served in between.
    """
    request.__dict__[_RESPONSE] = ref(response)
    # Django closes the request with the response, even if another middleware has replaced the
    # response. A method, since a partial takes three times as long, in each request of the site.
    close = MethodType(_close, request) if outer is None else partial(_close, request, outer)
    request.close = close  # type: ignore[method-assign]
    if response.streaming:
        _unbind(outer)
        _stream(request, cast("StreamingHttpResponse", response))
    return response


def end(request: HttpRequest, outer: HttpRequest | None) -> None:
    """Mark a request as ended, and bind the outer one again."""
    request.__dict__[_RESPONSE] = _closed
    _unbind(outer)


@contextmanager
def binding(request: HttpRequest) -> Iterator[None]:
    """Bind a request in a ``with`` block."""
    outer = bind(request)
    try:
        yield
    finally:
        _unbind(outer)


def _unbind(outer: HttpRequest | None) -> None:
    _bound.set({"request": outer} if outer is not None and _counts(outer) else {})


def _close(request: HttpRequest, outer: HttpRequest | None = None) -> None:
    request.__dict__[_RESPONSE] = _closed
    _unbind(outer)
    type(request).close(request)


def _stream(request: HttpRequest, response: StreamingHttpResponse) -> None:
    # A file is not wrapped: servers have a faster way to send it.
    if getattr(response, "file_to_stream", None) is None:
        body: Any = _async_body if response.is_async else _body
        response.streaming_content = body(request, response, response.streaming_content)
    # Django closes the view's generator before the request, if the browser disconnects early. The
    # request is bound again first, so that the generator can use it.
    closers = response._resource_closers  # type: ignore[attr-defined] # missing in the stubs
    closers.insert(0, partial(bind, request))


def _body(
    request: HttpRequest, response: HttpResponseBase, parts: Iterator[bytes]
) -> Iterator[bytes]:
    """
    Yield the parts of a body, each made while the request is bound.

    ``response`` is not used, but kept alive here if another middleware has replaced it.
    """
    try:
        while True:
            with binding(request):
                try:
                    part = next(parts)
                except StopIteration:
                    return
            yield part
    finally:
        # Here as well, since Django does not close a response whose body has failed.
        request.__dict__[_RESPONSE] = _closed


async def _async_body(
    request: HttpRequest, response: HttpResponseBase, parts: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Yield the parts of an async body, as ``_body()`` does."""
    try:
        while True:
            with binding(request):
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
            yield part
    finally:
        request.__dict__[_RESPONSE] = _closed


def current_request() -> HttpRequest | None:
    """Return the bound request, unless its response is closed."""
    request = _bound.get(_NOTHING).get("request")
    return request if request is not None and _counts(request) else None


def _counts(request: HttpRequest) -> bool:
    response = request.__dict__.get(_RESPONSE)
    return response is None or response() is not None


def response_of(request: HttpRequest) -> HttpResponseBase | None:
    """Return the response with which a request has left the middleware, until it is closed."""
    response: HttpResponseBase | None = request.__dict__.get(_RESPONSE, _closed)()
    return response


def _closed() -> None:
    """Return ``None``, as a weak reference to a closed response does."""


def real_request(request: HttpRequest | None) -> HttpRequest | None:
    """
    Return Django's request behind a proxy or a wrapper; ``None`` if ``tls.request`` is unbound.

    Receivers written for 0.12 pass the proxy on. An unbound proxy is not ``None``, and almost any
    use of it except ``type()`` raises ``RuntimeError``.
    """
    kind: type = type(request)
    if kind is LocalProxy:
        return current_request()
    return None if request is None else unwrapped(request)


def unwrapped(request: HttpRequest) -> HttpRequest:
    """
    Return Django's own request if a framework, such as Django REST framework, has wrapped it.

    The middleware sees only Django's request, so the state is kept there. ``cache_page()`` on a
    method of an API view sees only the wrapper. It must not store the response, which does not vary
    by cookie yet.
    """
    inner = cast("HttpRequest", getattr(request, "_request", request))
    if inner is not request and getattr(request, "_cache_update_cache", False):
        request._cache_update_cache = False  # type: ignore[attr-defined] # Django's
    return inner
