"""The broker's side of events: in order for each client, bounded by credit, handed over when a backend goes.

A :class:`ClientStream` is one client's events; a :class:`Consumer` is the session of a backend that streams are
assigned to. The :class:`Assignments` move events between them. No I/O and no clock: its :class:`Keeper` has those.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final

from mypy_extensions import trait

__all__ = ["Assignments", "ClientEvent", "ClientStream", "Consumer", "Keeper", "Kind"]

HOLDER_EVENTS: Final = 1000
HOLDER_BYTES: Final = 16 * 1024 * 1024
LANE_EVENTS: Final = 32
LANE_BYTES: Final = 256 * 1024
SMALL: Final = 4096
"""Bytes of a message that clients with large ones do not delay: the first one of a client, where bytes are short."""
_RESERVED: Final = 4
"""For those a session's last sixteenth is: as a power of two."""
MAX_DELIVERIES: Final = 3
"""Sessions that may die of a message before it is dropped (LINK rule 21).

A client's messages are handled one at a time, so of those that a dead session had only the first is blamed. That may be
wrong where several were handled before the session could say so. A repeat is therefore sent when nothing else of its
client is in flight: what came before a message that crashes backends is then known to be handled, and not blamed again.
"""


class Kind(Enum):
    """What happened. Only messages need credit, and only messages are ever dropped."""

    NEW = "new_connection"
    ADOPTED = "client_adopted"
    MESSAGE = "new_message"
    ERROR = "error"
    GONE = "disconnected"


_MESSAGE: Final = Kind.MESSAGE  # looked up for every message: a global is cheaper than an enumeration's member
_GONE: Final = Kind.GONE


class ClientEvent:
    """One thing that happened to a client.

    ``content`` is the message, the text of an error, or the reason of a close; ``size`` is what it counts for credit,
    in bytes (a ``str`` counts as many as it has characters, and so does a big context that goes with it); ``code`` is
    the close code, where that is what it tells.
    """

    __slots__ = ("blamed", "code", "content", "kind", "lane", "number", "redelivered", "size")

    def __init__(
        self, lane: "ClientStream", kind: Kind, number: int, content: str | bytes = "", size: int = 0, code: int = 0
    ) -> None:
        self.lane = lane
        self.kind = kind
        self.number = number
        """The broker's own, the same in every delivery."""
        self.content = content
        self.size = size
        self.code = code
        self.blamed = 0
        """How many sessions have died that may have been handling it."""
        self.redelivered = False
        """Whether it may have been handled before."""


class ClientStream:
    """One client's events. ``waiting`` are those that no session has; None stands for none."""

    __slots__ = (
        "after",
        "before",
        "bytes_in_flight",
        "holder",
        "in_flight",
        "messages_in_flight",
        "waiting",
        "was_held",
    )

    def __init__(self) -> None:
        self.holder: Consumer | None = None
        self.waiting: deque[ClientEvent] | None = None
        self.in_flight = 0
        """Events that the holder has and has not finished."""
        self.messages_in_flight = 0
        self.bytes_in_flight = 0
        self.was_held = False
        """Whether a session had it before the present one, so that the next one has to adopt it."""
        self.after: ClientStream | None = None
        """A lane that has to be over before this one begins (LINK rule 24)."""
        self.before: ClientStream | None = None
        """The lane that waits for this one."""


class Consumer:
    """The events of one session: what it may get, and what it has not finished.

    ``is_up``: events can be written to it now. ``is_leaving``: it gets no more (LINK rule 16).
    """

    __slots__ = ("bytes_in_flight", "is_leaving", "is_up", "lanes", "messages_in_flight", "starved", "unfinished")

    def __init__(self) -> None:
        self.is_up = False
        self.is_leaving = False
        self.lanes: dict[ClientStream, None] = {}
        """Those it has, the longest held first: what happens to all of them happens in the same order every time."""
        self.unfinished: dict[int, ClientEvent] = {}
        self.messages_in_flight = 0
        self.bytes_in_flight = 0
        self.starved: dict[ClientStream, None] = {}
        """Lanes whose next event waits for the session's credit, in the order in which they get it."""


