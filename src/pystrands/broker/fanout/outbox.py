"""Outgoing frames: one write per client per loop turn, in slices when they are for many."""

import logging
import math
import sys
import time
from asyncio import AbstractEventLoop, Transport
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

from pystrands.broker.counters import Counters, new_counters
from pystrands.broker.fanout.groups import (
    BLOCKED,
    CLOSED,
    FEW,
    IN_BULK,
    IN_SMALL,
    NUMBERED,
    Encode,
    Group,
    Recipient,
    as_it_is,
    missing,
    missing_encoded,
)
from pystrands.broker.fanout.pressure import Pressure
from pystrands.broker.fanout.volatile import FrameWriter, Volatile
from pystrands.broker.meter import Meter
from pystrands.broker.observer import Observer
from pystrands.broker.policies import SlowPolicy

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 65_536
"""Bytes in a client's transport at which we hold back."""
LOW_WATER: Final = 16_384
# What is larger blocks a client by its last byte.
_SMALL_WRITE: Final = 8192
# A queue above this goes to the transport in parts, so that a peer that reads slowly has it in one place only.
_WRITE_SIZE: Final = 131_072
# A fan-out to fewer than this goes with the small sends: nobody waits long behind it.
_MANY: Final = 64
# uvloop sends after the callback, out of the clock's sight; a send costs the kernel about this much.
_SECONDS_PER_SEND: Final = 7e-6


