"""Whose word on a client's address counts: X-Forwarded-For and Forwarded (RFC 7239) of trusted proxies. Pure."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from pystrands.broker.net.peers import PeerAddress

__all__ = ["TrustedProxies"]

_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PAIR: Final = re.compile(rf"({_WORD})=({_WORD}|{_QUOTED})")
_ESCAPED: Final = re.compile(r"\\(.)")
_BLANKS: Final = re.compile(r"[ \t]*")
_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?", re.ASCII)


class TrustedProxies:
    """Finds the client behind proxies.

    ``networks``: their addresses and networks (``10.0.0.7``, ``10.0.0.0/8``, ``fd00::/8``). What anybody else says of
    addresses is ignored. Raises ValueError on an entry that is neither.
    """

    __slots__ = ("_is_trusted",)

    def __init__(self, networks: Iterable[str]) -> None:
        parsed = tuple(_network(each) for each in networks)

        @lru_cache(maxsize=1024)
        def is_trusted(host: str) -> bool:
            try:
                address = _address(host)
            except ValueError:
                return False
            return any(address in network for network in parsed)

        self._is_trusted = is_trusted

    def trust(self, host: str) -> bool:
        """Tell whether an address is a proxy's."""
        return self._is_trusted(host)

    def client(self, peer: PeerAddress, headers: Mapping[str, Sequence[str]]) -> PeerAddress:
        """Return who is at the other end; ``headers`` has canonical names. Whatever they hold, it never raises.

        That is the last address that a trusted proxy has named and that is no trusted proxy's itself. An entry that
        can't be read ends the search, since what comes before it may be the client's own invention. When both headers
        are there and don't agree neither counts: one of them is what the client sent, passed on unread.
        """
        if not self._is_trusted(peer[0]):
            return peer
        names = [
            self._last_untrusted(peer, hops(headers[header]))
            for header, hops in (("X-Forwarded-For", _x_forwarded_for), ("Forwarded", _forwarded))
            if header in headers
        ]
        if not names or any(name[0] != names[0][0] for name in names):
            return peer
        return names[0]

    def _last_untrusted(self, peer: PeerAddress, hops: Iterator[PeerAddress | None]) -> PeerAddress:
        for hop in hops:
            if hop is None:
                return peer
            peer = hop
            if not self._is_trusted(hop[0]):
                return peer
        return peer


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither an address nor a network such as 10.0.0.0/8: {error}") from None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; one of IPv4 that is written as IPv6 is one of IPv4. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def _peer(host: str, port: str | None) -> PeerAddress | None:
    number = int(port or 0)
    try:
        return (str(_address(host)), number) if number <= 65535 else None
    except ValueError:
        return None


def _node(text: str) -> PeerAddress | None:
    """Read ``192.0.2.7``, ``192.0.2.7:80``, ``[2001:db8::7]`` or ``[2001:db8::7]:80``."""
    found = _NODE.fullmatch(text)
    return None if found is None else _peer(found[1] or found[2], found[3])


def _x_forwarded_for(lines: Sequence[str]) -> Iterator[PeerAddress | None]:
    """Give the hops of all lines of X-Forwarded-For, the last first; None for what can't be read."""
    for line in reversed(lines):
        for part in reversed(line.split(",")):
            if text := part.strip(" \t"):
                yield _node(text) or (_peer(text, None) if "%" not in text else None)


def _forwarded(lines: Sequence[str]) -> Iterator[PeerAddress | None]:
    """Give the hops of Forwarded, the last first. A line is read as a whole: quotation marks in it may hide commas."""
    for line in reversed(lines):
        elements = _elements(line)
        if elements is None:
            yield None
            return
        for element in reversed(elements):
            yield _node(element["for"]) if "for" in element else None


def _elements(line: str) -> list[dict[str, str]] | None:
    """Parse one line of Forwarded (RFC 7239, section 4); None when it is not well-formed."""
    elements: list[dict[str, str]] = [{}]
    at, needs_separator = 0, False
    while True:
        at = _BLANKS.match(line, at).end()  # type: ignore[union-attr]  # it matches nothing at all, too
        if at == len(line):
            return [element for element in elements if element]
        if line[at] in ",;":
            needs_separator = False
            if line[at] == ",":
                elements.append({})
            at += 1
            continue
        pair = _PAIR.match(line, at)
        if pair is None or needs_separator:
            return None
        name, value = pair[1].lower(), pair[2]
        if name in elements[-1]:
            return None
        elements[-1][name] = _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
        at, needs_separator = pair.end(), True
