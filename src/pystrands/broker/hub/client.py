"""A client that was let in: its socket, its rooms, and what its events tell of it."""

from typing import Final

import msgspec

from pystrands.broker.events.stream import ClientStream
from pystrands.broker.ws.websocket import WebSocket
from pystrands.protocol import wire

__all__ = ["ROOM_BYTES", "SMALL", "ConnectedClient", "json_size"]

ROOM_BYTES: Final = 800
"""What a room takes beside its name, with one client in it."""
_NAME_BYTES: Final = 64
"""What the name of a room takes beside its characters: that much is left of a room once its client is gone."""
SMALL: Final = 1024
"""Bytes of a context that is kept encoded, and repeated in each event."""

_json: Final = msgspec.json.Encoder().encode


class ConnectedClient(ClientStream):
    """One WebSocket peer that was let in, with the stream of its events.

    ``number`` is the broker's own, never used twice (LINK rule 24).
    """

    __slots__ = ("_left", "_metadata", "_rooms_size", "number", "ws")

    def __init__(self, number: int, client_id: str, room_id: str, metadata: bytes, ws: WebSocket) -> None:
        super().__init__(client_id, room_id)
        self.number = number
        self.ws = ws
        self._metadata = metadata
        self._left: tuple[str, ...] | None = None  # of a client that is gone: the rooms that it was in
        self._rooms_size = 0  # bytes of their names as JSON, with the commas

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
        return self.small or self._encode()

    @property
    def context_size(self) -> int:
        """How many bytes the context has as JSON, at most."""
        beside = len(wire.context_json(self.client_id, self.room_id, b"", ()))
        return beside + self._rooms_size + len(self._metadata)

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept for its rooms and its metadata; a single room with a short name is free."""
        if self._left is not None:
            return self.told_bytes
        others = len(self.ws.groups) - 2  # all are in the group of everyone; one room is a part of each connection
        return max(others, 0) * ROOM_BYTES + self._rooms_size + len(self._metadata) + len(self.small)

    @property
    def told_bytes(self) -> int:
        """How many of these bytes its last event tells: they are kept until that is finished."""
        rooms = len(self.ws.groups) - 1 if self._left is None else len(self._left)
        return rooms * _NAME_BYTES + self._rooms_size + len(self._metadata)

    @property
    def metadata(self) -> bytes:
        """JSON, as the backend gave it."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: bytes) -> None:
        self._metadata = metadata
        self._changed()

    def read_on(self) -> None:
        """Read from the client again, if it was not read from because its events had to wait."""
        self.ws.resume_reading()

    def close(self, code: int, reason: str) -> None:
        """Close the client, unless it is gone."""
        self.ws.close(code, reason)

    def joined(self, room_id: str) -> None:
        """Note that it is in one more room."""
        self._rooms_size += json_size(room_id)
        self._changed()

    def left(self, room_id: str) -> None:
        """Note that it is in a room no more."""
        self._rooms_size -= json_size(room_id)
        self._changed()

    def gone(self, rooms: tuple[str, ...]) -> None:
        """Note that it is in no room any more, and was in these."""
        self._left = rooms

    def _changed(self) -> None:
        self.small = b""
        self.told = 0

    def _encode(self) -> bytes:
        rooms = self.rooms
        others = rooms if rooms != (self.room_id,) else None
        context = wire.context_json(self.client_id, self.room_id, self._metadata, others)
        if len(context) <= SMALL:
            self.small = context
        return context


def json_size(room_id: str) -> int:
    """Return how many bytes a room takes in a list of JSON."""
    return len(_json(room_id)) + 1
