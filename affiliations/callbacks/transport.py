"""
Send a callback to a partner, a GET or a POST, and classify the result.

This uses the adapter of requests without a session, which would add cookies, and proxies and
passwords from the environment. ``connections`` enforces the deadline, and ``addresses`` refuses
addresses that are not public.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urldefrag, urljoin

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema
from requests_hardened.ip_filter import InvalidIPAddress
from urllib3.util import parse_url

from affiliations import db, placeholders
from affiliations.callbacks import signature
from affiliations.callbacks.connections import Call, InvalidBundle, Pool, SecurePool
from affiliations.conf import Settings, settings
from affiliations.models import Callback, CallbackAttempt
from affiliations.models.delivery_errors import DeliveryError

Error = DeliveryError
#: Returns the headers that sign the path and query of a GET, or the body of a POST.
Headers = Callable[[str], Mapping[str, str]]

_PORTS = {"http": 80, "https": 443}

MAX_REDIRECTS = 3
#: Bytes of an answer that are read and kept.
MAX_BODY = 4096


@dataclass(frozen=True)
class Result:
    duration_ms: int
    status_code: int | None = None
    error: str = ""
    message: str = ""
    excerpt: str = ""
    #: The partner's ``Retry-After`` header, not parsed.
    retry_after: str = ""
    #: Whether an error of this site prevented the call.
    is_our_fault: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the status line was 2xx."""
        return not self.error


def _unsigned(content: str) -> Mapping[str, str]:
    return {}


def send(url: str, headers: Headers = _unsigned, *, body: str | None = None) -> Result:
    """
    Call ``url`` and return the ``Result``; never raises.

    ``headers`` is called for the URL, and for each redirect to the same scheme, host and port. With
    a ``body``, which is JSON, the call is a POST, and only redirects that keep the body are
    followed: 307 and 308.

    ``AFFILIATE_CALLBACK_TIMEOUT`` limits each wait and ``AFFILIATE_CALLBACK_DEADLINE`` the whole
    call, redirects included, except for DNS, since the system's resolver has its own timeout.
    """
    call = Call(*settings.callback_timeout, settings.callback_deadline)
    fields: dict[str, Any] = {}
    try:
        if not settings.send_callbacks:
            raise SendingIsOff(f"{Settings.send_callbacks.name} is False")
        fields = _follow(url, body, headers, call)
    except Exception as failure:
        # After a status of 2xx the rest of the answer does not matter.
        if not (call.status and 200 <= call.status < 300):
            error, message = _classify(failure)
            fields = {"error": Error.DEADLINE if call.is_over() else error, "message": message}
        fields["status_code"] = call.status
    return Result(duration_ms=round((time.monotonic() - call.started) * 1000), **fields)


class SendingIsOff(Exception):
    """``AFFILIATE_SEND_CALLBACKS`` is false, so nothing leaves this site."""


class InsecureAddress(requests.RequestException):
    """The URL is plain http, which is not allowed by the settings or after https."""


def _follow(url: str, body: str | None, headers: Headers, call: Call) -> dict[str, Any]:
    """Call ``url`` and its redirects; return the fields of the last answer."""
    own_origin = _origin(url)
    for _ in range(MAX_REDIRECTS + 1):
        _check_scheme(url)
        # Another server could pass a signature on as its own.
        sign = headers if _origin(url) == own_origin else _unsigned
        with _request(url, body, sign, call) as response:
            # requests itself would read the whole body of a redirect, which may be endless.
            target = _redirects.get_redirect_target(response)
            if target is None or (body is not None and response.status_code not in (307, 308)):
                return _answer(response, call)
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


def _origin(url: str) -> tuple[str | None, str | None, int | None]:
    # Parsed as for the call: urlsplit() sees another host in “http://one\@other”.
    parts = parse_url(url)
    return parts.scheme, parts.host, parts.port or _PORTS.get(parts.scheme or "")


def _request(url: str, body: str | None, sign: Headers, call: Call) -> requests.Response:
    request = requests.PreparedRequest()
    if body is None:
        request.prepare("GET", url, headers=_headers())
    else:
        json = {"Content-Type": "application/json"}
        request.prepare("POST", url, headers={**_headers(), **json}, data=body.encode())
    # requests would encode path and query again, and send something else than the row shows.
    request.sent_target = placeholders.target(url)  # type: ignore[attr-defined] # ours
    content = request.sent_target if body is None else body  # type: ignore[attr-defined] # ours
    request.headers.update(sign(content))
    while True:
        call.status, call.has_connected = None, False
        try:
            return _adapter.send(request, stream=True, timeout=call)  # type: ignore[arg-type] # a Timeout
        except requests.ConnectionError:
            # The partner may just have closed a connection of an earlier call: try a new one.
            if call.has_connected or call.status is not None:
                raise


