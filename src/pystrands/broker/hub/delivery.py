"""The last step of a message: from the engine to the sockets of this broker's clients."""

from collections.abc import Collection
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import CLOSED, NUMBERED, Group, Recipient
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import ConnectedClient, SessionClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.ws.frames import binary_frame, text_frame
from pystrands.engine.base import Delivered, Sink
from pystrands.engine.publication import Audience, Publication
from pystrands.protocol.v1.rings import Ring

__all__ = ["Delivery"]

_CLIENT: Final = Audience.CLIENT
_ROOM: Final = Audience.ROOM
_USER: Final = Audience.USER
_NUMBERED: Final = NUMBERED
_CLOSED: Final = CLOSED


class Delivery(Sink):
    """The engine's sink. A message is framed once, and encoded once, however many clients it is for.

    ``tells_all``: whether tools hear here of all messages. Where there are several brokers they hear here of private
    ones only, which one broker delivers, and of others from the broker that publishes them.
    """

    def __init__(self, rooms: Rooms, outbox: Outbox, counters: Counters, *, tells_all: bool = True) -> None:
        self._rooms = rooms
        self._taps = rooms.taps
        self._numbered = rooms.numbered
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
                matched = 1
                taken = self._send(client, _frame(publication.message), key)
        elif audience is _USER:
            matched, taken = self._to_user(publication)
        else:
            group = self._rooms.room(publication.address) if audience is _ROOM else self._rooms.everyone
            if group is not None:
                matched, taken = self._publish(group, publication)
            elif audience is _ROOM and key is None and not publication.is_hidden:
                self._keep(publication)
        if self._taps.watchers and (self._tells_all or client is not None):
            rooms = self._rooms.rooms_of_user(publication.address) if audience is _USER else ()
            self._taps.message_out(publication, matched, client, rooms)
        if taken:
            self._counters["messages_delivered"] += taken
        return matched, taken

    def _send(self, client: ConnectedClient, frame: bytes, key: str | None) -> int:
        """Send a message to one client; return 1, or 0 where it misses it."""
        ws = client.ws
        if ws.encoding >= _NUMBERED and isinstance(client, SessionClient):
            return int(self._numbered.private(client, frame, key))
        if ws.encoding:
            frame = self._outbox.encoded(ws, frame)
        return int(self._outbox.send(ws, frame)) if key is None else self._outbox.offer((ws,), frame, key)

    def _to_user(self, publication: Publication) -> Delivered:
        """Send a message to each client of a user. They are few: each gets it as one for itself."""
        frame, exclude = _frame(publication.message), publication.exclude
        matched = taken = 0
        for client in self._rooms.users.clients(publication.address):
            if client.client_id not in exclude:
                matched += 1
                taken += self._send(client, frame, publication.key)
        return matched, taken

    def _publish(self, group: Group, publication: Publication) -> Delivered:
        outbox, key = self._outbox, publication.key
        frame = _frame(publication.message)
        if group.ring is not None:
            return self._publish_numbered(group, group.ring, publication, frame)
        if key is None and not publication.exclude:
            return len(group.members), outbox.publish(group, frame)
        recipients: Collection[Recipient] = group.members
        if publication.exclude:
            left_out = {client.ws for client in self._excluded(publication)}
            recipients = [ws for ws in recipients if ws not in left_out]
        taken = 0
        for some, encoded in outbox.alike(recipients, frame):
            taken += outbox.fan_out(some, encoded, group) if key is None else outbox.offer(some, encoded, key)
        return len(recipients), taken

    def _keep(self, publication: Publication) -> None:
        """Keep a message to a room with nobody in it, where its history is kept."""
        ring = self._rooms.kept.get(publication.address)
        if ring is not None:
            self._numbered.of_group(ring, _frame(publication.message))

    def _excluded(self, publication: Publication) -> list[ConnectedClient]:
        find = self._rooms.find
        return [client for client_id in publication.exclude if (client := find(client_id)) is not None]

    def _publish_numbered(self, group: Group, ring: Ring, publication: Publication, frame: bytes) -> Delivered:
        """Publish to a group in which some take numbered messages: they get them, now or when they are back."""
        outbox, key = self._outbox, publication.key
        excluded = self._excluded(publication) if publication.exclude else ()
        if key is not None:
            numbered = self._numbered.volatile_of_group(ring, frame)
        else:
            numbers = frozenset([client.number for client in excluded]) if excluded else None
            numbered = self._numbered.of_group(ring, frame, numbers, publication.is_hidden)
            if not publication.exclude:
                return len(group.members), outbox.publish(group, frame, numbered)
        left_out = {client.ws for client in excluded}
        recipients = [ws for ws in group.members if ws not in left_out]
        taken = 0
        for some, encoded in outbox.alike(recipients, frame, numbered):
            if key is not None:
                taken += outbox.offer(some, encoded, key)
            else:
                taken += outbox.fan_out(some, encoded, group)
                taken += sum([1 for ws in some if ws.encoding >= _NUMBERED and ws.flags >= _CLOSED])  # it is kept
        return len(recipients), taken


def _frame(message: str | bytes) -> bytes:
    return text_frame(message) if isinstance(message, str) else binary_frame(message)
