"""What is kept from call to call, and how much a partner can take of this machine's memory."""

from __future__ import annotations

import gc
import gzip
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from affiliations.callbacks import connections, transport
from affiliations.models import CallbackAttempt
from tests.raw_partner import CERTIFICATE, OK, RawPartner

# No database is used here, so one says what all would.
pytestmark = pytest.mark.only_on("sqlite")

Error = CallbackAttempt.Error


@pytest.fixture(autouse=True)
def _anew(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with no connection kept and no certificate read; call partners on this machine."""
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    settings.AFFILIATE_CALLBACK_TIMEOUT = (20, 20)
    settings.AFFILIATE_CALLBACK_DEADLINE = 60
    monkeypatch.setattr(transport, "_adapter", transport._Adapter())
    connections.tls_context.cache_clear()
    gc.freeze()  # what is older than this test would take longer to look through than the test
    yield
    connections.tls_context.cache_clear()
    hang_up()


def hang_up() -> None:
    """Close what is kept. A socket that was left open is an error here."""
    transport._adapter.close()  # which only lets go of it
    gc.collect()


def hears_another(partner: RawPartner, connection: socket.socket) -> bool:
    """Wait for one more request on the same connection; ``False`` where the caller is done."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (read := connection.recv(65536)):
            return False
        head += read
    partner.requests.append(head)
    return True


def keeping(*last_words: bytes, answers: int = 10**9) -> RawPartner:
    """Answer so many requests on each connection, and another one with ``last_words``."""

    def answer(connection: socket.socket) -> None:
        for _ in range(answers):
            connection.sendall(OK)
            if not hears_another(partner, connection):
                return
        for words in last_words:
            connection.sendall(words)

    partner = RawPartner(answer)
    return partner


@pytest.fixture
def partner() -> Iterator[RawPartner]:
    """Return a partner who keeps a connection open for as long as the caller likes."""
    with keeping() as server:
        yield server
        hang_up()


class TestAConnection:
    def test_is_kept_for_the_next_call(self, partner: RawPartner) -> None:
        assert all(transport.send(partner.url).delivered for _ in range(5))
        assert (partner.connections, len(partner.requests)) == (1, 5)

    def test_is_kept_for_any_thread(self, partner: RawPartner) -> None:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(transport.send, [partner.url] * 40))
        assert all(result.delivered for result in results)
        assert partner.connections <= 4

    def test_is_not_kept_for_long(
        self, partner: RawPartner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A firewall that has forgotten it would let the next call run into its timeout."""
        transport.send(partner.url)
        monkeypatch.setattr(connections, "MAX_IDLE", 0.0)
        assert transport.send(partner.url).delivered
        assert partner.connections == 2

    def test_that_the_partner_has_closed_without_saying_so_is_no_failure(self) -> None:
        with RawPartner(OK) as partner:  # promises to keep the connection, and does not
            results = [transport.send(partner.url) for _ in range(5)]
        assert [result.error for result in results] == [""] * 5
        assert partner.connections == 5

    def test_that_the_partner_closes_when_the_next_call_comes_is_no_failure(self) -> None:
        with keeping(answers=1) as partner:
            results = [transport.send(partner.url) for _ in range(3)]
            hang_up()
        assert [result.error for result in results] == [""] * 3
        # One on the new connection, one that was lost on it, and again.
        assert (partner.connections, len(partner.requests)) == (3, 5)

    def test_of_many_that_are_closed_so_makes_no_failure_either(self) -> None:
        together = threading.Barrier(4)

        def answer(connection: socket.socket) -> None:
            if len(partner.requests) <= 4:
                together.wait(10)
            connection.sendall(OK)
            hears_another(partner, connection)

        with RawPartner(answer) as partner:
            with ThreadPoolExecutor(4) as pool:
                first = list(pool.map(transport.send, [partner.url] * 4))
            last = transport.send(partner.url)
            hang_up()
        assert [result.error for result in (*first, last)] == [""] * 5
        assert partner.connections == 5

    def test_that_is_new_and_is_closed_is_a_failure_at_once(self) -> None:
        with RawPartner(b"") as partner:
            assert transport.send(partner.url).error == Error.LOST
        assert partner.connections == 1

    def test_on_which_garbage_follows_an_answer_is_not_used_again(self) -> None:
        with keeping(b"HTTP/1.1 500 Not yours\r\n\r\n", answers=1) as partner:
            transport.send(partner.url)
            result = transport.send(partner.url)
        assert (result.status_code, result.error) == (500, Error.HTTP_STATUS)

        with RawPartner(OK + b"HTTP/1.1 500 Too early\r\n\r\n") as partner:
            assert [transport.send(partner.url).status_code for _ in range(3)] == [200, 200, 200]

    def test_with_more_to_read_than_is_kept_is_closed(self) -> None:
        long = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999

        def answer(connection: socket.socket) -> None:
            connection.sendall(long)
            assert not hears_another(partner, connection)

        with RawPartner(answer) as partner:
            assert all(transport.send(partner.url).delivered for _ in range(2))
        assert partner.connections == 2


class TestACookie:
    def test_reaches_nobody(self) -> None:
        def answer(connection: socket.socket) -> None:
            cookies = b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Domain=127.0.0.1\r\n"
            connection.sendall(OK.replace(b"\r\n\r\n", b"\r\n" + cookies + b"\r\n"))

        with RawPartner(answer) as first, RawPartner() as second:
            for url in (first.url, second.url, first.url):
                assert transport.send(url).delivered
        heads = b"".join(first.requests + second.requests).lower()
        assert heads.count(b"get /cb") == 3
        assert b"cookie" not in heads

    def test_of_a_redirect_is_not_carried_on(self) -> None:
        def answer(connection: socket.socket) -> None:
            there = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nSet-Cookie: a=1\r\n\r\n"
            connection.sendall(there if len(partner.requests) == 1 else OK)

        with RawPartner(answer) as partner:
            assert transport.send(partner.url).delivered
        assert b"cookie" not in partner.requests[1].lower()


class TestTheCertificatesThatAreTrusted:
    def test_are_read_once_for_all_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
        read: list[ssl.SSLContext] = []
        create = ssl.create_default_context

        def counting(*args: Any, **kwargs: Any) -> ssl.SSLContext:
            read.append(create(*args, **kwargs))
            return read[-1]

        monkeypatch.setattr(ssl, "create_default_context", counting)
        together = threading.Barrier(8)

        def send(url: str) -> transport.Result:
            together.wait(10)
            return transport.send(url)

        with RawPartner(tls=True) as partner, ThreadPoolExecutor(8) as pool:
            results = list(pool.map(send, [partner.url] * 8))
        assert all(result.delivered for result in results)
        assert len(read) == 1

    def test_may_stand_in_a_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As `openssl rehash` names it.
        shutil.copy(CERTIFICATE, tmp_path / "9f4a7370.0")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        with RawPartner(tls=True) as partner:
            assert transport.send(partner.url).delivered

    def test_are_no_others_where_a_bundle_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(CERTIFICATE))
        with RawPartner(tls=True) as partner:
            assert transport.send(partner.url).error == Error.TLS


@pytest.mark.server
def test_a_fork_leaves_its_parent_s_connections_alone(partner: RawPartner) -> None:
    """Two processes on one connection would read each other's answers."""
    script = f"""
        import os, django
        django.setup()
        from django.conf import settings
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
        from affiliations.callbacks import transport
        assert transport.send("{partner.url}?parent").delivered
        child = os.fork()
        if child == 0:
            assert transport.send("{partner.url}?child").delivered
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert transport.send("{partner.url}?parent-again").delivered
        transport._adapter.close()
    """
    ended = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error::ResourceWarning",
            "-c",
            textwrap.dedent(script),
        ],
        env=os.environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    said = [head.split(b" ")[1].partition(b"?")[2] for head in partner.requests]
    assert said == [b"parent", b"child", b"parent-again"]
    assert partner.connections == 2


