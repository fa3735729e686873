"""A host in processes of its own: its web server, its workers, its commands."""

from __future__ import annotations

import json
import os
import select
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

from django.utils import timezone

if TYPE_CHECKING:
    from affiliations.models import Partner

ROOT = Path(__file__).parent.parent
DISPATCHERS = "affiliations.dispatchers."

#: Seconds after which a test calls it a hang. A machine that is only busy needs less.
HANG = 60
#: Seconds for which a partner, a broker or a backend of a test hangs, unless it is let go: whatever
#: waits for it is caught by ``HANG``.
FOR_EVER = 4 * HANG
#: Settings with which a call to a partner who hangs lasts as long, and nobody else claims it.
PATIENT = {
    "AFFILIATE_CALLBACK_TIMEOUT": (FOR_EVER, FOR_EVER),
    "AFFILIATE_CALLBACK_DEADLINE": FOR_EVER,
    "AFFILIATE_CALLBACK_LEASE": 5 * FOR_EVER,
}

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
        # Without a seek, which would move the place where the process writes.
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and return the exit code."""
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends, and return the exit code."""
        return self.popen.wait(HANG)

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
        self.connection = HTTPConnection("127.0.0.1", port, timeout=HANG)
        self.cookie = ""

    def answers(self) -> bool:
        """Whether the server takes a connection: it may be starting anew."""
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def send(self, method: str, path: str) -> int:
        idle = self.connection.sock
        if idle is not None and select.select([idle], [], [], 0)[0]:
            self.connection.close()  # the server has closed it: gunicorn keeps it for 2 seconds
        self.connection.request(method, path, headers={"Cookie": self.cookie})
        response = self.connection.getresponse()
        response.read()
        self.cookie = (response.headers["Set-Cookie"] or self.cookie).partition(";")[0]
        return response.status

    def convert(self, partner: Partner) -> None:
        """Come through the partner's link and place an order; fails where an answer hangs."""
        self.cookie = ""
        assert self.send("GET", partner.link("/page/")) == 302
        assert self.send("POST", "/order/") == 200


def until(condition: Callable[[], object], seconds: float = HANG) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def end_leases() -> None:
    """Let the time be over for which what was claimed belongs to a worker that was killed."""
    from affiliations.models import Callback

    claimed = Callback.objects.exclude(lease_token="")
    now = timezone.now()
    assert claimed.filter(next_attempt_on__gt=now).update(next_attempt_on=now)