class Outbox(FrameWriter):
    """Collects frames per client and writes them once per loop turn, joined. Never raises.

    Frames leave in the order in which they were appended, whichever way they came. What happens with clients for which
    much waits is the ``pressure``'s to say, which is made with ``limit``, ``slow_time`` and ``policy``.

    What is published to a group is the frame for members without an encoding; ``encode`` makes those of the others,
    each once. What comes any other way is written as it is.
    """

    __slots__ = (
        "_blocked",
        "_bulk",
        "_clock",
        "_counters",
        "_few",
        "_latest",
        "_loop",
        "_many",
        "_meter",
        "_number",
        "_scheduled",
        "_sends_per_slice",
        "_slice_seconds",
        "_small",
        "encode",
        "observer",
        "pressure",
    )

    def __init__(
        self,
        loop: AbstractEventLoop,
        *,
        slice_seconds: float = 0.002,
        policy: SlowPolicy = "disconnect",
        limit: int = 1_048_576,
        slow_time: float = 20.0,
        counters: Counters | None = None,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        encode: Encode = as_it_is,
        observer: Observer | None = None,
    ) -> None:
        self.encode = encode
        self._loop = loop
        self.observer = observer
        self._meter = meter or Meter()
        self._slice_seconds = slice_seconds
        self._sends_per_slice = max(1, int(slice_seconds / _SECONDS_PER_SEND))
        self._counters = new_counters() if counters is None else counters
        self._clock = clock
        self._latest = Volatile(self, loop, self._counters, clock, self._meter)
        self.pressure = Pressure(loop, self._counters, limit=limit, slow_time=slow_time, policy=policy, clock=clock)
        self._small: list[Recipient] = []
        self._bulk: deque[Recipient] = deque()
        self._few: list[Group] = []  # groups with frames that not all of their members have seen
        self._many: deque[Group] = deque()  # the same, of 64 members or more
        self._number = 0  # of the last frame that was published
        self._blocked: set[Recipient] = set()  # whose transport has enough; they have seen all of their groups
        self._scheduled = False

    def encoded(self, ws: Recipient, frame: bytes) -> bytes:
        """Return the frame that a client gets for a message, of which this is the frame without an encoding."""
        return frame if not ws.encoding or ws.flags >= CLOSED else self.encode(frame, ws.encoding)

    def alike(
        self, recipients: Collection[Recipient], frame: bytes, numbered: bytes | None = None
    ) -> Iterable[tuple[Collection[Recipient], bytes]]:
        """Return the recipients of a message that get the same frame, each time with it.

        ``numbered`` is the one for recipients that take it with its number, where there are any.
        """
        if self.encode is as_it_is and numbered is None:
            return ((recipients, frame),)
        kinds: dict[int, list[Recipient]] = {}
        for ws in recipients:
            kinds.setdefault(ws.encoding, []).append(ws)
        return [(some, self.as_encoded(frame, numbered, encoding)) for encoding, some in kinds.items()]

    def as_encoded(self, frame: bytes, numbered: bytes | None, encoding: int) -> bytes:
        """Return which of two frames is the one for an encoding, and that in this encoding."""
        if encoding >= NUMBERED and numbered is not None:
            frame, encoding = numbered, encoding - NUMBERED
        return self.encode(frame, encoding) if encoding else frame

    def send(self, ws: Recipient, frame: bytes) -> bool:
        """Queue a whole frame for one client; it leaves in the next loop turn. False when the client misses it."""
        if (self._few or self._many) and ws.seen != self._number:
            self.catch_up(ws)
        flags = ws.flags
        if flags >= CLOSED:
            return False
        queued = ws.queued
        if queued and queued + len(frame) > ws.high and not self.pressure.takes(ws, len(frame), None):
            return False
        ws.out.append(frame)
        ws.queued = queued + len(frame)
        if flags < IN_SMALL:
            ws.flags = flags | IN_SMALL
            self._small.append(ws)
            self._schedule()
        return True

    def fan_out(self, recipients: Collection[Recipient], frame: bytes, group: Group | None = None) -> int:
        """Queue the same frame for every recipient that is open, and return how many took it.

        It is a message to ``group``, or to nobody in particular.

        `recipients` is not changed before this returns, nor may anybody else change it meanwhile. With 64 or more of
        them the writes are done in slices of a few milliseconds, between which everything else goes on.
        """
        few = len(recipients) < _MANY
        listed = IN_SMALL if few else IN_BULK
        enlist = self._small.append if few else self._bulk.append
        size = len(frame)
        taken = 0
        published = self._number if self._few or self._many else 0
        for ws in recipients:
            if published and ws.seen != published:
                self.catch_up(ws)
            flags = ws.flags
            if not flags:
                ws.out.append(frame)
                ws.queued = size
                ws.flags = listed
                enlist(ws)
                taken += 1
            elif flags < CLOSED:
                queued = ws.queued
                if queued and queued + size > ws.high and not self.pressure.takes(ws, size, group):
                    continue
                ws.out.append(frame)
                ws.queued = queued + size
                taken += 1
                if few and flags < IN_SMALL:
                    ws.flags = flags | IN_SMALL
                    enlist(ws)
        if taken:
            self._schedule()
        if group is not None and group.behind:
            self.pressure.feel(group)
        return taken

    def join(self, ws: Recipient, group: Group) -> None:
        """Have a client get what is published to a group from now on; it is not in it yet.

        The cost is the same for the first group as for the ten thousandth.
        """
        self.catch_up(ws)
        group.members.add(ws)
        groups = ws.groups
        if isinstance(groups, dict):
            groups[group] = None
        elif len(groups) < FEW:
            more = (*groups, group)
            if group.shared != more:
                group.shared = more
            ws.groups = group.shared
        else:
            own = dict.fromkeys(groups)
            own[group] = None
            ws.groups = own
        if ws.behind is not None:
            self.pressure.joined(ws, group)

    def leave(self, ws: Recipient, group: Group) -> None:
        """Have a client, which is in the group, get nothing that is published to it from now on."""
        self.catch_up(ws)
        groups = ws.groups
        if isinstance(groups, dict):
            groups.pop(group, None)
            if len(groups) <= FEW // 2:
                ws.groups = tuple(groups)
        else:
            ws.groups = tuple(other for other in groups if other is not group)
        self._lose(group, ws)

    def leave_all(self, ws: Recipient) -> Iterable[Group]:
        """Take a client that is closed out of all of its groups, and return which those were."""
        groups, ws.groups = ws.groups, ()
        for group in groups:
            self._lose(group, ws)
        self._blocked.discard(ws)
        if ws.behind is not None:
            self.pressure.gone(ws)
        return groups

    def suspend(self, ws: Recipient) -> None:
        """Have a client that is closed stay in its groups, as one that gets nothing."""
        self._blocked.discard(ws)
        if ws.behind is not None:
            self.pressure.gone(ws)

    def replace(self, old: Recipient, ws: Recipient) -> None:
        """Have a client be in the groups of one that is suspended, and get what is published from now on."""
        ws.groups, old.groups = old.groups, ()
        ws.seen = self._number
        for group in ws.groups:
            group.members.discard(old)
            group.members.add(ws)
            if ws.behind is not None:
                self.pressure.joined(ws, group)

    def _lose(self, group: Group, ws: Recipient) -> None:
        group.members.discard(ws)
        if not group.members:
            group.shared = ()
        if ws.behind is not None or group.told is not None:
            self.pressure.left(ws, group)

    def publish(self, group: Group, frame: bytes, numbered: bytes | None = None) -> int:
        """Queue the same frame for all members of a group, and return how many took it.

        ``numbered``: the frame for members that take it with its number, needed where there are any.

        What is written to one member at a time is all that it has not seen. With 64 members or more the writes are done
        in slices of a few milliseconds, between which everything else goes on.
        """
        taken = len(group.members)
        if not taken:
            return 0
        number = self._number = self._number + 1
        if not group.frames:
            if taken < _MANY:
                self._few.append(group)
            else:
                self._many.append(group)
            self._schedule()
        group.add(frame, number, numbered)
        if group.size > self.pressure.group_high:
            self.pressure.is_felt = True
        return taken - self._hold_back(group, frame) if self._blocked else taken

    def _hold_back(self, group: Group, frame: bytes) -> int:
        """Queue a frame for the members that are blocked: each may be one too many for it. Return how many miss it."""
        one, other = self._blocked, group.members
        if len(other) < len(one):
            one, other = other, one
        missed = 0
        for ws in one:
            if ws in other:
                ws.seen = self._number
                mine = frame if not ws.encoding else group.encoded(len(group.frames) - 1, ws.encoding, self.encode)
                if not self._append(ws, mine, group):
                    missed += 1
        if group.behind:
            self.pressure.feel(group)
        return missed

    def catch_up(self, ws: Recipient) -> None:
        """Queue for a client what was published to its groups, so that something else can follow."""
        seen, ws.seen = ws.seen, self._number
        groups = ws.groups
        some = groups if isinstance(groups, tuple) else self._with_frames(groups, seen)
        frames = missing(some, seen) if not ws.encoding else missing_encoded(some, seen, ws.encoding, self.encode)
        if not frames or ws.flags >= CLOSED:
            return
        for frame in frames:
            self._append(ws, frame, None)
        if ws.out and ws.flags < IN_SMALL:
            ws.flags |= IN_SMALL
            self._small.append(ws)
            self._schedule()

    def _with_frames(self, groups: dict[Group, None], seen: int) -> Iterable[Group]:
        """Return those of many groups in which something was published after that number."""
        if len(groups) <= len(self._few) + len(self._many):
            return groups
        found = {group for group in self._few if group.last > seen and group in groups}
        found.update([group for group in self._many if group.last > seen and group in groups])
        return found

    def block(self, ws: Recipient) -> None:
        """Hold a client's frames back: its transport has enough."""
        self.catch_up(ws)
        ws.flags |= BLOCKED
        if ws.fresh is not None:
            ws.fresh.is_held = False
        if ws.flags < CLOSED:
            self._blocked.add(ws)
            if ws.transport is not None:
                self._meter.grown += ws.transport.get_write_buffer_size()

    def unblock(self, ws: Recipient) -> None:
        """Let a client's frames go again."""
        ws.flags &= ~BLOCKED
        if ws.stuck is not None:
            ws.stuck = None
            if ws.transport is not None:
                ws.transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._blocked.discard(ws)
        if ws.out and ws.flags < IN_SMALL:
            ws.flags |= IN_SMALL
            self._small.append(ws)
            self._schedule()

    def offer(self, recipients: Iterable[Recipient], frame: bytes, key: str) -> int:
        """Offer a volatile frame to recipients, with its key if it has one; return how many get it, or may.

        `recipients` is not changed before this returns.
        """
        return self._latest.offer(recipients, frame, key)

    def give(self, ws: Recipient, count: int, size: int) -> None:
        """Write the first so many frames of a client, of ``size`` bytes, though its frames are held back."""
        data = b"".join(ws.out[:count])
        del ws.out[:count]
        ws.queued -= size
        if ws.fresh is not None:
            ws.fresh.shift(ws, count)
        _send(ws, data)

    def _append(self, ws: Recipient, frame: bytes, group: Group | None) -> bool:
        """Queue a group's frame for a client that is listed, or blocked, or about to be; False when it misses it."""
        if ws.flags >= CLOSED:
            return False
        queued = ws.queued
        if queued and queued + len(frame) > ws.high and not self.pressure.takes(ws, len(frame), group):
            return False
        ws.out.append(frame)
        ws.queued = queued + len(frame)
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            if self.observer is None:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_soon(self._flush_observed, self.observer)

    def _flush_observed(self, observer: Observer) -> None:
        began = observer.now()
        self._flush()
        observer.on_flush(observer.now() - began)

    def _flush(self) -> None:
        self._scheduled = False
        small = self._small
        if small:
            self._small = []
            published = self._number if self._few or self._many else 0
            for ws in small:
                if published and ws.seen != published:
                    self.catch_up(ws)  # one write for both
                ws.flags &= ~IN_SMALL
                if ws.out and not ws.flags & BLOCKED:
                    self._write(ws)
        few = self._few
        if few:  # each stays listed until all are done with: who is blocked meanwhile looks here for what it misses
            done = 0
            while done < len(few):
                self._go_around(few[done], sys.maxsize, math.inf)
                done += 1
            self._few = []
        if self._bulk or self._many:
            self._flush_slice()
        if self._meter.grown > self._meter.mark:
            self._loop.call_soon(self._meter.over)  # not here: it closes clients

    def _flush_slice(self) -> None:
        bulk = self._bulk
        clock = self._clock
        sends = self._sends_per_slice
        end = clock() + self._slice_seconds
        while bulk and sends > 0:
            ws = bulk.popleft()
            ws.flags &= ~IN_BULK
            if ws.out and not ws.flags & BLOCKED:
                self._write(ws)
                sends -= 1
                if clock() >= end:
                    sends = 0
        many = self._many
        while many and sends > 0:
            group = many[0]  # listed while it is gone around
            sends = self._go_around(group, sends, end)
            many.popleft()
            if group.frames:
                many.append(group)
        if bulk or many:
            self._schedule()

    def _go_around(self, group: Group, sends: int, end: float) -> int:
        """Write to members who have not seen all, until `sends` writes are done, or it is `end`.

        Return how many writes may still be done. A group that has no frames then is done with.
        """
        clock = self._clock
        number = self._number
        last = group.last
        rest = group.rest
        if rest is None:
            rest = group.rest = list(group.members)
            group.target = last
        is_short = group.size <= _WRITE_SIZE
        while rest and sends > 0:
            ws = rest.pop()
            seen = ws.seen
            if seen >= last or ws.flags >= BLOCKED:
                continue
            groups = ws.groups
            is_member = in_order = False
            if isinstance(groups, tuple):
                in_order = is_short and not ws.out
                for other in groups:
                    if other is group:
                        is_member = True
                    elif other.last > seen:
                        in_order = False
            else:
                is_member = group in groups
            if not is_member:  # any more
                continue
            if in_order:
                ws.seen = number
                if not ws.encoding:
                    _send(ws, group.since(seen))
                else:
                    _send(ws, group.encoded_since(seen, ws.encoding, self.encode))
            else:
                self.catch_up(ws)
                if ws.out and not ws.flags & BLOCKED:
                    self._write(ws)
            sends -= 1
            if clock() >= end:
                sends = 0
        if not rest:
            group.rest = None
            group.forget(group.target)
            if group.told is not None:
                self.pressure.went_around(group)
        return sends

    def _write(self, ws: Recipient) -> None:
        """Hand a client's frames to its transport."""
        out = ws.out
        before = len(out)
        if ws.queued > _WRITE_SIZE:
            _write_in_parts(ws)
        else:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            ws.queued = 0
            _send(ws, data)
        if ws.fresh is not None:
            ws.fresh.shift(ws, before - len(out))
        if ws.behind is not None and ws.queued <= ws.limit >> 3:
            self.pressure.caught_up(ws)


