"""
Send one HTTP GET to a partner, and say what came of it.

The only module that knows requests. Whom we call was typed into a form, so the address is checked
after it was resolved (requests-hardened pins what it has checked) and again at each redirect; what
answers may be slow, endless or hostile, so time and size are bounded.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import requests
from requests_hardened.client import HTTPSession
from requests_hardened.config import Config
from requests_hardened.ip_filter import InvalidIPAddress
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError, ProtocolError

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

    @property
    def delivered(self) -> bool:
        """Whether the partner has taken it: any 2xx, on the status line, will do."""
        return not self.error


def send(url: str) -> Result:
    """
    Call ``url`` and return the ``Result``; never raises.

    Bounded by ``AFFILIATE_CALLBACK_TIMEOUT`` for each wait and ``AFFILIATE_CALLBACK_DEADLINE`` for
    the whole, a redirect's calls included.
    """
    started = time.monotonic()

    def result(**fields: Any) -> Result:
        return Result(duration_ms=round((time.monotonic() - started) * 1000), **fields)

    deadline = _Deadline(started + settings.callback_deadline)
    try:
        with _session(deadline) as session, _get(session, url) as response:
            excerpt = _text(response.raw.read(MAX_BODY, decode_content=False))
            status = response.status_code
    except Exception as failure:
        error = Error.DEADLINE if deadline.has_passed() else _classify(failure)
        return result(error=error, message=_text(str(failure).encode()))
    if not 200 <= status < 300:
        return result(status_code=status, error=Error.HTTP_STATUS, excerpt=excerpt)
    return result(status_code=status, excerpt=excerpt)


class InsecureAddress(requests.RequestException):
    """A call that would go over plain http where it must not."""


class _Session(HTTPSession):  # type: ignore[misc] # requests-hardened brings no types
    """A session of requests-hardened that does not go from https to http either."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target: str | None = super().get_redirect_target(resp)
        insecure = target and target.lower().startswith("http:")
        if insecure and (resp.url.startswith("https:") or settings.callback_require_https):
            raise InsecureAddress(f"redirected to plain http: {target}")
        return target


def _session(deadline: _Deadline) -> _Session:
    session = _Session(
        Config(
            ip_filter_enable=not settings.callback_allow_private_addresses,
            ip_filter_allow_loopback_ips=False,
            never_redirect=False,
            default_timeout=settings.callback_timeout,
            user_agent_override=_user_agent(),
        )
    )
    session.max_redirects = MAX_REDIRECTS
    # The environment of this server, its proxies and its .netrc, is no business of a partner's.
    session.trust_env = False
    for adapter in session.adapters.values():
        # requests reads some of the body of a redirect, urllib3 all the headers: each byte comes
        # through a connection, so the deadline is kept there.
        adapter.poolmanager.pool_classes_by_scheme = _pools(deadline)
    return session


def _get(session: _Session, url: str) -> requests.Response:
    if settings.callback_require_https and not url.startswith("https:"):
        raise InsecureAddress("this site calls partners over https only")
    # Nothing compressed: a few kilobytes that unpack to gigabytes are not to be unpacked here.
    response: requests.Response = session.get(
        url, stream=True, headers={"Accept-Encoding": "identity"}
    )
    return response


@cache
def _user_agent() -> str:
    try:
        return f"django-affiliate-tracking/{version('django-affiliate-tracking')}"
    except PackageNotFoundError:  # a copy of the source that was never installed
        return "django-affiliate-tracking"


class _Deadline:
    """The moment at which a call has to be over."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def has_passed(self) -> bool:
        return time.monotonic() >= self.moment

    def limit(self, connection: socket.socket, timeout: float) -> None:
        """Let the next wait on ``connection`` last to the deadline at most."""
        left = self.moment - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole call took too long")
        connection.settimeout(min(timeout, left))


class _DeadlineReader(io.RawIOBase):
    """
    What a response is read from, byte by byte under the deadline.

    A timeout bounds only the wait between two bytes: a partner who sends one a second could hold
    a callback for hours.
    """

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self.connection = connection
        self.timeout = connection.gettimeout() or float("inf")
        self.deadline = deadline
        self.raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.deadline.limit(self.connection, self.timeout)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


def _pools(deadline: _Deadline) -> dict[str, Any]:
    """Return urllib3's pools, with connections that keep ``deadline``."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp.close()
            self.fp = io.BufferedReader(_DeadlineReader(sock, deadline))

    class Plain(HTTPConnection):
        response_class = Response

    class Secure(HTTPSConnection):
        response_class = Response

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


#: What a failure is, from the most to the least particular; the first that fits anywhere in the
#: chain of causes counts.
_CLASSES: tuple[tuple[type[BaseException], Error], ...] = (
    (InvalidIPAddress, Error.BLOCKED_ADDRESS),
    (InsecureAddress, Error.REDIRECTS),
    (requests.TooManyRedirects, Error.REDIRECTS),
    (NameResolutionError, Error.DNS),
    (socket.gaierror, Error.DNS),
    (ssl.SSLError, Error.TLS),
    (requests.exceptions.SSLError, Error.TLS),
    (TimeoutError, Error.TIMEOUT),
    (requests.Timeout, Error.TIMEOUT),
    (http.client.RemoteDisconnected, Error.LOST),
    (http.client.IncompleteRead, Error.LOST),
    (ConnectionResetError, Error.LOST),
    (BrokenPipeError, Error.LOST),
    (http.client.HTTPException, Error.PROTOCOL),
    (ProtocolError, Error.LOST),
    (requests.ConnectionError, Error.CONNECT),
    (OSError, Error.CONNECT),
)


def _classify(failure: BaseException) -> Error:
    chain = list(_causes(failure))
    for kind, error in _CLASSES:
        if any(isinstance(cause, kind) for cause in chain):
            return error
    return Error.PROTOCOL


def _causes(failure: object) -> Any:
    """Walk through what an exception was raised from, or carries as its argument or reason."""
    seen: list[object] = []
    waiting = [failure]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or cause in seen:
            continue
        seen.append(cause)
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _text(raw: bytes) -> str:
    """Decode the start of what a stranger sent, so that every database can hold it."""
    return raw[:MAX_BODY].decode(errors="replace").replace("\0", "\ufffd")
