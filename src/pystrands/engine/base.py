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
        """Queue ``publication`` for the clients it is for, and tell how many these are and how many take it.

        Never blocks, never raises.
        """


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
        """Bring what is published to ``room_id`` from now on: a first client of this broker is in that room."""

    @abstractmethod
    def unsubscribe(self, room_id: str) -> None:
        """Bring no more of ``room_id``: the last client of this broker has left that room."""

    def subscribe_user(self, user: str) -> None:  # noqa: B027 - as below
        """Bring what is for ``user``: a first client of this broker is that user's.

        There is nothing to do for an engine that brings all to every broker.
        """

    def unsubscribe_user(self, user: str) -> None:  # noqa: B027 - as above
        """Bring no more for ``user``: the last client of this broker that was that user's is gone."""

    @abstractmethod
    def publish(self, publication: Publication) -> Delivered:
        """Send ``publication`` on its way; tell how many clients of this broker it is for, and how many take it.

        Never blocks.
        """
