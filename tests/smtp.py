"""A mail server on this machine, which accepts and refuses as a test says."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import django


@dataclass
class MailServer:
    port: int = 0
    #: The addresses of the e-mails that were accepted.
    accepted: list[str] = field(default_factory=list)
    connections: int = 0
    #: Addresses that are refused, and at which the connection is closed.
    refused: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    #: The number of e-mails that a connection may send; then the server closes it, by 421 or not.
    limit: int | None = None
    says_goodbye: bool = False
    #: Called before an e-mail is accepted.
    on_data: Callable[[str], object] = lambda address: None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a host that sends through it."""
        if django.VERSION >= (6, 1):
            options = {"host": "127.0.0.1", "port": self.port, "timeout": 60}
            backend = "django.core.mail.backends.smtp.EmailBackend"
            return {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}
        return {
            "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": self.port,
            "EMAIL_TIMEOUT": 60,
        }


class Handler(socketserver.StreamRequestHandler):
    """A connection of a client."""

    @property
    def state(self) -> MailServer:
        return self.server.state  # type: ignore[attr-defined, no-any-return] # of Server

    def handle(self) -> None:
        self.state.connections += 1
        self.count, self.address = 0, ""
        self.say(220)
        while line := self.rfile.readline().decode():
            verb = line[:4].strip().lower()
            if not getattr(self, f"do_{verb}", self.do_others)(line):
                return

    def do_mail(self, line: str) -> bool:
        is_over = self.state.limit is not None and self.count >= self.state.limit
        if is_over and self.state.says_goodbye:
            self.say(421)
        return not is_over and self.say(250)

    def do_rcpt(self, line: str) -> bool:
        self.address = re.findall("<(.*)>", line)[0]
        if self.address in self.state.dropped:
            return False
        return self.say(550 if self.address in self.state.refused else 250)

    def do_data(self, line: str) -> bool:
        self.say(354)
        while self.rfile.readline() != b".\r\n":
            pass
        self.state.on_data(self.address)
        self.state.accepted.append(self.address)
        self.count += 1
        return self.say(250)

    def do_quit(self, line: str) -> bool:
        self.say(221)
        return False

    def do_others(self, line: str) -> bool:
        return self.say(250)

    def say(self, code: int) -> bool:
        self.wfile.write(f"{code} as the test says\r\n".encode())
        return True


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    state: MailServer


@contextmanager
def mail_server() -> Iterator[MailServer]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.state = MailServer(server.server_address[1])
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        try:
            yield server.state
        finally:
            server.shutdown()
