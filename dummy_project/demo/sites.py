"""The three sites of the demo, each in its own process with its own port and log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

PROJECT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"


class SiteDown(Exception):
    """A site did not start, or has stopped."""


def free_port(wanted: int = 0) -> int:
    """Return the port `wanted` if it is free, or else another free port."""
    for port in (wanted, 0):
        with socket.socket() as listener:
            if os.name != "nt":
                # The server does the same; otherwise a port released just now would seem taken.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise SiteDown("This machine has no free port.")


class Site:
    """A Django site, run by `runserver` in its own process."""

    def __init__(
        self, name: str, settings: str, port: int, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.port = port
        self.url = f"http://{HOST}:{port}/"
        self.log = log
        self._environment = {
            **os.environ,
            **environment,
            "DJANGO_SETTINGS_MODULE": settings,
            "PYTHONUNBUFFERED": "1",
            # The project's own directory, and the paths where this process found the app.
            "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, sys.path)]),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; the site answers a little later."""
        command = [sys.executable, "-m", "django", "runserver", "--noreload", f"{HOST}:{self.port}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float) -> None:
        """Wait until the site answers; raise `SiteDown` if it does not within `seconds`."""
        deadline = time.monotonic() + seconds
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < deadline:
                self.check()
                try:
                    if session.get(self.url, timeout=seconds).ok:
                        return
                except requests.RequestException:
                    pass
                time.sleep(0.1)
        raise SiteDown(f"{self.name} does not answer at {self.url} after {seconds:g} seconds.")

    def check(self) -> None:
        """Raise `SiteDown` if the process has ended."""
        if self._process is None or self._process.poll() is not None:
            raise SiteDown(f"{self.name} has stopped.")

    def stop(self) -> None:
        """Stop the process: first like Ctrl-C, so that it can finish, then by force."""
        if self._process is None:
            return
        if self._process.poll() is None:
            if os.name == "nt":
                self._process.terminate()
            else:
                self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def output(self, lines: int = 40) -> str:
        """Return the last lines that the site has printed, without the polling of the demo."""
        if not self.log.exists():
            return ""
        printed = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in printed if "GET /callbacks.json" not in line][-lines:])


@contextmanager
def running(*sites: Site, patience: float) -> Iterator[None]:
    """Run the sites during the block, and stop them in any case afterwards."""
    try:
        for site in sites:
            site.start()
        for site in sites:
            site.wait(patience)
        yield
    finally:
        for site in sites:
            site.stop()
