"""No partner's URL leads into this site's own network: not in any spelling, not by any detour."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import urllib3.util.connection

from affiliations.callbacks import connections, transport
from affiliations.models import CallbackAttempt
from affiliations.models.delivery_errors import cure_for
from tests.raw_partner import OK, RawPartner, redirecting

# No database is used here, so one says what all would.
pytestmark = pytest.mark.only_on("sqlite")

Error = CallbackAttempt.Error

PUBLIC = "192.0.43.8"

# What IANA lists in its registries of special-purpose addresses, and where it lists nothing at all.
IPV4 = {
    "this network": "0.0.0.0/8",
    "private 10": "10.0.0.0/8",
    "shared by customers of a carrier": "100.64.0.0/10",
    "loopback": "127.0.0.0/8",
    "link-local": "169.254.0.0/16",
    "private 172": "172.16.0.0/12",
    "protocol assignments": "192.0.0.0/24",
    "port control protocol": "192.0.0.9/32",
    "TURN anycast": "192.0.0.10/32",
    "documentation 1": "192.0.2.0/24",
    "AS112": "192.31.196.0/24",
    "AMT": "192.52.193.0/24",
    "6to4 relays": "192.88.99.0/24",
    "private 192": "192.168.0.0/16",
    "direct delegation AS112": "192.175.48.0/24",
    "benchmarks": "198.18.0.0/15",
    "documentation 2": "198.51.100.0/24",
    "documentation 3": "203.0.113.0/24",
    "multicast": "224.0.0.0/4",
    "reserved": "240.0.0.0/4",
    "broadcast": "255.255.255.255/32",
    "metadata of most clouds": "169.254.169.254/32",
    "metadata at Alibaba": "100.100.100.200/32",
    "metadata at Oracle": "192.0.0.192/32",
    "host of a machine at Azure": "168.63.129.16/32",
}
IPV6 = {
    "unspecified": "::/128",
    "loopback": "::1/128",
    "IPv4-compatible": "::/96",
    "IPv4-translated": "::ffff:0:0:0/96",
    "NAT64": "64:ff9b::/96",
    "NAT64, local": "64:ff9b:1::/48",
    "discard": "100::/64",
    "dummy": "100:0:0:1::/64",
    "protocol assignments": "2001::/23",
    "Teredo": "2001::/32",
    "port control protocol": "2001:1::1/128",
    "TURN anycast": "2001:1::2/128",
    "DNS-SD anycast": "2001:1::3/128",
    "benchmarks": "2001:2::/48",
    "AMT": "2001:3::/32",
    "AS112": "2001:4:112::/48",
    "ORCHID": "2001:10::/28",
    "ORCHIDv2": "2001:20::/28",
    "drones": "2001:30::/28",
    "documentation 1": "2001:db8::/32",
    "6to4": "2002::/16",
    "direct delegation AS112": "2620:4f:8000::/48",
    "documentation 2": "3fff::/20",
    "segment routing": "5f00::/16",
    "not assigned 4000": "4000::/3",
    "not assigned 8000": "8000::/2",
    "unique local": "fc00::/7",
    "link-local": "fe80::/10",
    "site-local": "fec0::/10",
    "multicast": "ff00::/8",
    "metadata at Amazon": "fd00:ec2::254/128",
    "metadata at Google": "fd20:ce::254/128",
}
SPECIAL = [
    pytest.param(network, id=f"{version} {name}")
    for version, table in (("IPv4", IPV4), ("IPv6", IPV6))
    for name, network in table.items()
]


def samples(network: str) -> list[str]:
    """Return the first, the last and some address between of a network."""
    known = ip_network(network)
    first, last = int(known[0]), int(known[-1])
    kind = type(known[0])
    return [str(kind(number)) for number in sorted({first, (first + last) // 2, last})]


def url(host: str, port: int = 80) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/cb"


class Network:
    """
    A resolver that knows some names and no server to ask, and a wire that leads to one partner.

    ``connected`` holds the addresses that a connection was opened to, or would have been.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.looked_up: list[str] = []
        self.connected: list[str] = []
        self.servers: dict[str, int] = {}
        self._look_up, self._connect = socket.getaddrinfo, socket.socket.connect
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)
        connect = self.connect  # a bound method would not be given the socket
        monkeypatch.setattr(socket.socket, "connect", lambda sock, to: connect(sock, to))

    def look_up(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        # As glibc does it, but without asking any name server.
        kwargs["flags"] = socket.AI_NUMERICHOST
        if host not in self.names:
            return self._look_up(host, port, *args, **kwargs)
        self.looked_up.append(host)
        answers = self.names[host]
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        family = kwargs.pop("family", 0)
        found = [row for literal in now for row in self._look_up(literal, port, *args, **kwargs)]
        return [row for row in found if family in (socket.AF_UNSPEC, row[0])]

    def connect(self, sock: socket.socket, to: tuple[Any, ...]) -> None:
        self.connected.append(to[0])
        if to[0] not in self.servers:
            raise ConnectionRefusedError("nothing leaves this machine")
        self._connect(sock, ("127.0.0.1", self.servers[to[0]]))


@pytest.fixture(autouse=True)
def network(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Begin with no connection kept, and with the addresses of a production site."""
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
    adapter = transport._Adapter()
    monkeypatch.setattr(transport, "_adapter", adapter)
    # Whether this machine has it or not: nothing leaves.
    monkeypatch.setattr(urllib3.util.connection, "HAS_IPV6", True)
    yield Network(monkeypatch)
    adapter.close()


class TestASpecialAddress:
    @pytest.mark.parametrize("special", SPECIAL)
    def test_is_not_called(self, special: str, network: Network) -> None:
        errors = [transport.send(url(address)).error for address in samples(special)]
        assert set(errors) == {Error.BLOCKED_ADDRESS}
        assert network.connected == []

    @pytest.mark.parametrize("special", SPECIAL)
    def test_is_not_called_by_a_name(self, special: str, network: Network) -> None:
        network.names["partner.example"] = [[address] for address in samples(special)]
        errors = [transport.send(url("partner.example")).error for _ in samples(special)]
        assert set(errors) == {Error.BLOCKED_ADDRESS}
        assert len(network.looked_up) == len(errors)
        assert network.connected == []

    @pytest.mark.parametrize("special", SPECIAL)
    def test_is_not_called_through_a_redirect(self, special: str, network: Network) -> None:
        network.names["partner.example"] = [[PUBLIC]]
        for address in samples(special):
            with RawPartner(redirecting(url(address))) as partner:
                network.servers[PUBLIC] = partner.port
                result = transport.send(url("partner.example", partner.port))
            assert result.error == Error.BLOCKED_ADDRESS
        assert set(network.connected) == {PUBLIC}

    @pytest.mark.parametrize("special", IPV4.values(), ids=IPV4.keys())
    def test_is_not_called_inside_an_ipv6_address(self, special: str, network: Network) -> None:
        numbers = [int(ip_address(address)) for address in samples(special)]
        forms = [
            form.format(high=number >> 16, low=number & 0xFFFF)
            for number in numbers
            for form in (
                "::ffff:{high:x}:{low:x}",
                "::{high:x}:{low:x}",
                "::ffff:0:{high:x}:{low:x}",
                "64:ff9b::{high:x}:{low:x}",
                "64:ff9b:1::{high:x}:{low:x}",
                "2002:{high:x}:{low:x}::",
                "2001:0:{high:x}:{low:x}::",
                "fe80::5efe:{high:x}:{low:x}",
            )
        ]
        errors = {form: transport.send(url(form)).error for form in forms}
        assert set(errors.values()) == {Error.BLOCKED_ADDRESS}
        assert network.connected == []


class TestASpelling:
    """Of this machine's own address, as forms, libraries and attackers write it."""

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0X7F000001",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f.0x0.0x0.0x1",
            "127.1",
            "127.0.1",
            "127.000.000.001",
            "0",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[0000:0000:0000:0000:0000:0000:0000:0001]",
            "[::ffff:127.0.0.1]",
            "[::FFFF:7F00:1]",
            "[0:0:0:0:0:FFFF:127.0.0.1]",
            "[::127.0.0.1]",
            "[FD00:EC2::254]",
            "good@127.0.0.1",
            "good:better@127.0.0.1",
            "partner.example@127.0.0.1",
            "partner.example:80@127.0.0.1",
            "partner.example%2F@127.0.0.1",
            "good@[::1]",
        ],
    )
    def test_is_seen_through(self, host: str, network: Network) -> None:
        with RawPartner() as partner:
            result = transport.send(f"http://{host}:{partner.port}/cb")
        assert (result.error, network.connected) == (Error.BLOCKED_ADDRESS, [])
        assert partner.connections == 0

    @pytest.mark.parametrize(
        "host",
        [
            # Blocked, or not taken for an address, as the releases of idna and urllib3 have it.
            "[fe80::1%25lo]",
            "[FE80::1%25lo]",
            "[::1%25lo]",
            "\uff11\uff12\uff17.0.0.1",
            "\u2460\u2461\u2466.0.0.1",
            "127\u30020\u30020\u30021",
            "127\uff0e0\uff0e0\uff0e1",
            "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
            "127.0.0.1.",
            "127.0.0.1..",
            "127.0.0.1%00",
            "127.0.0.1%00.partner.example",
            "%31%32%37.0.0.1",
            "127.0.0.0x1g",
            "256.0.0.1",
            "4294967296",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "[::ffff:127.1]",
            "127.0.0.1\\@partner.example",
            "127.0.0.1#@partner.example",
            "partner.example\\@127.0.0.1",
            "partner.example@127.0.0.1@partner.example",
            "127.0.0.1 .partner.example",
            "\t127.0.0.1",
            "",
            ".",
            "a" * 64 + ".example",
        ],
    )
    def test_that_not_everybody_reads_alike_is_not_called_either(
        self, host: str, network: Network
    ) -> None:
        with RawPartner() as partner:
            result = transport.send(f"http://{host}:{partner.port}/cb")
        assert result.error in (Error.BLOCKED_ADDRESS, Error.DNS, Error.PROTOCOL)
        assert (network.connected, partner.connections) == ([], 0)

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "LocalHost"])
    def test_of_the_name_of_this_machine_is_seen_through(self, host: str, network: Network) -> None:
        network.names |= {name: [["127.0.0.1"]] for name in (host, host.lower())}
        assert transport.send(url(host)).error == Error.BLOCKED_ADDRESS
        assert network.connected == []


