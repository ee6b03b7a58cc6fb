"""Which clients there are, and who is in which room."""

from collections.abc import Callable, Collection, Mapping
from typing import cast

from pystrands.broker.counters import new_counters
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.events.stream import ClientStream
from pystrands.broker.fanout.groups import Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import ConnectedClient, SessionClient, json_size
from pystrands.broker.hub.numbered import NumberedFrames
from pystrands.broker.hub.presence import Presence
from pystrands.broker.hub.taps import Taps
from pystrands.broker.hub.users import Users
from pystrands.broker.ws.websocket import WebSocket
from pystrands.protocol.limits import Limits, id_problem
from pystrands.protocol.v1.numbers import Numbers
from pystrands.protocol.v1.rings import Ring, Rings

__all__ = ["Rooms"]


class Rooms:
    """The clients of this broker by id and by room; a client may be in any number of rooms.

    Each room is a group of ``outbox``, and so are all clients. ``on_first`` and ``on_last`` are told of rooms that come
    and go with their first and last client, ``taps`` of all who join and leave. ``limits`` is for who asks
    :meth:`join_problem` before, and so is ``ending``. ``numbered`` has the frames of clients of `pystrands.v1`,
    ``users`` those clients that are somebody's, ``presence`` who is to be seen in rooms.
    """

    def __init__(
        self,
        outbox: Outbox,
        on_first: Callable[[str], None],
        on_last: Callable[[str], None],
        taps: Taps | None = None,
        limits: Limits | None = None,
        ending: EndingStreams | None = None,
        numbered: NumberedFrames | None = None,
        users: Users | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.taps = taps or Taps()
        self.everyone = Group()
        self.presence = presence
        self.users = Users(_ignore, _ignore) if users is None else users
        self.numbered = numbered or NumberedFrames(outbox, Rings(Numbers(), 0, 0.0), Numbers(), new_counters())
        self.pressure = outbox.pressure
        self._ending = EndingStreams() if ending is None else ending
        self.outbox = outbox
        self._on_first = on_first
        self._on_last = on_last
        self._by_id: dict[str, ConnectedClient] = {}
        self._rooms: dict[str, Group] = {}
        self._kept: dict[str, Ring] = {}

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._by_id)

    @property
    def room_count(self) -> int:
        """How many rooms have at least one client."""
        return len(self._rooms)

    @property
    def clients(self) -> Collection[ConnectedClient]:
        """All clients."""
        return self._by_id.values()

    @property
    def sockets(self) -> Collection[WebSocket]:
        """The sockets of all clients."""
        return cast("set[WebSocket]", self.everyone.members)

    def find(self, client_id: str) -> ConnectedClient | None:
        """Return the client of that id, if there is one."""
        return self._by_id.get(client_id)

    def room(self, room_id: str) -> Group | None:
        """Return the clients in a room, if there are any."""
        return self._rooms.get(room_id)

    def members(self, room_id: str) -> Collection[WebSocket]:
        """Return the sockets of the clients in a room."""
        group = self._rooms.get(room_id)
        return () if group is None else cast("set[WebSocket]", group.members)

    def is_member(self, client: ConnectedClient, room_id: str) -> bool:
        """Whether a client is in a room."""
        group = self._rooms.get(room_id)
        return group is not None and client.ws in group.members

    def contexts(self, room_id: str) -> list[bytes]:
        """Return the context of each client in a room, as JSON; it says so of those that are away."""
        members = [ws.client for ws in self.members(room_id)]
        return [_as_member(client) for client in members if client is not None]

    def rooms_of_user(self, user: str) -> set[str]:
        """Return all rooms that clients of a user are in."""
        return {room_id for client in self.users.clients(user) for room_id in client.rooms}

    def add(self, client: ConnectedClient) -> None:
        """Take in a client whose id is not in use; it is in no room yet."""
        assert client.client_id not in self._by_id
        self._by_id[client.client_id] = client
        self.outbox.join(client.ws, self.everyone)
        if client.user is not None:
            self.users.add(client, client.user)
        if isinstance(client, SessionClient):
            self.numbered.enter(client, self.everyone)

    def remove(self, stream: ClientStream) -> None:
        """Forget a client and take it out of all of its rooms; ``stream.rooms`` still says which those were."""
        client = self._by_id.pop(stream.client_id)
        client.gone(client.rooms)
        if client.user is not None:
            self.users.remove(client, client.user)
        for group in self.outbox.leave_all(client.ws):
            if isinstance(client, SessionClient):
                self.numbered.leave(client, group)
            if group.name is not None:
                self._was_left(client, group.name, group)

    def join_problem(self, client: ConnectedClient, room_id: str) -> str:
        """Return why a client may not join a room, in words for people; an empty text when it may, or is in it."""
        limits = self.limits
        if problem := id_problem("room_id", room_id):
            return problem
        group = self._rooms.get(room_id)
        if group is not None and client.ws in group.members:
            return ""
        if len(client.ws.groups) > limits.max_rooms:  # one of them is that of everyone
            return (
                f"the client is in {limits.max_rooms} rooms, and may be in no more: have it leave others first, "
                "or raise the broker's --max-rooms-per-client"
            )
        return self.growth_problem(client.context_size + json_size(room_id))

    def growth_problem(self, size: int) -> str:
        """Return why a client's context may not grow to that many bytes, in words for people; empty when it may."""
        if self._ending.is_behind:  # it would be more that stays when the client goes
            return (
                "too much is kept for clients that are gone, since backends have not finished with them: "
                "until they have, no client's rooms and metadata may grow"
            )
        return self.limits.context_problem(size)

    def join(self, client: ConnectedClient, room_id: str, answer: str = "") -> bool:
        """Put a client into a room; return False when it was in it.

        ``answer``: what one of `pystrands.v1` is told with it, members of a header with a comma in front.
        """
        group = self._rooms.get(room_id)
        if group is None:
            group = self._rooms[room_id] = Group(room_id)
            ring = group.ring = self._kept.get(room_id)
            if ring is None:
                self._on_first(room_id)
        elif client.ws in group.members:
            return False
        self.outbox.join(client.ws, group)
        client.joined(room_id)
        if isinstance(client, SessionClient):
            self.numbered.enter(client, group, answer)
        if self.taps.watchers:
            self.taps.moved("joined", client, room_id)
        return True

    def leave(self, client: ConnectedClient, room_id: str, why: str = "") -> bool:
        """Take a client out of a room; return False when it was not in it. ``why`` is for those of `pystrands.v1`."""
        group = self._rooms.get(room_id)
        if group is None or client.ws not in group.members:
            return False
        self.outbox.leave(client.ws, group)
        client.left(room_id)
        if isinstance(client, SessionClient):
            self.numbered.leave(client, group, why)
        self._was_left(client, room_id, group)
        return True

    # --- histories ---

    @property
    def kept(self) -> Mapping[str, Ring]:
        """The rooms whose history is kept, whether or not somebody is in them."""
        return self._kept

    def keep_history(self, room_id: str, limit: int, ttl: float) -> str:
        """Keep a room's history; return why that can't be, in words for people, or an empty text. No limit: end it."""
        ring, group = self._kept.get(room_id), self._rooms.get(room_id)
        rings = self.numbered.rings
        if not limit:
            if ring is None:
                return ""
            del self._kept[room_id]
            if rings.forget(ring) and group is not None:
                group.ring = None
            if group is None:
                self._on_last(room_id)
            return ""
        if ring is None:
            if problem := id_problem("room_id", room_id):
                return problem
            ring = None if group is None else group.ring
        if ring is None:
            ring = Ring(room_id, self.numbered.numbers.last)
        if not rings.keep(ring, limit, ttl):
            return "there is no memory for one more history: end others, or raise the broker's --history-bytes"
        if room_id not in self._kept:
            self._kept[room_id] = ring
            if group is None:
                self._on_first(room_id)
            else:
                group.ring = ring
        return ""

    def _was_left(self, client: ConnectedClient, room_id: str, group: Group) -> None:
        if not group.members:
            del self._rooms[room_id]
            if room_id not in self._kept:
                self._on_last(room_id)
        if self.presence is not None:
            self.presence.left(client, room_id)
        if self.taps.watchers:
            self.taps.moved("left", client, room_id)


def _ignore(_user: str) -> None:
    """Nobody wants to know."""


def _as_member(client: ClientStream) -> bytes:
    if isinstance(client, SessionClient) and client.state.is_suspended:
        return client.context[:-1] + b',"suspended":true}'
    return client.context
