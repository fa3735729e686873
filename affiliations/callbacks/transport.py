"""
Send one HTTP GET to a partner, and say what came of it.

The only module that knows requests. Redirects, size and the classes of errors are dealt with here;
which addresses may be called and how long it may take, in the two rooms below.

Requests' sessions are not used: cookies, proxies and passwords from the environment of this server
are no business of a partner's, and a session has nothing else to offer.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urldefrag, urljoin

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema
from requests_hardened.ip_filter import InvalidIPAddress

from affiliations.callbacks import connections
from affiliations.conf import settings
from affiliations.models import CallbackAttempt

Error = CallbackAttempt.Error

MAX_REDIRECTS = 3
#: How much of an answer is read and kept, in bytes.
MAX_BODY = 4096


@dataclass(frozen=True)
class Result:
    """What came of one call."""

    duration_ms: int
    status_code: int | None = None
    error: str = ""
    message: str = ""
    excerpt: str = ""
    #: What the partner's ``Retry-After`` header says, as it stands there.
    retry_after: str = ""
    #: Whether the partner was not called at all, for a fault of this site.
    is_our_fault: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the partner has taken it: any 2xx, on the status line, will do."""
        return not self.error


def send(url: str, headers: Callable[[str], Mapping[str, str]] = lambda target: {}) -> Result:
    """
    Call ``url`` and return the ``Result``; never raises.

    ``headers`` returns those of a call to a path and query: of this URL and, where the partner
    redirects, of each that follows. Bounded by ``AFFILIATE_CALLBACK_TIMEOUT`` for each wait and by
    ``AFFILIATE_CALLBACK_DEADLINE`` for the whole, redirects included. Only the look-up of a name
    is not cut short: the system's resolver has its own timeout.
    """
    started = time.monotonic()
    call = connections.thread.call = connections.Call(started + settings.callback_deadline)
    fields: dict[str, Any] = {}
    try:
        fields = _follow(url, headers)
    except Exception as failure:
        # 2xx on the status line is a yes, whatever becomes of the rest of the answer.
        if not (call.status and 200 <= call.status < 300):
            error, message = _classify(failure)
            fields = {"error": Error.DEADLINE if call.is_over() else error, "message": message}
        fields["status_code"] = call.status
    return Result(duration_ms=round((time.monotonic() - started) * 1000), **fields)


class InsecureAddress(requests.RequestException):
    """A call that would go over plain http where it must not."""


def _follow(url: str, headers: Callable[[str], Mapping[str, str]]) -> dict[str, Any]:
    """Call ``url`` and where it redirects to; return the fields of the last answer."""
    for _ in range(MAX_REDIRECTS + 1):
        _check_scheme(url)
        with _get(url, headers) as response:
            # Not followed by requests, which would read the page of a redirect to its end, if it
            # has one.
            target = _redirects.get_redirect_target(response)
            if target is None:
                return _answer(response)
        target = urldefrag(urljoin(url, target)).url
        if url.lower().startswith("https:") and target.lower().startswith("http:"):
            raise InsecureAddress(f"redirected to plain http: {target}")
        url = target
    raise requests.TooManyRedirects(f"redirected more than {MAX_REDIRECTS} times")


def _check_scheme(url: str) -> None:
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise InvalidSchema(f"neither http nor https: {url}")
    if scheme == "http" and settings.callback_require_https:
        raise InsecureAddress("this site calls partners over https only")


def _get(url: str, headers: Callable[[str], Mapping[str, str]]) -> requests.Response:
    call = connections.thread.call
    request = requests.PreparedRequest()
    request.prepare("GET", url, headers=_headers())
    # As it is sent, with everything percent-encoded: so the partner sees it. Some releases of
    # requests send one slash where there are two in front.
    request.headers.update(headers(_adapter.request_url(request, None)))
    while True:
        call.status, call.has_connected = None, False
        try:
            return _adapter.send(request, stream=True, timeout=settings.callback_timeout)
        except requests.ConnectionError:
            # A connection kept from an earlier call, which the partner has closed at this moment,
            # says nothing of this one. A new one has the last word.
            if call.has_connected or call.status is not None:
                raise


