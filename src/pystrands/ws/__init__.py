"""A WebSocket client for devices, scripts and tests: what it sends is handled once and in order, over any cut.

::

    async with ws.connect("wss://ws.example.com/lobby") as client:
        await client.send("hello")
        async for message in client:
            print(message.room, message.text)

It is what `/pystrands.js` is for pages: the same core, the same promises (docs/internals/sessions.md).
"""

from pystrands.protocol.v1.actions import Gap, Joined, Left, PresenceChanged, Resumed, Signal, StateChanged
from pystrands.ws.client import Client, Closed, Event, History, Message, SendError, connect

__all__ = [
    "Client",
    "Closed",
    "Event",
    "Gap",
    "History",
    "Joined",
    "Left",
    "Message",
    "PresenceChanged",
    "Resumed",
    "SendError",
    "Signal",
    "StateChanged",
    "connect",
]
