"""The two small interfaces between a broker and what carries messages between brokers."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from enum import Enum

from mypy_extensions import mypyc_attr

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


class Sink(ABC):
    """Takes messages for the clients of this broker."""

    @abstractmethod
    def deliver(
        self,
        audience: Audience,
        address: str,
        message: str | bytes,
        exclude: Collection[str] = (),
        key: str | None = None,
    ) -> Delivered:
        """Queue ``message`` for the clients it is for, but for those with an excluded ``client_id``.

        ``key`` is None for an ordinary message. With another one it is volatile: a client that is not up to date misses
        it, or, where the key is not empty, gets the newest one of that key. Never blocks, never raises.
        """


@mypyc_attr(allow_interpreted_subclasses=True)  # anybody's
class Engine(ABC):
    """Takes a message to every broker that has clients for it, in the order of the calls."""

    @abstractmethod
    async def start(self, sink: Sink) -> None:
        """Begin to hand messages to ``sink``, on the running event loop.

        When it raises or is cancelled it has let go of everything itself: :meth:`stop` is not called then.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Hand on what was published before, then let go of everything."""

    @abstractmethod
    def subscribe(self, room_id: str) -> None:
        """A first client of this broker is in the room."""

    @abstractmethod
    def unsubscribe(self, room_id: str) -> None:
        """The last client of this broker has left the room."""

    @abstractmethod
    def publish(
        self,
        audience: Audience,
        address: str,
        message: str | bytes,
        exclude: Collection[str] = (),
        key: str | None = None,
    ) -> Delivered:
        """Send ``message`` on its way, and tell what became of it at this broker. Never blocks.

        The parameters are those of :meth:`Sink.deliver`.
        """