def test_a_child_begins_with_nothing_of_its_parent_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, without a process: not its connections, and not a lock that nobody gives back."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    adapter = transport._adapter
    is_locked, may_unlock = threading.Event(), threading.Event()

    def lock() -> None:
        with adapter.poolmanager.pools.lock:
            is_locked.set()
            may_unlock.wait(60)

    thread = threading.Thread(target=lock)
    thread.start()
    is_locked.wait(60)
    transport._begin_anew()
    with RawPartner(tls=True) as partner:
        assert transport.send(partner.url).delivered
        assert thread.is_alive()
        hang_up()
    may_unlock.set()
    thread.join(60)
    assert transport._adapter is not adapter


def endlessly(head: bytes, part: bytes = b"x" * 65536) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for again in itertools.repeat(part):
            connection.sendall(again)

    return answer


#: http.client reads 99 of these.
LONG = b"X: %b\r\n" % (b"x" * 65000)
BOMB = gzip.compress(bytes(32 * 2**20))
GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(endlessly(b"HTTP/1.1 200 OK\r\n\r\n"), id="body"),
        pytest.param(endlessly(b"HTTP/1.1 500 No\r\n\r\n"), id="body of an error"),
        pytest.param(
            endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"),
            id="announced body",
        ),
        pytest.param(
            endlessly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n"),
            id="chunk",
        ),
        pytest.param(
            endlessly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            id="size of a chunk",
        ),
        pytest.param(
            endlessly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"),
            id="trailer",
        ),
        pytest.param(
            endlessly(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n" * 9999
            ),
            id="trailers",
        ),
        pytest.param(GZIP + BOMB, id="gzip bomb"),
        pytest.param(GZIP.replace(b"gzip", b"gzip, gzip") + BOMB, id="gzip of gzip"),
        pytest.param(
            endlessly(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"), id="page of redirects"
        ),
        pytest.param(endlessly(b"HTTP/1.1 302 Found\r\nLocation: /"), id="address of a redirect"),
        pytest.param(endlessly(b"HTTP/1.1 200 OK\r\nX: "), id="header"),
        pytest.param(endlessly(b"HTTP/1.1 500 No\r\n", b"X: 1\r\n" * 9999), id="headers"),
        pytest.param(b"HTTP/1.1 500 No\r\n" + LONG * 99 + b"\r\n", id="long headers"),
        pytest.param(endlessly(b"", b"x" * 65536), id="status line"),
        pytest.param(endlessly(b"HTTP/1.1 200 "), id="reason"),
        pytest.param(endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999), id="100 Continue"),
    ],
)
def test_memory_stays_flat_whatever_a_partner_sends_without_end(answer: Any, settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_DEADLINE = 0.8
    with RawPartner() as partner:
        transport.send(partner.url)  # what is read once does not count
    with RawPartner(answer) as partner:
        tracemalloc.start()
        try:
            result = transport.send(partner.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(result.excerpt) <= 4096
    assert len(result.message) <= 4096
    assert result.duration_ms < 20_000
    assert peak < 2 * 2**20


KIB = b"X: %b\r\n" % (b"x" * 1019)


@pytest.mark.parametrize(("size", "error"), [(15, ""), (17, CallbackAttempt.Error.PROTOCOL)])
@pytest.mark.parametrize(
    ("before", "head"),
    [
        pytest.param(0, b"", id="one"),
        pytest.param(8, b"HTTP/1.1 103 Hints\r\n", id="interim answers"),
        pytest.param(
            8, b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n", id="redirects"
        ),
    ],
)
def test_all_heads_of_a_call_together_have_a_limit(
    before: int, head: bytes, size: int, error: str
) -> None:
    def answer(connection: socket.socket) -> None:
        if before and len(partner.requests) == 1:
            connection.sendall(head + KIB * before + b"\r\n")
        if b"302" not in head or len(partner.requests) == 2:
            connection.sendall(b"HTTP/1.1 103 Hints\r\n" + KIB * (size - before) + b"\r\n" + OK)

    with RawPartner(answer) as partner:
        assert transport.send(partner.url).error == error


def test_no_wait_begins_after_the_deadline() -> None:
    call = connections.Call(connect=1, read=1, deadline=0)
    with pytest.raises(TimeoutError, match="the whole call took too long"):
        call.limit(5)
