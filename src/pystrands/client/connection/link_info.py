"""What users see of a link."""

from dataclasses import dataclass

__all__ = ["LinkInfo"]


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One broker that a client has a link to, or tries to get one to; as it was when it was asked for."""

    address: str
    """Where it is reached: ``host:port``."""
    broker_id: str
    """Which broker it is, as it says itself; empty before its hello, and where it says none."""
    connected: bool
    """Whether the link is up."""
    is_home: bool
    """Whether what is sent outside of handlers goes over this link."""
    is_draining: bool
    """Whether the broker is about to end."""
