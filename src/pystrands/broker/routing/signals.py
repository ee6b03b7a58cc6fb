"""Signals: what members of a room say to each other, past backends; now or never."""

from collections.abc import Callable
from typing import Final

import msgspec

from pystrands.broker.fanout.groups import NUMBERED, Recipient
from pystrands.broker.hub.client import SessionClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.ws.frames import BINARY, TEXT, data_frame
from pystrands.protocol.messages import NOT_KNOWN
from pystrands.protocol.v1.envelope import json_text

__all__ = ["Signals"]

_MAX_NAME: Final = 200
"""Characters of a signal's name."""


class _Signal(msgspec.Struct, array_like=True):
    """A signal as brokers tell each other."""

    sender: str
    name: str
    body: bytes
    is_binary: bool


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Signal).decode


class Signals:
    """Passes signals on to the clients of `pystrands.v1` in a room. ``tell``: tells other brokers, where any are."""

    def __init__(self, rooms: Rooms) -> None:
        self.tell: Callable[[str, bytes], None] | None = None
        self._rooms = rooms
        self._outbox = rooms.outbox

    def take(self, client: SessionClient, room_id: str, name: str, body: str | bytes) -> None:
        """Take a signal of a client; it goes nowhere where that may send none."""
        if client.signals is None or room_id not in client.signals or not 0 < len(name) <= _MAX_NAME:
            return
        sender = client.client_id if client.user is None else client.user
        is_binary = isinstance(body, bytes)
        signal = _Signal(sender, name, body if isinstance(body, bytes) else body.encode(), is_binary)
        self._pass_on(room_id, signal, client.ws)
        if self.tell is not None:
            self.tell(room_id, _encode(signal))

    def on_told(self, room_id: str, told: bytes) -> None:
        """Take one that another broker tells of."""
        try:
            signal = _decode(told)
        except NOT_KNOWN:  # of another version
            return
        self._pass_on(room_id, signal, None)

    def _pass_on(self, room_id: str, signal: _Signal, sender: Recipient | None) -> None:
        group = self._rooms.room(room_id)
        if group is None or group.ring is None:  # nobody there could hear it
            return
        header = {"t": "signal", "r": room_id, "e": signal.name, "from": signal.sender}
        content = json_text(header).encode() + b"\n" + signal.body
        frame = data_frame(BINARY if signal.is_binary else TEXT, content, compressed=False)
        listeners: list[Recipient] = [ws for ws in group.members if ws.encoding >= NUMBERED and ws is not sender]
        key = f"\0{room_id}\0{signal.sender}\0{signal.name}"  # of who is behind the newest of each sender
        for some, encoded in self._outbox.alike(listeners, frame, frame):
            self._outbox.offer(some, encoded, key)
