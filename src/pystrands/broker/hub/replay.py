"""What clients have missed while they were away: sent in parts, and then they take part again."""

import asyncio
from collections.abc import Callable
from typing import Final

from pystrands.broker.fanout.groups import BLOCKED
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import SessionClient
from pystrands.broker.hub.numbered import NumberedFrames
from pystrands.broker.ws.frames import text_frame
from pystrands.broker.ws.websocket import WebSocket
from pystrands.protocol.v1.envelope import json_text

__all__ = ["Replays"]

_LIVE: Final = text_frame('{"t":"live"}')
_NEXT_PART: Final = 0.01
"""Seconds between two looks whether a client has taken a part."""


class Replays:
    """Sends to clients, on their new connections, what came after their positions.

    Until all of that is out, what is sent to a client is kept as if it were away. ``on_live`` is told of each that is
    there again.
    """

    def __init__(
        self,
        outbox: Outbox,
        numbered: NumberedFrames,
        loop: asyncio.AbstractEventLoop,
        on_live: Callable[[SessionClient], None],
    ) -> None:
        self._outbox = outbox
        self._numbered = numbered
        self._loop = loop
        self._on_live = on_live

    def begin(self, client: SessionClient, ws: WebSocket, position: int) -> None:
        """Send what came after that number; all of it at once, if it is not too much."""
        client.position = position
        client.told_gaps = set()
        self._send_part(client, ws)

    def _go_on(self, client: SessionClient, ws: WebSocket) -> None:
        if client.connection is not ws or client.is_gone:
            return
        if ws.out or ws.flags & BLOCKED:
            self._loop.call_later(_NEXT_PART, self._go_on, client, ws)
        else:
            self._send_part(client, ws)

    def _send_part(self, client: SessionClient, ws: WebSocket) -> None:
        told = client.told_gaps
        for room in client.state.gaps(client.position):
            if told is not None and room not in told:
                told.add(room)
                self._outbox.send(ws, text_frame('{"t":"gap","r":' + json_text(room) + "}"))
        entries, is_all = client.state.missed(client.position, ws.high)
        for entry in entries:
            self._numbered.send_kept(ws, entry)
        if entries:
            client.position = entries[-1].number
        if is_all:
            self._go_live(client, ws)
        else:
            self._loop.call_later(_NEXT_PART, self._go_on, client, ws)

    def _go_live(self, client: SessionClient, ws: WebSocket) -> None:
        """Put a client's connection into its rooms, in the place of the last one."""
        old = client.ws
        self._outbox.replace(old, ws)
        client.ws = ws
        client.told_gaps = None
        old.client = None
        self._outbox.send(ws, _LIVE)
        self._on_live(client)
