"""A way to a server that can be cut while others are connected by it, and opened again."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Relay:
    """
    Pass on what comes to ``port`` to a server, and what it answers, until the ``with`` block ends.

    After ``cut()`` it is as where the server has been stopped: who was connected is not any more,
    and who connects is refused.
    """

    def __init__(self, host: str, port: int) -> None:
        self.server = host, port
        self.port = 0
        self.connections = 0

    def __enter__(self) -> Relay:
        self.open()
        return self

    def __exit__(self, *args: object) -> None:
        self.cut()

    def open(self) -> None:
        """Let others connect: at the same port as before."""
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def cut(self) -> None:
        """End all connections, in the middle of whatever they say."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join(10)
        self.listener.close()
        for end in (end for pair in self.pairs for end in pair):
            with suppress(OSError):  # it has ended by itself
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        for end in (end for pair in self.pairs for end in pair):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self.server)
            self.pairs.append((caller, server))
            for way in ((caller, server), (server, caller)):
                self.threads.append(threading.Thread(target=self._pass_on, args=way, daemon=True))
                self.threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
