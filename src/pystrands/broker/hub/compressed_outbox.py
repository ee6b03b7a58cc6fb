"""One compressed frame for all who compress and whom a message is for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import cast

from pystrands.broker.fanout.groups import Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ws.deflate import Compressor
from pystrands.broker.ws.websocket import WebSocket

__all__ = ["CompressedOutbox"]


class CompressedOutbox:
    """Sends messages through an outbox: compressed to who negotiated it, and only once for all of them."""

    __slots__ = ("_compressor", "_outbox")

    def __init__(self, outbox: Outbox, compressor: Compressor) -> None:
        self._outbox = outbox
        self._compressor = compressor

    def send(self, ws: WebSocket, frame: bytes) -> bool:
        """Queue the message of `frame`, which is not compressed, for one client, as Outbox does."""
        if ws.window_bits and len(frame) >= self._compressor.threshold and ws.is_open:
            frame = self._compressor.compress(frame, ws.window_bits)
        return self._outbox.send(ws, frame)

    def publish(self, group: Group, frame: bytes) -> int:
        """Queue the message of `frame`, which is not compressed, for all members of a group, as Outbox does."""
        if len(frame) < self._compressor.threshold:
            return self._outbox.publish(group, frame)
        return self.fan_out(cast("set[WebSocket]", group.members), frame, group)

    def offer(self, recipients: Iterable[WebSocket], frame: bytes, key: str) -> int:
        """Offer the volatile message of `frame`, which is not compressed, to recipients, as Outbox does."""
        if len(frame) < self._compressor.threshold:
            return self._outbox.offer(recipients, frame, key)
        return sum(self._outbox.offer(some, chosen, key) for some, chosen in self._alike(recipients, frame))

    def _alike(self, recipients: Iterable[WebSocket], frame: bytes) -> Iterator[tuple[list[WebSocket], bytes]]:
        """Give the recipients that get the same frame, with it."""
        alike: defaultdict[int, list[WebSocket]] = defaultdict(list)
        for ws in recipients:
            alike[ws.window_bits].append(ws)
        for window_bits, some in alike.items():
            yield some, self._compressor.compress(frame, window_bits) if window_bits else frame

    def fan_out(self, recipients: Iterable[WebSocket], frame: bytes, group: Group | None = None) -> int:
        """Queue the message of `frame`, which is not compressed, for every recipient that is open, as Outbox does."""
        if len(frame) < self._compressor.threshold:
            return self._outbox.fan_out(recipients, frame, group)
        return sum(self._outbox.fan_out(some, chosen, group) for some, chosen in self._alike(recipients, frame))
