"""A client that was let in: its socket, its rooms, and what its events tell of it."""

from abc import ABC, abstractmethod
from typing import Final

import msgspec
from mypy_extensions import trait

from pystrands.broker.events.stream import ClientStream, JoinEvent
from pystrands.broker.fanout.groups import CLOSED
from pystrands.broker.ws.websocket import WebSocket
from pystrands.protocol import wire
from pystrands.protocol.close_codes import POLICY_VIOLATION, REPLACED, TOKEN_EXPIRED
from pystrands.protocol.v1.session import SessionState

__all__ = ["ROOM_BYTES", "SMALL", "ConnectedClient", "SessionClient", "SessionEnder", "json_size"]

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
        beside = len(wire.context_json(self.client_id, self.room_id, b"", (), self.user))
        return beside + self._rooms_size + len(self._metadata)

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept for its rooms and its metadata; a single room with a short name is free."""
        return self._held_bytes()

    def _held_bytes(self) -> int:
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

    def replaced(self, reason: str) -> None:
        """Close the client: another one has its id."""
        self.close(POLICY_VIOLATION, reason)

    def joined(self, room_id: str) -> None:
        """Note that it is in one more room."""
        self._rooms_size += json_size(room_id)
        self._changed()

    def left(self, room_id: str) -> None:
        """Note that it is in a room no more."""
        self._has_left(room_id)

    def _has_left(self, room_id: str) -> None:
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
        context = wire.context_json(self.client_id, self.room_id, self._metadata, others, self.user)
        if len(context) <= SMALL:
            self.small = context
        return context


@trait
class SessionEnder(ABC):
    """Who ends the sessions of clients that are away."""

    @abstractmethod
    def end(self, client: "SessionClient", code: int, reason: str) -> None:
        """End a session whose client is away."""


class SessionClient(ConnectedClient):
    """A client of `pystrands.v1`: it may lose its WebSocket, and come back with another one.

    ``ws`` is in its rooms: the WebSocket, or the last one, which gets nothing any more. ``connection`` is what it
    speaks on; that is another one while what was missed is sent to it, before it takes the place of ``ws``.
    """

    __slots__ = (
        "_ender",
        "connection",
        "end",
        "has_said_bye",
        "is_gone",
        "is_pinged",
        "is_telling",
        "is_welcome",
        "joining",
        "position",
        "signals",
        "state",
        "told_gaps",
        "told_suspended",
    )

    def __init__(
        self,
        number: int,
        client_id: str,
        room_id: str,
        metadata: bytes,
        ws: WebSocket,
        state: SessionState,
        ender: SessionEnder,
    ) -> None:
        super().__init__(number, client_id, room_id, metadata, ws)
        self.state = state
        self.connection = ws
        self._ender = ender
        self.is_welcome = False
        """Whether it was told in which rooms it is: from then on it hears of changes."""
        self.is_gone = False
        self.has_said_bye = False
        self.is_pinged = False
        """Whether a heartbeat of ours waits for its answer."""
        self.joining: JoinEvent | None = None
        """A room that it wants to be in: until that is decided nothing more is read from it."""
        self.told_suspended = False
        """Whether its backend was last told that it is away."""
        self.is_telling = False
        """Whether that has not been finished yet."""
        self.position = 0
        """Up to which number it was sent what it had missed."""
        self.told_gaps: set[str | None] | None = None
        self.signals: set[str] | None = None
        """The rooms in which it may send signals."""
        self.end: tuple[int, str] | None = None
        """Why it has ended, where that was while it was away."""

    @property
    def is_live(self) -> bool:
        """Whether what is sent to it goes out at once; it is kept in any case."""
        return self.connection is self.ws and self.ws.flags < CLOSED

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept for its rooms, its metadata, and of what it has not got."""
        return self._held_bytes() + self.state.retained_bytes

    def read_on(self) -> None:
        """Read from the client again, if it was not read from because its events had to wait."""
        if self.joining is None:
            self.connection.resume_reading()

    def close(self, code: int, reason: str) -> None:
        """End the session; one that is away only for want of a permission may come back with another one."""
        if not self.state.is_suspended:
            self.connection.close(code, reason)
        elif code != TOKEN_EXPIRED:
            self._ender.end(self, code, reason)

    def may_signal(self, room_id: str) -> None:
        """Note that it may send signals in a room that it is in."""
        if self.signals is None:
            self.signals = set()
        self.signals.add(room_id)

    def left(self, room_id: str) -> None:
        """Note that it is in a room no more, nor may send signals there."""
        if self.signals is not None:
            self.signals.discard(room_id)
        self._has_left(room_id)

    def replaced(self, reason: str) -> None:
        """End the session: the client must not come back, and take the id in its turn (promise 21)."""
        self.close(REPLACED, reason)


def json_size(room_id: str) -> int:
    """Return how many bytes a room takes in a list of JSON."""
    return len(_json(room_id)) + 1