def _send(ws: Recipient, data: bytes) -> None:
    """Hand bytes to a client's transport; they are dropped if they can't be written any more."""
    try:
        transport = ws.transport
        # A closed uvloop handle raises; whoever closed it is about to be told that the connection is lost.
        if transport is not None and not transport.is_closing():
            if len(data) > _SMALL_WRITE:
                _write_large(ws, transport, data)
            else:
                transport.write(data)
    except Exception:
        logger.exception("writing to a client failed")
        ws.abort()


def _write_large(ws: Recipient, transport: Transport, data: bytes) -> None:
    """Hand much to a transport, which keeps it whole while a byte of it waits: until then it gets nothing else."""
    if ws.flags & BLOCKED:
        transport.write(data)
    else:
        transport.set_write_buffer_limits(1, 0)
        transport.write(data)
        if not ws.flags & BLOCKED:
            transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
    if ws.flags & BLOCKED:
        ws.stuck = data


def _write_in_parts(ws: Recipient) -> None:
    """Write until everything is out, or the transport has blocked the client."""
    out = ws.out
    while out and not ws.flags & BLOCKED:
        done = size = 0
        while done < len(out) and (not done or size + len(out[done]) <= _WRITE_SIZE):
            size += len(out[done])
            done += 1
        data = b"".join(out[:done])
        del out[:done]
        ws.queued -= size
        _send(ws, data)
