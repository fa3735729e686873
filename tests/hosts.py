"""A host in processes of its own: its web server, its workers, its commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affiliations.models import Partner

ROOT = Path(__file__).parent.parent
DISPATCHERS = "affiliations.callbacks.dispatchers."

GUNICORN = ["gunicorn", "django.core.wsgi:get_wsgi_application()", "--bind=fd://{fd}"]
UVICORN = ["uvicorn", "--factory", "django.core.asgi:get_asgi_application", "--fd={fd}"]


class Process:
    """A process that a test has started, with what it says."""

    def __init__(
        self, *command: str, settings: dict[str, Any], pass_fds: Sequence[int] = ()
    ) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the process
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command],
            cwd=ROOT,
            env=environment(settings),
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and return the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(20)

    def kill(self) -> None:
        """End it and all its children, in the middle of whatever they do."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def environment(settings: dict[str, Any]) -> dict[str, str]:
    return os.environ | {
        # What it says can be read at once, and in the order in which it was said.
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "tests.settings_hosted",
        "AFFILIATIONS_TEST_SETTINGS": json.dumps(settings),
    }


@contextmanager
def running(*command: str, pass_fds: Sequence[int] = (), **settings: Any) -> Iterator[Process]:
    """Run a Python module until the ``with`` block ends."""
    process = Process(*command, settings=settings, pass_fds=pass_fds)
    try:
        yield process
        if process.is_running():
            process.stop()
    except BaseException:
        sys.stderr.write(f"\n{' '.join(command)}:\n{process.said()}\n")
        raise
    finally:
        process.kill()
        process.log.close()


def manage(*arguments: str, **settings: Any) -> Any:
    """Run a management command until the ``with`` block ends."""
    return running("django", *arguments, **settings)


@contextmanager
def serving(*command: str, **settings: Any) -> Iterator[tuple[Process, Browser]]:
    """
    Serve the test project; yield the server and a visitor's browser.

    ``{fd}`` in the command stands for a socket that listens, ``{port}`` for a free port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        if "{port}" in command:
            listener.close()
        command = tuple(part.format(fd=fd, port=port) for part in command)
        with running(*command, pass_fds=[fd] if listener.fileno() >= 0 else [], **settings) as it:
            browser = Browser(port)
            until(lambda: browser.answers() or not it.is_running())
            try:
                yield it, browser
            finally:
                browser.connection.close()


class Browser:
    """A visitor's browser: one connection, kept as long as the server keeps it, and a cookie."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = HTTPConnection("127.0.0.1", port, timeout=20)
        self.cookie = ""

    def answers(self) -> bool:
        """Whether the server takes a connection: it may be starting anew."""
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def send(self, method: str, path: str) -> int:
        self.connection.request(method, path, headers={"Cookie": self.cookie})
        response = self.connection.getresponse()
        response.read()
        self.cookie = (response.headers["Set-Cookie"] or self.cookie).partition(";")[0]
        return response.status

    def convert(self, partner: Partner) -> float:
        """Come through the partner's link and place an order; return the seconds that it took."""
        self.cookie = ""
        assert self.send("GET", partner.link("/page/")) == 302
        began = time.monotonic()
        assert self.send("POST", "/order/") == 200
        return time.monotonic() - began


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
