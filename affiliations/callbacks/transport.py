"""
Send one HTTP GET to a partner, and say what came of it.

The only module that knows requests. Whom we call was typed into a form and may resolve to anything,
so each address is checked after it was resolved, by the rules of requests-hardened, and the socket
is connected to just that address. What answers may be slow, endless or hostile, so time and size
are bounded whatever it does.

One session serves all threads of a process: connections are kept open from call to call, and the
CA bundle is read once.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

import requests
from certifi import where
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema
from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from affiliations.conf import settings
from affiliations.models import CallbackAttempt

Error = CallbackAttempt.Error

MAX_REDIRECTS = 3
#: How much of an answer is read and kept, in bytes.
MAX_BODY = 4096
#: What requests-hardened lets through: IPv4 in the old compatible form, and site-local IPv6.
_ALSO_PRIVATE = (ip_network("::/96"), ip_network("fec0::/10"))


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

    @property
    def delivered(self) -> bool:
        """Whether the partner has taken it: any 2xx, on the status line, will do."""
        return not self.error


def send(url: str, headers: Callable[[str], Mapping[str, str]] = lambda url: {}) -> Result:
    """
    Call ``url`` and return the ``Result``; never raises.

    ``headers`` returns those of a call to a URL: of this one and, where the partner redirects, of
    each that follows. Bounded by ``AFFILIATE_CALLBACK_TIMEOUT`` for each wait and by
    ``AFFILIATE_CALLBACK_DEADLINE`` for the whole, redirects included.
    """
    started = time.monotonic()
    call = _thread.call = _Call(started + settings.callback_deadline)
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
    session = _session()
    for _ in range(MAX_REDIRECTS + 1):
        if settings.callback_require_https and not url.lower().startswith("https:"):
            raise InsecureAddress("this site calls partners over https only")
        with _get(session, url, headers(url)) as response:
            target = session.get_redirect_target(response)
            if target is None:
                return _answer(response)
        target = urldefrag(urljoin(url, target)).url
        if url.lower().startswith("https:") and target.lower().startswith("http:"):
            raise InsecureAddress(f"redirected to plain http: {target}")
        url = target
    raise requests.TooManyRedirects(f"redirected more than {MAX_REDIRECTS} times")


def _get(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    call = _thread.call
    while True:
        call.status, call.has_connected = None, False
        try:
            return session.get(
                url, headers=dict(headers), timeout=settings.callback_timeout, stream=True
            )
        except requests.ConnectionError:
            # A connection kept from an earlier call, which the partner has closed at this moment,
            # says nothing of this one. A new one has the last word.
            if call.has_connected or call.status is not None:
                raise


def _answer(response: requests.Response) -> dict[str, Any]:
    status = response.status_code
    return {
        "status_code": status,
        "error": "" if 200 <= status < 300 else Error.HTTP_STATUS,
        "excerpt": _text(response.raw.read(MAX_BODY, decode_content=False)),
        "retry_after": response.headers.get("Retry-After", ""),
    }


class _Session(requests.Session):
    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Follow none: requests would read the page of a redirect to its end, if it has one."""
        return iter(())


@cache
def _session() -> requests.Session:
    session = _Session()
    session.mount("http://", _Adapter())
    session.mount("https://", _Adapter())
    session.headers["User-Agent"] = _user_agent()
    # Nothing compressed: a few kilobytes that unpack to gigabytes are not to be unpacked here.
    session.headers["Accept-Encoding"] = "identity"
    # The environment of this server, its proxies and its .netrc, is no business of a partner's,
    session.trust_env = False
    # and a cookie of one partner's no business of another's.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


# A fork must not share its parent's open connections.
os.register_at_fork(after_in_child=_session.cache_clear)


def _user_agent() -> str:
    try:
        return f"django-affiliate-tracking/{version('django-affiliate-tracking')}"
    except PackageNotFoundError:  # a copy of the source that was never installed
        return "django-affiliate-tracking"


class _Call:
    """What holds for the call that a thread is making."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        #: What the last status line said.
        self.status: int | None = None
        #: Whether a connection was made, rather than kept from an earlier call.
        self.has_connected = False

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def limit(self, timeout: float) -> float:
        """Return how long the next wait may last: to the deadline at most."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole call took too long")
        return min(timeout, left)


class _Thread(threading.local):
    call: _Call


_thread = _Thread()


class _Adapter(HTTPAdapter):
    """The transport of requests, with our connections and one TLS context."""

    def __init__(self) -> None:
        super().__init__(pool_connections=64, pool_maxsize=128)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=_tls_context(), **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave verifying to the context: requests would read the CA bundle for each connection."""


@cache
def _tls_context() -> ssl.SSLContext:
    # trust_env is off, but a site behind its own authority says so by these, as to all of requests.
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or where()
    if Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


class _Response(http.client.HTTPResponse):
    """An answer that is read under the deadline of the call."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock))

    def _read_status(self) -> tuple[str, int, str]:
        protocol, status, reason = super()._read_status()  # type: ignore[misc]
        if status >= 200:  # not a "100 Continue", which is no answer yet
            _thread.call.status = status
        return protocol, status, reason


class _Reader(io.RawIOBase):
    """
    What an answer is read from.

    A timeout bounds only the wait between two bytes: a partner who sends one a second could hold
    a callback for hours.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self.raw = raw
        self.connection = connection
        self.timeout = connection.gettimeout() or float("inf")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(_thread.call.limit(self.timeout))
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Connecting(HTTPConnection):
    """A connection to an address that was checked, and is not looked up a second time."""

    response_class = _Response

    def _new_conn(self) -> socket.socket:
        call, failure = _thread.call, OSError("the name has no address")
        call.has_connected = True
        timeout = self.timeout or float("inf")
        try:
            addresses = list(_addresses(self._dns_host, self.port))
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for family, kind, protocol, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(call.limit(timeout))
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                # The handshake of TLS, which comes next, is one wait as well.
                connection.settimeout(call.limit(timeout))
                return connection
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from failure
        raise NewConnectionError(self, f"no connection to {self.host}: {failure}") from failure


class _SecureConnecting(_Connecting, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connecting


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnecting


_Address = tuple[int, int, int, Any]


def _addresses(host: str, port: int) -> Iterator[_Address]:
    """
    Resolve a host; ``InvalidIPAddress`` where any of its addresses is not a public one.

    Any: a name with a public and a private address is somebody's attempt to get at the latter.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not settings.callback_allow_private_addresses:
        for *_, address in found:
            literal = str(address[0]).partition("%")[0]
            checked, _ = get_ip_address(literal, port, allow_loopback=False)
            if any(checked in network for network in _ALSO_PRIVATE):
                raise InvalidIPAddress(checked)
    for family, kind, protocol, _, address in found:
        yield family, kind, protocol, address


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
        for cause in chain:
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
