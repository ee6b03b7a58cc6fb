"""This broker, as the other brokers see it."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Raw

from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.hub.presence import Presence
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.routing.claimed_ids import ClaimedIds
from pystrands.broker.routing.client_commands import ClientCommands
from pystrands.broker.routing.histories import Histories
from pystrands.broker.routing.questions import (
    CloseUser,
    KeepRooms,
    KeptRooms,
    KeptRoomsAnswer,
    Members,
    MembersAnswer,
    PresenceChanged,
    Present,
    PresentAnswer,
    WatchPresence,
    encode,
    read_command,
    read_question,
)
from pystrands.broker.routing.shared_presence import SharedPresence
from pystrands.broker.routing.signals import Signals
from pystrands.engine.cluster import Claimed, Node, Peer, Reply
from pystrands.protocol import wire
from pystrands.protocol.messages import NOT_KNOWN, DisconnectUser, DisconnectUserParams, RequestClient

__all__ = ["BrokerNode"]

logger = logging.getLogger(__name__)

_REMEMBERED: Final = 1000
"""Questions of which it is remembered what became of them."""
_UNKNOWN: Final = "a broker was asked what it does not know: it is of another version"


class BrokerNode(Node):
    """Answers other brokers, and tells the backends what they have to know of them."""

    def __init__(
        self,
        broker_id: str,
        rooms: Rooms,
        clients: ClientCommands,
        claimed_ids: ClaimedIds,
        sessions: SessionRegistry,
        status: Callable[[], dict[str, Any]],
        peers_changed: Callable[[Sequence[Peer]], None],
        presence: Presence,
        shared: SharedPresence,
        signals: Signals,
        histories: Histories,
    ) -> None:
        self.broker_id = broker_id
        self._rooms = rooms
        self._clients = clients
        self._claimed_ids = claimed_ids
        self._sessions = sessions
        self._status = status
        self._peers_changed = peers_changed
        self._presence = presence
        self._shared = shared
        self._signals = signals
        self._closed_users: dict[str, dict[str, Any]] = {}  # what became of questions, by their names
        self._histories = histories

    def on_question(self, question: bytes, reply: Reply) -> None:
        """Tell of rooms: who is in them or present, their histories; of this broker; close a user's clients."""
        try:
            asked = read_question(question)
        except NOT_KNOWN:
            reply(encode({"error": _UNKNOWN}))
            return
        if isinstance(asked, CloseUser):
            reply(encode(self._close_user(asked)))
            return
        if isinstance(asked, Present):
            entries = self._presence.own(asked.room_id)
            size = len(encode(entries))
            error = _too_long(size, asked.limit)
            reply(encode(PresentAnswer(error=error) if error else PresentAnswer(entries)))
            return
        if isinstance(asked, WatchPresence):
            reply(encode(self._shared.on_watch(asked)))
            return
        if isinstance(asked, PresenceChanged):
            self._shared.on_changed(asked)
            reply(b"{}")
            return
        if isinstance(asked, KeepRooms):
            problems = [self._histories.keep(room.room_id, room.limit, room.ttl) for room in asked.rooms]
            reply(encode(KeptRoomsAnswer(error=next(filter(None, problems), ""))))
            return
        if isinstance(asked, KeptRooms):
            reply(encode(KeptRoomsAnswer(self._histories.kept())))
            return
        if not isinstance(asked, Members):
            reply(encode(self._status()))
            return
        contexts = self._rooms.contexts(asked.room_id)
        size = sum(map(len, contexts))
        error = _too_long(size, asked.limit)
        reply(encode(MembersAnswer(error=error) if error else MembersAnswer(list(map(Raw, contexts)))))

    def _close_user(self, asked: CloseUser) -> dict[str, Any]:
        """Close a user's clients, once for each question: one that comes again is not about those who came since."""
        result = self._closed_users.get(asked.name)
        if result is None:
            result = self._clients.disconnect_user(
                DisconnectUser(DisconnectUserParams(asked.user, asked.code, asked.reason))
            )
            self._closed_users[asked.name] = result
            if len(self._closed_users) > _REMEMBERED:
                del self._closed_users[next(iter(self._closed_users))]
        return result

    def on_command(self, client_id: str, command: bytes, reply: Reply) -> None:
        """Do something with a client of this broker."""
        try:
            wanted = read_command(command)
        except NOT_KNOWN:
            reply(encode({"found": self._rooms.find(client_id) is not None, "error": _UNKNOWN}))
            return
        try:
            if isinstance(wanted, RequestClient):
                self._clients.request(wanted, lambda answer: reply(encode(answer)))
                return
            result = self._clients.carry_out(wanted)
        except Exception as error:
            logger.exception("what another broker wants done with %r failed", client_id)
            result = {"error": f"the client's broker failed at it ({type(error).__name__}): its log tells more"}
        reply(encode(result))

    def on_claim(self, client_id: str, released: Claimed) -> None:
        """Close the client whose id is taken."""
        self._claimed_ids.on_claim(client_id, released)

    def on_told(self, room_id: str, told: bytes) -> None:
        """Pass a signal on to the clients in a room."""
        self._signals.on_told(room_id, told)

    def on_peers(self, peers: Sequence[Peer]) -> None:
        """Tell the backends."""
        self._histories.peers_changed(peers)
        self._peers_changed(peers)
        self._shared.on_peers(peers)

    def on_gap(self, broker_id: str, lost: int) -> None:
        """Tell the backends, whose clients have missed what they sent, or their like (CLUSTER rule 8)."""
        many = "a message" if lost == 1 else f"up to {lost} messages"
        text = (
            f"{many} of the broker {broker_id} did not come to this one, and will not: the two were apart for longer "
            "than they keep what they sent"
        )
        logger.error("%s", text)
        line = wire.error(wire.NOBODY, text)
        for session in list(self._sessions.sessions):
            session.write(line)


def _too_long(size: int, limit: int) -> str:
    """Return why an answer of at least so many bytes is none; empty where it may be."""
    return f"the answer has more than {size} bytes, and this backend takes {limit}" if 0 < limit < size else ""