@trait  # compiled, a class has one base that is none: a router's is Receiver
class Keeper(ABC):
    """Who keeps the ledger: chooses and writes to sessions, bounds what waits, and is told of what no longer does."""

    @abstractmethod
    def choose_owner(self) -> Consumer | None:
        """Return the session that a lane without one is given to, or None."""

    @abstractmethod
    def new_number(self) -> int:
        """Return a number for an event that the ledger makes itself."""

    @abstractmethod
    def send(self, holder: Consumer, event: ClientEvent) -> int:
        """Write an event; return its number in the session's stream, or 0 where nothing will say that it is done."""

    @abstractmethod
    def taken(self, event: ClientEvent) -> None:
        """A message that waited was sent or dropped."""

    @abstractmethod
    def waits_again(self, event: ClientEvent) -> None:
        """A message that was sent has come back, and waits for another session."""

    @abstractmethod
    def caught_up(self, lane: ClientStream) -> None:
        """Nothing of the lane waits any more: its client may be read from."""

    @abstractmethod
    def over(self, lane: ClientStream) -> None:
        """The last event of the lane is finished."""

    @abstractmethod
    def gave_up(self, event: ClientEvent) -> None:
        """A message was dropped: it was in too many sessions that died."""


class Assignments:
    """Which session has which lane, and what of it is on its way."""

    def __init__(self, keeper: Keeper) -> None:
        self.holder_bytes = HOLDER_BYTES
        """How many bytes of messages one session may have unfinished."""
        self._keeper = keeper
        self._orphans: dict[ClientStream, None] = {}  # lanes with waiting events and no holder, oldest first

    @property
    def orphans(self) -> Collection[ClientStream]:
        """Lanes whose events wait, and who have no session."""
        return self._orphans

    # --- what happens to clients ---

    def own(self, lane: ClientStream, holder: Consumer) -> None:
        """The session let this client in, and owns it from its first event."""
        lane.holder = holder
        holder.lanes[lane] = None

    def succeed(self, lane: ClientStream, older: ClientStream) -> None:
        """Have ``lane`` begin only when ``older`` is over, whose last event may not even have been put (rule 24)."""
        while older.before is not None:
            older = older.before
        lane.after, older.before = older, lane

    def submit(self, event: ClientEvent) -> bool:
        """Send an event, if its turn has come and there is credit; False when it has to :meth:`wait`."""
        lane = event.lane
        if lane.waiting:
            return False
        holder = lane.holder
        if holder is None:
            if not self._assign(lane):
                return False
            holder = lane.holder
            assert holder is not None
            if lane.waiting:  # the adoption could not go out
                return False
        return self._sent(holder, lane, event)

    def wait(self, event: ClientEvent) -> None:
        """Append an event to what waits in its lane."""
        lane = event.lane
        if lane.waiting is None:
            lane.waiting = deque()
        lane.waiting.append(event)
        if lane.holder is None:
            self._orphans[lane] = None

    def drop_waiting(self, event: ClientEvent) -> None:
        """Take out a message that waits, to make room."""
        waiting = event.lane.waiting
        assert waiting is not None
        waiting.remove(event)
        self._keeper.taken(event)
        if not waiting:
            self._caught_up(event.lane)

    def drop_messages(self, lane: ClientStream) -> int:
        """Take out all messages that wait in a lane, and return how many; its lifecycle events stay, and go on."""
        waiting = lane.waiting
        if not waiting:
            return 0
        rest = deque(event for event in waiting if event.kind is not _MESSAGE)
        for event in waiting:
            if event.kind is _MESSAGE:
                self._keeper.taken(event)
        dropped = len(waiting) - len(rest)
        lane.waiting = rest
        if rest:
            self._pump(lane)
        else:
            self._caught_up(lane)
        return dropped

    # --- what sessions say ---

    def available(self, holder: Consumer) -> None:
        """The session takes events: those of its own lanes that wait first, then those of lanes without a session."""
        for lane in list(holder.lanes):
            if lane.waiting:
                self._pump(lane)
        for lane in list(self._orphans):
            if not self._assign(lane):
                break
            self._pump(lane)

    def done(self, holder: Consumer, ranges: Iterable[tuple[int, int]]) -> None:
        """The session has finished these events (LINK rule 3)."""
        for event in _take(holder.unfinished, ranges):
            self._uncount(holder, event)
            lane = event.lane
            if event.kind is _GONE:
                self._over(holder, lane)
            elif lane.waiting or holder.is_leaving:
                self._go_on(holder, lane)
        if holder.starved:
            self._feed(holder)

    def leave(self, holder: Consumer) -> None:
        """The session gets no more events; lanes of which it has none unfinished have no session from now on."""
        holder.is_leaving = True
        for lane in list(holder.lanes):
            if not lane.in_flight:
                self._orphan(holder, lane)

    def released(self, holder: Consumer, ranges: Iterable[tuple[int, int]]) -> None:
        """The session, which is leaving, has not started these events and will not: they go elsewhere, unmarked."""
        back: dict[ClientStream, list[ClientEvent]] = {}
        for event in _take(holder.unfinished, ranges):
            self._uncount(holder, event)
            events = back.setdefault(event.lane, [])
            if event.kind is not Kind.ADOPTED:  # the next owner has an adoption of its own
                events.append(event)
        for lane, events in back.items():
            if events:
                self._put_back(lane, events)
            if not lane.in_flight:
                self._orphan(holder, lane)

    def died(self, holder: Consumer) -> None:
        """The session is dead: what it has not finished goes elsewhere, marked (LINK rules 14 to 16, 21)."""
        holder.is_up = False
        back: dict[ClientStream, list[ClientEvent]] = {}
        for event in holder.unfinished.values():
            self._uncount(holder, event)
            event.redelivered = True
            events = back.get(event.lane)
            if events is None:  # the one that was being handled, if any of this client was
                events = back[event.lane] = []
                event.blamed += 1
            if event.kind is _MESSAGE and event.blamed >= MAX_DELIVERIES:
                self._keeper.gave_up(event)
            elif event.kind is not Kind.ADOPTED:
                events.append(event)
        holder.unfinished.clear()
        for lane, events in back.items():
            if events:
                self._put_back(lane, events)
        for lane in list(holder.lanes):
            self._orphan(holder, lane)

    # --- how it moves ---

    def _send(self, holder: Consumer, event: ClientEvent) -> int:
        return self._keeper.send(holder, event)

    def _sent(self, holder: Consumer, lane: ClientStream, event: ClientEvent) -> bool:
        """Send the next event of a lane, if there is credit; one that waits for its session's is listed as starved."""
        if not holder.is_up or holder.is_leaving or lane.after is not None:
            return False
        if event.kind is not _MESSAGE:
            number = self._send(holder, event)
            if number:
                holder.unfinished[number] = event
                lane.in_flight += 1
            elif event.kind is _GONE:
                self._over(holder, lane)
            return True
        if event.redelivered and lane.in_flight:  # see MAX_DELIVERIES
            return False
        size = event.size
        in_flight = lane.messages_in_flight
        if in_flight and (in_flight >= LANE_EVENTS or lane.bytes_in_flight + size > LANE_BYTES):
            return False
        all_in_flight = holder.messages_in_flight
        room = self.holder_bytes - holder.bytes_in_flight
        if in_flight or size > SMALL:
            room -= self.holder_bytes >> _RESERVED
        if all_in_flight and (all_in_flight >= HOLDER_EVENTS or size > room):
            holder.starved[lane] = None
            return False
        number = self._send(holder, event)
        if number:
            holder.unfinished[number] = event
            lane.in_flight += 1
            lane.messages_in_flight = in_flight + 1
            lane.bytes_in_flight += size
            holder.messages_in_flight = all_in_flight + 1
            holder.bytes_in_flight += size
        return True

    def _uncount(self, holder: Consumer, event: ClientEvent) -> None:
        lane = event.lane
        lane.in_flight -= 1
        if event.kind is _MESSAGE:
            lane.messages_in_flight -= 1
            lane.bytes_in_flight -= event.size
            holder.messages_in_flight -= 1
            holder.bytes_in_flight -= event.size

    def _go_on(self, holder: Consumer, lane: ClientStream) -> None:
        """An event of the lane is finished: the next one may go, or, from a session that leaves, the lane elsewhere."""
        if not holder.is_leaving:
            self._pump(lane)
        elif not lane.in_flight:
            self._orphan(holder, lane)

    def _over(self, holder: Consumer, lane: ClientStream) -> None:
        holder.lanes.pop(lane, None)
        holder.starved.pop(lane, None)
        lane.holder = None
        self._keeper.over(lane)
        successor, lane.before = lane.before, None
        if successor is not None:
            successor.after = None
            self._pump(successor)

    def _feed(self, holder: Consumer) -> None:
        """Give the session's credit to lanes that wait for it, in turn."""
        for lane in list(holder.starved):
            del holder.starved[lane]  # one that stays hungry is listed again, behind the others
            self._pump(lane)
            if holder.messages_in_flight >= HOLDER_EVENTS or holder.bytes_in_flight >= self.holder_bytes:
                return

    def _pump(self, lane: ClientStream) -> None:
        """Send what waits in a lane, as far as there is credit."""
        holder, waiting = lane.holder, lane.waiting
        if holder is None or not waiting:
            return
        while waiting and self._sent(holder, lane, event := waiting[0]):
            waiting.popleft()
            if event.kind is _MESSAGE:
                self._keeper.taken(event)
        if not waiting:
            self._caught_up(lane)

    def _caught_up(self, lane: ClientStream) -> None:
        lane.waiting = None
        self._orphans.pop(lane, None)
        if lane.holder is not None:
            lane.holder.starved.pop(lane, None)
        self._keeper.caught_up(lane)

    def _put_back(self, lane: ClientStream, events: list[ClientEvent]) -> None:
        """Have events wait again, each in its place: later ones may have come back before."""
        for event in events:
            if event.kind is _MESSAGE:
                self._keeper.waits_again(event)
        waiting = lane.waiting or ()
        if waiting and waiting[0].number < events[-1].number:
            lane.waiting = deque(sorted((*events, *waiting), key=_place))
        else:
            lane.waiting = deque((*events, *waiting))

    def _orphan(self, holder: Consumer, lane: ClientStream) -> None:
        """Take a lane away from its session; if events wait in it, another one gets it now."""
        holder.lanes.pop(lane, None)
        holder.starved.pop(lane, None)
        lane.holder = None
        lane.was_held = True
        if lane.waiting:
            self._orphans[lane] = None
            if self._assign(lane):
                self._pump(lane)

    def _assign(self, lane: ClientStream) -> bool:
        """Give a lane to the least loaded session, which hears of it first (LINK rule 17); False when there is none."""
        holder = self._keeper.choose_owner()
        if holder is None:
            return False
        self._orphans.pop(lane, None)
        lane.holder = holder
        holder.lanes[lane] = None
        if lane.was_held and not (lane.waiting and lane.waiting[0].kind is Kind.ADOPTED):
            adoption = ClientEvent(lane, Kind.ADOPTED, self._keeper.new_number())
            if not self._sent(holder, lane, adoption):
                lane.waiting = deque((adoption, *(lane.waiting or ())))
        return True


def _place(event: ClientEvent) -> tuple[bool, int]:
    """Return what the events of a lane are ordered by: an adoption comes before all that it is about."""
    return event.kind is not Kind.ADOPTED, event.number


def _take(unfinished: dict[int, ClientEvent], ranges: Iterable[tuple[int, int]]) -> list[ClientEvent]:
    """Take the events of those numbers out, in order of the ranges; numbers that are not there are ignored."""
    taken: list[ClientEvent] = []
    pop = unfinished.pop
    in_vain = len(unfinished)  # so many numbers may be looked up that are not there: a peer may say what it likes
    numbers: list[int] | None = None
    for first, last in ranges:
        if last - first <= in_vain:
            for number in range(first, last + 1):
                event = pop(number, None)
                if event is not None:
                    taken.append(event)
                else:
                    in_vain -= 1
            continue
        if not unfinished:
            break
        if numbers is None:
            numbers = sorted(unfinished)
        begin = bisect_left(numbers, first)
        end = bisect_right(numbers, last, begin)
        for number in numbers[begin:end]:
            event = pop(number, None)
            if event is not None:
                taken.append(event)
        del numbers[begin:end]  # nobody looks at them twice
    return taken
