"""
Find the addresses of a partner's host, and refuse those that are not public ones.

Whom we call was typed into a form, and a name may resolve to anything: to the database server
beside us, or to the address where a cloud hands out the keys of this machine.
"""

from __future__ import annotations

import socket
from ipaddress import ip_network
from typing import Any

from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3.util.connection import allowed_gai_family

from affiliations.conf import settings

#: Where all public IPv6 addresses are; IANA assigns from no other block. Beside it is much that
#: requests-hardened lets through: IPv4 in several disguises, and addresses that are out of use.
_PUBLIC_IPV6 = ip_network("2000::/3")

#: What it lets through as well, with every release of Python or with some.
_ALSO_SPECIAL = tuple(
    ip_network(network)
    for network in (
        "2001::/23",  # protocols, of which some releases count parts as public
        "2620:4f:8000::/48",  # AS112, as are the next two: answers to questions gone astray
        "192.31.196.0/24",
        "192.175.48.0/24",
        "192.52.193.0/24",  # relays of multicast
        "168.63.129.16/32",  # looks public, and is the host of a virtual machine at Azure
    )
)

#: Family, kind, protocol and address of a socket.
Address = tuple[int, int, int, Any]


def resolve(host: str, port: int) -> list[Address]:
    """
    Look a host up, once; ``InvalidIPAddress`` where any of its addresses is not a public one.

    Any: a name with a public and a private address is somebody's attempt to get at the latter.
    ``socket.gaierror`` where it has none.
    """
    # A machine without IPv6 asks for none: the check below could not read such an address.
    found = socket.getaddrinfo(host, port, family=allowed_gai_family(), type=socket.SOCK_STREAM)
    if not settings.callback_allow_private_addresses:
        for *_, address in found:
            _check(str(address[0]).partition("%")[0], port)
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


def _check(literal: str, port: int) -> None:
    # An IPv4 address that is mapped into IPv6 comes back as what it is.
    address, _ = get_ip_address(literal, port, allow_loopback=False)
    if address.version == 6 and address not in _PUBLIC_IPV6:
        raise InvalidIPAddress(address)
    if any(address in network for network in _ALSO_SPECIAL):
        raise InvalidIPAddress(address)
