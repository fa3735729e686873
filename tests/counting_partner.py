"""
A partner's server in a process of its own, which counts how often it was told each thing.

``python -m tests.counting_partner <fd of a listening socket> <seconds before it answers>``
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

from tests.hosts import running

told: Counter[str] = Counter()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
    """Answer one request after the other; the caller may be killed at any moment."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split(" ")[1]
            if target == "/told":
                body = json.dumps(told).encode()
            else:
                told[target] += 1
                await asyncio.sleep(pause)
                body = b"ok"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(fd: int, pause: float) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: talk(reader, writer, pause), sock=socket.socket(fileno=fd)
    )
    await server.serve_forever()


class CountingPartner:
    """The test's side of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def told(self) -> dict[str, int]:
        """Return how often it was called, by path and query."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/told")
        found: dict[str, int] = json.loads(connection.getresponse().read())
        connection.close()
        return found


@contextmanager
def counting_partner(pause: float = 0) -> Iterator[CountingPartner]:
    """Run the partner until the ``with`` block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        fd = listener.fileno()
        with running("tests.counting_partner", str(fd), str(pause), pass_fds=[fd]) as process:
            yield CountingPartner(listener.getsockname()[1])
            process.kill()  # it has no end of its own


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
