"""What an address alone tells."""

import ipaddress

__all__ = ["is_loopback", "origin"]


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine and nothing but: ``localhost``, 127.0.0.0/8 or ::1. Other names are not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"


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
