"""Who is at the other end of a connection."""

from asyncio import BaseTransport
from typing import TypeAlias

__all__ = ["PeerAddress", "address_text", "peer_of"]

PeerAddress: TypeAlias = tuple[str, int]
"""An address and a port; the port is 0 where nobody has told it."""


def peer_of(transport: BaseTransport) -> PeerAddress | None:
    """Return the peer's address; None where there is none any more."""
    peername = transport.get_extra_info("peername")
    return peername[:2] if isinstance(peername, tuple) and len(peername) >= 2 else None


def address_text(peer: PeerAddress) -> str:
    """Write an address as ``ip:port``, or ``[ip]:port`` for IPv6."""
    host, port = peer
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
