"""Presence across brokers: each tells those that want to know who is present at itself.

A broker says in which rooms somebody at it wants to know; that holds for some time, and is said again and again. The
others tell it of changes, each with a number of theirs and the one before: where one is missing it asks for all.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.hub.presence import Presence, PresenceElsewhere
from pystrands.broker.routing.questions import (
    PresenceChange,
    PresenceChanged,
    PresenceState,
    PresenceStates,
    WatchPresence,
    encode,
    read_presence,
)
from pystrands.engine.cluster import Cluster, Peer
from pystrands.protocol.messages import NOT_KNOWN
from pystrands.protocol.v1.presence import RoomPresence

__all__ = ["SharedPresence"]

_LEASE: Final = 3.5
"""Of the time after which it is said again who wants to know what, for how long others take it to be so."""
_ROOMS: Final = 50
"""Rooms in one question."""
_CHANGE_BYTES: Final = 131_072
"""Bytes of what is told at once; of a room of which there is more, others ask."""


class SharedPresence(PresenceElsewhere):
    """Both sides of it."""

    def __init__(
        self,
        broker_id: str,
        cluster: Cluster,
        presence: Presence,
        loop: asyncio.AbstractEventLoop,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self._broker_id = broker_id
        self._cluster = cluster
        self._presence = presence
        self._loop = loop
        self._renewal = bounds.presence_renewal
        self._grace = bounds.presence_grace
        self._patience = bounds.others
        self._watched: dict[str, dict[str, int]] = {}  # by room, by broker: the number of the last change
        self._wanted: dict[str, dict[str, float]] = {}  # by room: which brokers want to know, until when
        self._numbers: dict[str, int] = {}  # by room: that of this broker's last change
        self._number = 0
        self._peers: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        presence.elsewhere = self

    def ended(self, room_id: str) -> None:
        """Nobody is present in a room any more, nor wants to know."""
        self._numbers.pop(room_id, None)

    def stop(self) -> None:
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- who wants to know here ---

    def watch(self, room_id: str) -> None:
        """Somebody here wants to know of a room."""
        self._watched[room_id] = {}
        self._ask([room_id], is_full=True)
        self._keep_time()

    def unwatch(self, room_id: str) -> None:
        """Nobody here wants to know any more; the others tell of it for some time yet."""
        self._watched.pop(room_id, None)

    def _ask(self, rooms: Sequence[str], *, is_full: bool) -> None:
        """Say that somebody wants to know of these rooms; ``is_full``: and ask who is there."""
        if not self._cluster.is_connected:
            self._presence.heard(rooms)
            return
        for start in range(0, len(rooms), _ROOMS):
            some = list(rooms[start : start + _ROOMS])

            def surveyed(
                answers: Sequence[tuple[str, bytes]], _silent: Sequence[str], some: Sequence[str] = some
            ) -> None:
                self._on_states(some, answers, is_full=is_full)

            self._cluster.survey(encode(WatchPresence(self._broker_id, some, is_full)), self._patience, surveyed)

    def _on_states(self, rooms: Sequence[str], answers: Sequence[tuple[str, bytes]], *, is_full: bool) -> None:
        missed: dict[str, None] = {}
        for broker_id, data in answers:
            try:
                states = read_presence(data).rooms
            except NOT_KNOWN:  # of another version
                continue
            for room_id in rooms:
                state = states.get(room_id)
                if is_full:
                    self._set(broker_id, room_id, state or PresenceState())
                elif not self._is_up_to_date(broker_id, room_id, 0 if state is None else state.number):
                    missed[room_id] = None
        if is_full:
            self._presence.heard(rooms)
        elif missed:
            self._ask(list(missed), is_full=True)

    def _set(self, broker_id: str, room_id: str, state: PresenceState) -> None:
        presence, known = self._presence.watched(room_id), self._watched.get(room_id)
        if presence is not None and known is not None:
            known[broker_id] = state.number
            presence.set_elsewhere(broker_id, state.entries)

    def _is_up_to_date(self, broker_id: str, room_id: str, number: int) -> bool:
        known = self._watched.get(room_id)
        if known is None or known.get(broker_id, 0) == number:
            return True
        presence = self._presence.watched(room_id)
        return number == 0 and (presence is None or broker_id not in presence.brokers)

    def on_changed(self, told: PresenceChanged) -> None:
        """Take what another broker tells of changes."""
        heard, missed = [], []
        for change in told.changes:
            presence, known = self._presence.watched(change.room_id), self._watched.get(change.room_id)
            if presence is None or known is None:
                continue
            if known.get(told.broker_id, 0) == change.before:
                known[told.broker_id] = change.number
                presence.put_elsewhere(told.broker_id, change.entries, change.left)
                heard.append(change.room_id)
            elif known.get(told.broker_id, 0) < change.number:
                missed.append(change.room_id)
        self._presence.heard_change(heard)
        if missed:
            self._ask(missed, is_full=True)

    # --- who wants to know elsewhere ---

    def on_watch(self, asked: WatchPresence) -> PresenceStates:
        """Another broker wants to know of rooms: tell it who is there."""
        until = self._loop.time() + _LEASE * self._renewal
        states: dict[str, PresenceState] = {}
        for room_id in asked.rooms:
            self._wanted.setdefault(room_id, {})[asked.broker_id] = until
            number = self._numbers.get(room_id, 0)
            own = self._presence.own(room_id)
            if own or number:
                states[room_id] = PresenceState(number, own if asked.is_full else [])
        self._keep_time()
        return PresenceStates(states)

    def changed(self, rooms: Sequence[tuple[str, RoomPresence]]) -> None:
        """Tell those that want to know what has changed here."""
        changes: list[PresenceChange] = []
        size = 0
        for room_id, presence in rooms:
            before = self._numbers.get(room_id, 0)
            self._number += 1
            self._numbers[room_id] = self._number
            if not self._is_wanted(room_id):
                continue
            entries = [entry for user in presence.own_dirty if (entry := presence.own_of(user)) is not None]
            there = {entry.user for entry in entries}
            change = PresenceChange(
                room_id, before, self._number, entries, [user for user in presence.own_dirty if user not in there]
            )
            length = len(encode(change))
            if length > _CHANGE_BYTES:  # whoever has not the one before asks
                change = PresenceChange(room_id, -1, self._number)
                length = 0
            if size + length > _CHANGE_BYTES:
                self._say(changes)
                changes, size = [], 0
            changes.append(change)
            size += length
        self._say(changes)

    def _say(self, changes: list[PresenceChange]) -> None:
        if changes:
            self._cluster.survey(encode(PresenceChanged(self._broker_id, changes)), self._patience, _nothing)

    def _is_wanted(self, room_id: str) -> bool:
        wanted = self._wanted.get(room_id)
        return wanted is not None and any(broker_id in self._peers for broker_id in wanted)

    # --- brokers and time ---

    def on_peers(self, peers: Sequence[Peer]) -> None:
        """Take who the other brokers are: new ones are asked, and who was present at one that is gone leaves later."""
        before, self._peers = self._peers, frozenset(peer.broker_id for peer in peers)
        if self._peers - before and self._watched:
            self._ask(list(self._watched), is_full=True)
        if before - self._peers:
            self._loop.call_later(self._grace, self._forget, before - self._peers)

    def _forget(self, brokers: frozenset[str]) -> None:
        gone = brokers - self._peers
        for room_id, known in self._watched.items():
            presence = self._presence.watched(room_id)
            if presence is not None:
                presence.forget_elsewhere(gone)
                self._presence.heard_change([room_id])
            for broker_id in gone:
                known.pop(broker_id, None)

    def _keep_time(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._renewal, self._on_time)

    def _on_time(self) -> None:
        """Say again who wants to know here, and forget who wants to know no more elsewhere."""
        self._timer = None
        now = self._loop.time()
        for room_id, wanted in list(self._wanted.items()):
            for broker_id in [each for each, until in wanted.items() if until <= now]:
                del wanted[broker_id]
            if not wanted:
                del self._wanted[room_id]
        if self._watched:
            self._ask(list(self._watched), is_full=False)
        if self._watched or self._wanted:
            self._keep_time()


def _nothing(_answers: Sequence[tuple[str, bytes]], _silent: Sequence[str]) -> None:
    """Who has not heard it finds that a number is missing, and asks."""
