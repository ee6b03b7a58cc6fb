"""Outgoing frames: one write per client per loop turn, in slices when they are for many."""

import logging
import time
from asyncio import AbstractEventLoop, WriteTransport
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, Literal, Protocol

from pystrands.broker.frames import TRY_AGAIN_LATER

logger = logging.getLogger(__name__)

SlowPolicy = Literal["disconnect", "drop"]

# A recipient's `flags`. Their order matters: below SMALL a small send must list the recipient, from CLOSED on it
# takes nothing. No flag at all means that it is open and nothing waits for it.
IN_BULK: Final = 1  # on the bulk list
IN_SMALL: Final = 2  # on the list of small sends
BLOCKED: Final = 4  # its transport is above the high-water mark
CLOSED: Final = 8  # its close frame is out, or it is gone
TOO_SLOW: Final = 16  # about to be closed by the slow-consumer policy

# A queue above this goes to the transport in parts, so that a peer that reads slowly has it in one place only.
_WRITE_SIZE = 131_072
# A fan-out to fewer than this goes with the small sends: nobody waits long behind it.
_MANY = 64
# uvloop sends after the callback, out of the clock's sight; a send costs the kernel about this much.
_SECONDS_PER_SEND = 7e-6


class Recipient(Protocol):
    """What the outbox needs of a WebSocket. All of it but `limit` and `transport` is the outbox's to write."""

    out: list[bytes]  # frames waiting, oldest first
    queued: int  # bytes in `out`
    flags: int
    limit: int  # what `queued` may be, in bytes

    @property
    def transport(self) -> WriteTransport | None:
        """Where the frames go; None when the connection is gone."""

    def close(self, code: int, reason: str) -> None:
        """Close for good, beginning with the close frame."""

    def abort(self) -> None:
        """Drop the connection."""


class Outbox:
    """Collects frames per client and writes them once per loop turn, joined. Never raises.

    Frames leave in the order in which they were appended, whichever way they came. More than `limit` bytes waiting for
    one client brings the slow-consumer `policy`: "disconnect" drops what is queued and closes it with 1013 in the next
    loop turn, "drop" lets it miss the message. Counted as `slow_consumer_closed` and `slow_consumer_dropped`.
    """

    __slots__ = (
        "_bulk",
        "_clock",
        "_counters",
        "_loop",
        "_policy",
        "_scheduled",
        "_sends_per_slice",
        "_slice_seconds",
        "_small",
        "_too_slow",
    )

    def __init__(
        self,
        loop: AbstractEventLoop,
        *,
        slice_seconds: float = 0.002,
        policy: SlowPolicy = "disconnect",
        counters: Counter[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._slice_seconds = slice_seconds
        self._sends_per_slice = max(1, int(slice_seconds / _SECONDS_PER_SEND))
        self._policy = policy
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._clock = clock
        self._small: list[Recipient] = []
        self._bulk: deque[Recipient] = deque()
        self._too_slow: list[Recipient] = []
        self._scheduled = False

    def send(self, ws: Recipient, frame: bytes) -> bool:
        """Queue a whole frame for one client; it leaves in the next loop turn. False when the client misses it."""
        flags = ws.flags
        if flags >= CLOSED:
            return False
        queued = ws.queued
        if queued and queued + len(frame) > ws.limit:
            self._overflow(ws)
            return False
        ws.out.append(frame)
        ws.queued = queued + len(frame)
        if flags < IN_SMALL:
            ws.flags = flags | IN_SMALL
            self._small.append(ws)
            self._schedule()
        return True

    def fan_out(self, recipients: Iterable[Recipient], frame: bytes) -> int:
        """Queue the same frame for every recipient that is open, and return how many took it.

        `recipients` is not changed before this returns, nor may anybody else change it meanwhile. With a size of 64 or
        more, or none, the writes are done in slices of a few milliseconds, between which everything else goes on.
        """
        try:
            few = len(recipients) < _MANY  # type: ignore[arg-type]  # what has no size is taken for many
        except TypeError:
            few = False
        listed = IN_SMALL if few else IN_BULK
        enlist = self._small.append if few else self._bulk.append
        size = len(frame)
        taken = 0
        for ws in recipients:
            flags = ws.flags
            if not flags:
                ws.out.append(frame)
                ws.queued = size
                ws.flags = listed
                enlist(ws)
                taken += 1
            elif flags < CLOSED:
                queued = ws.queued
                if queued and queued + size > ws.limit:
                    self._overflow(ws)
                    continue
                ws.out.append(frame)
                ws.queued = queued + size
                taken += 1
                if few and flags < IN_SMALL:
                    ws.flags = flags | IN_SMALL
                    enlist(ws)
        if taken:
            self._schedule()
        return taken

    def block(self, ws: Recipient) -> None:
        """Hold a client's frames back: its transport has enough."""
        ws.flags |= BLOCKED

    def unblock(self, ws: Recipient) -> None:
        """Let a client's frames go again."""
        ws.flags &= ~BLOCKED
        if ws.out and ws.flags < IN_SMALL:
            ws.flags |= IN_SMALL
            self._small.append(ws)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        small = self._small
        if small:
            self._small = []
            for ws in small:
                ws.flags &= ~IN_SMALL
                if ws.out and not ws.flags & BLOCKED:
                    _write(ws)
        if self._bulk:
            self._flush_slice()

    def _flush_slice(self) -> None:
        bulk = self._bulk
        clock = self._clock
        sends = self._sends_per_slice
        end = clock() + self._slice_seconds
        while bulk:
            ws = bulk.popleft()
            ws.flags &= ~IN_BULK
            if ws.out and not ws.flags & BLOCKED:
                _write(ws)
                sends -= 1
                if sends <= 0 or clock() >= end:
                    break
        if bulk:
            self._schedule()

    def _overflow(self, ws: Recipient) -> None:
        if self._policy == "drop":
            self._counters["slow_consumer_dropped"] += 1
            return
        # Later: whoever hears of the close may change the recipients that are being gone through.
        ws.flags |= TOO_SLOW
        if not self._too_slow:
            self._loop.call_soon(self._close_too_slow)
        self._too_slow.append(ws)

    def _close_too_slow(self) -> None:
        too_slow, self._too_slow = self._too_slow, []
        for ws in too_slow:
            if ws.flags & CLOSED:
                continue
            self._counters["slow_consumer_closed"] += 1
            ws.out.clear()
            ws.queued = 0
            try:
                ws.close(TRY_AGAIN_LATER, "too slow")
            except Exception:
                logger.exception("could not close a slow client")


def _write(ws: Recipient) -> None:
    """Hand a client's frames to its transport; what can't be written any more is dropped."""
    out = ws.out
    try:
        transport = ws.transport
        # A closed uvloop handle raises; whoever closed it is about to be told that the connection is lost.
        if transport is None or transport.is_closing():
            out.clear()
            ws.queued = 0
        elif ws.queued <= _WRITE_SIZE:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            ws.queued = 0
            transport.write(data)
        else:
            _write_in_parts(ws, transport)
    except Exception:
        logger.exception("writing to a client failed")
        out.clear()
        ws.queued = 0
        ws.abort()


def _write_in_parts(ws: Recipient, transport: WriteTransport) -> None:
    """Write until everything is out, or the transport has blocked the client."""
    out = ws.out
    done = 0
    try:
        while done < len(out) and not ws.flags & BLOCKED:
            start, size = done, 0
            while done < len(out) and (done == start or size + len(out[done]) <= _WRITE_SIZE):
                size += len(out[done])
                done += 1
            ws.queued -= size
            transport.write(b"".join(out[start:done]))
    finally:
        del out[:done]
