"""What was sent to rooms lately: for members that were away, and for who reads a history. Pure."""

from collections import deque
from typing import Final

from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.numbers import Numbers

__all__ = ["ENTRY_BYTES", "KEPT_BYTES", "RING_BYTES", "RING_MESSAGES", "Entry", "Ring", "Rings"]

RING_MESSAGES: Final = 1000
RING_BYTES: Final = 1024 * 1024
ENTRY_BYTES: Final = 200
"""What a message takes beside its frame."""
KEPT_BYTES: Final = 1024
"""What a room takes whose history is kept, beside its messages and its name."""


class Entry:
    """A message: its frame, and who does not get it, by the numbers of clients, judged when it was sent (promise 3).

    ``is_hidden``: whether it is not for the room's history.
    """

    __slots__ = ("compressed", "encoding", "excluded", "frame", "is_hidden", "number")

    def __init__(self, number: int, frame: bytes, excluded: frozenset[int] | None, is_hidden: bool = False) -> None:
        self.number = number
        self.is_hidden = is_hidden
        self.frame = frame
        self.excluded = excluded
        self.compressed: bytes | None = None
        """The frame in the encoding in which somebody has needed it last, ``encoding``."""
        self.encoding = 0


class Ring:
    """A room's last messages, oldest first; ``name`` is None for what goes to everyone.

    ``floor``: the last number that is gone from it, or was given before it began. It is complete for who has all up
    to a number that is not below.
    """

    __slots__ = ("entries", "floor", "limit", "members", "name", "size", "suffix", "ttl")

    def __init__(self, name: str | None, floor: int = 0) -> None:
        self.name = name
        self.suffix = ((',"b":1}' if name is None else f',"r":{json_text(name)}}}') + "\n").encode()
        """The end of the headers of its messages."""
        self.entries: deque[Entry] = deque()
        self.floor = floor
        self.limit = 0
        """How many messages its history has at most; 0: none is kept."""
        self.ttl = 0
        """Microseconds for which its history has them."""
        self.size = 0
        self.members = 0
        """Sessions that are in the room; those that are away count."""

    def is_complete(self, position: int) -> bool:
        """Whether nothing after that number is gone (promise 5)."""
        return position >= self.floor

    def after(self, position: int, client: int) -> list[Entry]:
        """Return what came after a number, but for what that client does not get."""
        entries = self.entries
        if not entries or entries[-1].number <= position:
            return []
        return [
            entry
            for entry in entries
            if entry.number > position and (entry.excluded is None or client not in entry.excluded)
        ]

    def history(self, now: int) -> list[Entry]:
        """Return what the room's history has; ``now`` is in microseconds since 1970."""
        if not self.limit:
            return []
        too_old = now - self.ttl
        found = [entry for entry in self.entries if not entry.is_hidden and entry.number >= too_old]
        return found[-self.limit :]

    def drop_oldest(self) -> int:
        """Let go of the oldest; return what that frees."""
        entry = self.entries.popleft()
        self.floor = entry.number
        size = len(entry.frame) + ENTRY_BYTES
        self.size -= size
        return size


class Rings:
    """All rings of a broker: those of rooms with sessions in them, and those whose history is kept (promise 6).

    ``limit``: bytes of all of them together. ``window``: seconds for which messages are kept, at most.
    """

    __slots__ = ("_numbers", "_rings", "_window", "limit", "messages", "size")

    def __init__(self, numbers: Numbers, limit: int, window: float, messages: int = RING_MESSAGES) -> None:
        self._numbers = numbers
        self.limit = limit
        self.messages = messages
        self._window = int(window * 1_000_000)
        self._rings: dict[Ring, None] = {}
        self.size = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rings)

    def enter(self, ring: Ring) -> None:
        """Count a session in; with the first one the ring begins."""
        self._rings[ring] = None
        ring.members += 1

    def leave(self, ring: Ring) -> bool:
        """Count a session out; return whether it was the last one, and the ring is over."""
        ring.members -= 1
        if ring.members or ring.limit:
            return False
        self._end(ring)
        return True

    def keep(self, ring: Ring, limit: int, ttl: float) -> bool:
        """Keep a room's history: so many messages, for so many seconds. Return False where there is no room for it."""
        if not ring.limit:
            size = KEPT_BYTES + len(ring.suffix)
            if self.size + size > self.limit:
                return False
            self.size += size
            self._rings[ring] = None
        ring.limit, ring.ttl = limit, int(ttl * 1_000_000)
        return True

    def forget(self, ring: Ring) -> bool:
        """Keep a room's history no more; return whether the ring is over."""
        if ring.limit:
            self.size -= KEPT_BYTES + len(ring.suffix)
            ring.limit = ring.ttl = 0
        if ring.members:
            return False
        self._end(ring)
        return True

    def _end(self, ring: Ring) -> None:
        self._rings.pop(ring, None)
        self.size -= ring.size
        ring.entries.clear()
        ring.size = 0

    def add(
        self,
        ring: Ring,
        number: int,
        frame: bytes,
        excluded: frozenset[int] | None = None,
        is_hidden: bool = False,
    ) -> None:
        """Keep a message, which may be one too many for older ones."""
        ring.entries.append(Entry(number, frame, excluded, is_hidden))
        size = len(frame) + ENTRY_BYTES
        ring.size += size
        self.size += size
        too_old = number - self._window
        while ring.entries and (
            len(ring.entries) > self.messages or ring.size > RING_BYTES or self._is_over(ring, too_old)
        ):
            self.size -= ring.drop_oldest()
        if self.size > self.limit:
            self._shrink()

    def expire(self, now: float) -> None:
        """Let go of what is older than the window; ``now`` in seconds since 1970. To be called now and then."""
        too_old = int(now * 1_000_000) - self._window
        for ring in self._rings:
            while ring.entries and self._is_over(ring, too_old):
                self.size -= ring.drop_oldest()

    def _is_over(self, ring: Ring, too_old: int) -> bool:
        """Whether nobody needs a ring's oldest message: neither who was away, nor the history."""
        oldest = ring.entries[0].number
        if oldest >= too_old and ring.members:
            return False
        return len(ring.entries) > ring.limit or oldest < too_old + self._window - ring.ttl

    def _shrink(self) -> None:
        """Halve the largest, until a good part of the limit is free again."""
        for ring in sorted(self._rings, key=_size, reverse=True):
            target = ring.size >> 1
            while ring.entries and ring.size > target:
                self.size -= ring.drop_oldest()
            if self.size <= self.limit - (self.limit >> 3):
                break


def _size(ring: Ring) -> int:
    return ring.size
