"""
Connections to partners, which use checked addresses only and end by the deadline of the call.

A partner's answer may be slow, endless or hostile. A timeout limits only the wait for the next
byte, so each of these waits ends at the deadline too.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

from certifi import where
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from affiliations.callbacks import addresses

#: Seconds for which an idle connection is kept. Firewalls drop it silently after some minutes.
MAX_IDLE = 30.0
#: Bytes of all heads of one call, those of interim answers and redirects included.
MAX_HEADS = 16 * 1024
#: Bytes read of one answer: its heads, the part of a page that is kept, and a buffer.
MAX_ANSWER = 32 * 1024


class InvalidBundle(Exception):
    """The trusted certificates of this site cannot be read."""


class Call(Timeout):
    """
    The limits and the progress of one call to a partner, redirects included.

    urllib3 passes it to the connections as their timeout.
    """

    def __init__(self, connect: float, read: float, deadline: float) -> None:
        super().__init__(connect=connect, read=read)
        self.started = time.monotonic()
        self.deadline = self.started + deadline
        #: The status of the last answer.
        self.status: int | None = None
        #: Whether a new connection was tried, instead of one of an earlier call.
        self.has_connected = False
        self.heads_left = MAX_HEADS

    def clone(self) -> Call:
        """Return this call itself, so that its requests share the deadline."""
        return self

    def start_connect(self) -> float:
        """Do not start the clock again, as urllib3 would for each request."""
        return self.started

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def limit(self, timeout: float) -> float:
        """Return the timeout, or the time until the deadline if that is shorter."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole call took too long")
        return min(timeout, left)


class _Response(http.client.HTTPResponse):
    def __init__(self, call: Call, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._call = call
        self.fp = self._buffer = _Buffer(_Reader(self.fp.detach(), sock, call))

    def begin(self) -> None:
        self._buffer.call = self._call
        super().begin()
        self._buffer.call = None

    def read(self, amt: int | None = None) -> bytes:
        """Return the bytes that are there, up to ``amt``, instead of waiting for all of them."""
        return self.read1(-1 if amt is None else amt)

    def _read_status(self) -> tuple[str, int, str]:
        protocol, status, reason = super()._read_status()  # type: ignore[misc] # private
        if status < 200:
            # Not the final answer (RFC 9110, 15.2). After 100 alone, http.client waits for another.
            return protocol, http.client.CONTINUE, reason
        self._call.status = status
        return protocol, status, reason


class _Buffer(io.BufferedReader):
    """Reads the lines of a head, as long as the call has bytes left for heads."""

    #: The call, while a head is read.
    call: Call | None = None

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if self.call is not None:
            self.call.heads_left -= len(line)
            if self.call.heads_left < 0:
                raise http.client.HTTPException("the head is too long")
        return line


class _Reader(io.RawIOBase):
    """Reads an answer until the deadline, and up to ``MAX_ANSWER`` bytes."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, call: Call) -> None:
        self.raw = raw
        self.connection = connection
        self.call = call
        self.timeout = connection.gettimeout() or float("inf")
        self.left = MAX_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(self.call.limit(self.timeout))
        count = self.raw.readinto(buffer)
        self.left -= count or 0
        if self.left < 0:
            raise http.client.HTTPException("the answer is too long")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Connection(HTTPConnection):
    """A connection to an address that was checked and is not looked up a second time."""

    call: Call
    last_used = 0.0

    @property
    def is_connected(self) -> bool:
        return time.monotonic() - self.last_used < MAX_IDLE and super().is_connected

    def getresponse(self) -> Any:
        response = super().getresponse()
        self.last_used = time.monotonic()
        return response

    def connect(self) -> None:
        self.call.has_connected = True
        super().connect()

    def _new_conn(self) -> socket.socket:
        failure = OSError("the name has no address")
        timeout = self.timeout or float("inf")
        try:
            found = addresses.resolve(self._dns_host, self.port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        until = time.monotonic() + timeout
        for left, (family, kind, protocol, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            connection = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                # An equal share for each address that is left: a dead one must not use up the time.
                share = max(until - time.monotonic(), 0) / left
                connection.settimeout(self.call.limit(share))
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                # For the TLS handshake, which follows.
                connection.settimeout(self.call.limit(timeout))
                return connection
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from failure
        raise NewConnectionError(self, f"no connection to {self.host}: {failure}") from failure


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class Pool(HTTPConnectionPool):
    ConnectionCls = _Connection

    def _make_request(self, conn: Any, *args: Any, **kwargs: Any) -> Any:
        conn.call = kwargs["timeout"]
        conn.response_class = partial(_Response, conn.call)
        return super()._make_request(conn, *args, **kwargs)


class SecurePool(Pool, HTTPSConnectionPool):
    ConnectionCls = _SecureConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Only one thread at a time creates a pool, so the CA bundle is read once.
        self.conn_kw["ssl_context"] = tls_context()


@cache
def tls_context() -> ssl.SSLContext:
    """Return the context that all connections share, since reading the CA bundle takes 20 ms."""
    # The variables of requests, for sites with their own CA. The adapter alone ignores them.
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or where()
    try:
        if Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise InvalidBundle(f"{bundle}: {error}") from error
