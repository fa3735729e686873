"""
Look up the addresses of a partner's host, and refuse addresses that are not public.

The host comes from a form, and its name may resolve to any address: to a database server of this
network, or to the metadata service of a cloud, which returns credentials.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import zip_longest
from typing import Any

from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3.util.connection import allowed_gai_family

from affiliations.conf import Network, settings

#: The block from which IANA assigns public IPv6 addresses. requests-hardened also allows addresses
#: outside of it: several notations of IPv4, and deprecated ones.
_PUBLIC_IPV6 = ip_network("2000::/3")

#: Further addresses that requests-hardened allows, at least with some releases of Python.
_ALSO_SPECIAL = tuple(
    ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments; some releases call parts of it public
        "2620:4f:8000::/48",  # AS112, like the next two: DNS servers for private addresses
        "192.31.196.0/24",
        "192.175.48.0/24",
        "192.52.193.0/24",  # AMT, multicast relays
    )
)

#: The IPv6 addresses through which a network without IPv4 reaches IPv4 (RFC 6052).
_NAT64 = ip_network("64:ff9b::/96")

#: The metadata services of clouds, which return credentials: never called, whatever is allowed.
_METADATA = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: AWS, Azure, Google and most others
        "fe80::/10",
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle
    )
)

#: The names of hosts that only a private network has (RFC 6762, ICANN, RFC 8375).
_PRIVATE_NAMES = (".local", ".internal", ".home.arpa")

#: Family, type, protocol and address of a socket.
Address = tuple[int, int, int, Any]


def resolve(host: str, port: int) -> list[Address]:
    """
    Look up a host once, and return its addresses. IPv6 and IPv4 take turns, in the host's order.

    Raises:
        InvalidIPAddress: If an address is neither public nor in
            ``AFFILIATE_CALLBACK_ALLOWED_NETWORKS``. A mix of public and private ones is an attack.
        socket.gaierror: If the host has no address.
    """
    # The family leaves out IPv6 on a machine without it, where _check() could not parse the result.
    found = socket.getaddrinfo(host, port, family=allowed_gai_family(), type=socket.SOCK_STREAM)
    by_family: dict[int, list[Address]] = {}
    for family, kind, protocol, _, address in found:
        _check(str(address[0]).partition("%")[0], port)
        by_family.setdefault(family, []).append((family, kind, protocol, address))
    turns = zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None]


def is_blocked(host: str) -> bool:
    """Tell, without looking up its name, whether a host is certainly never called."""
    name = host.lower().rstrip(".")
    literal = "127.0.0.1" if name == "localhost" or name.endswith(".localhost") else name
    if literal.endswith(_PRIVATE_NAMES):  # Their addresses are known to this network only.
        return not settings.callback_allowed_networks
    try:
        _check(literal, 0)
    except InvalidIPAddress:
        return True
    except ValueError:  # a name
        return False
    return False


def _check(literal: str, port: int) -> None:
    address = ip_address(literal)
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        else:
            address = address.ipv4_mapped or address
    if _is_in(address, _METADATA):
        raise InvalidIPAddress(address)
    if _is_in(address, settings.callback_allowed_networks):
        return
    get_ip_address(str(address), port, allow_loopback=False)
    if address.version == 6 and address not in _PUBLIC_IPV6:
        raise InvalidIPAddress(address)
    if _is_in(address, _ALSO_SPECIAL):
        raise InvalidIPAddress(address)


def _is_in(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
