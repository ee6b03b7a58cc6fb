"""The links of tools that look at a running broker, and what waits there, bounded."""

import asyncio
import time
from typing import Final

from pystrands.broker.backends.session import Session, SessionLink, SessionShared
from pystrands.broker.hub.taps import Taps
from pystrands.protocol import wire

__all__ = ["ToolOutput", "ToolSession"]

_TURN: Final = 1 << 20


class ToolOutput:
    """What goes out on a tool's link: one that does not read misses lines, one that asks without reading is cut off."""

    __slots__ = ("_dropped", "_held", "_link", "_loop", "_size", "everything", "rooms", "taps", "turn_bytes")

    def __init__(self, link: SessionLink, loop: asyncio.AbstractEventLoop) -> None:
        self.everything = False
        """Whether all rooms are watched."""
        self.rooms: set[str] = set()
        """The rooms that are watched."""
        self.taps: Taps | None = None
        """Where it watches, once it does."""
        self.turn_bytes = _TURN
        """How many bytes one turn of the loop may hold, beside what the link's buffer holds; one line always passes."""
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
        if self._held and self._size + len(line) > self.turn_bytes:
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


class ToolSession(Session):
    """The link of a tool, such as ``pystrands tail``: it may send commands, and is no backend.

    It is in no list of sessions: it is never chosen, counted, waited for or resumed, and nothing is owed to it.
    """

    __slots__ = ("output",)

    def __init__(self, link: SessionLink, shared: SessionShared) -> None:
        super().__init__(link.name, f"tool, link {link.number}", None, shared)
        self.link = link
        self.output = ToolOutput(link, shared.loop)

    @property
    def is_available(self) -> bool:
        """It gets no clients."""
        return False

    def write(self, line: bytes) -> int:
        """Write an answer."""
        self.output.answer(line)
        return 0
