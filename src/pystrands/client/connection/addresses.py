"""Where a broker is reached: addresses that were configured, found behind a name, or told by other brokers. No I/O."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pystrands.protocol.address import bare, host_and_port

__all__ = ["Addresses", "BrokerAddress", "configured", "told"]


class BrokerAddress(NamedTuple):
    """A host, a name or an IP address without brackets, and a port."""

    host: str
    port: int
    name: str = ""
    """The name that has led to this IP address, which certificates are for; empty where there was none."""

    def __str__(self) -> str:
        """Return it as it is written: ``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def configured(host: str | Sequence[str], port: int) -> list[BrokerAddress]:
    """Return the addresses that ``host=`` means; in a list each may have a port of its own, else it has ``port``."""
    if isinstance(host, str):
        return [BrokerAddress(bare(host), port)]
    found = [BrokerAddress(*(host_and_port(each) or (bare(each), port))) for each in host]
    return list(dict.fromkeys(found))


def told(text: str, by: BrokerAddress) -> BrokerAddress | None:
    """Return the address that a broker tells, which was reached at ``by``; None where it tells none that can be used.

    ``:8082`` means the host at which the broker that tells it was reached.
    """
    if text.startswith(":"):
        found = host_and_port(f"host{text}")
        return None if found is None else BrokerAddress(by.host, found[1], by.name)
    found = host_and_port(text)
    return None if found is None else BrokerAddress(*found)


class Addresses:
    """The addresses of one broker, one of which is the :attr:`current` one: it is tried next, or was tried last."""

    def __init__(self, first: BrokerAddress, *others: BrokerAddress) -> None:
        self._all = [first, *others]

    def __iter__(self) -> Iterator[BrokerAddress]:
        """Give all of them."""
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def current(self) -> BrokerAddress:
        """The one that is tried next."""
        return self._all[0]

    def has(self, address: BrokerAddress) -> bool:
        """Whether this is one of them, whatever name has led to it."""
        return any(each[:2] == address[:2] for each in self._all)

    def add(self, address: BrokerAddress) -> None:
        """Try this one, too, where all others fail."""
        if not self.has(address):
            self._all.append(address)

    def prefer(self, address: BrokerAddress) -> None:
        """Try this one next."""
        if address in self._all:
            self._all.remove(address)
        self._all.insert(0, address)

    def failed(self) -> None:
        """Try the current one last."""
        self._all.append(self._all.pop(0))
