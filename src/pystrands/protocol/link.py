"""A link session: what survives a link. Both ends run this, for what they send and for what they receive.

Each direction is one numbered stream (LINK rule 1). The sender keeps a copy of each line until the peer has
acknowledged it; a new link goes on where the old one broke off. No I/O and no clock: drivers write what they are given.
"""

import math
from enum import Enum
from typing import Final

__all__ = [
    "BACKEND_ACKNOWLEDGES_AFTER",
    "BROKER_ACKNOWLEDGES_AFTER",
    "EVENT_NUMBERS",
    "LEAST_WINDOW",
    "NUMBER",
    "LinkSession",
    "Receipt",
    "ask_interval",
    "is_silent",
    "lease_end",
    "max_unnumbered",
    "ranges",
]

LEAST_WINDOW: Final = 0.25
"""Seconds: with a shorter resume window there is no lease. An answer would often come too late."""


NUMBER: Final = 32
"""Bytes that :meth:`LinkSession.number` may add to a line: what a backend sends has no other number."""
EVENT_NUMBERS: Final = 96
"""Bytes that :meth:`LinkSession.number_event` may add: two numbers, and that it is redelivered."""

BROKER_ACKNOWLEDGES_AFTER: Final = 256
"""Lines that the broker acknowledges at once: by a write that has nothing else to say, to one of many backends."""
BACKEND_ACKNOWLEDGES_AFTER: Final = 64
"""Lines that a backend acknowledges with what a turn writes anyway: sooner, since the broker keeps lines for many."""


class Receipt(Enum):
    """What a numbered line is to its receiver (LINK rule 2)."""

    NEW = "the next one: handle it"
    SEEN = "seen before: drop it"
    GAP = "one before it is missing: close the link"


_NEW: Final = Receipt.NEW  # looked up for every line: a global is cheaper than an enumeration's member


class LinkSession:
    """The two streams of one session, as one end sees them.

    Numbers begin with 1. ``sent`` and ``received`` are the last ones, 0 at first.
    """

    __slots__ = ("_announced", "_kept", "acknowledged", "kept_bytes", "received", "sent", "session_id")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.sent = 0
        self.received = 0
        self.acknowledged = 0
        """The last of our numbers that the peer has said it received."""
        self.kept_bytes = 0
        """Bytes of what was sent and not acknowledged."""
        self._kept: list[bytes] = []  # the lines from acknowledged + 1 to sent
        self._announced = 0  # the last number that we said we received

    # --- what we send ---

    def number(self, line: bytes) -> bytes:
        r"""Give ``line``, a JSON object and a ``\n``, the next number, and keep it.

        The number comes last: a decoder has to know the action before it can make sense of the rest.
        """
        self.sent = seq = self.sent + 1
        line = b'%b,"seq":%d}\n' % (line[:-2], seq)
        self._kept.append(line)
        self.kept_bytes += len(line)
        return line

    def number_event(self, line: bytes, event: int, redelivered: bool) -> bytes:
        """Number an event's line and keep it; ``event`` is the event's own number, the same in all its deliveries."""
        self.sent = seq = self.sent + 1
        if redelivered:
            line = b'%b,"seq":%d,"event":%d,"redelivered":true}\n' % (line[:-2], seq, event)
        else:
            line = b'%b,"seq":%d,"event":%d}\n' % (line[:-2], seq, event)
        self._kept.append(line)
        self.kept_bytes += len(line)
        return line

    @property
    def kept(self) -> int:
        """How many lines were sent and not acknowledged."""
        return len(self._kept)

    def kept_size(self, seq: int) -> int:
        """Return how many bytes are kept of the line of that number: 0 once it is acknowledged."""
        index = seq - self.acknowledged - 1
        return len(self._kept[index]) if 0 <= index < len(self._kept) else 0

    def acknowledge(self, received: int) -> bool:
        """The peer has received all up to that number. False when that can't be: the link is to be closed."""
        if not self.acknowledged <= received <= self.sent:
            return received < self.acknowledged  # an old one that a newer one overtook says nothing new
        count = received - self.acknowledged
        for line in self._kept[:count]:
            self.kept_bytes -= len(line)
        del self._kept[:count]
        self.acknowledged = received
        return True

    def resume(self, received: int) -> list[bytes] | None:
        """Return what a new link has to begin with: all that the peer, which has ``received`` so many, has missed.

        None when the two can't be of the same session.
        """
        if not self.acknowledged <= received <= self.sent:
            return None
        self.acknowledge(received)
        self._announced = self.received  # hello and welcome say it
        return list(self._kept)

    # --- what we receive ---

    def accept(self, seq: int) -> Receipt:
        """Count a numbered line that arrived, and tell what to do with it."""
        expected = self.received + 1
        if seq == expected:
            self.received = expected
            return _NEW
        return Receipt.SEEN if 0 < seq < expected else Receipt.GAP

    @property
    def unannounced(self) -> int:
        """How many lines were received since the last acknowledgement."""
        return self.received - self._announced

    def acknowledgement(self) -> int | None:
        """Return the number to acknowledge now, once; None when there is nothing new."""
        if self._announced == self.received:
            return None
        self._announced = self.received
        return self.received


def max_unnumbered(max_line: int, numbers: int) -> int:
    """Return how long a line may be before it gets its numbers, which take so many bytes (LINK rule 5).

    ``max_line`` is the longest that the peer takes, 0 where it takes any; so is what is returned.
    """
    return max(max_line - numbers, 1) if max_line else 0


def is_silent(heard: float, now: float, interval: float) -> bool:
    """Whether a link of protocol 2 is dead: two heartbeats are missing (LINK rule 8).

    ``heard`` is when the last bytes came, ``now`` is now, by the same steady clock; all in seconds.
    """
    return now - heard > 2.5 * interval  # half a beat for the way


def lease_end(asked: float, window: float) -> float:
    """Return until when a backend may begin handlers (LINK rule 18), after the broker has answered it.

    ``asked`` is when it asked, by its own clock. The broker had the session then, or later, and keeps one whose link is
    gone for ``window`` seconds at least: nobody else has the events before that. A tenth is for clocks that differ and
    for handlers that begin slowly. Without end where the window is unknown, or too short for that.
    """
    return asked + 0.9 * window if window >= LEAST_WINDOW else math.inf


def ask_interval(heartbeat: float, window: float) -> float:
    """Return how often a backend sends heartbeats, with which it asks for its lease: so that an answer may be late."""
    return min(heartbeat, window / 4) if window >= LEAST_WINDOW else heartbeat


def ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the numbers, which come in any order, as inclusive ranges in order."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 >= number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
