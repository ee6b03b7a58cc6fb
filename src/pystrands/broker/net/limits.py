"""How many connections there may be: in all, and from one address."""

import ipaddress
import socket
from typing import Final

__all__ = ["ConnectionLimits", "ConnectionSlot", "counted_as", "is_milestone"]

_MAPPED: Final = b"\0" * 10 + b"\xff\xff"


class ConnectionLimits:
    """Counts connections. ``clients``: so many in all; ``per_address``: so many from one address; 0 is no limit.

    The addresses of one IPv6 network of 64 bits count as one: that is what a single customer gets. What is counted for
    an address is forgotten with its last connection.
    """

    __slots__ = ("addresses", "clients", "max_clients", "max_per_address")

    def __init__(self, clients: int = 0, per_address: int = 0) -> None:
        self.max_clients = clients
        self.max_per_address = per_address
        self.clients = 0
        self.addresses: dict[bytes | str, int] = {}

    def slot(self) -> "ConnectionSlot":
        """Return what a new connection counts with."""
        return ConnectionSlot(self)


class ConnectionSlot:
    """What one connection counts for, from acquiring it until it is released."""

    __slots__ = ("_address", "_is_client", "_limits")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._address: bytes | str | None = None
        self._is_client = False

    def acquire(self) -> bool:
        """Count among all clients; False when there are as many as may be."""
        limits = self._limits
        if limits.max_clients and limits.clients >= limits.max_clients:
            return False
        limits.clients += 1
        self._is_client = True
        return True

    def acquire_from(self, host: str) -> bool:
        """Count among those of an address, once; False when there are as many as may be."""
        limits = self._limits
        if not limits.max_per_address or self._address is not None:
            return True
        address = counted_as(host)
        count = limits.addresses.get(address, 0)
        if count >= limits.max_per_address:
            return False
        limits.addresses[address] = count + 1
        self._address = address
        return True

    def release(self) -> None:
        """Give everything back; a second time does nothing."""
        limits = self._limits
        if self._is_client:
            self._is_client = False
            limits.clients -= 1
        address, self._address = self._address, None
        if address is not None:
            count = limits.addresses[address] - 1
            if count:
                limits.addresses[address] = count
            else:
                del limits.addresses[address]


def is_milestone(count: int) -> bool:
    """Tell whether to log something that has happened so often: the first time, and whenever that has doubled."""
    return count & (count - 1) == 0


def counted_as(host: str) -> bytes | str:
    """Return what an address counts as: IPv4 as its text, IPv6 as its first 64 bits."""
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    return str(ipaddress.IPv4Address(packed[12:])) if packed.startswith(_MAPPED) else packed[:8]
