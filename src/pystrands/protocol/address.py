"""What an address alone tells, and what listens there."""

import ipaddress
import re
from typing import Final

__all__ = ["about_http", "bare", "has_more", "host_and_port", "is_loopback", "is_wildcard", "origin"]

_TOLD: Final = 200
"""Characters of what a server tells that are shown."""
_MORE: Final = re.compile(r"[/\s]|^[^:]*:\d*$|^\[.*\]:")
"""What a host has with a scheme, a path, a port or white space beside it."""


def bare(host: str) -> str:
    """Return a host without the brackets that URLs have around an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def has_more(host: str) -> bool:
    """Whether something is written beside a host name or an address: ``ws://localhost``, ``localhost:8081``."""
    return bool(_MORE.search(host))


def host_and_port(text: str) -> tuple[str, int] | None:
    """Return what ``host:port`` says, an IPv6 address in brackets there and bare here; None where it is not that."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        return None
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return None
    host = bare(host)
    return (host, int(port)) if host and not has_more(host) else None


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine and nothing but: ``localhost``, 127.0.0.0/8 or ::1. Other names are not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"


def is_wildcard(host: str) -> bool:
    """Whether ``host`` is every address of this machine, and so no address that another one could connect to."""
    return host in {"", "0.0.0.0", "::"}  # noqa: S104 - compared only


def origin(host: str) -> str:
    """Return what stands for whoever is at a peer's IP address: of IPv6 the /64, of which one party has all."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def about_http(last_line: bytes) -> str:
    """Return what is the matter with a server that answers a backend in HTTP, in words that fit after its name.

    ``last_line`` is that of its answer, in which a broker says which port would be right.
    """
    told = last_line.decode(errors="replace").strip()
    if not told.startswith("this is the port for ") or not told.isprintable() or len(told) > _TOLD:
        told = "is this its port for WebSocket clients? Backends use another one (--tcp-port, 8081)"
    return f"speaks HTTP: {told}"
