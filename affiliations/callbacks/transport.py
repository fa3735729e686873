"""
Send one HTTP GET to a partner, and say what came of it.

The only module that knows requests. Whom we call was typed into a form, so what it resolves to is
checked and the checked address is the one that is called, at each redirect again; what answers may
be slow, endless or hostile, so time and size are bounded.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_network
from typing import Any

import requests
from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError, SSLError

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
    the whole, a redirect's calls included. Only the system's resolver keeps its own time.
    """
    started = time.monotonic()
    _deadline.set(started + settings.callback_deadline)
    status, error, message, excerpt = None, "", "", ""
    try:
        with (
            _session() as session,
            session.get(url, timeout=settings.callback_timeout, stream=True) as response,
        ):
            status = response.status_code
            error = "" if 200 <= status < 300 else Error.HTTP_STATUS
            excerpt = _excerpt(response)
    except Exception as failure:
        error, message = _classify(failure)
    duration_ms = round((time.monotonic() - started) * 1000)
    return Result(duration_ms, status, error, message, excerpt)


def _session() -> requests.Session:
    session = requests.Session()
    # The environment of this server, its proxies and its .netrc, is no business of a partner's;
    # only whom the server trusts is.
    session.trust_env = False
    session.verify = os.getenv("REQUESTS_CA_BUNDLE") or os.getenv("CURL_CA_BUNDLE") or True
    # Nothing compressed: a few kilobytes that unpack to gigabytes are not to be unpacked here.
    session.headers.update({"User-Agent": _user_agent(), "Accept-Encoding": "identity"})
    session.max_redirects = MAX_REDIRECTS
    adapter = requests.adapters.HTTPAdapter()
    adapter.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    session.mount("https://", adapter)
    session.mount("http://", adapter)

    def answered(response: requests.Response, **kwargs: Any) -> None:
        if response.is_redirect:
            # requests would read its page to the end, however long that is.
            response.close()
        if response.url.startswith("https:"):
            session.adapters.pop("http://", None)

    session.hooks["response"] = [answered]
    if settings.callback_require_https:
        del session.adapters["http://"]
    return session


def _excerpt(response: requests.Response) -> str:
    """Read the start of the body; one that breaks off changes nothing that the status line says."""
    try:
        return _text(response.raw.read(MAX_BODY, decode_content=False))
    except (ProtocolError, SSLError):
        return ""


@cache
def _user_agent() -> str:
    try:
        return f"django-affiliate-tracking/{version('django-affiliate-tracking')}"
    except PackageNotFoundError:  # a copy of the source that was never installed
        return "django-affiliate-tracking"


#: The moment, on the monotonic clock, at which the call of this thread has to be over.
_deadline: ContextVar[float] = ContextVar("affiliations_callback_deadline")


def _limited(timeout: float | None) -> float:
    """Return how long the next wait may last: ``timeout``, but to the deadline at most."""
    if (left := _deadline.get() - time.monotonic()) <= 0:
        raise TimeoutError("the whole call took too long")
    return min(timeout or left, left)


class _DeadlineReader(io.RawIOBase):
    """
    What a response is read from, with the deadline before each read.

    A timeout bounds only the wait between two bytes: a partner who sends one a second could hold
    a callback for hours.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self.raw = raw
        self.connection = connection
        self.timeout = connection.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(_limited(self.timeout))
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose status line, headers and body all come under the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(self.fp.detach(), sock))


def _connect(connection: HTTPConnection) -> socket.socket:
    """
    Connect to the first address of the host that answers, and to none inside this network.

    What was checked is what is called: the name is resolved once.
    """
    failure: Exception = socket.gaierror("no address")
    host, port = connection._dns_host, connection.port
    for *_, resolved in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        address = str(resolved[0])
        if not settings.callback_allow_private_addresses:
            _refuse_private(address, port)
        try:
            return socket.create_connection((address, port), _limited(connection.timeout))
        except OSError as error:
            failure = error
    raise failure


#: What requests-hardened lets pass: IPv4 in the form of IPv6, and the old site-local addresses.
_PRIVATE = (ip_network("::/96"), ip_network("fec0::/10"))


def _refuse_private(address: str, port: int) -> None:
    checked, _ = get_ip_address(address, port, allow_loopback=False)
    if any(checked in network for network in _PRIVATE):
        raise InvalidIPAddress(checked)


class _Plain(HTTPConnection):
    response_class = _Response
    _new_conn = _connect


class _Secure(HTTPSConnection):
    response_class = _Response
    _new_conn = _connect


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


#: What a failure is, from the most to the least particular; the first that fits anywhere in the
#: chain of causes counts.
_CLASSES: tuple[tuple[Error, tuple[type[BaseException], ...]], ...] = (
    (Error.BLOCKED_ADDRESS, (InvalidIPAddress,)),
    (Error.REDIRECTS, (requests.TooManyRedirects, requests.exceptions.InvalidSchema)),
    (Error.DNS, (socket.gaierror,)),
    (Error.TIMEOUT, (TimeoutError,)),
    (Error.TLS, (ssl.SSLError, requests.exceptions.SSLError)),
    (
        Error.LOST,
        (
            http.client.RemoteDisconnected,
            http.client.IncompleteRead,
            ConnectionResetError,
            BrokenPipeError,
        ),
    ),
    (Error.PROTOCOL, (http.client.HTTPException,)),
    (Error.CONNECT, (OSError,)),
)


def _classify(failure: BaseException) -> tuple[Error, str]:
    """Return the class of a failure, and what its cause says."""
    chain = list(_causes(failure))
    if time.monotonic() >= _deadline.get():
        return Error.DEADLINE, _said(chain[-1])
    for error, kinds in _CLASSES:
        for cause in chain:
            if isinstance(cause, kinds):
                return error, _said(cause)
    return Error.PROTOCOL, _said(failure)


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """Walk from a failure to what it was raised from, or carries as its argument or reason."""
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
