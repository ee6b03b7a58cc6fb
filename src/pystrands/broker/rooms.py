"""Which clients there are, and who is in which room."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, cast

from pystrands.broker.expiry import NEVER
from pystrands.broker.fanout import Outbox
from pystrands.broker.groups import Group
from pystrands.broker.taps import Taps
from pystrands.protocol import wire
from pystrands.protocol.events import Lane

if TYPE_CHECKING:
    from pystrands.broker.websocket import WebSocket

__all__ = ["Client", "Rooms"]


class Client(Lane):
    """One WebSocket peer that was let in, with the lane of its events.

    ``number`` is the broker's own, never used twice (LINK rule 24). ``room_id`` is the room it was let into, ``rooms``
    all that it is in.
    """

    __slots__ = ("_metadata", "client_id", "context", "expires_at", "number", "room_id", "rooms", "ws")

    def __init__(self, number: int, client_id: str, room_id: str, metadata: bytes, ws: "WebSocket") -> None:
        super().__init__()
        self.number = number
        self.client_id = client_id
        self.room_id = room_id
        self.ws = ws
        self.expires_at = NEVER
        """Seconds since 1970 from which on none of its messages is delivered."""
        self.rooms: tuple[str, ...] = ()
        self._metadata = metadata
        self.context = b""
        """The JSON of its context: the constant part of all of its events."""

    def __repr__(self) -> str:
        return f"<Client {self.number} {self.client_id!r}>"

    @property
    def metadata(self) -> bytes:
        """JSON, as the backend gave it."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: bytes) -> None:
        self._metadata = metadata
        self._encode()

    def moved(self, rooms: tuple[str, ...]) -> None:
        """Note that it is in these rooms now."""
        self.rooms = rooms
        self._encode()

    def _encode(self) -> None:
        rooms = self.rooms if self.rooms != (self.room_id,) else None
        self.context = wire.context_json(self.client_id, self.room_id, self._metadata, rooms)


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
        self._outbox.leave(client.ws, self.everyone)
        for room_id in client.rooms:
            self._take_out(client, room_id)

    def join(self, client: Client, room_id: str) -> bool:
        """Put a client into a room; return False when it was in it."""
        if room_id in client.rooms:
            return False
        client.moved((*client.rooms, room_id))
        group = self._rooms.get(room_id)
        if group is None:
            group = self._rooms[room_id] = Group()
            self._on_first(room_id)
        self._outbox.join(client.ws, group)
        if self.taps.watchers:
            self.taps.moved("joined", client, room_id)
        return True

    def leave(self, client: Client, room_id: str) -> bool:
        """Take a client out of a room; return False when it was not in it."""
        if room_id not in client.rooms:
            return False
        client.moved(tuple(room for room in client.rooms if room != room_id))
        self._take_out(client, room_id)
        return True

    def _take_out(self, client: Client, room_id: str) -> None:
        group = self._rooms[room_id]
        self._outbox.leave(client.ws, group)
        if not group.members:
            del self._rooms[room_id]
            self._on_last(room_id)
        if self.taps.watchers:
            self.taps.moved("left", client, room_id)
