"""How long a client waits for what."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pystrands.client.handlers.clock import clock

__all__ = ["TIME_LIMITS", "TimeLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Seconds. Users have the defaults; tests, which can't wait for so long, or must not be overtaken, have others."""

    clock: Callable[[], float] = field(default=clock)
    """What leases are counted by."""
    connect: float = 10.0
    """For the TCP connection, for the hello of a broker that says one, and for its welcome."""
    hello: float = 0.5
    """For the broker's hello, before it is asked for. (LINK rule 6.)"""
    next_address: float = 0.25
    """That an address has before the next one is tried beside it, as RFC 8305 recommends."""
    reminder: float = 60.0
    """Until attempts that go on failing are spoken of again."""
    without_recipient: float = 5.0
    """Without a link, for what waits for a recipient: the resume window of most brokers."""
    stood_still: float = 0.5
    """That a heartbeat may be late before it is told, once, that all clients waited for so long."""
    linger: float = 1.0
    """For what was written to reach the broker, after the timeout of :meth:`disconnect`."""
    cancelled: float = 1.0
    """For a cancelled handler to end, before it is left to itself."""
    home_link: float = 1.0
    """Without the home link, for what is sent outside of handlers, where it could go by another one."""
    refused: float = 60.0
    """Until a broker that has refused this backend, as others have not, is tried again."""
    gone: float = 2.0
    """Without a link, after which a broker is gone that no other broker knows."""


TIME_LIMITS: Final = TimeLimits()
"""Those of users."""
