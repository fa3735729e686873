"""
Browsers that send the very bytes they are told.

Django's test client parses a URL before it sends it, and so hides what hostile ones do. These hand
raw bytes to the handler that a server would call, or to a real server's socket, and show the bytes
of the answer. They keep cookies, so that two requests of one browser are one visitor's.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

Headers = list[tuple[str, bytes]]


@dataclass
class Answer:
    """What came back, as it came."""

    status: int
    headers: Headers
    body: bytes

    def __getitem__(self, name: str) -> bytes:
        """Return a header, which must be there once."""
        (value,) = (value for key, value in self.headers if key.lower() == name.lower())
        return value

    def __contains__(self, name: str) -> bool:
        return any(key.lower() == name.lower() for key, _ in self.headers)


@contextmanager
def connections_kept() -> Iterator[None]:
    """Keep the handler from closing the database connection whose transaction the test is in."""
    signals = [
        signal
        for signal in (request_started, request_finished)
        if signal.disconnect(close_old_connections)
    ]
    try:
        yield
    finally:
        for signal in signals:
            signal.connect(close_old_connections)


@dataclass
class Browser:
    """What the browsers have in common: cookies, and the headers that each sends."""

    #: In front of the paths of the views that suit the kind of server.
    views: ClassVar[str] = "/"

    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str | bytes] = field(default_factory=dict)
    #: Where the server has mounted the site.
    prefix: str = ""

    def request(
        self,
        method: str,
        target: bytes | str,
        headers: Mapping[str, str | bytes] | None = None,
        body: bytes = b"",
    ) -> Answer:
        sent: dict[str, str | bytes] = {"Host": "shop.example", "User-Agent": FIREFOX}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if body:
            sent |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "Content-Length": str(len(body)),
            }
        sent |= self.headers | dict(headers or {})
        answer = self.send(
            method,
            target.encode() if isinstance(target, str) else target,
            [(name, v.encode() if isinstance(v, str) else v) for name, v in sent.items()],
            body,
        )
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                self._keep(value.decode())
        return answer

    def get(self, target: bytes | str, **headers: str | bytes) -> Answer:
        """GET; a header's underscores stand for hyphens."""
        return self.request(
            "GET", target, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    def send(self, method: str, target: bytes, headers: Headers, body: bytes) -> Answer:
        raise NotImplementedError

    def _keep(self, set_cookie: str) -> None:
        for name, morsel in SimpleCookie(set_cookie).items():
            if morsel["max-age"] == "0" or morsel["max-age"] == 0:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value


class WSGIBrowser(Browser):
    """Calls Django's WSGI handler as a server does."""

    def send(self, method: str, target: bytes, headers: Headers, body: bytes) -> Answer:
        path, _, query = target.partition(b"?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": self.prefix,
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query.decode("latin-1"),
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "203.0.113.7",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in headers:
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
            environ[key] = value.decode("latin-1")
        started: list[Any] = []
        with connections_kept():
            response = WSGIHandler()(environ, lambda *args: started.extend(args))
            try:
                content = b"".join(response)
            finally:
                response.close()
        status, answered = started
        return Answer(
            int(status[:3]), [(name, value.encode("latin-1")) for name, value in answered], content
        )


class ASGIBrowser(Browser):
    """Calls Django's ASGI handler as a server does."""

    views = "/async/"

    def send(self, method: str, target: bytes, headers: Headers, body: bytes) -> Answer:
        path, _, query = target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": self.prefix + unquote_to_bytes(path).decode(errors="replace"),
            "raw_path": self.prefix.encode() + path,
            "root_path": self.prefix,
            "query_string": query,
            "headers": [(name.lower().encode(), value) for name, value in headers],
            "client": ("203.0.113.7", 50_000),
            "server": ("127.0.0.1", 80),
        }
        with connections_kept():
            return async_to_sync(self._serve)(scope, body)

    async def _serve(self, scope: dict[str, Any], body: bytes) -> Answer:
        waiting = [{"type": "http.request", "body": body}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not waiting:
                await asyncio.Event().wait()  # the visitor stays
            return waiting.pop()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await ASGIHandler()(scope, receive, send)
        start, *content = sent
        return Answer(
            start["status"],
            [(name.decode("latin-1"), value) for name, value in start["headers"]],
            b"".join(part.get("body", b"") for part in content),
        )


class SocketBrowser(Browser):
    """Writes to the socket of a real server, byte by byte what it is told."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def send(self, method: str, target: bytes, headers: Headers, body: bytes) -> Answer:
        lines = [b"%s %s HTTP/1.1" % (method.encode(), target)]
        lines += [b"%s: %s" % (name.encode(), value) for name, value in headers]
        lines += [b"Connection: close", b"", body]
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(b"\r\n".join(lines))
            received = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, content = received.partition(b"\r\n\r\n")
        status_line, *answered = head.split(b"\r\n")
        return Answer(
            int(status_line.split(b" ")[1]),
            [
                (name.decode("latin-1"), value.strip(b" "))
                for name, _, value in (line.partition(b":") for line in answered)
            ],
            content,
        )


#: One for each kind of server: what is shown of one must be true of the other.
HANDLERS = (WSGIBrowser, ASGIBrowser)
