"""
Connect to a partner: to an address that was checked, and never for longer than the call may last.

What answers may be slow, endless or hostile. A timeout bounds only the wait between two bytes, so
the deadline of the call is looked at for each of them.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from certifi import where
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from affiliations.callbacks import addresses

#: Seconds for which a connection is kept for the next call. Firewalls forget a silent one after
#: some minutes, without a word to either end.
MAX_IDLE = 30.0
#: How much may follow a status line, in bytes. What is kept of a page fits in, beside long headers.
MAX_ANSWER = 32 * 1024


class Call:
    """What holds for the call that a thread is making."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        #: What the last status line said.
        self.status: int | None = None
        #: Whether a connection was tried, rather than one used that was kept from an earlier call.
        self.has_connected = False

    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def limit(self, timeout: float) -> float:
        """Return how long the next wait may last: to the deadline at most."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole call took too long")
        return min(timeout, left)


class _Thread(threading.local):
    call: Call


#: The call of this thread, where the connection that serves it looks it up.
thread = _Thread()


class _Response(http.client.HTTPResponse):
    """An answer that is read under the deadline of the call."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _Reader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._reader)

    def read(self, amt: int | None = None) -> bytes:
        """Return what has come, up to ``amt`` bytes: who waits for all of them may get none."""
        return self.read1(-1 if amt is None else amt)

    def _read_status(self) -> tuple[str, int, str]:
        protocol, status, reason = super()._read_status()  # type: ignore[misc] # private
        self._reader.left = MAX_ANSWER
        if status < 200:
            # The answer is still to come (RFC 9110, 15.2). http.client waits for it after 100 only.
            return protocol, http.client.CONTINUE, reason
        thread.call.status = status
        return protocol, status, reason


class _Reader(io.RawIOBase):
    """
    What an answer is read from.

    A partner who sends a byte a second holds nobody for hours, and one who sends a hundred headers
    of the longest kind takes no memory.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self.raw = raw
        self.connection = connection
        self.timeout = connection.gettimeout() or float("inf")
        self.left = MAX_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(thread.call.limit(self.timeout))
        count = self.raw.readinto(buffer)
        self.left -= count or 0
        if self.left < 0:
            raise http.client.HTTPException("the answer is too long")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Connection(HTTPConnection):
    """A connection to an address that was checked, and is not looked up a second time."""

    response_class = _Response
    last_used = 0.0

    @property
    def is_connected(self) -> bool:
        return time.monotonic() - self.last_used < MAX_IDLE and super().is_connected

    def getresponse(self) -> Any:
        response = super().getresponse()
        self.last_used = time.monotonic()
        return response

    def connect(self) -> None:
        thread.call.has_connected = True
        super().connect()

    def _new_conn(self) -> socket.socket:
        call, failure = thread.call, OSError("the name has no address")
        timeout = self.timeout or float("inf")
        try:
            found = addresses.resolve(self._dns_host, self.port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for family, kind, protocol, address in found:
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


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS."""

    def _new_conn(self) -> socket.socket:
        self.ssl_context = tls_context()
        return super()._new_conn()


class Pool(HTTPConnectionPool):
    """The connections to one host."""

    ConnectionCls = _Connection


class SecurePool(HTTPSConnectionPool):
    """The connections to one host, with TLS."""

    ConnectionCls = _SecureConnection


_tls_lock = threading.Lock()


def tls_context() -> ssl.SSLContext:
    """Return the one context of this process: to read the CA bundle takes 20 ms each time."""
    with _tls_lock:
        return _read_bundle()


@cache
def _read_bundle() -> ssl.SSLContext:
    # As all of requests, though it is told to ignore the environment: a site behind an authority
    # of its own says so by these.
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or where()
    Path(bundle).stat()  # names the file that is missing, as ssl does not
    if Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _begin_anew() -> None:
    """Leave the parent's lock, which a thread may have held that a fork does not copy."""
    global _tls_lock
    _tls_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(after_in_child=_begin_anew)
