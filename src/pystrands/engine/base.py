"""The two small interfaces between a broker and what carries messages between brokers."""

from collections.abc import Collection
from enum import Enum
from typing import Protocol

__all__ = ["Audience", "Delivered", "Engine", "Sink"]


Delivered = tuple[int, int]
"""How many clients a message was for, and how many of them took it; the others were too slow."""


class Audience(Enum):
    """Whom a message is for; each but EVERYONE has an address."""

    ROOM = "room"
    """The clients in the room that the address names."""
    CLIENT = "client"
    """The client whose ``client_id`` is the address."""
    EVERYONE = "everyone"
    """All clients of all brokers; the address is empty."""


class Sink(Protocol):
    """Takes messages for the clients of this broker."""

    def deliver(
        self, audience: Audience, address: str, message: str | bytes, exclude: Collection[str] = ()
    ) -> Delivered:
        """Queue ``message`` for the clients it is for, but for those with an excluded ``client_id``.

        Never blocks, never raises.
        """
        ...


class Engine(Protocol):
    """Takes a message to every broker that has clients for it, in the order of the calls."""

    async def start(self, sink: Sink) -> None:
        """Begin to hand messages to ``sink``, on the running event loop."""
        ...

    async def stop(self) -> None:
        """Hand on what was published before, then let go of everything."""
        ...

    def subscribe(self, room_id: str) -> None:
        """A first client of this broker is in the room."""
        ...

    def unsubscribe(self, room_id: str) -> None:
        """The last client of this broker has left the room."""
        ...

    def publish(
        self, audience: Audience, address: str, message: str | bytes, exclude: Collection[str] = ()
    ) -> Delivered:
        """Send ``message`` on its way, and tell what became of it at this broker. Never blocks."""
        ...