def _answer(response: requests.Response) -> dict[str, Any]:
    """
    Return what the status line and the headers say, whatever becomes of the page behind them.

    Where a page breaks off after a no, the message tells why.
    """
    fields: dict[str, Any] = {
        "status_code": response.status_code,
        "error": "" if 200 <= response.status_code < 300 else Error.HTTP_STATUS,
        "retry_after": response.headers.get("Retry-After", ""),
    }
    page = b""
    try:
        # What has come at each time, so that it is not lost with what does not come.
        while more := response.raw.read(MAX_BODY - len(page), decode_content=False):
            page += more
    except Exception as failure:
        if fields["error"]:
            _, fields["message"] = _classify(failure)
            if connections.thread.call.is_over():
                fields["error"] = Error.DEADLINE
    return fields | {"excerpt": _text(page)}


@cache
def _headers() -> Mapping[str, str]:
    return {
        "User-Agent": _user_agent(),
        "Accept": "*/*",
        # Nothing compressed: a few kilobytes that unpack to gigabytes are not to be unpacked here.
        "Accept-Encoding": "identity",
    }


def _user_agent() -> str:
    try:
        return f"django-affiliate-tracking/{version('django-affiliate-tracking')}"
    except PackageNotFoundError:  # a copy of the source that was never installed
        return "django-affiliate-tracking"


class _Adapter(HTTPAdapter):
    """The transport of requests, over our connections, for all threads of this process."""

    def __init__(self) -> None:
        super().__init__(pool_connections=64, pool_maxsize=128)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": connections.Pool,
            "https": connections.SecurePool,
        }

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave verifying to the context: requests would read the CA bundle for each connection."""


_adapter = _Adapter()
_redirects = requests.sessions.SessionRedirectMixin()


def _begin_anew() -> None:
    """Leave the parent's open connections to the parent."""
    global _adapter
    _adapter = _Adapter()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(after_in_child=_begin_anew)


#: What a failure is, from the most to the least particular; the first that fits anywhere in the
#: chain of causes counts.
_CLASSES: tuple[tuple[Error, tuple[type[BaseException], ...]], ...] = (
    (Error.BLOCKED_ADDRESS, (InvalidIPAddress,)),
    (Error.REDIRECTS, (InsecureAddress, requests.TooManyRedirects, InvalidSchema)),
    (Error.DNS, (socket.gaierror,)),
    (Error.TIMEOUT, (TimeoutError,)),
    (Error.TLS, (ssl.SSLError,)),
    (
        Error.LOST,
        (
            http.client.RemoteDisconnected,
            http.client.IncompleteRead,
            ConnectionResetError,
            BrokenPipeError,
        ),
    ),
    (Error.PROTOCOL, (http.client.HTTPException, ValueError)),
    (Error.CONNECT, (OSError,)),
)


def _classify(failure: BaseException) -> tuple[Error, str]:
    """Return the class of a failure, and what its cause says."""
    chain = list(_causes(failure))
    for error, kinds in _CLASSES:
        # The innermost says what has happened; those around it say that it has.
        for cause in reversed(chain):
            if isinstance(cause, kinds):
                return error, _said(cause)
    return Error.PROTOCOL, _said(failure)


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """Walk through what an exception was raised from, or carries as its argument or reason."""
    seen: list[object] = []
    waiting: list[object] = [failure]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or cause in seen:
            continue
        seen.append(cause)
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _said(cause: BaseException) -> str:
    return _text(f"{type(cause).__name__}: {cause}".encode(errors="replace"))


def _text(raw: bytes) -> str:
    """Decode the start of what a stranger sent, so that every database can hold it."""
    return raw[:MAX_BODY].decode(errors="replace").replace("\0", "\ufffd")
