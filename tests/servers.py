"""Real servers of the test project, in processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = {
    "gunicorn": ["gunicorn", "django.core.wsgi:get_wsgi_application()", "--bind", "fd://{fd}"],
    "uvicorn": ["uvicorn", "--factory", "django.core.asgi:get_asgi_application", "--fd", "{fd}"],
}


@contextmanager
def serving(kind: str, *options: str, settings: str = "tests.settings") -> Iterator[int]:
    """
    Serve the test project with gunicorn or uvicorn and their ``options``; yield the port.

    The server gets a socket that listens already, so whoever connects early only waits.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryFile() as log:
        command = [part.format(fd=listener.fileno()) for part in COMMANDS[kind]]
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": settings},
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield listener.getsockname()[1]
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"{kind} has stopped:\n{log.read().decode()}")
        finally:
            process.terminate()
            process.wait(60)
