"""WebSockets of clients that compress."""

import asyncio

from pystrands.broker.net.limits import ConnectionSlot
from pystrands.broker.ws.deflate import DeflatedReassembly, wire_limit
from pystrands.broker.ws.parser import BINARY, CONTINUATION, TEXT, PicowsFrame
from pystrands.broker.ws.reassembly import Reassembly
from pystrands.broker.ws.websocket import WebSocket, WebSocketShared
from pystrands.protocol.close_codes import MESSAGE_TOO_BIG

__all__ = ["CompressedWebSocket"]


class CompressedWebSocket(WebSocket):
    """The WebSocket of a client with which permessage-deflate was negotiated, with `window_bits` in the answer.

    What comes in is inflated. What goes out is sent as it is: the outbox has messages compressed, for which this is a
    client whose `encoding` says how far back a frame may refer.
    """

    __slots__ = ()

    def __init__(
        self,
        shared: WebSocketShared,
        transport: asyncio.Transport,
        remote_addr: str,
        slot: ConnectionSlot | None,
        window_bits: int,
    ) -> None:
        super().__init__(shared, transport, remote_addr, slot)
        self.encoding = window_bits

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
            shared = self._shared
            self._partial = DeflatedReassembly(
                text=frame.msg_type is TEXT, limit=shared.max_message_size, fragments=shared.max_fragments
            )
            self._add_fragment(self._partial, frame)
        else:
            super()._on_other_frame(frame)

    def _add_fragment(self, partial: Reassembly, frame: PicowsFrame) -> None:
        before = partial.size
        super()._add_fragment(partial, frame)
        self._reads.meter.grown += partial.size - before

    def _max_frame_size(self) -> int:
        return wire_limit(self._shared.max_message_size)
