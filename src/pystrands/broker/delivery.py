"""The last step of a message: from the engine to the sockets of this broker's clients."""

from collections import Counter

from pystrands.broker.fanout import Outbox
from pystrands.broker.frames import binary_frame, text_frame
from pystrands.broker.rooms import Rooms
from pystrands.engine.base import Audience

__all__ = ["Delivery"]


class Delivery:
    """The engine's sink. A message is framed once, however many clients it is for."""

    def __init__(self, rooms: Rooms, outbox: Outbox, counters: Counter[str]) -> None:
        self._rooms = rooms
        self._outbox = outbox
        self._counters = counters

    def deliver(self, audience: Audience, address: str, message: str | bytes) -> int:
        """Queue ``message`` for the clients it is for; return how many took it."""
        if audience is Audience.CLIENT:
            client = self._rooms.find(address)
            taken = int(client is not None and client.ws.send(self._frame(message)))
        else:
            recipients = self._rooms.members(address) if audience is Audience.ROOM else self._rooms.everyone
            taken = self._outbox.fan_out(recipients, self._frame(message)) if recipients else 0
        self._counters["messages_delivered"] += taken
        return taken

    @staticmethod
    def _frame(message: str | bytes) -> bytes:
        return text_frame(message) if isinstance(message, str) else binary_frame(message)
