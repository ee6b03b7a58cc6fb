"""Which client ids this broker has among all brokers: who comes takes his from whoever has it (CLUSTER rule 14)."""

from collections.abc import Callable
from functools import partial

from pystrands.broker.hub.client import ConnectedClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.engine.cluster import Claimed, Cluster

__all__ = ["TAKEN_AGAIN", "ClaimedIds"]

TAKEN_AGAIN = "this client_id has connected again"


class ClaimedIds:
    """ClaimedIds ids for those who come in, and lets others have theirs."""

    def __init__(self, cluster: Cluster, rooms: Rooms) -> None:
        self._cluster = cluster
        self._rooms = rooms
        self._pending: dict[str, list[Callable[[], None]]] = {}  # what ends those that are not in yet
        self._closed: dict[str, ConnectedClient] = {}  # by id the youngest whose last event is not queued
        self._asked: dict[ConnectedClient, list[Claimed]] = {}  # who waits for that event

    def claim(self, client_id: str, claimed: Claimed, taken: Callable[[], None]) -> None:
        """Have ``claimed`` called, maybe before this returns, when no other broker has a client of that id.

        It is called once, also after ``taken()``, which tells that somebody at another broker takes the id before that.
        To be followed by :meth:`release` when nobody is let in, or by :meth:`closed` and :meth:`over`.
        """
        self._pending.setdefault(client_id, []).append(taken)
        self._cluster.claim(client_id, partial(self._claimed, client_id, claimed, taken))

    def _claimed(self, client_id: str, claimed: Claimed, taken: Callable[[], None]) -> None:
        pending = self._pending[client_id]
        pending.remove(taken)
        if not pending:
            del self._pending[client_id]
        claimed()

    def release(self, client_id: str) -> None:
        """Nobody was let in."""
        self._cluster.release(client_id)

    def closed(self, client: ConnectedClient) -> None:
        """A client is gone; its last event is still to come."""
        self._closed[client.client_id] = client

    def over(self, client: ConnectedClient) -> None:
        """Its last event is queued."""
        if self._closed.get(client.client_id) is client:
            del self._closed[client.client_id]
        for released in self._asked.pop(client, ()):
            released()
        self._cluster.release(client.client_id)

    def on_claim(self, client_id: str, released: Claimed) -> None:
        """Another broker takes an id: close whoever has it here, as :class:`Node` says."""
        for taken in list(self._pending.get(client_id, ())):
            taken()
        client = self._rooms.find(client_id) or self._closed.get(client_id)
        if client is None:
            released()
            return
        self._asked.setdefault(client, []).append(released)
        client.replaced(TAKEN_AGAIN)
