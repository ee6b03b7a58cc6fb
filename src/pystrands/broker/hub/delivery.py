"""The last step of a message: from the engine to the sockets of this broker's clients."""

from typing import Final, cast

from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.compressed_outbox import CompressedOutbox
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.ws.frames import binary_frame, text_frame
from pystrands.broker.ws.websocket import WebSocket
from pystrands.engine.base import Delivered, Sink
from pystrands.engine.publication import Audience, Publication

__all__ = ["Delivery"]

_CLIENT: Final = Audience.CLIENT
_ROOM: Final = Audience.ROOM


class Delivery(Sink):
    """The engine's sink. A message is framed once, and compressed once, however many clients it is for."""

    def __init__(self, rooms: Rooms, outbox: Outbox | CompressedOutbox, counters: Counters) -> None:
        self._rooms = rooms
        self._taps = rooms.taps
        self._outbox = outbox
        self._counters = counters

    def deliver(self, publication: Publication) -> Delivered:
        """Queue a message for the clients it is for, as Sink says."""
        audience, key = publication.audience, publication.key
        matched = taken = 0
        client = None
        if audience is _CLIENT:
            client = self._rooms.find(publication.address)
            if client is not None and key is None:
                matched, taken = 1, int(self._outbox.send(client.ws, _frame(publication.message)))
            elif client is not None and key is not None:
                matched, taken = 1, self._outbox.offer((client.ws,), _frame(publication.message), key)
        else:
            group = self._rooms.room(publication.address) if audience is _ROOM else self._rooms.everyone
            if group is not None:
                matched, taken = self._publish(group, publication)
        if self._taps.watchers:
            self._taps.message_out(publication, matched, client)
        if taken:
            self._counters["messages_delivered"] += taken
        return matched, taken

    def _publish(self, group: Group, publication: Publication) -> Delivered:
        frame, exclude, key = _frame(publication.message), publication.exclude, publication.key
        members = cast("set[WebSocket]", group.members)
        if not exclude:
            if key is None:
                return len(members), self._outbox.publish(group, frame)
            return len(members), self._outbox.offer(members, frame, key)
        find = self._rooms.find
        left_out = {client.ws for client_id in exclude if (client := find(client_id)) is not None}
        recipients = [ws for ws in members if ws not in left_out]
        if key is None:
            return len(recipients), self._outbox.fan_out(recipients, frame, group)
        return len(recipients), self._outbox.offer(recipients, frame, key)


def _frame(message: str | bytes) -> bytes:
    return text_frame(message) if isinstance(message, str) else binary_frame(message)