class TestAName:
    @pytest.mark.parametrize("answer", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], ["::1"]])
    def test_with_one_special_address_among_others_is_not_called(
        self, answer: list[str], network: Network
    ) -> None:
        network.names["partner.example"] = [answer]
        assert transport.send(url("partner.example")).error == Error.BLOCKED_ADDRESS
        assert network.connected == []

    def test_is_looked_up_once_so_that_what_was_checked_is_what_is_called(
        self, network: Network
    ) -> None:
        """(Rebinding) A second look finds another address; there must be none for this call."""
        network.names["partner.example"] = [[PUBLIC], ["127.0.0.1"]]
        with RawPartner() as inside:
            assert transport.send(url("partner.example", inside.port)).error == Error.CONNECT
            assert network.connected == [PUBLIC]
            assert network.looked_up == ["partner.example"]

            again = transport.send(url("partner.example", inside.port))
        assert again.error == Error.BLOCKED_ADDRESS
        assert network.connected == [PUBLIC]
        assert inside.connections == 0

    def test_that_changes_between_redirects_is_not_called(self, network: Network) -> None:
        def answer(connection: socket.socket) -> None:
            head = redirecting("/again").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            connection.sendall(head if len(partner.requests) == 1 else OK)

        network.names["partner.example"] = [[PUBLIC], ["169.254.169.254"]]
        with RawPartner(answer) as partner:
            network.servers = {PUBLIC: partner.port, "169.254.169.254": partner.port}
            result = transport.send(url("partner.example", partner.port))
        assert result.error == Error.BLOCKED_ADDRESS
        assert network.connected == [PUBLIC]

    @pytest.mark.parametrize(
        "target",
        [
            "http://127.0.0.1:{port}/",
            "http://inside.example:{port}/",
            "//127.0.0.1:{port}/",
            "http://good@2130706433:{port}/",
            "HTTP://[::ffff:127.0.0.1]:{port}/",
        ],
    )
    def test_that_redirects_into_this_network_is_left_at_once(
        self, target: str, network: Network
    ) -> None:
        network.names["partner.example"] = [[PUBLIC]]
        network.names["inside.example"] = [["127.0.0.1"]]
        with (
            RawPartner() as inside,
            RawPartner(redirecting(target.format(port=inside.port))) as partner,
        ):
            network.servers = {PUBLIC: partner.port, "127.0.0.1": inside.port}
            result = transport.send(url("partner.example", partner.port))
        assert result.error == Error.BLOCKED_ADDRESS
        assert (partner.connections, inside.connections) == (1, 0)


