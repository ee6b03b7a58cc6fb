"""Which clients there are, and who is in which room."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, cast

from pystrands.broker.expiry import NEVER
from pystrands.broker.fanout import Outbox
from pystrands.broker.groups import Group
from pystrands.broker.taps import Taps
from pystrands.protocol import wire
from pystrands.protocol.events import Lane

if TYPE_CHECKING:
    from pystrands.broker.websocket import WebSocket

__all__ = ["Client", "Rooms"]

_ROOM_BYTES: Final = 800
"""What a room takes beside its name, with one client in it."""


class Client(Lane):
    """One WebSocket peer that was let in, with the lane of its events.

    ``number`` is the broker's own, never used twice (LINK rule 24). ``room_id`` is the room it was let into.
    """

    __slots__ = ("_context", "_left", "_metadata", "_room_bytes", "client_id", "expires_at", "number", "room_id", "ws")

    def __init__(self, number: int, client_id: str, room_id: str, metadata: bytes, ws: "WebSocket") -> None:
        super().__init__()
        self.number = number
        self.client_id = client_id
        self.room_id = room_id
        self.ws = ws
        self.expires_at = NEVER
        """Seconds since 1970 from which on none of its messages is delivered."""
        self._metadata = metadata
        self._context = b""  # encoded when an event needs it; empty when something has changed since
        self._left: tuple[str, ...] | None = None  # of a client that is gone: the rooms that it was in
        self._room_bytes = -_ROOM_BYTES  # one is a part of what every connection takes

    def __repr__(self) -> str:
        return f"<Client {self.number} {self.client_id!r}>"

    @property
    def rooms(self) -> tuple[str, ...]:
        """All rooms that it is in, in the order in which it joined them; of one that is gone, those that it was in."""
        if self._left is not None:
            return self._left
        return tuple([group.name for group in self.ws.groups if group.name is not None])

    @property
    def context(self) -> bytes:
        """The JSON of its context: the constant part of all of its events."""
        return self._context or self._encode()

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept for its rooms and its metadata; a single room with a short name is free."""
        return max(self._room_bytes, 0) + len(self._metadata) + len(self._context)

    @property
    def metadata(self) -> bytes:
        """JSON, as the backend gave it."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: bytes) -> None:
        self._metadata = metadata
        self._context = b""

    def joined(self, room_id: str) -> None:
        """Note that it is in one more room."""
        self._room_bytes += _ROOM_BYTES + len(room_id)
        self._context = b""

    def left(self, room_id: str) -> None:
        """Note that it is in a room no more."""
        self._room_bytes -= _ROOM_BYTES + len(room_id)
        self._context = b""

    def gone(self, rooms: tuple[str, ...]) -> None:
        """Note that it is in no room any more, and was in these."""
        self._left = rooms
        self._room_bytes = sum(map(len, rooms))

    def _encode(self) -> bytes:
        rooms = self.rooms
        others = rooms if rooms != (self.room_id,) else None
        context = self._context = wire.context_json(self.client_id, self.room_id, self._metadata, others)
        return context


class Rooms:
    """The clients of this broker by id and by room; a client may be in any number of rooms.

    Each room is a group of ``outbox``, and so are all clients. ``on_first`` and ``on_last`` are told of rooms that come
    and go with their first and last client, ``taps`` of all who join and leave.
    """

    def __init__(
        self,
        outbox: Outbox,
        on_first: Callable[[str], None],
        on_last: Callable[[str], None],
        taps: Taps | None = None,
    ) -> None:
        self.taps = taps or Taps()
        self.everyone = Group()
        self._outbox = outbox
        self._on_first = on_first
        self._on_last = on_last
        self._by_id: dict[str, Client] = {}
        self._rooms: dict[str, Group] = {}

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._by_id)

    @property
    def room_count(self) -> int:
        """How many rooms have at least one client."""
        return len(self._rooms)

    @property
    def sockets(self) -> Collection["WebSocket"]:
        """The sockets of all clients."""
        return cast("set[WebSocket]", self.everyone.members)

    def find(self, client_id: str) -> Client | None:
        """Return the client of that id, if there is one."""
        return self._by_id.get(client_id)

    def room(self, room_id: str) -> Group | None:
        """Return the clients in a room, if there are any."""
        return self._rooms.get(room_id)

    def members(self, room_id: str) -> Collection["WebSocket"]:
        """Return the sockets of the clients in a room."""
        group = self._rooms.get(room_id)
        return () if group is None else cast("set[WebSocket]", group.members)

    def add(self, client: Client) -> None:
        """Take in a client whose id is not in use; it is in no room yet."""
        assert client.client_id not in self._by_id
        self._by_id[client.client_id] = client
        self._outbox.join(client.ws, self.everyone)

    def remove(self, client: Client) -> None:
        """Forget a client and take it out of all of its rooms; ``client.rooms`` still says which those were."""
        del self._by_id[client.client_id]
        client.gone(client.rooms)
        for group in self._outbox.leave_all(client.ws):
            if group.name is not None:
                self._was_left(client, group.name, group)

    def join(self, client: Client, room_id: str) -> bool:
        """Put a client into a room; return False when it was in it."""
        group = self._rooms.get(room_id)
        if group is None:
            group = self._rooms[room_id] = Group(room_id)
            self._on_first(room_id)
        elif client.ws in group.members:
            return False
        self._outbox.join(client.ws, group)
        client.joined(room_id)
        if self.taps.watchers:
            self.taps.moved("joined", client, room_id)
        return True

    def leave(self, client: Client, room_id: str) -> bool:
        """Take a client out of a room; return False when it was not in it."""
        group = self._rooms.get(room_id)
        if group is None or client.ws not in group.members:
            return False
        self._outbox.leave(client.ws, group)
        client.left(room_id)
        self._was_left(client, room_id, group)
        return True

    def _was_left(self, client: Client, room_id: str, group: Group) -> None:
        if not group.members:
            del self._rooms[room_id]
            self._on_last(room_id)
        if self.taps.watchers:
            self.taps.moved("left", client, room_id)
