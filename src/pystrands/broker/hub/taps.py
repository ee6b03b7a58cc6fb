"""What flows in rooms, for tools that look at a running broker."""

import time
from collections.abc import Collection
from typing import Protocol

from pystrands.broker.bounds import BOUNDS
from pystrands.broker.counters import Counters, new_counters
from pystrands.broker.events.stream import ClientStream
from pystrands.engine.publication import Audience, Publication
from pystrands.protocol import wire

__all__ = ["Taps", "Watcher"]


class Watcher(Protocol):
    """A tool that may watch. ``taps`` is where it watches, once it does."""

    everything: bool
    """Whether all rooms are watched."""
    rooms: set[str]
    """The rooms that are watched."""
    taps: "Taps | None"

    def watched(self, line: bytes) -> bool:
        """Write what flowed; False where the tool does not keep up, and the line is dropped."""
        ...


class Taps:
    """Tells tools what flows. While nobody watches, ``watchers`` is empty: to see that is all that it costs."""

    def __init__(self, counters: Counters | None = None, max_rooms: int = BOUNDS.watched_rooms) -> None:
        self._max_rooms = max_rooms
        self.watchers: set[Watcher] = set()
        self._counters = new_counters() if counters is None else counters

    # --- what tools want ---

    def watch(self, output: Watcher, room_id: str | None) -> bool:
        """Tell a tool what flows in a room, or in all of them; False when it watches too many rooms."""
        if room_id is None:
            output.everything = True
        elif len(output.rooms) >= self._max_rooms and room_id not in output.rooms:
            return False
        else:
            output.rooms.add(room_id)
        output.taps = self
        self.watchers.add(output)
        return True

    def unwatch(self, output: Watcher, room_id: str | None) -> None:
        """Stop telling a tool of a room, or of anything."""
        if room_id is None:
            output.everything = False
            output.rooms.clear()
        else:
            output.rooms.discard(room_id)
        if not output.everything and not output.rooms:
            self.watchers.discard(output)

    # --- what flows: to be called only where there are watchers ---

    def message_in(self, client: ClientStream, message: str | bytes) -> None:
        """A client has sent a message."""
        if watchers := self._of(client.rooms):
            self._notify(watchers, wire.watched("message_in", time.time(), client.room_id, client.client_id, message))

    def message_out(
        self,
        publication: Publication,
        clients: int,
        client: ClientStream | None,
        rooms: Collection[str] = (),
        *,
        elsewhere: bool = False,
    ) -> None:
        """A message went to so many clients; ``client`` is whom a private one is for, where there is one.

        ``rooms``: of a message to a user, those that the user is in.

        ``elsewhere``: whether other brokers may have more whom it went to.
        """
        audience, address = publication.audience, publication.address
        room_id: str | None = None
        client_id: str | None = None
        user: str | None = None
        if audience is Audience.CLIENT:
            watchers = self._of(client.rooms if client is not None else ())
            room_id, client_id = client.room_id if client is not None else None, address
        elif audience is Audience.ROOM:
            watchers = self._of((address,))
            room_id = address
        elif audience is Audience.USER:
            watchers = self._of(rooms)
            user = address
        else:
            watchers = list(self.watchers)
        if watchers:
            line = wire.watched(
                "message_out",
                time.time(),
                room_id,
                client_id,
                publication.message,
                clients=clients,
                elsewhere=elsewhere,
                user=user,
            )
            self._notify(watchers, line)

    def moved(self, kind: str, client: ClientStream, room_id: str) -> None:
        """A client has ``joined`` or ``left`` a room."""
        if watchers := self._of((room_id,)):
            self._notify(watchers, wire.watched(kind, time.time(), room_id, client.client_id))

    def _of(self, rooms: Collection[str]) -> list[Watcher]:
        """Return who watches any of these rooms."""
        return [each for each in self.watchers if each.everything or not each.rooms.isdisjoint(rooms)]

    def _notify(self, watchers: list[Watcher], line: bytes) -> None:
        for each in watchers:
            if not each.watched(line):
                self._counters["watched_dropped"] += 1
