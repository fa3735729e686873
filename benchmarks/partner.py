"""A partner's server in its own process: ``python -m benchmarks.partner SECONDS``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Partner(asyncio.Protocol):
    """Answers each request after ``seconds``; implements just enough HTTP for a GET."""

    seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.head = b""

    def data_received(self, data: bytes) -> None:
        self.head += data
        while b"\r\n\r\n" in self.head:
            self.head = self.head.partition(b"\r\n\r\n")[2]
            if self.seconds:
                asyncio.get_running_loop().call_later(self.seconds, self.transport.write, ANSWER)
            else:
                self.transport.write(ANSWER)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Partner, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def answering_after(seconds: float) -> Iterator[str]:
    """Run a partner's server until the ``with`` block ends; yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.partner", str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/cb"
        finally:
            process.terminate()


if __name__ == "__main__":
    Partner.seconds = float(sys.argv[1])
    asyncio.run(serve())
