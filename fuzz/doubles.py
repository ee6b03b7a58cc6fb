"""What surrounds the code under test: bytes to choose by, a loop whose time is made up, a transport that keeps all."""

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from pystrands.broker.backends.authenticator import LinkAuthenticator
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.lifecycle import SessionLifecycle
from pystrands.broker.backends.link import LinkShared, link_factory
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import SessionShared
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.hub.taps import Taps
from pystrands.broker.routing.commands import Commands
from pystrands.broker.routing.handlers import command_table
from pystrands.broker.routing.router import Router
from pystrands.broker.ws.expiry import Expiries
from pystrands.protocol.messages import HelloParams


class Input:
    """The fuzzer's bytes, taken from the front; when there are no more they are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        taken = self.take(1)
        return taken[0] if taken else 0

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))


def pieces(data: bytes, sizes: bytes) -> Iterator[bytes]:
    """Cut a stream into reads of these sizes, over and over; without any it comes in one."""
    turn = itertools.cycle(sizes or [len(data)])
    at = 0
    while at < len(data):
        size = next(turn) or 1
        yield data[at : at + size]
        at += size


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Fail when an error is logged: much of what goes wrong on our side is caught and logged, not raised."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = found.append  # type: ignore[assignment,method-assign]
    logger = logging.getLogger("pystrands")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
    for record in found:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


class Loop:
    """An event loop without I/O, whose time passes when it is told to. What a callback raises comes out."""

    def __init__(self) -> None:
        self.now = 0.0
        self._count = itertools.count()
        self._calls: list[tuple[float, int, asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        handle = Handle(when, callback, args, self)  # type: ignore[arg-type]
        heapq.heappush(self._calls, (when, next(self._count), handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self.call_at(self.now, callback, *args)

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def advance(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            self.now, _, handle = heapq.heappop(self._calls)
            if not handle.cancelled():
                handle._run()
        self.now = end

    def __enter__(self) -> Self:
        """Be the running loop, for what asks which one that is."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio._set_running_loop(None)


class Handle(asyncio.TimerHandle):
    """A scheduled call whose exceptions are not for a handler."""

    def _run(self) -> None:
        self._callback(*self._args)  # type: ignore[attr-defined]


class Transport(asyncio.Transport):
    """A connection: keeps what is written, and gives its protocol what a test reads. It closes when it is told to."""

    def __init__(self, protocol: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", 4711)})
        self.protocol = protocol
        self.written = bytearray()
        self.is_closed = False
        self.is_lost = False
        self.has_ended = False
        self.is_full = False
        protocol.connection_made(self)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def write(self, data: Any) -> None:
        assert not self.is_lost
        assert not self.has_ended, "a write after the end raises with a real transport"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def receive(self, data: bytes) -> None:
        """Have these bytes read, as a loop does it."""
        while data and not self.is_closed:
            protocol = self.protocol
            if not isinstance(protocol, asyncio.BufferedProtocol):
                protocol.data_received(data)
                return
            buffer: Any = protocol.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            del buffer
            protocol.buffer_updated(size)
            data = data[size:]

    def fill(self) -> None:
        """Have the protocol hear that the peer does not read."""
        if not self.is_full and not self.is_closed:
            self.is_full = True
            self.protocol.pause_writing()

    def empty(self) -> None:
        """Have it hear that the peer does again."""
        if self.is_full and not self.is_closed:
            self.is_full = False
            self.protocol.resume_writing()

    def lose(self) -> None:
        """Have the protocol hear that the connection is gone."""
        if not self.is_lost:
            self.is_lost = self.is_closed = True
            self.protocol.connection_lost(None)


class Engine:
    """Delivers to nobody."""

    def subscribe(self, room_id: str) -> None:
        pass

    unsubscribe = subscribe

    def publish(self, _: object) -> tuple[int, int]:
        return 0, 0


class Broker:
    """The broker's side of links, wired as a server does it, on a loop without I/O."""

    def __init__(self, loop: Loop, *, max_line: int) -> None:
        some_loop: Any = loop
        counters: Counter[str] = Counter()
        engine: Any = Engine()
        self.rooms = Rooms(Outbox(some_loop), engine.subscribe, engine.unsubscribe, Taps(counters))
        self.queue = EventQueue(20, 10_000, "backpressure", counters)
        self.backends = SessionRegistry()
        shared = SessionShared(loop=some_loop, counters=counters, expiries=Expiries(some_loop, counters))
        self.router = Router(
            self.rooms,
            self.queue,
            Assignments(self.queue, self.backends.choose_owner, counters),
            self.backends,
            shared,
            hold_time=5,
            answer_timeout=5,
        )
        commands = Commands(engine, self.rooms, counters, lambda: {"version": "fuzzed"})
        table = command_table(commands, self.router)
        greeting = Greeting(HelloParams(protocol=2, binary=True, broker_id="b", resume_window=5))
        lifecycle = SessionLifecycle(
            self.backends, self.router, table, shared, resume_window=5, heartbeat=15, greeting=greeting
        )
        self.make_link = link_factory(
            LinkShared(
                loop=some_loop,
                owner=lifecycle,
                authenticator=LinkAuthenticator(clock=loop.time, counters=counters),
                greeting=greeting,
                max_line=max_line,
                link_buffer=10**6,
                counters=counters,
            )
        )
