"""What a broker says of itself when a tool asks."""

from collections.abc import Callable
from typing import Any

from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import Session
from pystrands.broker.counters import Counters
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.net.ports import Ports
from pystrands.build import VERSION
from pystrands.engine.cluster import Cluster

__all__ = ["StatusReport"]


class StatusReport:
    """Makes the params of a ``status`` command's result. ``clock`` in seconds; it counts from the making of this.

    ``cluster``, of that name: the other brokers, where there may be any.
    """

    def __init__(
        self,
        broker_id: str,
        rooms: Rooms,
        sessions: SessionRegistry,
        queue: EventQueue,
        counters: Counters,
        clock: Callable[[], float],
        cluster: Cluster | None = None,
        cluster_name: str = "",
        ports: Ports | None = None,
    ) -> None:
        self._broker_id = broker_id
        self._rooms = rooms
        self._sessions = sessions
        self._queue = queue
        self._counters = counters
        self._clock = clock
        self._cluster = cluster
        self._cluster_name = cluster_name
        self._ports = ports or Ports()
        self._started = clock()

    def make(self) -> dict[str, Any]:
        """Return what there is now, as JSON values."""
        report = {
            "version": VERSION,
            "broker_id": self._broker_id,
            "uptime": round(self._clock() - self._started, 3),
            "clients": len(self._rooms),
            "rooms": self._rooms.room_count,
            "backends": [_backend(session) for session in self._sessions.sessions],
            "queue": {"messages": len(self._queue), "bytes": self._queue.size},
            "counters": {name: count for name, count in sorted(self._counters.items()) if count},
        }
        if self._cluster is not None:
            report["cluster"] = {
                "name": self._cluster_name,
                "address": self._ports.advertised,
                "connected": self._cluster.is_connected,
                "draining": self._ports.are_closing,
                "peers": [
                    {"broker_id": peer.broker_id, "address": peer.address, "draining": peer.is_draining}
                    for peer in self._cluster.peers
                ],
            }
        return report


def _backend(session: Session) -> dict[str, Any]:
    """``in_flight`` is None in protocol 1, where a backend does not say what it has finished."""
    return {
        "name": session.name,
        "clients": len(session.streams),
        "in_flight": None if session.link_session is None else len(session.unfinished),
        "protocol": 1 if session.link_session is None else 2,
        "leaving": session.is_leaving,
        "sends_only": session.sends_only,
        "linked": session.link is not None,
    }
