"""Recipients that are full: who is told, who is waited for, and who is too slow (LINK rules 25 to 27)."""

import logging
import socket
import sys
import time
from asyncio import AbstractEventLoop, BaseTransport, Transport
from collections.abc import Callable
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import (
    BLOCKED,
    CLOSED,
    NUMBERED,
    TOO_SLOW,
    Behind,
    Confirm,
    FlowListener,
    Group,
    Recipient,
    Told,
    WaitingSession,
)
from pystrands.broker.policies import SlowPolicy
from pystrands.protocol import wire
from pystrands.protocol.close_codes import TRY_AGAIN_LATER
from pystrands.protocol.messages import RecipientParams

if sys.platform != "win32":
    from fcntl import ioctl
    from termios import TIOCOUTQ

__all__ = ["Pressure", "acknowledged", "outstanding"]

logger = logging.getLogger(__name__)


_INTERVAL: Final = 0.25
"""Seconds between two looks at who is full, while anybody is."""
_GRACE: Final = 0.75
"""Seconds for which a room waits for a member that lags behind the others; the next look ends it."""
_EXCESS: Final = 16 * 1024 * 1024
"""Bytes beyond its buffer that a client is given: the command windows of four backends that were told when it was full.

Only who goes on regardless comes here."""


_TCP_INFO_SIZE: Final = 128
"""Bytes of Linux' tcp_info up to and with tcpi_bytes_acked, which are its last eight."""


