"""Who gets frames: one recipient, or a group that gets the same. What is written when is the outbox's to decide."""

from asyncio import Transport
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Final, Protocol, TypeAlias

from mypy_extensions import mypyc_attr

from pystrands.protocol.v1.rings import Ring

# A recipient's `flags`. Their order matters: below SMALL a small send must list the recipient, from CLOSED on it
# takes nothing. No flag at all means that it is open and nothing is queued for it alone.
IN_BULK: Final = 1  # on the bulk list
IN_SMALL: Final = 2  # on the list of small sends
BLOCKED: Final = 4  # its transport is above the high-water mark
CLOSED: Final = 8  # its close frame is out, or it is gone
TOO_SLOW: Final = 16  # about to be closed by the slow-consumer policy

FEW: Final = 8
"""Who is in more groups than this has them in a dict of its own; all others share tuples."""

FRAME_BYTES: Final = 48
"""What a frame that waits takes beside its content, with its place: counted so for each of its recipients."""
KEY_BYTES: Final = 150
"""What a message with a key takes beside its content and the key, while it waits for one recipient."""

NUMBERED: Final = 16
"""Encodings from here on are of messages with numbers; what is added to it is the encoding of that frame."""
_ENCODINGS: Final = 32
_PARTS: Final = 1 << 32
_by_number = itemgetter(0)

Confirm: TypeAlias = Callable[[int, int], None]
"""Takes for how many clients of this broker a message was, and how many took it."""

Encode: TypeAlias = Callable[[bytes, int], bytes]
"""Makes of a frame the one in another encoding. Never raises; control frames stay as they are."""


def as_it_is(frame: bytes, encoding: int) -> bytes:  # noqa: ARG001 - an Encode's
    """Return the frame: there is no other encoding."""
    return frame


class FlowListener(Protocol):
    """A backend's session, which is told who is full."""

    flow: bool
    """Whether it understands that."""

    def write(self, line: bytes) -> int:
        """Write a line of the stream."""
        ...


class WaitingSession:
    """A session that waits for a recipient: the line that tells it of the end of that, and what is confirmed then."""

    __slots__ = ("confirms", "ready", "session")

    def __init__(self, session: FlowListener, ready: bytes) -> None:
        self.session = session
        self.ready = ready
        self.confirms: list[tuple[Confirm, int, int]] = []


Told: TypeAlias = dict[tuple[FlowListener, str | None], WaitingSession]
"""The sessions that wait for a recipient, each with the user that it meant, if it did."""


class Behind:
    """What is known of a client that is full. All of it is the pressure's."""

    __slots__ = ("awaited_until", "counts", "from_groups", "is_awaited", "is_missing", "outstanding", "since", "told",
                 "unasked", "was_awaited")  # fmt: skip

    def __init__(self, now: float) -> None:
        self.counts = False
        """Whether it counts as full in its groups: what they sent has made it so."""
        self.since = now
        """When it was last seen to take a byte."""
        self.outstanding = -1
        """Bytes that its transport and the kernel held then; -1 when that was not asked."""
        self.from_groups = 0
        """Bytes that were queued for it beyond the high mark as a member of groups."""
        self.is_awaited = False
        """Whether its groups wait for it, until ``awaited_until``."""
        self.was_awaited = False
        """Whether they have: they do so once, until it has caught up."""
        self.awaited_until = 0.0
        self.is_missing = False
        """Whether it misses all messages until it has caught up."""
        self.told: Told | None = None
        """Who waits for it."""
        self.unasked = 0
        """Bytes that were sent to it by sessions that can't be told."""


