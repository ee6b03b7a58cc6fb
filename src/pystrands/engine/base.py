"""The two small interfaces between a broker and what carries messages between brokers."""

from abc import ABC, abstractmethod

from mypy_extensions import mypyc_attr

from pystrands.engine.cluster import Cluster
from pystrands.engine.publication import Delivered, Publication

__all__ = ["Delivered", "Engine", "Sink"]


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have doubles
class Sink(ABC):
    """Takes messages for the clients of this broker."""

    @abstractmethod
    def deliver(self, publication: Publication) -> Delivered:
        """Queue a message for the clients it is for. Never blocks, never raises."""


@mypyc_attr(allow_interpreted_subclasses=True)  # anybody's
class Engine(ABC):
    """Takes a message to every broker that has clients for it, in the order of the calls."""

    @property
    def cluster(self) -> Cluster | None:
        """The other brokers, for engines that can ask them; None where there is no other, or no asking."""
        return None

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

    def subscribe_user(self, user: str) -> None:  # noqa: B027 - as below
        """A first client of this broker is a user's. Nothing to do for an engine that brings all to every broker."""

    def unsubscribe_user(self, user: str) -> None:  # noqa: B027 - as above
        """The last client of this broker that was a user's is gone."""

    @abstractmethod
    def publish(self, publication: Publication) -> Delivered:
        """Send a message on its way, and tell what became of it at this broker. Never blocks."""
