"""A partner's server that sends whatever a test wants on the wire, proper HTTP or not."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

#: The key and the self-signed certificate of ``partner.example`` and ``127.0.0.1``.
CERTIFICATE = Path(__file__).with_name("partner.pem")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

#: What to do with a connection whose request has been read.
Answer = Callable[[socket.socket], object]


def tls_context() -> ssl.SSLContext:
    """Return what a server of ``partner.example`` speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


class RawPartner:
    """
    Serve each connection with ``answer``, in a thread each, until the ``with`` block ends.

    ``requests`` holds the head of each request as it came; ``connections`` counts those that were
    accepted, whether or not anything was said on them.
    """

    #: Seconds after which it hangs up on a caller who says nothing, and does not hang up either.
    HANG = 60

    def __init__(
        self, answer: Answer | bytes = OK, *, tls: bool = False, address: str = "127.0.0.1"
    ) -> None:
        self.answer: Answer = answer if callable(answer) else sending(answer)
        self.context = tls_context() if tls else None
        self.requests: list[bytes] = []
        self.connections = 0
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server((address, 0))
        self.port = self.listener.getsockname()[1]
        self.host = f"{address}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/cb"

    def __enter__(self) -> RawPartner:
        self._start(self._accept)
        return self

    def __exit__(self, *args: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(self.HANG)
            assert not thread.is_alive()
        self.listener.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self.threads.append(threading.Thread(target=target, args=args, daemon=True))
        self.threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(self.HANG)
        with connection:
            try:
                if self.context is None:
                    self._talk(connection)
                else:
                    with self.context.wrap_socket(connection, server_side=True) as secure:
                        self._talk(secure)
            except OSError:
                pass  # the caller has had enough

    def _talk(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (read := connection.recv(65536)):
                return
            head += read
        if length := re.search(rb"\r\nContent-Length: (\d+)\r\n", head):
            whole = head.index(b"\r\n\r\n") + 4 + int(length[1])
            while len(head) < whole and (read := connection.recv(65536)):
                head += read
        self.requests.append(head)
        self.answer(connection)


def sending(*parts: bytes) -> Answer:
    """Send these bytes and close."""

    def answer(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return answer


def dripping(head: bytes, drops: Iterable[bytes], every: float) -> Answer:
    """Send ``head`` at once and then one drop at a time, with a pause before each."""
    pause = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for drop in drops:
            pause.wait(every)
            connection.sendall(drop)

    return answer


def hanging_after(head: bytes = b"") -> Answer:
    """Send ``head`` and then nothing, until the caller hangs up."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        connection.recv(1)

    return answer


def resetting(connection: socket.socket) -> None:
    """Break the connection off with a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def redirecting(location: str, status: int = 302) -> bytes:
    """Return the whole answer that sends the caller on to ``location``."""
    head = f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return head.encode("latin-1")