class TestAnAllowedNetwork:
    def test_is_called(self, network: Network, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["10.1.0.0/16", "fd12::/32"]
        for address in ("10.1.2.3", "fd12::1", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"):
            assert transport.send(url(address)).error == Error.CONNECT
        assert len(network.connected) == 4

    def test_is_no_other(self, network: Network, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["10.1.0.0/16", "fd12::/32"]
        for address in ("10.2.0.1", "127.0.0.1", "fd13::1", "::1", "64:ff9b::10.2.0.1"):
            assert transport.send(url(address)).error == Error.BLOCKED_ADDRESS
        assert network.connected == []

    @pytest.mark.parametrize(
        "address",
        [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
        ],
    )
    def test_is_never_the_metadata_service_of_a_cloud(
        self, address: str, network: Network, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["0.0.0.0/0", "::/0"]
        assert transport.send(url(address)).error == Error.BLOCKED_ADDRESS
        assert network.connected == []

    def test_is_shown_by_the_error_whose_cure_has_the_line_for_development(self) -> None:
        result = transport.send(url("127.0.0.1"))
        assert "127.0.0.1" in result.message
        cure = cure_for(result.error, None)
        assert 'AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8", "::1"]' in cure


class TestAPublicAddress:
    @pytest.mark.parametrize(
        "address",
        [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2000::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3ffe:ffff::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ],
    )
    def test_is_called(self, address: str, network: Network) -> None:
        assert transport.send(url(address)).error == Error.CONNECT
        assert [ip_address(to) for to in network.connected] == [ip_address(address)]

    def test_is_called_where_there_is_no_ipv6_though_the_name_has_an_address_of_that_kind_too(
        self, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(urllib3.util.connection, "HAS_IPV6", False)
        network.names["partner.example"] = [["2606:4700::1", PUBLIC]]
        with RawPartner() as partner:
            network.servers[PUBLIC] = partner.port
            assert transport.send(url("partner.example", partner.port)).error == ""
        assert network.connected == [PUBLIC]

    def test_is_called_by_a_name_until_one_answers(self, network: Network) -> None:
        network.names["partner.example"] = [["2606:4700::1", "1.1.1.1", PUBLIC]]
        with RawPartner() as partner:
            network.servers[PUBLIC] = partner.port
            assert transport.send(url("partner.example", partner.port)).error == ""
        assert network.connected == ["2606:4700::1", "1.1.1.1", PUBLIC]

    def test_of_one_kind_takes_turns_with_those_of_the_other(self, network: Network) -> None:
        dead = [f"2606:4700::{number}" for number in range(1, 6)]
        network.names["partner.example"] = [[*dead, PUBLIC, "1.1.1.1"]]
        assert transport.send(url("partner.example")).error == Error.CONNECT
        assert network.connected == [dead[0], PUBLIC, dead[1], "1.1.1.1", *dead[2:]]

    def test_that_is_dead_leaves_time_for_the_next(
        self, network: Network, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing waits here: what a dead address takes is added to the clock."""
        settings.AFFILIATE_CALLBACK_TIMEOUT = (3, 10)
        network.names["partner.example"] = [["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", PUBLIC]]
        lost = 0.0
        clock, connect = time.monotonic, network.connect

        def dead_or_alive(sock: socket.socket, to: tuple[Any, ...]) -> None:
            nonlocal lost
            if to[0] != PUBLIC:
                network.connected.append(to[0])
                lost += sock.gettimeout() or 0
                raise TimeoutError
            connect(sock, to)

        monkeypatch.setattr(socket.socket, "connect", lambda sock, to: dead_or_alive(sock, to))
        monkeypatch.setattr(connections.time, "monotonic", lambda: clock() + lost)
        with RawPartner() as partner:
            network.servers[PUBLIC] = partner.port
            assert transport.send(url("partner.example", partner.port)).error == ""
        assert len(network.connected) == 5
        assert 2 < lost < 3
