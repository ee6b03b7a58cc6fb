"""Frames for the clients of `pystrands.v1`: each with its number, and kept for who is away."""

import time
from collections.abc import Callable
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import NUMBERED, Group, Recipient
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import SessionClient
from pystrands.broker.meter import Meter
from pystrands.broker.ws.frames import BINARY, TEXT, data_frame, payload_of
from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.numbers import Numbers
from pystrands.protocol.v1.rings import ENTRY_BYTES, Entry, Ring, Rings

__all__ = ["NumberedFrames"]

_OPCODE: Final = 0x0F
_NUMBERED: Final = NUMBERED


class NumberedFrames:
    """Numbers what these clients get, in the order in which it is sent; ``rings`` keep what goes to rooms.

    ``clock``: seconds since 1970.
    """

    def __init__(
        self,
        outbox: Outbox,
        rings: Rings,
        numbers: Numbers,
        counters: Counters,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rings = rings
        self.numbers = numbers
        self._outbox = outbox
        self._counters = counters
        self.meter = meter or Meter()
        self._clock = clock

    # --- rooms ---

    def enter(self, client: SessionClient, group: Group, answer: str = "") -> None:
        """A client is in a group from now on; of a room it is told, with ``answer`` behind."""
        ring = group.ring
        if ring is None:
            ring = group.ring = Ring(group.name, self.numbers.last)
        self.rings.enter(ring)
        client.state.joined[ring] = self.numbers.next(self._clock())
        if group.name is not None and client.is_welcome:
            self.tell_joined(client, group.name, answer)

    def tell_joined(self, client: SessionClient, room_id: str, answer: str) -> None:
        """Tell a client that it is in a room."""
        self.tell(client, f'"t":"joined","r":{json_text(room_id)}{answer}')

    def leave(self, client: SessionClient, group: Group, why: str = "") -> None:
        """A client is in a group no more."""
        ring = group.ring
        if ring is None or not client.state.leave(ring):
            return
        if self.rings.leave(ring):
            group.ring = None
        if group.name is not None and not client.is_gone:
            because = f',"why":{json_text(why)}' if why else ""
            self.tell(client, f'"t":"left","r":{json_text(group.name)}{because}')

    def of_group(
        self, ring: Ring, frame: bytes, excluded: frozenset[int] | None = None, is_hidden: bool = False
    ) -> bytes:
        """Return the frame that members get who take numbers, instead of this one, and keep it.

        ``is_hidden``: whether it is not for the room's history.
        """
        number = self.numbers.next(self._clock())
        payload = b'{"n":%d%b%b' % (number, ring.suffix, payload_of(frame))
        numbered = data_frame(frame[0] & _OPCODE, payload, compressed=False)
        before = self.rings.size
        self.rings.add(ring, number, numbered, excluded, is_hidden)
        grown = self.rings.size - before
        if grown > 0:
            self.meter.grown += grown
        return numbered

    @staticmethod
    def volatile_of_group(ring: Ring, frame: bytes) -> bytes:
        """Return that of a volatile message: it has no number, and is not kept."""
        return data_frame(frame[0] & _OPCODE, b"{%b%b" % (ring.suffix[1:], payload_of(frame)), compressed=False)

    def expire(self) -> None:
        """Let go of what is too old; to be called now and then."""
        self.rings.expire(self._clock())

    @property
    def now(self) -> int:
        """Microseconds since 1970, and not before the last number."""
        return max(int(self._clock() * 1_000_000), self.numbers.last)

    # --- one client ---

    def private(self, client: SessionClient, frame: bytes, key: str | None) -> bool:
        """Send a message to one client, and keep it until that has it; return whether the client gets it, or may."""
        payload = payload_of(frame)
        if key is not None:
            volatile = data_frame(frame[0] & _OPCODE, b"{}\n" + payload, compressed=False)
            ws = client.ws
            return self._outbox.offer((ws,), self._encoded(ws, volatile), key) > 0
        self._keep(client, frame[0] & _OPCODE, "", b"\n" + payload)
        return True

    def message(self, client: SessionClient, header: str, message: str | bytes) -> int:
        """Send a message to a client with members of its own behind the number, which is returned; keep it."""
        if isinstance(message, str):
            return self._keep(client, TEXT, "," + header, b"\n" + message.encode())
        return self._keep(client, BINARY, "," + header, b"\n" + message)

    def tell(self, client: SessionClient, header: str) -> None:
        """Send what is no message to a client, numbered and kept as one; ``header``: the members behind the number."""
        self._keep(client, TEXT, "," + header, b"")

    def _keep(self, client: SessionClient, opcode: int, header: str, rest: bytes) -> int:
        number = self.numbers.next(self._clock())
        frame = data_frame(opcode, b'{"n":%d%b}%b' % (number, header.encode(), rest), compressed=False)
        client.state.retain(number, frame)
        self.meter.grown += len(frame) + ENTRY_BYTES
        if client.is_live:
            self._outbox.send(client.ws, self._encoded(client.ws, frame))
        return number

    def send_answer(self, client: SessionClient, payload: bytes) -> None:
        """Send what a client has asked for, where it asked; it is kept nowhere."""
        ws = client.connection
        self._outbox.send(ws, self._encoded(ws, data_frame(BINARY, payload, compressed=False)))

    def send_kept(self, ws: Recipient, entry: Entry) -> None:
        """Send what was kept to one who was away."""
        encoding = ws.encoding - _NUMBERED
        if not encoding:
            self._outbox.send(ws, entry.frame)
            return
        frame = entry.compressed
        if frame is None or entry.encoding != encoding:
            frame = entry.compressed = self._outbox.encode(entry.frame, encoding)
            entry.encoding = encoding
        self._outbox.send(ws, frame)

    def _encoded(self, ws: Recipient, frame: bytes) -> bytes:
        return self._outbox.as_encoded(frame, frame, ws.encoding)