class Fresh:
    """What is known of a client that gets volatile messages. Sizes are in bytes."""

    __slots__ = (
        "credit",
        "in_kernel",
        "in_kernel_then",
        "is_held",
        "keys",
        "looked",
        "places",
        "pushed",
        "rate",
        "waiting",
    )

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        """Where in `out` the message of a key waits."""
        self.waiting = 0
        """The size of all of them."""
        self.keys = 0
        """Bytes that their keys take."""
        self.is_held = False
        """Whether its transport is given nothing for now, though it would take more."""
        self.looked = 0.0
        self.in_kernel_then = 0
        """What the kernel held at that look."""
        self.pushed = 0
        """What was sent since."""
        self.rate = 0.0
        """Bytes a second that the peer has acknowledged between the last two."""
        self.in_kernel = 0
        """What it held at the last look, which may be later."""
        self.credit = 0
        """What may be sent without another look."""

    def shift(self, ws: "Recipient", count: int) -> None:
        """Note that the first so many frames are out."""
        if not self.places:
            return
        self.places = {key: place - count for key, place in self.places.items() if place >= count}
        out = ws.out
        self.waiting = sum([len(out[place]) for place in self.places.values()])
        self.keys = sum([KEY_BYTES + len(key) for key in self.places])


@mypyc_attr(allow_interpreted_subclasses=True)  # those of tests
class Recipient:
    """What the outbox needs of a WebSocket. All of it but `limit` and `transport` is the outbox's to write."""

    __slots__ = ("behind", "encoding", "flags", "fresh", "groups", "high", "limit", "out", "queued", "seen", "stuck",
                 "transport")  # fmt: skip

    def __init__(self, transport: Transport | None, limit: int) -> None:
        self.transport = transport
        """Where the frames go; None when the connection is gone."""
        self.out: list[bytes] = []  # frames waiting, oldest first
        self.queued = 0  # bytes in `out`
        self.limit = limit  # what `queued` should be, in bytes
        self.high = limit // 2  # from where on each frame is a question
        self.behind: Behind | None = None  # there while it is full
        self.fresh: Fresh | None = None  # there once it has got a volatile message
        self.stuck: bytes | None = None
        """What its transport was given last, when that blocked it: kept whole until its last byte is out."""
        self.encoding = 0
        """What it takes: 0 for plain frames, or another encoding (1 to 31), which the outbox's ``encode`` makes."""
        self.flags = 0
        self.groups: tuple[Group, ...] | dict[Group, None] = ()  # in the order in which it joined them
        self.seen = 0  # the number of the last frame of its groups that is in `out` or written: all up to it are

    def close(self, code: int, reason: str) -> None:
        """Close for good, beginning with the close frame."""
        raise NotImplementedError

    def abort(self) -> None:
        """Drop the connection."""
        raise NotImplementedError


