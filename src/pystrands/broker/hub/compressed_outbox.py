"""WebSockets of clients that compress, and one compressed frame for all of them that a message is for."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import cast

from pystrands.broker.fanout.groups import Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.net.limits import ConnectionSlot
from pystrands.broker.ws.deflate import Compressor, DeflatedReassembly, wire_limit
from pystrands.broker.ws.parser import BINARY, CONTINUATION, TEXT, PicowsFrame
from pystrands.broker.ws.reassembly import Reassembly
from pystrands.broker.ws.websocket import WebSocket, WebSocketShared
from pystrands.protocol.close_codes import MESSAGE_TOO_BIG

__all__ = ["CompressedOutbox", "CompressedWebSocket"]


class CompressedWebSocket(WebSocket):
    """The WebSocket of a client with which permessage-deflate was negotiated, with `window_bits` in the answer.

    What comes in is inflated. What goes out is sent as it is: a `CompressedOutbox` compresses it.
    """

    __slots__ = ()

    def __init__(
        self,
        shared: WebSocketShared,
        transport: asyncio.Transport,
        remote_addr: str,
        place: ConnectionSlot | None,
        window_bits: int,
    ) -> None:
        super().__init__(shared, transport, remote_addr, place)
        self.window_bits = window_bits

    def _handle(self, frame: PicowsFrame) -> None:
        if (
            frame.payload_size > self._shared.max_message_size and not frame.rsv1 and frame.msg_type is not CONTINUATION
        ):  # the parser lets more pass, for what is compressed
            self._fail(MESSAGE_TOO_BIG, "message too big")
        else:
            super()._handle(frame)

    def _on_other_frame(self, frame: PicowsFrame) -> None:
        if (
            frame.rsv1
            and (frame.msg_type is TEXT or frame.msg_type is BINARY)
            and self._partial is None
            and not (frame.rsv2 or frame.rsv3)
        ):
            self._partial = DeflatedReassembly(text=frame.msg_type is TEXT, limit=self._shared.max_message_size)
            self._add_fragment(self._partial, frame)
        else:
            super()._on_other_frame(frame)

    def _add_fragment(self, partial: Reassembly, frame: PicowsFrame) -> None:
        before = partial.size
        super()._add_fragment(partial, frame)
        self._shared.meter.grown += partial.size - before

    def _max_frame_size(self) -> int:
        return wire_limit(self._shared.max_message_size)


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
