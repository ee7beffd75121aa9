"""How many connections there are, and from where: no place on the network can take all of them."""

from __future__ import annotations

import ipaddress

from sidetune.serve.shares import Shares

IPV6_HOST_BITS = 64
"""What one subscriber has: all its addresses count as one."""


class Doors:
    """Connections that are open, those still shaking hands included."""

    def __init__(self, total: int) -> None:
        self.shares = Shares(total)

    def enter(self, client: tuple[str, int] | None) -> bool:
        """Whether one more may come in from there; if so, `leave` is owed."""
        return self.shares.take(origin(client))

    def leave(self, client: tuple[str, int] | None) -> None:
        self.shares.give_back(origin(client))


def origin(client: tuple[str, int] | None) -> str:
    """Where a connection comes from: an IPv4 address or an IPv6 network; empty where it is not from a network."""
    if client is None:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_address(int(address) >> IPV6_HOST_BITS << IPV6_HOST_BITS))