class Group:
    """Recipients of the same frames: a room, which has a `name`, or everybody.

    An outbox fills it, and publishes to it.

    A frame costs no member anything when it is published: it is kept once, with its number, until the outbox has gone
    once around `members`, and each member knows up to which number it has seen. Of each encoding that members take it
    is kept once more, from the moment on at which the first of them needs it.
    """

    __slots__ = (
        "_encoded",
        "_parts",
        "awaited",
        "behind",
        "frames",
        "last",
        "members",
        "name",
        "numbered",
        "numbers",
        "rest",
        "ring",
        "shared",
        "size",
        "target",
        "told",
    )

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.members: set[Recipient] = set()
        self.frames: list[bytes] = []  # that not all members have seen; while there are any, the outbox has it listed
        self.numbers: list[int] = []  # theirs; one outbox's numbers grow with time, over all of its groups
        self.size = 0  # bytes in `frames`
        self.last = 0  # the latest number
        self.rest: list[Recipient] | None = None  # who is to be visited before all have seen `target`
        self.target = 0
        self.shared: tuple[Group, ...] = ()  # the `groups` of who came last: one tuple for those who are in the same
        self.behind = 0  # members that count as full
        self.awaited = 0  # those of them that it waits for
        self.told: Told | None = None  # who waits for it
        self.ring: Ring | None = None  # its last messages, while members take them with numbers
        self.numbered: list[bytes] | None = None  # `frames` for these members; the plain ones of before there were any
        self._parts: dict[int, bytes] = {}  # frames joined, by the index of the first and the encoding
        self._encoded: dict[int, bytes] = {}  # frames by their number and the encoding

    def add(self, frame: bytes, number: int, numbered: bytes | None = None) -> None:
        """Keep a frame; ``numbered`` is the one for members that take it with its number."""
        if numbered is not None:
            if self.numbered is None:
                self.numbered = self.frames.copy()
            self.numbered.append(numbered)
        elif self.numbered is not None:
            self.numbered.append(frame)
        self.frames.append(frame)
        self.numbers.append(number)
        self.size += len(frame)
        self.last = number
        self._parts.clear()

    def since(self, number: int) -> bytes:
        """Return the frames after that number, joined; the same bytes for all who ask for the same."""
        first = bisect_right(self.numbers, number)
        part = self._parts.get(first)
        if part is None:
            frames = self.frames[first:] if first else self.frames
            part = self._parts[first] = frames[0] if len(frames) == 1 else b"".join(frames)
        return part

    def encoded(self, index: int, encoding: int, encode: Encode) -> bytes:
        """Return a frame in another encoding; the same bytes for all who ask for the same."""
        if encoding == NUMBERED and self.numbered is not None:
            return self.numbered[index]
        key = self.numbers[index] * _ENCODINGS + encoding
        frame = self._encoded.get(key)
        if frame is None:
            if encoding < NUMBERED or self.numbered is None:
                frame = encode(self.frames[index], encoding)
            else:
                frame = encode(self.numbered[index], encoding - NUMBERED)
            self._encoded[key] = frame
        return frame

    def encoded_since(self, number: int, encoding: int, encode: Encode) -> bytes:
        """Return what :meth:`since` does, in another encoding."""
        first = bisect_right(self.numbers, number)
        key = first + encoding * _PARTS
        part = self._parts.get(key)
        if part is None:
            frames = self.encoded_frames(first, encoding, encode)
            part = self._parts[key] = frames[0] if len(frames) == 1 else b"".join(frames)
        return part

    def encoded_frames(self, first: int, encoding: int, encode: Encode) -> list[bytes]:
        """Return the frames from an index on in another encoding."""
        if encoding == NUMBERED and self.numbered is not None:
            return self.numbered[first:]
        return [self.encoded(index, encoding, encode) for index in range(first, len(self.frames))]

    def forget(self, number: int) -> None:
        """Let go of the frames up to that number."""
        count = bisect_right(self.numbers, number)
        self.size -= sum(map(len, self.frames[:count]))
        del self.frames[:count], self.numbers[:count]
        if self.numbered is not None:
            del self.numbered[:count]
            if not self.numbered:
                self.numbered = None
        if self._encoded:
            rest = (number + 1) * _ENCODINGS
            self._encoded = {key: frame for key, frame in self._encoded.items() if key >= rest}
        self._parts.clear()


def missing(groups: Iterable[Group], seen: int) -> Sequence[bytes]:
    """Return what was published to groups after a number, in the order of its publishing."""
    behind = [group for group in groups if group.last > seen]
    if len(behind) < 2:
        return [frame for group in behind for frame in group.frames[bisect_right(group.numbers, seen) :]]
    numbered = [pair for group in behind for pair in zip(group.numbers, group.frames, strict=True) if pair[0] > seen]
    numbered.sort(key=_by_number)
    return [frame for _, frame in numbered]


def missing_encoded(groups: Iterable[Group], seen: int, encoding: int, encode: Encode) -> Sequence[bytes]:
    """Return what :func:`missing` does, in another encoding."""
    behind = [group for group in groups if group.last > seen]
    if len(behind) == 1:
        return behind[0].encoded_frames(bisect_right(behind[0].numbers, seen), encoding, encode)
    numbered: list[tuple[int, bytes]] = []
    for group in behind:
        first = bisect_right(group.numbers, seen)
        numbered += zip(group.numbers[first:], group.encoded_frames(first, encoding, encode), strict=True)
    numbered.sort(key=_by_number)
    return [frame for _, frame in numbered]
