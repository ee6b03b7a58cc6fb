"""The broker's side of events: in order for each client, bounded by credit, handed over when a backend goes.

A :class:`ClientStream` is one client's events; a :class:`Consumer` is the session of a backend that streams are
assigned to. The :class:`Assignments` move events between them. No I/O and no clock.
"""

import logging
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.events.stream import ClientEvent, ClientStream, Consumer, Kind
from pystrands.broker.observer import Observer

__all__ = ["Assignments"]

logger = logging.getLogger(__name__)

CONSUMER_EVENTS: Final = 1000
CONSUMER_BYTES: Final = 16 * 1024 * 1024
STREAM_EVENTS: Final = 32
STREAM_BYTES: Final = 256 * 1024
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

_MESSAGE: Final = Kind.MESSAGE  # looked up for every message: a global is cheaper than an enumeration's member
_GONE: Final = Kind.GONE


class Assignments:
    """Which session has which stream, and what of it is on its way.

    What waits is counted in ``queue``. ``choose_owner()`` returns the session that a stream without one is given to, or
    None. ``consumer_bytes``: how many bytes of messages one session may have unfinished, and how many of big contexts
    beside other events: those of all that leave at once would be their memory once more.
    """

    def __init__(
        self,
        queue: EventQueue,
        choose_owner: Callable[[], Consumer | None],
        counters: Counters,
        consumer_bytes: int = CONSUMER_BYTES,
        ending: EndingStreams | None = None,
        observer: Observer | None = None,
        max_deliveries: int = MAX_DELIVERIES,
    ) -> None:
        self.consumer_bytes = consumer_bytes
        self._max_deliveries = max_deliveries
        self._queue = queue
        self._choose_owner = choose_owner
        self._counters = counters
        self.observer = observer
        self._events = 0  # how many there were
        self.ending = EndingStreams() if ending is None else ending
        self._orphans: dict[ClientStream, None] = {}  # streams with waiting events and no consumer, oldest first

    @property
    def orphans(self) -> Collection[ClientStream]:
        """Streams whose events wait, and who have no session."""
        return self._orphans

    # --- what happens to clients ---

    def new_number(self) -> int:
        """Return a number for the next event."""
        self._events += 1
        return self._events

    def own(self, stream: ClientStream, consumer: Consumer | None) -> None:
        """The session let this client in, and owns it from its first event, once an older one of its id is over.

        None where it is over meanwhile: another one gets the client with its first event.
        """
        if consumer is not None:
            stream.consumer = consumer
            consumer.streams[stream] = None
        if (ending := self.ending.find(stream.client_id)) is not None:
            self.succeed(stream, ending)

    def ends(self, stream: ClientStream) -> None:
        """The client is gone, and its id is free: who takes it waits until this one's last event is finished."""
        self.ending.add(stream)

    def succeed(self, stream: ClientStream, older: ClientStream) -> None:
        """Have ``stream`` begin only when ``older`` is over, whose last event may not even have been put (rule 24)."""
        while older.before is not None:
            older = older.before
        stream.after, older.before = older, stream

    def submit(self, event: ClientEvent) -> bool:
        """Send an event, if its turn has come and there is credit; False when it has to :meth:`wait`."""
        stream = event.stream
        if stream.waiting:
            return False
        consumer = stream.consumer
        if consumer is None:
            if not self._assign(stream):
                return False
            consumer = stream.consumer
            assert consumer is not None
            if stream.waiting:  # the adoption could not go out
                return False
        return self._sent(consumer, stream, event)

    def wait(self, event: ClientEvent) -> None:
        """Append an event to what waits in its stream."""
        stream = event.stream
        if stream.waiting is None:
            stream.waiting = deque()
        stream.waiting.append(event)
        if stream.consumer is None:
            self._orphans[stream] = None

    def drop_waiting(self, event: ClientEvent) -> None:
        """Take out a message that waits, to make room."""
        waiting = event.stream.waiting
        assert waiting is not None
        waiting.remove(event)
        self._queue.taken(event)
        if event.stream.tracker is not None:
            event.stream.tracker.on_dropped(event, "queue_full", "no backend is connected, and the queue is full")
        if not waiting:
            self._caught_up(event.stream)

    def drop_messages(self, stream: ClientStream) -> int:
        """Take out all messages that wait in a stream, and return how many; its lifecycle events stay, and go on."""
        waiting = stream.waiting
        if not waiting:
            return 0
        rest = deque(event for event in waiting if event.kind is not _MESSAGE)
        for event in waiting:
            if event.kind is _MESSAGE:
                self._queue.taken(event)
        dropped = len(waiting) - len(rest)
        stream.waiting = rest
        if stream.tracker is not None:
            for event in waiting:
                if event.kind is _MESSAGE:
                    stream.tracker.on_dropped(event, "dropped", "the client was given up")
        if rest:
            self._pump(stream)
        else:
            self._caught_up(stream)
        return dropped

    # --- what sessions say ---

    def available(self, consumer: Consumer) -> None:
        """The session takes events: first those of its own streams that wait, then those that nobody has."""
        for stream in list(consumer.streams):
            if stream.waiting:
                self._pump(stream)
        for stream in list(self._orphans):
            if not self._assign(stream):
                break
            self._pump(stream)

    def done(self, consumer: Consumer, ranges: Iterable[tuple[int, int]]) -> None:
        """The session has finished these events (LINK rule 3)."""
        if self.observer is not None:
            ranges = tuple(ranges)
            self.observer.on_done(consumer, ranges)
        for event in _take(consumer.unfinished, ranges):
            self._uncount(consumer, event)
            stream = event.stream
            if stream.tracker is not None:
                stream.tracker.on_finished(event)
            if event.kind is _GONE:
                self._over(consumer, stream)
            elif stream.waiting or consumer.is_leaving:
                self._go_on(consumer, stream)
        if consumer.starved:
            self._feed(consumer)
        if consumer.crowded:
            self._feed_crowded(consumer)

    def leave(self, consumer: Consumer) -> None:
        """The session gets no more events; streams of which it has none unfinished have no session from now on."""
        consumer.is_leaving = True
        for stream in list(consumer.streams):
            if not stream.in_flight:
                self._orphan(consumer, stream)

    def released(self, consumer: Consumer, ranges: Iterable[tuple[int, int]]) -> None:
        """The session, which is leaving, has not started these events and will not: they go elsewhere, unmarked."""
        if self.observer is not None:
            ranges = tuple(ranges)
            self.observer.on_released(consumer, ranges)
        back: dict[ClientStream, list[ClientEvent]] = {}
        for event in _take(consumer.unfinished, ranges):
            self._uncount(consumer, event)
            events = back.setdefault(event.stream, [])
            if event.kind is not Kind.ADOPTED:  # the next owner has an adoption of its own
                events.append(event)
        for stream, events in back.items():
            if events:
                self._put_back(stream, events)
            if not stream.in_flight:
                self._orphan(consumer, stream)

    def died(self, consumer: Consumer) -> None:
        """The session is dead: what it has not finished goes elsewhere, marked (LINK rules 14 to 16, 21)."""
        consumer.is_up = False
        if self.observer is not None:
            self.observer.on_died(consumer)
        back: dict[ClientStream, list[ClientEvent]] = {}
        for event in consumer.unfinished.values():
            self._uncount(consumer, event)
            event.redelivered = True
            events = back.get(event.stream)
            if events is None:  # the one that was being handled, if any of this client was
                events = back[event.stream] = []
                event.blamed += 1
            if event.kind is _MESSAGE and event.blamed >= self._max_deliveries:
                self._gave_up(event)
            elif event.kind is not Kind.ADOPTED:
                events.append(event)
        consumer.unfinished.clear()
        for stream, events in back.items():
            if events:
                self._put_back(stream, events)
        for stream in list(consumer.streams):
            self._orphan(consumer, stream)

    def _gave_up(self, event: ClientEvent) -> None:
        self._counters["events_given_up"] += 1
        logger.error(
            "a message of %r was dropped: %d backends died while they were handling it",
            event.stream.client_id,
            self._max_deliveries,
        )
        if event.stream.tracker is not None:
            event.stream.tracker.on_dropped(event, "given_up", "backends have died while they were handling it")

    # --- how it moves ---

    def _sent(self, consumer: Consumer, stream: ClientStream, event: ClientEvent) -> bool:
        """Send the next event of a stream, if there is credit; one that waits for its session's is starved."""
        if not consumer.is_up or consumer.is_leaving or stream.after is not None:
            return False
        if event.kind is not _MESSAGE:
            size = event.size = consumer.context_bytes(stream)
            if (size or consumer.crowded) and self._is_crowded(consumer, stream, size):
                return False
            number = consumer.send(event)
            if number:
                consumer.contexts_in_flight += size
                consumer.unfinished[number] = event
                stream.in_flight += 1
                if self.observer is not None:
                    self.observer.on_sent(consumer, event, number)
            elif event.kind is _GONE:
                self._over(consumer, stream)
            elif stream.tracker is not None:
                stream.tracker.on_finished(event)
            return True
        if event.redelivered and stream.in_flight:  # see MAX_DELIVERIES
            return False
        size = event.size
        in_flight = stream.messages_in_flight
        if in_flight and (in_flight >= STREAM_EVENTS or stream.bytes_in_flight + size > STREAM_BYTES):
            return False
        all_in_flight = consumer.messages_in_flight
        room = self.consumer_bytes - consumer.bytes_in_flight
        if in_flight or size > SMALL:
            room -= self.consumer_bytes >> _RESERVED
        if all_in_flight and (all_in_flight >= CONSUMER_EVENTS or size > room):
            consumer.starved[stream] = None
            return False
        number = consumer.send(event)
        if number:
            consumer.unfinished[number] = event
            stream.in_flight += 1
            stream.messages_in_flight = in_flight + 1
            stream.bytes_in_flight += size
            consumer.messages_in_flight = all_in_flight + 1
            consumer.bytes_in_flight += size
            if self.observer is not None:
                self.observer.on_sent(consumer, event, number)
        elif stream.tracker is not None:
            if consumer.finishes:
                stream.tracker.on_dropped(event, "undeliverable", "it can't be given to the backend")
            else:
                stream.tracker.on_finished(event)
        return True

    def _uncount(self, consumer: Consumer, event: ClientEvent) -> None:
        stream = event.stream
        stream.in_flight -= 1
        if event.kind is _MESSAGE:
            stream.messages_in_flight -= 1
            stream.bytes_in_flight -= event.size
            consumer.messages_in_flight -= 1
            consumer.bytes_in_flight -= event.size
        else:
            consumer.contexts_in_flight -= event.size

    def _is_crowded(self, consumer: Consumer, stream: ClientStream, size: int) -> bool:
        """Whether an event has to wait with its big context; it is listed then. Who waits already comes first."""
        crowded, in_flight = consumer.crowded, consumer.contexts_in_flight
        is_full = in_flight and in_flight + size > self.consumer_bytes
        if size and (is_full or next(iter(crowded), stream) is not stream):
            crowded[stream] = None
            return True
        crowded.pop(stream, None)
        return False

    def _feed_crowded(self, consumer: Consumer) -> None:
        """Send what waits with big contexts, as far as there is room for them now."""
        last: ClientStream | None = None
        while (stream := next(iter(consumer.crowded), None)) is not None and stream is not last:
            last = stream
            self._pump(stream)

    def _go_on(self, consumer: Consumer, stream: ClientStream) -> None:
        """An event of the stream is finished: the next may go, or, from a session that leaves, the stream elsewhere."""
        if not consumer.is_leaving:
            self._pump(stream)
        elif not stream.in_flight:
            self._orphan(consumer, stream)

    def _over(self, consumer: Consumer, stream: ClientStream) -> None:
        consumer.streams.pop(stream, None)
        consumer.starved.pop(stream, None)
        consumer.crowded.pop(stream, None)
        stream.consumer = None
        self.ending.remove(stream)
        successor, stream.before = stream.before, None
        if successor is not None:
            successor.after = None
            self._pump(successor)

    def _feed(self, consumer: Consumer) -> None:
        """Give the session's credit to streams that wait for it, in turn."""
        for stream in list(consumer.starved):
            del consumer.starved[stream]  # one that stays hungry is listed again, behind the others
            self._pump(stream)
            if consumer.messages_in_flight >= CONSUMER_EVENTS or consumer.bytes_in_flight >= self.consumer_bytes:
                return

    def _pump(self, stream: ClientStream) -> None:
        """Send what waits in a stream, as far as there is credit."""
        consumer, waiting = stream.consumer, stream.waiting
        if consumer is None or not waiting:
            return
        while waiting and self._sent(consumer, stream, event := waiting[0]):
            waiting.popleft()
            if event.kind is _MESSAGE:
                self._queue.taken(event)
        if not waiting:
            self._caught_up(stream)

    def _caught_up(self, stream: ClientStream) -> None:
        stream.waiting = None
        self._orphans.pop(stream, None)
        if stream.consumer is not None:
            stream.consumer.starved.pop(stream, None)
            stream.consumer.crowded.pop(stream, None)
        stream.read_on()

    def _put_back(self, stream: ClientStream, events: list[ClientEvent]) -> None:
        """Have events wait again, each in its place: later ones may have come back before."""
        for event in events:
            if event.kind is _MESSAGE:
                self._queue.keep(event)  # it was taken once: no policy drops it
        waiting = stream.waiting or ()
        if waiting and waiting[0].number < events[-1].number:
            stream.waiting = deque(sorted((*events, *waiting), key=_place))
        else:
            stream.waiting = deque((*events, *waiting))

    def _orphan(self, consumer: Consumer, stream: ClientStream) -> None:
        """Take a stream away from its session; if events wait in it, another one gets it now."""
        consumer.streams.pop(stream, None)
        consumer.starved.pop(stream, None)
        consumer.crowded.pop(stream, None)
        stream.consumer = None
        stream.was_held = True
        if stream.waiting:
            self._orphans[stream] = None
            if self._assign(stream):
                self._pump(stream)

    def _assign(self, stream: ClientStream) -> bool:
        """Give a stream to the least loaded session, which hears of it first (rule 17); False if there is none."""
        consumer = self._choose_owner()
        if consumer is None:
            return False
        self._orphans.pop(stream, None)
        stream.consumer = consumer
        consumer.streams[stream] = None
        if stream.was_held and not (stream.waiting and stream.waiting[0].kind is Kind.ADOPTED):
            adoption = ClientEvent(stream, Kind.ADOPTED, self.new_number())
            if not self._sent(consumer, stream, adoption):
                stream.waiting = deque((adoption, *(stream.waiting or ())))
        return True


def _place(event: ClientEvent) -> tuple[bool, int]:
    """Return what the events of a stream are ordered by: an adoption comes before all that it is about."""
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
