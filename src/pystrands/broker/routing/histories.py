"""Histories of rooms: who keeps them, and who reads them."""

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Final

from pystrands.broker.hub.client import SessionClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.routing.other_brokers import OtherBrokers
from pystrands.broker.routing.questions import KeptRoom
from pystrands.broker.ws.frames import BINARY, payload_of
from pystrands.engine.cluster import Peer
from pystrands.protocol.v1.envelope import ClientHeader, json_text
from pystrands.protocol.v1.history import answer, newer, older
from pystrands.protocol.v1.rings import RING_MESSAGES, Entry

__all__ = ["Histories"]

_OPCODE: Final = 0x0F
_MAX_ID: Final = 64
_SWEEP: Final = 30.0
"""Seconds between two looks at what is too old; nobody can read it in any case."""
_LONGEST: Final = 366 * 86_400.0
"""Seconds for which a history may have its messages: they are microseconds later, and have bounds."""


class Histories:
    """What this broker has of rooms. In a cluster each broker has its own, of all rooms whose history is kept."""

    def __init__(
        self,
        rooms: Rooms,
        broker_id: str,
        others: OtherBrokers | None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._rooms = rooms
        self._numbered = rooms.numbered
        self._broker_id = broker_id
        self._others = others
        self._peers: frozenset[str] = frozenset()
        self._loop = loop
        self._sweep_timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Look at nothing any more."""
        self._loop = None
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    # --- keeping ---

    def keep(self, room_id: str, limit: int, ttl: float) -> str:
        """Keep a room's history here, or, without a limit, no more; return why that can't be, or an empty text."""
        if not (0 <= limit <= RING_MESSAGES and 0 < ttl <= _LONGEST):
            return f"a history has at most {RING_MESSAGES} messages, for at most a year"
        self._sweep_soon()
        return self._rooms.keep_history(room_id, limit, ttl)

    def _sweep_soon(self) -> None:
        if self._sweep_timer is None and self._loop is not None:
            self._sweep_timer = self._loop.call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        """Let go of what is too old, also where nobody is in the room."""
        self._sweep_timer = None
        self._numbered.expire()
        if self._rooms.kept:
            self._sweep_soon()

    def kept(self) -> list[KeptRoom]:
        """Return which histories are kept here."""
        return [KeptRoom(name, ring.limit, ring.ttl / 1_000_000) for name, ring in self._rooms.kept.items()]

    def peers_changed(self, peers: Sequence[Peer]) -> None:
        """Keep what brokers keep that were not there before."""
        now = frozenset([peer.broker_id for peer in peers])
        are_new, self._peers = bool(now - self._peers), now
        if are_new and self._others is not None:
            self._others.kept(self._take_over)

    def _take_over(self, kept: list[KeptRoom]) -> None:
        for room in kept:
            if room.room_id not in self._rooms.kept:
                self.keep(room.room_id, room.limit, room.ttl)

    # --- reading ---

    def read(self, room_id: str, limit: int, before: int) -> dict[str, Any]:
        """Return what the ``result`` of a backend's reading has."""
        ring = self._rooms.kept.get(room_id)
        if ring is None:
            return {"history": [], "complete": False}
        found = ring.history(self._numbered.now)
        if before:
            found = [entry for entry in found if entry.number < before]
        page = found[len(found) - max(min(limit, len(found)), 0) :]
        return {"history": [_as_params(entry) for entry in page], "complete": len(page) == len(found)}

    def on_read(self, client: SessionClient, read: ClientHeader) -> None:
        """A client reads what it may; what is not there any more is not complete."""
        room_id, ident = read.r or "", read.id[:_MAX_ID]
        group = self._rooms.room(room_id)
        ring = None if group is None else group.ring
        if ring is None or ring not in client.state.joined:
            failure = {"code": "not_in_room", "message": "the client is not in that room"}
            header = json_text({"t": "history", "id": ident, "r": room_id, "err": failure})
            self._numbered.send_answer(client, header.encode())
            return
        now, allowed = self._numbered.now, client.state.reads_behind(ring)
        if read.after is None:
            limit = max(0, min(read.limit, RING_MESSAGES))
            page = older(ring, now, allowed=allowed, before=read.before, limit=limit)
        else:
            epoch, number = read.after
            page = newer(ring, now, allowed=allowed, after=number, before=read.before or now + 1)
            if epoch != self._broker_id or not ring.limit:
                page = page._replace(entries=[], complete=False, more=False)
        messages = [(entry.number, *_content(entry)) for entry in page.entries]
        self._numbered.send_answer(client, answer(ident, room_id, messages, page.complete, page.more))


def _content(entry: Entry) -> tuple[bool, bytes]:
    """Return whether a message is binary, and its bytes."""
    return entry.frame[0] & _OPCODE == BINARY, payload_of(entry.frame).partition(b"\n")[2]


def _as_params(entry: Entry) -> dict[str, Any]:
    is_binary, content = _content(entry)
    if is_binary:
        return {"number": entry.number, "message": b64encode(content).decode(), "binary": True}
    return {"number": entry.number, "message": content.decode(errors="replace")}