def _answer(response: requests.Response, call: Call) -> dict[str, Any]:
    """
    Return the fields of an answer, even if its body breaks off.

    Unless the status is 2xx, the message then says why.
    """
    fields: dict[str, Any] = {
        "status_code": response.status_code,
        "error": "" if 200 <= response.status_code < 300 else Error.HTTP_STATUS,
        "retry_after": response.headers.get("Retry-After", ""),
    }
    body = b""
    try:
        # In pieces, so that an error does not lose the earlier ones.
        while more := response.raw.read(MAX_BODY - len(body), decode_content=False):
            body += more
    except Exception as failure:
        if fields["error"]:
            _, fields["message"] = _classify(failure)
            if call.is_over():
                fields["error"] = Error.DEADLINE
    return fields | {"excerpt": _text(body)}


@cache
def _headers() -> Mapping[str, str]:
    user_agent = "django-affiliate-tracking"
    with suppress(PackageNotFoundError):  # a copy of the source that was never installed
        user_agent += f"/{version(user_agent)}"
    return {
        "User-Agent": user_agent,
        "Accept": "*/*",
        # Not compressed: a few kilobytes could become gigabytes.
        "Accept-Encoding": "identity",
    }


class _Adapter(HTTPAdapter):
    """The adapter of requests with our connections, shared by all threads."""

    def __init__(self) -> None:
        super().__init__(pool_connections=64, pool_maxsize=128)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": Pool,
            "https": SecurePool,
        }

    def request_url(self, request: Any, proxies: object) -> str:
        return str(request.sent_target)

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: requests would read the CA bundle for each connection."""


_adapter = _Adapter()
_redirects = requests.sessions.SessionRedirectMixin()


def _begin_anew() -> None:
    """Use new connections after a fork: the old ones and their locks belong to the parent."""
    global _adapter
    _adapter = _Adapter()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(after_in_child=_begin_anew)


#: Errors and their exceptions, from the most to the least specific. The first that matches any
#: exception in the chain of causes is taken.
_CLASSES: tuple[tuple[Error, tuple[type[BaseException], ...]], ...] = (
    (Error.CONFIGURATION, (signature.InvalidSecret, SendingIsOff, InvalidBundle)),
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
    """Return the error and the message of a failure."""
    chain = list(_causes(failure))
    for error, kinds in _CLASSES:
        # The innermost exception has the most specific message.
        for cause in reversed(chain):
            if isinstance(cause, kinds):
                return error, _message(cause)
    return Error.PROTOCOL, _message(failure)


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """Yield an exception and, recursively, its causes, its context, its reason and arguments."""
    seen: list[object] = []
    waiting: list[object] = [failure]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or cause in seen:
            continue
        seen.append(cause)
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _message(cause: BaseException) -> str:
    return _text(f"{type(cause).__name__}: {cause}".encode(errors="replace"))


def _text(raw: bytes) -> str:
    """Decode the start of untrusted bytes to text that databases and XML can hold."""
    return db.UNSTORABLE.sub("\ufffd", raw[:MAX_BODY].decode(errors="replace"))


@dataclass(frozen=True)
class AttemptResult:
    callback: Callback
    started_on: datetime
    result: Result

    def row(self) -> CallbackAttempt:
        return CallbackAttempt(
            callback=self.callback,
            number=self.callback.attempt_count,
            manual=self.callback.is_manual,
            started_on=self.started_on,
            duration_ms=self.result.duration_ms,
            status_code=self.result.status_code,
            error=self.result.error,
            message=self.result.message,
            response_excerpt=self.result.excerpt,
        )

    @property
    def claimed_on(self) -> datetime:
        """The time of the claim, by the database's clock."""
        return self.callback.next_attempt_on - settings.callback_lease

    @property
    def counts_for_suspension(self) -> bool:
        is_ours = self.result.is_our_fault or self.result.error == Error.CONFIGURATION
        return not self.callback.is_test and not is_ours