def in_kernel(transport: BaseTransport) -> int:
    """Return how many bytes the kernel holds that the peer has not acknowledged; 0 where it does not say."""
    if sys.platform == "win32":
        return 0
    try:
        fileno = transport.get_extra_info("socket").fileno()
        return int.from_bytes(ioctl(fileno, TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
    except (OSError, AttributeError, ValueError):
        return 0


def outstanding(transport: Transport | None) -> int:
    """Return how many bytes were given to a transport that the peer has not acknowledged."""
    if transport is None:
        return 0
    return transport.get_write_buffer_size() + in_kernel(transport)


def acknowledged(transport: BaseTransport | None) -> int:
    """Return how many bytes the peer's system has acknowledged so far; -1 where the kernel does not say."""
    if sys.platform != "linux" or transport is None:
        return -1
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except (OSError, AttributeError, ValueError):
        return -1
    return int.from_bytes(info[-8:], sys.byteorder) if len(info) == _TCP_INFO_SIZE else -1


class Pressure:
    """What an outbox asks about a recipient above its high mark, half of its limit; below, it asks nothing.

    A client is *full* from there on until an eighth is left, or it is gone. A group is when half of its members are by
    what groups have sent them, while it waits for a member, or when more than ``limit`` / 2 bytes of it are on their
    way to all. Sessions that send to who is full are told once, and told again when it takes more. ``is_felt`` says
    that something was sent to who may be full; whoever looks clears it.

    Too slow is who has been full and has taken no byte for ``slow_time`` seconds, and who is beyond its limit by what a
    room sends while most of the room are not even full: after a second for which the room waits. Then the ``policy``
    applies: "disconnect" drops what is queued and closes it with 1013 in the next loop turn, "drop" lets it miss
    messages until it has caught up. Counted as `slow_consumer_closed` and `slow_consumer_dropped`.
    """

    __slots__ = ("_clock", "_counters", "_full", "_group_low", "_loop", "_policy", "_slow_time", "_timer", "_too_slow",
                 "group_high", "is_felt")  # fmt: skip

    def __init__(
        self,
        loop: AbstractEventLoop,
        counters: Counters,
        *,
        limit: int,
        slow_time: float,
        policy: SlowPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.group_high = limit // 2
        self.is_felt = False
        self._group_low = limit // 8
        self._loop = loop
        self._counters = counters
        self._slow_time = slow_time
        self._policy = policy
        self._clock = clock
        self._full: dict[Recipient, None] = {}
        self._too_slow: list[Recipient] = []
        self._timer: object | None = None

    # --- what the outbox asks and tells ---

    def takes(self, ws: Recipient, size: int, group: Group | None) -> bool:
        """Whether a client above its high mark gets one more frame of ``size`` bytes, to a group or to it alone."""
        behind = ws.behind
        if behind is None:
            behind = self._is_full(ws)
        if behind.is_missing:
            self._counters["slow_consumer_dropped"] += 1
            return False
        self.is_felt = True
        if group is not None:
            behind.from_groups += size
            if not behind.counts and behind.from_groups > ws.limit >> 3:
                behind.counts = True
                for each in ws.groups:
                    each.behind += 1
        if ws.queued + size <= ws.limit or not ws.flags & BLOCKED:
            return True
        if ws.queued <= ws.limit + _EXCESS and (group is None or not self._lags(ws, behind, group)):
            return True
        self.give_up(ws)
        if self._policy == "drop":
            self._counters["slow_consumer_dropped"] += 1
        return False

    def feel(self, group: Group) -> None:
        """Something was sent to a group with members that are full."""
        if self._is_group_full(group):
            self.is_felt = True

    def caught_up(self, ws: Recipient) -> None:
        """A client has little left."""
        self._leave_full(ws, lost=False)

    def went_around(self, group: Group) -> None:
        """A group has less on its way to its members."""
        if group.told is not None:
            self._see(group)

    def joined(self, ws: Recipient, group: Group) -> None:
        """A client that is full is in one more group."""
        behind = ws.behind
        if behind is not None and behind.counts:
            group.behind += 1
            group.awaited += behind.is_awaited

    def left(self, ws: Recipient, group: Group) -> None:
        """A client is in a group no more."""
        behind = ws.behind
        if behind is not None and behind.counts:
            group.behind -= 1
            group.awaited -= behind.is_awaited
        if group.told is not None:
            self._see(group)

    def gone(self, ws: Recipient) -> None:
        """A client that is full is closed; it is in no group any more."""
        self._leave_full(ws, lost=True)

    # --- what commands ask ---

    def heed(
        self,
        session: FlowListener,
        target: Recipient | Group,
        named: RecipientParams,
        confirm: Confirm | None,
        delivered: tuple[int, int],
        size: int,
    ) -> bool:
        """A session has sent ``size`` bytes to who may be full, to be confirmed if it gives a ``confirm``.

        If it is full, tell the session, and return whether ``confirm`` is put off: it is called when the recipient
        takes more. Sessions that can't be told must keep to the buffer: all of them together have what is free of it
        when a client is full.
        """
        if not session.flow:
            self._hold_to_limit(target, size)
            return False
        told = self._told(target)
        if told is None:
            return False
        key = session, named.user  # who waits for a client may wait for its user besides
        waiting = told.get(key)
        if waiting is None:
            session.write(wire.full(named))
            waiting = told[key] = WaitingSession(session, wire.ready(named))
        if confirm is None:
            return False
        waiting.confirms.append((confirm, *delivered))
        return True

    def _told(self, target: Recipient | Group) -> Told | None:
        """Return who waits for a recipient; None where it is not full."""
        if isinstance(target, Group):
            if not self._is_group_full(target):
                return None
            if target.told is None:
                target.told = {}
            return target.told
        behind = target.behind
        if behind is None or behind.is_missing:
            return None
        if behind.told is None:
            behind.told = {}
        return behind.told

    def _hold_to_limit(self, target: Recipient | Group, size: int) -> None:
        members = target.members if isinstance(target, Group) else (target,)
        for ws in [ws for ws in self._full if ws in members] if len(members) > 1 else list(members):
            behind = ws.behind
            if behind is None:
                continue
            behind.unasked += size
            if ws.queued > ws.limit and behind.unasked > ws.limit - ws.high:
                self.give_up(ws)

    # --- who is full ---

    def _is_full(self, ws: Recipient) -> Behind:
        behind = ws.behind = Behind(self._clock())
        self._full[ws] = None
        if self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL, self._look)
        return behind

    def _leave_full(self, ws: Recipient, *, lost: bool) -> None:
        behind = ws.behind
        if behind is None:
            return
        self._full.pop(ws, None)
        self._count_no_more(ws, behind)
        ws.behind = None
        self._release(behind.told, lost=lost)

    def _count_no_more(self, ws: Recipient, behind: Behind) -> None:
        """Have a client weigh on its groups no more."""
        if not behind.counts:
            return
        behind.counts = False
        for group in ws.groups:
            group.behind -= 1
            group.awaited -= behind.is_awaited
            if group.told is not None:
                self._see(group)
        behind.is_awaited = False

    def _is_group_full(self, group: Group) -> bool:
        behind = group.behind
        return (behind > 0 and behind * 2 >= len(group.members)) or group.awaited > 0 or group.size > self.group_high

    def _see(self, group: Group) -> None:
        """Tell those who wait for a group, if it takes more."""
        if group.size > self._group_low or self._is_group_full(group):
            return
        told, group.told = group.told, None
        self._release(told, lost=False)

    @staticmethod
    def _release(told: Told | None, *, lost: bool) -> None:
        if told is None:
            return
        for waiting in told.values():
            for confirm, matched, taken in waiting.confirms:
                confirm(matched, 0 if lost else taken)
            waiting.session.write(waiting.ready)

    # --- who is too slow ---

    def _lags(self, ws: Recipient, behind: Behind, group: Group) -> bool:
        """Whether a client beyond its limit is too slow for a group; the first time, the group waits for it."""
        others = group.behind * 2 < len(group.members)
        if not others or behind.from_groups <= ws.limit - ws.limit // 2 or behind.is_awaited:
            return False
        if behind.was_awaited:
            return True
        behind.is_awaited = behind.was_awaited = True
        behind.awaited_until = self._clock() + _GRACE
        for each in ws.groups:
            each.awaited += 1
        return False

    def _look(self) -> None:
        """End what has waited long enough, and find those that take nothing."""
        self._timer = self._loop.call_later(_INTERVAL, self._look) if self._full else None
        now = self._clock()
        for ws in list(self._full):
            behind = ws.behind
            if behind is None or behind.is_missing or ws.flags >= CLOSED:
                continue
            if behind.is_awaited and now >= behind.awaited_until:
                behind.is_awaited = False
                for group in ws.groups:
                    group.awaited -= 1
                    if group.told is not None:
                        self._see(group)
            if self._has_stopped(ws, behind, now):
                self.give_up(ws)

    def _has_stopped(self, ws: Recipient, behind: Behind, now: float) -> bool:
        """Whether a client has taken no byte for too long."""
        transport = ws.transport
        if not ws.flags & BLOCKED or transport is None:  # it waits for us
            behind.outstanding = -1
        else:
            held = outstanding(transport)
            if held == behind.outstanding:
                return now - behind.since >= self._slow_time
            behind.outstanding = held
        behind.since = now
        return False

    def give_up(self, ws: Recipient) -> None:
        """Apply the policy to a client that is too slow."""
        behind = ws.behind
        if self._policy == "drop" and behind is not None and ws.encoding < NUMBERED:  # others come back for them
            behind.is_missing = True
            self._count_no_more(ws, behind)
            told, behind.told = behind.told, None
            self._release(told, lost=False)
            return
        if ws.flags >= CLOSED:
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
