"""The last step of a message: from the engine to the sockets of this broker's clients."""

from collections.abc import Collection
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import Group, Recipient
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.ws.frames import binary_frame, text_frame
from pystrands.engine.base import Delivered, Sink
from pystrands.engine.publication import Audience, Publication

__all__ = ["Delivery"]

_CLIENT: Final = Audience.CLIENT
_ROOM: Final = Audience.ROOM


class Delivery(Sink):
    """The engine's sink. A message is framed once, and encoded once, however many clients it is for.

    ``tells_all``: whether tools hear here of all messages. Where there are several brokers they hear here of private
    ones only, which one broker delivers, and of others from the broker that publishes them.
    """

    def __init__(self, rooms: Rooms, outbox: Outbox, counters: Counters, *, tells_all: bool = True) -> None:
        self._rooms = rooms
        self._taps = rooms.taps
        self._outbox = outbox
        self._counters = counters
        self._tells_all = tells_all

    def deliver(self, publication: Publication) -> Delivered:
        """Queue a message for the clients it is for, as Sink says."""
        audience, key = publication.audience, publication.key
        matched = taken = 0
        client = None
        if audience is _CLIENT:
            client = self._rooms.find(publication.address)
            if client is not None:
                ws = client.ws
                frame = _frame(publication.message)
                if ws.encoding:
                    frame = self._outbox.encoded(ws, frame)
                matched = 1
                taken = int(self._outbox.send(ws, frame)) if key is None else self._outbox.offer((ws,), frame, key)
        else:
            group = self._rooms.room(publication.address) if audience is _ROOM else self._rooms.everyone
            if group is not None:
                matched, taken = self._publish(group, publication)
        if self._taps.watchers and (self._tells_all or client is not None):
            self._taps.message_out(publication, matched, client)
        if taken:
            self._counters["messages_delivered"] += taken
        return matched, taken

    def _publish(self, group: Group, publication: Publication) -> Delivered:
        outbox, key = self._outbox, publication.key
        frame = _frame(publication.message)
        if key is None and not publication.exclude:
            return len(group.members), outbox.publish(group, frame)
        recipients: Collection[Recipient] = group.members
        if publication.exclude:
            find = self._rooms.find
            left_out = {client.ws for client_id in publication.exclude if (client := find(client_id)) is not None}
            recipients = [ws for ws in recipients if ws not in left_out]
        taken = 0
        for some, encoded in outbox.alike(recipients, frame):
            taken += outbox.fan_out(some, encoded, group) if key is None else outbox.offer(some, encoded, key)
        return len(recipients), taken


def _frame(message: str | bytes) -> bytes:
    return text_frame(message) if isinstance(message, str) else binary_frame(message)
