"""The broker's side of a session: what has come from its client, and what that has not got yet. Pure."""

from collections import OrderedDict, deque
from enum import Enum
from typing import Final, NamedTuple

from pystrands.protocol.v1.offer import name_of
from pystrands.protocol.v1.rings import ENTRY_BYTES, Entry, Ring

__all__ = ["PRIVATE_BYTES", "PRIVATE_MESSAGES", "Receipt", "SessionState", "Tombstones"]

PRIVATE_MESSAGES: Final = 1000
PRIVATE_BYTES: Final = 256 * 1024


class Receipt(Enum):
    """What a client's number says (promise 10)."""

    NEW = "it is the next one"
    OLD = "it has come before"
    GAP = "one before it is missing"


_NEW: Final = Receipt.NEW
_OLD: Final = Receipt.OLD
_GAP: Final = Receipt.GAP


class SessionState:
    """One session, over any number of connections.

    ``session``: its id. ``number``: the client's, for which messages may not be. ``most_private``: frames for this
    client alone that are kept at most.
    """

    __slots__ = (
        "_early",
        "_most_private",
        "attempt",
        "done",
        "is_confirmed",
        "is_suspended",
        "joined",
        "name",
        "number",
        "private_floor",
        "readable",
        "received",
        "retained",
        "retained_bytes",
        "session",
        "told_done",
    )

    def __init__(self, session: str, number: int, most_private: int = PRIVATE_MESSAGES) -> None:
        self.session = session
        self.name = name_of(session)
        self.number = number
        self._most_private = most_private
        self.attempt = 0
        """That of the last handshake which was taken."""
        self.is_confirmed = False
        """Whether the client has said anything: else nobody may be there to resume (promise 16)."""
        self.is_suspended = False
        self.received = 0
        """The client's last number that was taken (promise 11)."""
        self.done = 0
        """All of the client's numbers up to this one are finished."""
        self.told_done = 0
        """What the client was told of that."""
        self._early: set[int] | None = None  # finished, while one before them is not
        self.retained: deque[Entry] | None = None
        """Frames for this client alone, oldest first, until it has said that it has them (promise 7)."""
        self.retained_bytes = 0
        self.private_floor = 0
        """The last number of those that had to go before."""
        self.joined: dict[Ring, int] = {}
        """The rooms that it is in, each with the number of its joining (promise 4)."""
        self.readable: dict[Ring, int] | None = None
        """Of those whose history it may read from before: the number behind which."""

    def may_read(self, ring: Ring, number: int) -> None:
        """Let it read what is behind a number in a room's history."""
        if self.readable is None:
            self.readable = {}
        self.readable[ring] = number

    def reads_behind(self, ring: Ring) -> int:
        """Return the number behind which it may read the history of a room that it is in."""
        joined = self.joined[ring]
        return joined if self.readable is None else self.readable.get(ring, joined)

    def leave(self, ring: Ring) -> bool:
        """Have it be in a room no more; return whether it was."""
        if self.readable is not None:
            self.readable.pop(ring, None)
        return self.joined.pop(ring, None) is not None

    # --- from the client ---

    def receipt(self, k: int) -> Receipt:
        """Judge a number of the client's."""
        if k <= self.received:
            return _OLD
        return _NEW if k == self.received + 1 else _GAP

    def take(self, k: int) -> None:
        """The message of that number, the next one, was taken: it will be finished."""
        self.received = k

    def finish(self, k: int) -> None:
        """Nothing more comes of a message that was taken: it was handled, or the client hears why not."""
        if k != self.done + 1:
            if k > self.done:
                if self._early is None:
                    self._early = set()
                self._early.add(k)
            return
        self.done = k
        early = self._early
        if early is not None:
            while self.done + 1 in early:
                self.done += 1
                early.discard(self.done)
            if not early:
                self._early = None

    @property
    def untold(self) -> int:
        """How many finished messages the client has not heard of."""
        return self.done - self.told_done

    def attempt_is_newer(self, attempt: int) -> bool:
        """Whether a dial is later than the one that the session has; one that was held up on its way is not."""
        return attempt > self.attempt

    # --- to the client ---

    def retain(self, number: int, frame: bytes) -> None:
        """Keep a frame for this client alone until it has it."""
        retained = self.retained
        if retained is None:
            retained = self.retained = deque()
        retained.append(Entry(number, frame, None))
        self.retained_bytes += len(frame) + ENTRY_BYTES
        while self.retained_bytes > PRIVATE_BYTES or len(retained) > self._most_private:
            if len(retained) < 2:
                break
            self.private_floor = self._drop_oldest(retained)

    def seen(self, number: int) -> None:
        """The client has all up to that number."""
        retained = self.retained
        if retained is None:
            return
        while retained and retained[0].number <= number:
            self._drop_oldest(retained)
        if not retained:
            self.retained = None  # an empty one would take as much as all else

    def _drop_oldest(self, retained: deque[Entry]) -> int:
        entry = retained.popleft()
        self.retained_bytes -= len(entry.frame) + ENTRY_BYTES
        return entry.number

    def gaps(self, position: int) -> list[str | None]:
        """Return in which rooms something after a number is gone; None stands for what is in no room."""
        found = [
            ring.name
            for ring, number in self.joined.items()
            if not ring.is_complete(max(position, number)) and ring.name is not None
        ]
        is_broadcast_gone = any(
            ring.name is None and not ring.is_complete(max(position, number)) for ring, number in self.joined.items()
        )
        return [None, *found] if position < self.private_floor or is_broadcast_gone else [*found]

    def missed(self, position: int, limit: int) -> tuple[list[Entry], bool]:
        """Return what the client has missed after a number, in order, and whether that is all.

        It is at most ``limit`` bytes, but one frame in any case.
        """
        found = [entry for entry in self.retained or () if entry.number > position]
        for ring, number in self.joined.items():
            found += ring.after(max(position, number), self.number)
        found.sort(key=_number_of)
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.frame)
            if size > limit and count:
                return found[:count], False
        return found, True


def _number_of(entry: Entry) -> int:
    return entry.number


class _Tombstone(NamedTuple):
    code: int
    reason: str
    until: float


class Tombstones:
    """Why sessions have ended whose clients were away: who comes back to one hears that.

    ``window``: seconds for which it is known. ``most``: how many are kept; the oldest go.
    """

    __slots__ = ("_by_number", "_most", "_window")

    def __init__(self, window: float, most: int = 10_000) -> None:
        self._window = window
        self._most = most
        self._by_number: OrderedDict[int, _Tombstone] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_number)

    def add(self, number: int, code: int, reason: str, now: float) -> None:
        """A session has ended; ``now`` is of any steady clock, in seconds."""
        self._by_number[number] = _Tombstone(code, reason, now + self._window)
        while self._by_number and (
            len(self._by_number) > self._most or next(iter(self._by_number.values())).until <= now
        ):
            self._by_number.popitem(last=False)

    def find(self, number: int, now: float) -> tuple[int, str] | None:
        """Return code and reason of a session's end, if that is known."""
        found = self._by_number.get(number)
        return None if found is None or found.until <= now else (found.code, found.reason)
