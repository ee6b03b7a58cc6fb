"""Who is present in rooms, for members that want to know: told at once, and then as it changes, in batches."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import ConnectedClient, SessionClient
from pystrands.broker.meter import Meter
from pystrands.broker.ws.frames import text_frame
from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.presence import MAX_INFO, Change, Entry, RoomPresence

__all__ = ["Presence", "PresenceElsewhere"]

_BATCH: Final = 0.2
"""Seconds for which changes are gathered."""
_ENTRY_BYTES: Final = 600
"""What somebody who is present takes beside what is told of him."""


class PresenceElsewhere(ABC):
    """The other brokers: who is present there, and that they hear who is here."""

    @abstractmethod
    def watch(self, room_id: str) -> None:
        """Somebody here wants to know of a room: :meth:`Presence.heard` is to be called, now or later."""

    @abstractmethod
    def unwatch(self, room_id: str) -> None:
        """Nobody here wants to know any more."""

    @abstractmethod
    def changed(self, rooms: Sequence[tuple[str, RoomPresence]]) -> None:
        """Tell what this broker has new to tell of these rooms."""

    @abstractmethod
    def ended(self, room_id: str) -> None:
        """Nobody is present in a room any more, nor wants to know, and all of that is told."""

    @abstractmethod
    def stop(self) -> None:
        """Say nothing more."""


class _Room:
    """``waiting``: who has asked while the other brokers had not answered; None where they have."""

    __slots__ = ("full", "presence", "waiting", "watchers")

    def __init__(self, version: int, most: int) -> None:
        self.presence = RoomPresence(version, most)
        self.watchers: dict[SessionClient, None] = {}
        self.full: dict[int, bytes] = {}
        """The frame that tells all, while it is true, by the encoding of those who take it."""
        self.waiting: dict[SessionClient, int] | None = None


class Presence:
    """The rooms in which somebody is present, or wants to know who is. ``clock``: seconds since 1970."""

    def __init__(
        self,
        outbox: Outbox,
        loop: asyncio.AbstractEventLoop,
        meter: Meter,
        *,
        bounds: Bounds = BOUNDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.elsewhere: PresenceElsewhere | None = None
        self._outbox = outbox
        self._loop = loop
        self._meter = meter
        self._grace = bounds.presence_grace
        self._most = bounds.present
        self._clock = clock
        self._rooms: dict[str, _Room] = {}
        self._dirty: dict[str, None] = {}
        self._away: OrderedDict[SessionClient, float] = OrderedDict()  # until when they are present, the first first
        self._timer: asyncio.TimerHandle | None = None
        self._away_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many rooms there are."""
        return len(self._rooms)

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept."""
        return sum(
            room.presence.info_bytes + len(room.presence.shown) * _ENTRY_BYTES + sum(map(len, room.full.values()))
            for room in self._rooms.values()
        )

    def stop(self) -> None:
        """Tell nobody any more."""
        for timer in (self._timer, self._away_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._away_timer = None
        if self.elsewhere is not None:
            self.elsewhere.stop()

    # --- who is present ---

    def enter(self, client: ConnectedClient, room_id: str, info: bytes) -> str:
        """Have a member of a room be present there, or change what is told of it; return why that can't be."""
        if len(info) > MAX_INFO:
            return f"what is told of somebody present may have {MAX_INFO} bytes as JSON, and this has {len(info)}"
        room = self._room(room_id)
        if not room.presence.enter(client.number, _user_of(client), info, self._clock(), time.time_ns()):
            return f"{self._most} clients of this broker are present in that room, and no more may be"
        self._meter.grown += len(info) + _ENTRY_BYTES
        if isinstance(client, SessionClient) and client.state.is_suspended and client not in self._away:
            room.presence.set_away(client.number, True, self._clock())
        self._changed(room_id)
        return ""

    def take_out(self, client: ConnectedClient, room_id: str) -> None:
        """Have a client be present in a room no more, of which it is a member."""
        room = self._rooms.get(room_id)
        if room is not None and room.presence.leave(client.number, self._clock()):
            self._changed(room_id)

    def left(self, client: ConnectedClient, room_id: str) -> None:
        """A client is in a room no more."""
        room = self._rooms.get(room_id)
        if room is None:
            return
        self.take_out(client, room_id)
        if isinstance(client, SessionClient) and client in room.watchers:
            del room.watchers[client]
            if room.waiting is not None:
                room.waiting.pop(client, None)
            if not room.watchers:
                self._unwatch(room_id, room)

    def own(self, room_id: str) -> list[Entry]:
        """Return who is present in a room, of this broker."""
        room = self._rooms.get(room_id)
        return [] if room is None else room.presence.own

    # --- who wants to know ---

    def watch(self, client: SessionClient, room_id: str, v: int) -> None:
        """Tell a member of a room who is present, and from then on what changes; ``v``: which version it knows."""
        room = self._room(room_id)
        if not room.watchers:
            self._flush_room(room)
            if self.elsewhere is not None:
                room.waiting = {}
                self.elsewhere.watch(room_id)
        room.watchers[client] = None
        if room.waiting is not None:
            room.waiting[client] = v
        else:
            self._answer(client, room_id, room, v)

    def _answer(self, client: SessionClient, room_id: str, room: _Room, v: int) -> None:
        """Tell all, or that a client knows all."""
        presence = room.presence
        if not client.is_live:
            return
        ws = client.ws
        if v == presence.v:
            frame = _frame(room_id, v, None)
            self._outbox.send(ws, self._outbox.as_encoded(frame, frame, ws.encoding))
            return
        whole = room.full.get(ws.encoding)
        if whole is None:
            frame = _frame(room_id, presence.v, {"full": presence.shown})
            whole = room.full[ws.encoding] = self._outbox.as_encoded(frame, frame, ws.encoding)
            self._meter.grown += len(whole)
        self._outbox.send(ws, whole)

    def _unwatch(self, room_id: str, room: _Room) -> None:
        room.waiting = None
        if self.elsewhere is not None:
            self.elsewhere.unwatch(room_id)
            room.presence.forget_elsewhere()
        self._changed(room_id)

    # --- those who are away ---

    def suspended(self, client: SessionClient) -> None:
        """A client is away: it is present for some time more."""
        self._away[client] = self._loop.time() + self._grace
        if self._away_timer is None:
            self._away_timer = self._loop.call_later(self._grace, self._look_at_away)

    def resumed(self, client: SessionClient) -> None:
        """A client is back."""
        self._away.pop(client, None)
        self._set_away(client, False)

    def _look_at_away(self) -> None:
        self._away_timer = None
        now = self._loop.time()
        while self._away:
            client, until = next(iter(self._away.items()))
            if until > now:
                self._away_timer = self._loop.call_later(until - now, self._look_at_away)
                break
            del self._away[client]
            if not client.is_gone:
                self._set_away(client, True)

    def _set_away(self, client: SessionClient, is_away: bool) -> None:
        for room_id in client.rooms if self._rooms else ():
            room = self._rooms.get(room_id)
            if room is not None and room.presence.has(client.number):
                room.presence.set_away(client.number, is_away, self._clock())
                self._changed(room_id)

    # --- other brokers ---

    def watched(self, room_id: str) -> RoomPresence | None:
        """Return a room that somebody here wants to know of; who changes it says so with :meth:`heard_change`."""
        room = self._rooms.get(room_id)
        return None if room is None or not room.watchers else room.presence

    def heard(self, room_ids: Iterable[str]) -> None:
        """The other brokers have told of these rooms: who waits for that is told, and others what has changed."""
        for room_id in room_ids:
            room = self._rooms.get(room_id)
            if room is None:
                continue
            if room.waiting is None:
                self._changed(room_id)
                continue
            waiting, room.waiting = room.waiting, None
            self._tell(room_id, room)
            for client, v in waiting.items():
                self._answer(client, room_id, room, v)

    def heard_change(self, room_ids: Iterable[str]) -> None:
        """Another broker has told of changes in these rooms."""
        for room_id in room_ids:
            self._changed(room_id)

    # --- changes ---

    def _room(self, room_id: str) -> _Room:
        room = self._rooms.get(room_id)
        if room is None:
            room = self._rooms[room_id] = _Room(int(self._clock() * 1000), self._most)
        return room

    def _changed(self, room_id: str) -> None:
        self._dirty[room_id] = None
        if self._timer is None:
            self._timer = self._loop.call_later(_BATCH, self._flush)

    def _flush(self) -> None:
        self._timer = None
        dirty, self._dirty = self._dirty, {}
        own: list[tuple[str, RoomPresence]] = []
        for room_id in dirty:
            room = self._rooms.get(room_id)
            if room is None:
                continue
            if room.presence.own_dirty:
                own.append((room_id, room.presence))
            self._tell(room_id, room)
        if own and self.elsewhere is not None:
            self.elsewhere.changed(own)
        for _, presence in own:
            presence.own_dirty.clear()
        for room_id in dirty:
            room = self._rooms.get(room_id)
            if room is not None and room.presence.is_empty and not room.watchers:
                del self._rooms[room_id]
                if self.elsewhere is not None:
                    self.elsewhere.ended(room_id)

    def _tell(self, room_id: str, room: _Room) -> None:
        """Tell those who want to know what has changed."""
        change = self._flush_room(room)
        if not change or not room.watchers or room.waiting is not None:
            return
        frame = _frame(room_id, room.presence.v, change)
        outbox = self._outbox
        sockets = [client.ws for client in room.watchers if client.is_live]
        for some, encoded in outbox.alike(sockets, frame, frame):
            outbox.offer(some, encoded, "")

    @staticmethod
    def _flush_room(room: _Room) -> Change:
        """Have what is shown be up to date; return what has changed."""
        change = room.presence.flush()
        if change:
            room.full.clear()
        return change


def _user_of(client: ConnectedClient) -> str:
    return client.client_id if client.user is None else client.user


def _frame(room_id: str, v: int, body: object) -> bytes:
    header = f'{{"t":"presence","r":{json_text(room_id)},"v":{v}}}'
    return text_frame(header if body is None else f"{header}\n{json_text(body)}")
