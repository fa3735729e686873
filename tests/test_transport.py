"""What comes of one call, to partners of every kind: all of them real servers on this machine."""

from __future__ import annotations

import base64
import gc
import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.utils import timezone
from hypothesis import example, given, reject
from hypothesis import strategies as st
from requests_hardened.ip_filter import get_ip_address

from affiliations import placeholders
from affiliations.callbacks import addresses, connections, transport
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import CallbackAttempt
from tests.raw_partner import (
    CERTIFICATE,
    OK,
    RawPartner,
    dripping,
    hanging_after,
    redirecting,
    resetting,
    sending,
)

# No database is used here, so one says what all would.
pytestmark = pytest.mark.only_on("sqlite")

Error = CallbackAttempt.Error


#: Milliseconds after which a call hangs. Partners who hang do it for longer, unless it is ended.
HANG = 20_000


@pytest.fixture(autouse=True)
def _patient(settings: Any) -> None:
    """Call partners on this machine, and wait for them, however busy it is."""
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    settings.AFFILIATE_CALLBACK_TIMEOUT = (20, 20)
    settings.AFFILIATE_CALLBACK_DEADLINE = 60


def wait_briefly(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_TIMEOUT = (1, 1)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    Begin with no connection kept and no certificate read.

    Fails where a socket was left to the garbage collector (a ResourceWarning is an error).
    """
    adapter = transport._Adapter()
    monkeypatch.setattr(transport, "_adapter", adapter)
    connections.tls_context.cache_clear()
    gc.freeze()  # what is older than this test would take longer to look through than the test
    yield
    connections.tls_context.cache_clear()
    adapter.close()
    gc.collect()


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the self-signed certificate, as a site does with an authority of its own."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return the names that exist besides those of this machine, and their addresses."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def resolved(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        return [found for name in known.get(host, [host]) for found in real(name, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return known


@pytest.fixture
def public(settings: Any, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let partner.example, on this machine, have a public address, and allow no other kind."""
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
    names["partner.example"] = ["127.0.0.2"]

    def checked(address: str, port: int, *, allow_loopback: bool) -> Any:
        if address == "127.0.0.2":
            address = "192.0.43.8"
        return get_ip_address(address, port, allow_loopback=allow_loopback)

    monkeypatch.setattr(addresses, "get_ip_address", checked)


def failure(answer: Any) -> transport.Result:
    """Return what comes of a call that is answered like this, which must be a failure."""
    with RawPartner(answer) as partner:
        result = transport.send(partner.url)
    assert not result.delivered
    assert result.message
    return result


class TestAnAnswer:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    def test_of_2xx_is_delivered(self, status: int) -> None:
        with RawPartner(b"HTTP/1.1 %d Fine\r\nContent-Length: 0\r\n\r\n" % status) as partner:
            result = transport.send(partner.url)
        assert result.delivered
        assert (result.status_code, result.error, result.message) == (status, "", "")

    @pytest.mark.parametrize("status", [300, 304, 400, 404, 410, 429, 500, 503])
    def test_of_any_other_kind_is_not_and_keeps_its_status_and_text(self, status: int) -> None:
        """(D17) 0.12 took every answer for a success."""
        head = b"HTTP/1.1 %d No\r\nContent-Length: 7\r\n\r\n" % status
        body = b"" if status == 304 else b"no such"
        with RawPartner(head + body) as partner:
            result = transport.send(partner.url)
        assert not result.delivered
        assert (result.status_code, result.error) == (status, Error.HTTP_STATUS)
        assert result.excerpt == body.decode()

    def test_that_never_comes_has_no_text(self) -> None:
        result = transport.send("http://127.0.0.1:1/")
        assert (result.error, result.excerpt, result.retry_after) == (Error.CONNECT, "", "")

    def test_says_how_long_it_took(self) -> None:
        with RawPartner(dripping(b"", [OK], every=0.2)) as partner:
            began = time.monotonic()
            result = transport.send(partner.url)
            assert 150 < result.duration_ms <= (time.monotonic() - began) * 1000 + 1

    def test_is_kept_up_to_4_kib_however_long_it_goes_on(self) -> None:
        drops = itertools.repeat(b"x" * 65536)
        answer = dripping(b"HTTP/1.1 200 OK\r\n\r\n", drops, every=0)
        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert result.delivered
        assert result.excerpt == "x" * 4096
        assert result.duration_ms < HANG

    def test_is_not_unpacked(self) -> None:
        packed = bytes.fromhex("1f8b0800000000000003")
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n"
        with RawPartner(head + packed) as partner:
            result = transport.send(partner.url)
        assert result.delivered
        assert result.excerpt == "\ufffd" * 10

    def test_is_kept_as_text_that_every_database_can_hold(self) -> None:
        body = b"caf\xe9 \0 caf\xc3\xa9\r\n\t\x1b[1m\xef\xbf\xbf"
        with RawPartner(b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n" + body) as partner:
            result = transport.send(partner.url)
        assert result.excerpt == "caf\ufffd \ufffd café\r\n\t\ufffd[1m\ufffd"
        attempt = CallbackAttempt(
            callback_id=1, number=1, duration_ms=1, started_on=timezone.now(),
            response_excerpt=result.excerpt,
        )  # fmt: skip
        dump = serializers.serialize("xml", [attempt])
        assert len(list(serializers.deserialize("xml", dump))) == 1

    @pytest.mark.parametrize("status", [100, 102, 103])
    def test_comes_after_any_that_says_it_is_still_to_come(self, status: int) -> None:
        before = b"HTTP/1.1 %d Wait\r\nLink: </a>\r\n\r\n" % status
        with RawPartner(before * 2 + OK) as partner:
            result = transport.send(partner.url)
        assert (result.status_code, result.excerpt) == (200, "ok")

    def test_in_chunks_is_put_together(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        with RawPartner(head + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") as partner:
            assert transport.send(partner.url).excerpt == "onetwo"

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        ],
    )
    def test_that_breaks_off_after_a_2xx_is_delivered(self, head: bytes) -> None:
        """The status line says whether the partner has it; many a server sends a wrong length."""
        with RawPartner(head + b"cut") as partner:
            result = transport.send(partner.url)
        assert result.delivered
        assert result.status_code == 200

    @pytest.mark.parametrize("status", [429, 500, 503])
    @pytest.mark.parametrize(
        ("framing", "page", "excerpt", "said"),
        [
            pytest.param(b"", hanging_after(), "", "timed out", id="no page"),
            pytest.param(
                b"Content-Length: 9", hanging_after(), "", "timed out", id="a page that never comes"
            ),
            pytest.param(
                b"Content-Length: 9", hanging_after(b"cut"), "cut", "timed out", id="half a page"
            ),
            pytest.param(
                b"Content-Length: 100", sending(b"cut"), "cut", "IncompleteRead", id="short length"
            ),
            pytest.param(b"Content-Length: 3", resetting, "", "ConnectionReset", id="reset"),
            pytest.param(
                b"Transfer-Encoding: chunked",
                sending(b"3\r\none\r\n64\r\ntwo"),
                "onetwo",
                "IncompleteRead",
                id="broken chunk",
            ),
            pytest.param(
                b"Transfer-Encoding: chunked",
                hanging_after(b"3\r\none\r\n64\r\ntwo"),
                "onetwo",
                "timed out",
                id="half a chunk",
            ),
            pytest.param(
                b"Transfer-Encoding: chunked",
                sending(b"3\r\none\r\nnonsense\r\n"),
                "one",
                "IncompleteRead",
                id="nonsense chunk",
            ),
        ],
    )
    def test_that_breaks_off_after_a_500_is_the_500(
        self, status: int, framing: bytes, page: Any, excerpt: str, said: str, settings: Any
    ) -> None:
        """And asks to come back later, if it does: whatever becomes of its page."""
        if said == "timed out":
            wait_briefly(settings)

        def answer(connection: socket.socket) -> None:
            head = b"HTTP/1.1 %d No\r\nRetry-After: 120\r\n%b\r\n\r\n" % (status, framing)
            connection.sendall(head.replace(b"\r\n\r\n\r\n", b"\r\n\r\n"))
            page(connection)

        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert (result.status_code, result.error) == (status, Error.HTTP_STATUS)
        assert (result.retry_after, result.excerpt) == ("120", excerpt)
        assert said in result.message
        assert result.duration_ms < HANG

    def test_is_read_no_further_than_it_is_kept(self) -> None:
        head = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        with RawPartner(hanging_after(head + b"1000\r\n%b" % (b"x" * 4096))) as partner:
            result = transport.send(partner.url)
        assert result.excerpt == "x" * 4096
        assert (result.error, result.message) == (Error.HTTP_STATUS, "")

    def test_that_drips_asks_to_come_back_later_too(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_DEADLINE = 1.5
        head = b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\n\r\n"
        with RawPartner(dripping(head, itertools.repeat(b"x", 300), every=0.1)) as partner:
            result = transport.send(partner.url)
        assert (result.status_code, result.error) == (503, Error.DEADLINE)
        assert result.retry_after == "120"
        assert set(result.excerpt) == {"x"}


class TestARequest:
    def test_is_a_plain_get_that_says_who_calls(self) -> None:
        with RawPartner() as partner:
            transport.send(f"{partner.url}?v=1&c=a%20b")
        line, *headers = partner.requests[0].decode().strip().split("\r\n")
        assert line == "GET /cb?v=1&c=a%20b HTTP/1.1"
        values = dict(header.lower().split(": ", 1) for header in headers)
        assert values.pop("user-agent").startswith("django-affiliate-tracking")
        assert values == {
            "host": partner.host,
            "accept": "*/*",
            "accept-encoding": "identity",
        }

    def test_names_the_version_where_the_package_is_installed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "version", lambda name: "1.2.3")
        transport._headers.cache_clear()
        with RawPartner() as partner:
            transport.send(partner.url)
        transport._headers.cache_clear()
        assert b"User-Agent: django-affiliate-tracking/1.2.3\r\n" in partner.requests[0]

    def test_works_from_a_copy_that_was_never_installed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(name: str) -> str:
            raise transport.PackageNotFoundError(name)

        monkeypatch.setattr(transport, "version", unknown)
        transport._headers.cache_clear()
        with RawPartner() as partner:
            transport.send(partner.url)
        transport._headers.cache_clear()
        assert b"User-Agent: django-affiliate-tracking\r\n" in partner.requests[0]

    def test_that_cannot_be_signed_is_a_failure_and_no_error_of_ours(self) -> None:
        def signed(path_and_query: str) -> dict[str, str]:
            raise LookupError("no secret")

        with RawPartner() as partner:
            result = transport.send(partner.url, signed)
        assert (result.error, result.message) == (Error.PROTOCOL, "LookupError: no secret")
        assert partner.connections == 0

    def test_goes_through_no_proxy_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with RawPartner() as partner, RawPartner() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://{proxy.host}")
            assert transport.send(partner.url).delivered
        assert (partner.connections, proxy.connections) == (1, 0)

    def test_carries_no_password_from_the_netrc_of_this_machine(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login site password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with RawPartner() as partner:
            transport.send(partner.url)
        assert b"authorization" not in partner.requests[0].lower()

    @given(
        pieces=st.lists(
            st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="#"))
            | st.sampled_from(["/", "//", "?", "&", "%", "%2f", "%7e", "%zz", "{click_id}", "{x}"]),
            max_size=6,
        ),
        value=st.text(st.characters(exclude_categories=["Cs"])),
    )
    @example(pieces=["/cb?rate=50%off&cid=", "{click_id}"], value="a b&c%20d/é")
    @example(pieces=["//", "x", "?"], value="")
    @example(pieces=["?v=", "{click_id}"], value="%")
    @example(pieces=["/%2f%7e/", "%2E/", "{click_id}"], value="x")
    def test_is_for_exactly_the_url_that_the_row_shows(self, pieces: list[str], value: str) -> None:
        with RawPartner() as partner:
            tail = "".join(pieces)
            tail = tail if tail.startswith(("/", "?")) else f"/{tail}"
            try:
                url = placeholders.render(f"http://{partner.host}{tail}", {"click_id": value})
            except InvalidCallBackURL:
                reject()
            assert transport.send(url).delivered
        sent = partner.requests[0].split(b"\r\n")[0].decode("ascii")
        assert sent == f"GET {url.removeprefix(f'http://{partner.host}')} HTTP/1.1"

    def test_carries_the_password_that_stands_in_the_callback_url(self) -> None:
        with RawPartner() as partner:
            transport.send(f"http://site:secret@{partner.host}/cb")
        expected = base64.b64encode(b"site:secret")
        assert b"Authorization: Basic " + expected in partner.requests[0]


class TestARedirect:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize(
        "form", ["http://{host}/there?a=1", "//{host}/there?a=1", "/there?a=1"]
    )
    def test_is_followed(self, status: int, form: str) -> None:
        def answer(connection: socket.socket) -> None:
            first = len(partner.requests) == 1
            target = redirecting(form.format(host=partner.host), status)
            connection.sendall(target if first else OK)

        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert result.delivered
        assert partner.requests[1].startswith(b"GET /there?a=1 HTTP/1.1\r\n")

    @pytest.mark.parametrize(("hops", "delivered"), [(3, True), (4, False)])
    def test_is_followed_three_times_and_no_more(self, hops: int, delivered: bool) -> None:
        def answer(connection: socket.socket) -> None:
            left = hops - len(partner.requests) + 1
            connection.sendall(redirecting(f"/{left}") if left else OK)

        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert result.delivered is delivered
        assert result.error == ("" if delivered else Error.REDIRECTS)
        assert len(partner.requests) == 4

    def test_without_an_address_is_an_answer_like_any_other(self) -> None:
        with RawPartner(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n") as partner:
            result = transport.send(partner.url)
        assert (result.status_code, result.error) == (302, Error.HTTP_STATUS)

    @pytest.mark.usefixtures("trusted")
    def test_from_http_to_https_is_followed(self) -> None:
        with RawPartner(tls=True) as secure, RawPartner(redirecting(secure.url)) as plain:
            assert transport.send(plain.url).delivered

    @pytest.mark.usefixtures("trusted")
    def test_from_https_to_https_is_followed(self) -> None:
        with RawPartner(tls=True) as there, RawPartner(redirecting(there.url), tls=True) as partner:
            assert transport.send(partner.url).delivered

    @pytest.mark.parametrize("form", ["http://{host}/cb", "HTTP://{host}/cb", "\x0chttp://{host}/"])
    @pytest.mark.usefixtures("trusted")
    def test_from_https_to_http_is_not_followed(self, form: str) -> None:
        with RawPartner() as plain:
            target = redirecting(form.format(host=plain.host))
            with RawPartner(target, tls=True) as secure:
                result = transport.send(secure.url)
        assert result.error in (Error.REDIRECTS, Error.PROTOCOL)
        assert len(secure.requests) == 1
        assert plain.connections == 0

    @pytest.mark.usefixtures("trusted")
    def test_from_http_to_https_and_back_is_not_followed(self) -> None:
        with (
            RawPartner() as last,
            RawPartner(redirecting(last.url), tls=True) as secure,
            RawPartner(redirecting(secure.url)) as first,
        ):
            assert transport.send(first.url).error == Error.REDIRECTS
        assert last.connections == 0

    @pytest.mark.parametrize("location", ["ftp://a.example/", "file:///etc/passwd", "data:,x"])
    def test_to_what_is_not_http_is_not_followed(self, location: str) -> None:
        assert failure(redirecting(location)).error == Error.REDIRECTS

    @pytest.mark.usefixtures("public")
    def test_to_an_address_inside_this_network_is_not_followed(self) -> None:
        with (
            RawPartner() as inside,
            RawPartner(redirecting(inside.url), address="127.0.0.2") as partner,
        ):
            result = transport.send(f"http://partner.example:{partner.port}/cb")
        assert result.error == Error.BLOCKED_ADDRESS
        assert (partner.connections, inside.connections) == (1, 0)

    @pytest.mark.parametrize(
        ("header", "page"),
        [
            (b"", b"x" * 65536),
            (b"Transfer-Encoding: chunked\r\n", b"1000\r\n%b\r\n" % (b"x" * 4096)),
        ],
    )
    def test_with_an_endless_page_is_followed_without_reading_it(
        self, header: bytes, page: bytes
    ) -> None:
        def answer(connection: socket.socket) -> None:
            if len(partner.requests) > 1:
                connection.sendall(OK)
                return
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /there\r\n" + header + b"\r\n")
            while True:
                connection.sendall(page)

        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert result.delivered
        assert result.duration_ms < HANG

    def test_whose_address_is_no_text_is_no_answer(self) -> None:
        assert failure(redirecting("/\xff\xfe")).error in (Error.PROTOCOL, Error.REDIRECTS)


class TestAPartner:
    def test_who_is_not_there_is_told_apart(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        result = transport.send(f"http://127.0.0.1:{port}/cb")
        assert (result.error, result.status_code) == (Error.CONNECT, None)
        assert result.message == "ConnectionRefusedError: [Errno 111] Connection refused"

    def test_whose_name_is_not_found_is_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: object, **kwargs: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", broken)
        result = transport.send("http://nowhere.example/cb")
        assert (result.error, result.message) == (
            Error.DNS,
            "gaierror: [Errno -2] Name or service not known",
        )

    def test_with_several_addresses_is_called_at_the_first_that_answers(
        self, names: dict[str, list[str]]
    ) -> None:
        names["partner.example"] = ["127.0.0.3", "127.0.0.1"]
        with RawPartner() as partner:
            assert transport.send(f"http://partner.example:{partner.port}/cb").delivered

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            pytest.param(b"", Error.LOST, id="closes without a word"),
            pytest.param(resetting, Error.LOST, id="resets"),
            pytest.param(b"SSH-2.0-OpenSSH\r\n", Error.PROTOCOL, id="speaks something else"),
            pytest.param(b"\0" * 100000, Error.PROTOCOL, id="sends garbage"),
            pytest.param(b"HTTP/1.1 two OK\r\n\r\n", Error.PROTOCOL, id="has no status"),
            pytest.param(hanging_after(), Error.TIMEOUT, id="hangs"),
        ],
    )
    def test_who_misbehaves_is_told_apart(self, answer: Any, error: str, settings: Any) -> None:
        if error == Error.TIMEOUT:
            wait_briefly(settings)
        result = failure(answer)
        assert (result.error, result.status_code) == (error, None)
        assert result.duration_ms < HANG

    @pytest.mark.parametrize(
        ("rest", "error"),
        [
            pytest.param(sending(b"X: 1\r\n" * 200 + b"\r\n"), Error.PROTOCOL, id="200 headers"),
            pytest.param(
                sending(b"X: " + b"1" * 100000 + b"\r\n\r\n"),
                Error.PROTOCOL,
                id="an endless header",
            ),
            pytest.param(hanging_after(b"X: 1\r\n"), Error.TIMEOUT, id="headers without an end"),
            pytest.param(
                hanging_after(b"Content-Length: 9\r\n\r\n"), Error.HTTP_STATUS, id="half a page"
            ),
        ],
    )
    @pytest.mark.parametrize("status", [200, 500])
    def test_who_goes_wrong_after_the_status_line_has_said_yes_or_no(
        self, status: int, rest: Any, error: str, settings: Any
    ) -> None:
        if error != Error.PROTOCOL:
            wait_briefly(settings)

        def answer(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 %d Now\r\n" % status)
            rest(connection)

        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert result.status_code == status
        assert result.error == ("" if status == 200 else error)
        assert result.duration_ms < HANG

    def test_who_does_not_accept_is_told_apart(self, settings: Any) -> None:
        wait_briefly(settings)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            full = [socket.socket() for _ in range(4)]
            try:
                for waiting in full:
                    waiting.setblocking(False)
                    waiting.connect_ex(listener.getsockname())
                result = transport.send(f"http://127.0.0.1:{listener.getsockname()[1]}/cb")
            finally:
                for waiting in full:
                    waiting.close()
        assert result.error == Error.TIMEOUT
        assert result.duration_ms < HANG


@pytest.mark.slow
class TestTheDeadline:
    """A timeout is for each wait; a drop every now and then outlives them all."""

    @pytest.fixture(autouse=True)
    def _soon(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_DEADLINE = 1.5

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(
        ("head", "drop", "status"),
        [
            pytest.param(b"", b"H", None, id="status line"),
            pytest.param(b"HTTP/1.1 500 No\r\nX: ", b"x", 500, id="headers"),
            pytest.param(b"HTTP/1.1 500 No\r\n\r\n", b"x", 500, id="page"),
            pytest.param(
                b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\nx\r\n",
                500,
                id="page in chunks",
            ),
            pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", None, id="endless 100 Continue"),
        ],
    )
    @pytest.mark.usefixtures("trusted")
    def test_ends_what_comes_drop_by_drop(
        self, head: bytes, drop: bytes, status: int | None, tls: bool
    ) -> None:
        answer = dripping(head, itertools.repeat(drop, 300), every=0.1)
        with RawPartner(answer, tls=tls) as partner:
            result = transport.send(partner.url)
        assert (result.error, result.status_code) == (Error.DEADLINE, status)
        assert 1450 < result.duration_ms < HANG

    @pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
    def test_ends_what_comes_drop_by_drop_after_a_2xx_which_is_delivered(self, head: bytes) -> None:
        answer = dripping(head, itertools.repeat(b"x", 300), every=0.1)
        with RawPartner(answer) as partner:
            result = transport.send(partner.url)
        assert (result.delivered, result.status_code) == (True, 200)
        assert 1450 < result.duration_ms < HANG

    def test_holds_for_all_redirects_together(self) -> None:
        answer = dripping(b"", [redirecting("/again")], every=0.5)
        result = failure(answer)
        assert result.error == Error.DEADLINE
        assert result.duration_ms < HANG

    def test_holds_for_connecting_too(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_TIMEOUT = (60, 60)
        with RawPartner(hanging_after()) as partner:
            # The server waits for the client to begin with TLS, and the client for its answer.
            result = transport.send(partner.url.replace("http:", "https:"))
        assert result.error == Error.DEADLINE
        assert result.duration_ms < HANG


class TestTls:
    @pytest.mark.usefixtures("trusted")
    def test_with_a_trusted_certificate_is_delivered(self) -> None:
        with RawPartner(tls=True) as partner:
            assert transport.send(partner.url).delivered

    def test_trusts_what_curl_is_told_to_trust(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.setenv("CURL_CA_BUNDLE", str(CERTIFICATE))
        with RawPartner(tls=True) as partner:
            assert transport.send(partner.url).delivered

    @pytest.mark.parametrize("content", [None, "", "nonsense"])
    def test_with_nothing_to_trust_is_refused_at_once(
        self, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = tmp_path / "bundle.pem"
        if content is not None:
            bundle.write_text(content)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        with RawPartner(tls=True) as partner:
            result = transport.send(partner.url)
        assert result.error == Error.CONFIGURATION
        assert str(bundle) in result.message
        assert partner.connections == 0

    def test_with_a_self_signed_certificate_is_refused(self) -> None:
        with RawPartner(tls=True) as partner:
            result = transport.send(partner.url)
        assert result.error == Error.TLS
        assert partner.requests == []

    @pytest.mark.usefixtures("trusted")
    def test_with_the_certificate_of_somebody_else_is_refused(self) -> None:
        with RawPartner(tls=True) as partner:
            result = transport.send(partner.url.replace("127.0.0.1", "localhost"))
        assert result.error == Error.TLS
        assert partner.requests == []

    def test_with_a_server_that_speaks_plain_http_is_refused(self) -> None:
        def answer(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with RawPartner() as partner:
            partner._talk = answer  # type: ignore[method-assign] # no head will come
            result = transport.send(partner.url.replace("http:", "https:"))
        assert result.error == Error.TLS

    @pytest.mark.usefixtures("trusted")
    def test_is_cut_off_without_a_goodbye_after_a_2xx_and_delivered(self) -> None:
        def answer(connection: ssl.SSLSocket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
            connection.shutdown(socket.SHUT_RDWR)

        with RawPartner(answer, tls=True) as partner:
            result = transport.send(partner.url)
        assert (result.status_code, result.error) == (200, "")

    @pytest.mark.usefixtures("public", "trusted")
    def test_holds_for_the_name_and_not_for_the_address(self) -> None:
        """The address is checked and pinned; the certificate must still be that of the name."""
        with RawPartner(tls=True, address="127.0.0.2") as partner:
            host = f"partner.example:{partner.port}"
            assert transport.send(f"https://{host}/cb").delivered
        assert f"Host: {host}\r\n".encode() in partner.requests[0]


class TestAPrivateAddress:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.1", "localhost", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"]
    )
    def test_of_this_machine_is_not_called(self, host: str, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
        with RawPartner() as partner:
            result = transport.send(partner.url.replace("127.0.0.1", host))
        assert result.error == Error.BLOCKED_ADDRESS
        assert partner.connections == 0

    @pytest.mark.parametrize(
        "host",
        [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "[::1]",
            "[::]",
            "[::127.0.0.1]",
            "[fd00::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[64:ff9b::7f00:1]",
        ],
    )
    def test_of_this_network_is_not_called(self, host: str, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
        assert transport.send(f"http://{host}/cb").error == Error.BLOCKED_ADDRESS

    @pytest.mark.usefixtures("public")
    def test_behind_a_public_name_is_not_called(self, names: dict[str, list[str]]) -> None:
        names["partner.example"] = ["127.0.0.1"]
        with RawPartner() as partner:
            result = transport.send(f"http://partner.example:{partner.port}/cb")
        assert result.error == Error.BLOCKED_ADDRESS
        assert partner.connections == 0

    @pytest.mark.usefixtures("public")
    def test_that_a_name_changes_to_after_it_was_checked_is_not_called(
        self, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is called is the address that was checked: a second look could find another."""
        checked = addresses.get_ip_address

        def rebinding(*args: Any, **kwargs: Any) -> Any:
            names["partner.example"] = ["127.0.0.1"]
            return checked(*args, **kwargs)

        monkeypatch.setattr(addresses, "get_ip_address", rebinding)
        with RawPartner() as inside:
            result = transport.send(f"http://partner.example:{inside.port}/cb")
        assert result.error == Error.CONNECT
        assert inside.connections == 0

    def test_is_called_where_the_site_allows_it(self) -> None:
        with RawPartner() as partner:
            assert transport.send(partner.url).delivered


class TestRequireHttps:
    @pytest.fixture(autouse=True)
    def _required(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_REQUIRE_HTTPS = True

    def test_leaves_a_plain_address_uncalled(self) -> None:
        with RawPartner() as partner:
            result = transport.send(partner.url)
        assert result.error == Error.REDIRECTS
        assert partner.connections == 0

    @pytest.mark.usefixtures("trusted")
    def test_calls_a_secure_one(self) -> None:
        with RawPartner(tls=True) as partner:
            assert transport.send(partner.url).delivered


def test_each_cause_of_a_failure_is_looked_at_once() -> None:
    failure, cause = OSError("failure"), ValueError("cause")
    failure.__cause__, cause.__cause__ = cause, failure
    assert list(itertools.islice(transport._causes(failure), 3)) == [failure, cause]
