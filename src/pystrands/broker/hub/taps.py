"""Tools that look at a running broker: what flows in rooms, as lines on their links, and what waits there, bounded."""

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from pystrands.broker.counters import Counters, new_counters
from pystrands.engine.base import Audience
from pystrands.protocol import wire

if TYPE_CHECKING:
    from pystrands.broker.backends.link import BackendLink
    from pystrands.broker.hub.rooms import ConnectedClient

__all__ = ["Taps", "ToolOutput"]

_TURN: Final = 1 << 20
"""Bytes that one turn of the loop may hold for a tool, beside what its link's buffer holds; one line always passes."""
_MAX_ROOMS: Final = 1000
"""Rooms that one tool may watch; who wants more of them watches all."""


class ToolOutput:
    """What goes out on a tool's link: one that does not read misses lines, one that asks without reading is cut off."""

    __slots__ = ("_dropped", "_held", "_link", "_loop", "_size", "everything", "rooms", "taps")

    def __init__(self, link: "BackendLink", loop: asyncio.AbstractEventLoop) -> None:
        self.everything = False
        """Whether all rooms are watched."""
        self.rooms: set[str] = set()
        """The rooms that are watched."""
        self.taps: Taps | None = None
        """Where it watches, once it does."""
        self._link = link
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0
        self._dropped = 0

    def answer(self, line: bytes) -> None:
        """Write what the tool asked for; end the link if it does not read what it asks for."""
        if self._link.blocked or not self._hold(line):
            self._held.clear()
            self._link.abort()

    def watched(self, line: bytes) -> bool:
        """Write what flowed, or drop it where the tool does not keep up, with all that follows until it does."""
        if not self._dropped and not self._link.blocked and self._hold(line):
            return True
        self._dropped += 1
        return False

    def flow(self) -> None:
        """Say what was dropped, once there is room again."""
        if not self._dropped or self._link.blocked:
            return
        if self._hold(wire.watched("dropped", time.time(), dropped=self._dropped)):
            self._dropped = 0

    def close(self) -> None:
        """The link is gone."""
        self._held.clear()
        if self.taps is not None:
            self.taps.unwatch(self, None)

    def _hold(self, line: bytes) -> bool:
        """Keep a line until the turn ends; False when it holds too much already."""
        if self._held and self._size + len(line) > _TURN:
            return False
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(line)
        self._size += len(line)
        return True

    def _flush(self) -> None:
        if self._held:
            self._link.write(b"".join(self._held))
        self._held.clear()
        self._size = 0
        self.flow()


class Taps:
    """Tells tools what flows. While nobody watches, ``watchers`` is empty: to see that is all that it costs."""

    def __init__(self, counters: Counters | None = None) -> None:
        self.watchers: set[ToolOutput] = set()
        self._counters = new_counters() if counters is None else counters

    # --- what tools want ---

    def watch(self, output: ToolOutput, room_id: str | None) -> bool:
        """Tell a tool what flows in a room, or in all of them; False when it watches too many rooms."""
        if room_id is None:
            output.everything = True
        elif len(output.rooms) >= _MAX_ROOMS and room_id not in output.rooms:
            return False
        else:
            output.rooms.add(room_id)
        output.taps = self
        self.watchers.add(output)
        return True

    def unwatch(self, output: ToolOutput, room_id: str | None) -> None:
        """Stop telling a tool of a room, or of anything."""
        if room_id is None:
            output.everything = False
            output.rooms.clear()
        else:
            output.rooms.discard(room_id)
        if not output.everything and not output.rooms:
            self.watchers.discard(output)

    # --- what flows: to be called only where there are watchers ---

    def message_in(self, client: "ConnectedClient", message: str | bytes) -> None:
        """A client has sent a message."""
        if watchers := self._of(client.rooms):
            self._tell(watchers, wire.watched("message_in", time.time(), client.room_id, client.client_id, message))

    def message_out(
        self, audience: Audience, address: str, message: str | bytes, clients: int, client: "ConnectedClient | None"
    ) -> None:
        """A message went to so many clients; ``client`` is whom a private one is for, where there is one."""
        room_id: str | None = None
        client_id: str | None = None
        if audience is Audience.CLIENT:
            watchers = self._of(client.rooms if client is not None else ())
            room_id, client_id = client.room_id if client is not None else None, address
        elif audience is Audience.ROOM:
            watchers = self._of((address,))
            room_id = address
        else:
            watchers = list(self.watchers)
        if watchers:
            line = wire.watched("message_out", time.time(), room_id, client_id, message, clients=clients)
            self._tell(watchers, line)

    def moved(self, kind: str, client: "ConnectedClient", room_id: str) -> None:
        """A client has ``joined`` or ``left`` a room."""
        if watchers := self._of((room_id,)):
            self._tell(watchers, wire.watched(kind, time.time(), room_id, client.client_id))

    def _of(self, rooms: Collection[str]) -> list[ToolOutput]:
        """Return who watches any of these rooms."""
        return [each for each in self.watchers if each.everything or not each.rooms.isdisjoint(rooms)]

    def _tell(self, watchers: list[ToolOutput], line: bytes) -> None:
        for each in watchers:
            if not each.watched(line):
                self._counters["watched_dropped"] += 1
