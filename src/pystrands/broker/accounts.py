"""Who has caused which part of the memory: worked out when the budget is passed, exactly."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.backends.session import Session
from pystrands.broker.events.queue import cost
from pystrands.broker.events.stream import ClientEvent, ClientStream, Kind
from pystrands.broker.hub.client import ConnectedClient
from pystrands.broker.ws.websocket import WebSocket

__all__ = ["Account", "Accounts"]

_MESSAGE: Final = Kind.MESSAGE


class Account:
    """What one peer has caused, in bytes.

    ``own`` is all but ``frames``, which others may keep as well: the same frame is one object for all of them. Of
    ``own``, ``fixed`` bytes stay when the peer is given up.
    """

    __slots__ = ("fixed", "frames", "give_up", "own")

    def __init__(self, give_up: Callable[[], None], own: int = 0, fixed: int = 0, frames: Sequence[bytes] = ()) -> None:
        self.give_up = give_up
        self.own = own
        self.fixed = fixed
        self.frames = frames


class Accounts:
    """Makes the accounts of all peers of a broker. What is called is asked each time, and not changed meanwhile.

    ``sockets``: those of all clients that are in, or gone with something left. ``closed``: those of which only the last
    bytes are not out. ``tools``: sessions that get no events. ``orphans``: clients whose events wait, and who have no
    session. ``give_up_client`` and ``give_up_session`` end one.
    """

    def __init__(
        self,
        *,
        sockets: Callable[[], Iterable[WebSocket]],
        closed: Callable[[], Iterable[WebSocket]],
        handshakes: Callable[[], Iterable[Handshake]],
        sessions: Callable[[], Iterable[Session]],
        tools: Callable[[], Iterable[Session]],
        orphans: Callable[[], Iterable[ClientStream]],
        give_up_client: Callable[[ConnectedClient], None],
        give_up_session: Callable[[Session], None],
    ) -> None:
        self._sockets = sockets
        self._closed = closed
        self._handshakes = handshakes
        self._sessions = sessions
        self._tools = tools
        self._orphans = orphans
        self._give_up_client = give_up_client
        self._give_up_session = give_up_session

    def take(self) -> tuple[list[Account], int]:
        """Return all accounts, and the bytes that are on nobody's."""
        of_clients: dict[ConnectedClient, Account] = {}
        others: list[Account] = []
        nobodys = 0
        for session in self._sessions():
            own = self._charge(session, of_clients)
            unheard = session.unheard_bytes  # of requests whose clients may be gone
            nobodys += unheard
            others.append(Account(partial(self._give_up_session, session), max(own - unheard, 0)))
            if session.link is not None:
                nobodys += session.link.unsent_bytes  # copies of what is charged already
        for stream in self._orphans():
            self._of(stream, of_clients)
        for ws in self._sockets():
            if ws.client is not None:
                self._of(ws.client, of_clients)
        for client, account in of_clients.items():
            _add_own(client, account)
        others += [_of_closed(ws) for ws in self._closed() if ws.client is None]
        others += [Account(partial(self._give_up_session, tool), tool.held_bytes) for tool in self._tools()]
        others += [Account(handshake.give_up, handshake.held_bytes) for handshake in self._handshakes()]
        return [*of_clients.values(), *others], nobodys

    def _of(self, client: ClientStream, of_clients: dict[ConnectedClient, Account]) -> Account:
        assert isinstance(client, ConnectedClient)  # as all streams of a broker are
        account = of_clients.get(client)
        if account is None:
            account = of_clients[client] = Account(partial(self._give_up_client, client))
        return account

    def _charge(self, session: Session, of_clients: dict[ConnectedClient, Account]) -> int:
        """Charge clients with what a session has of theirs, which stays until it is done; return what is its own."""
        link_session = session.link_session
        own = link_session.kept_bytes if link_session is not None else 0
        for number, event in session.unfinished.items():
            line = link_session.kept_size(number) if link_session is not None else 0
            own -= line
            account = self._of(event.stream, of_clients)
            size = cost(event) + line
            account.own += size
            account.fixed += size
        for stream in session.streams:
            self._of(stream, of_clients)
        if session.link is not None:
            own += session.link.unread_bytes
        return own


def _add_own(client: ConnectedClient, account: Account) -> None:
    """Charge a client with what waits, with its connection's buffers, and with what is known of it."""
    waiting: Iterable[ClientEvent] = client.waiting or ()
    for event in waiting:
        size = cost(event)
        account.own += size
        if event.kind is not _MESSAGE:
            account.fixed += size
    account.own += client.held_bytes
    account.fixed += client.told_bytes
    own, account.frames = _of_socket(client.ws)
    account.own += own


def _of_closed(ws: WebSocket) -> Account:
    own, frames = _of_socket(ws)
    return Account(ws.give_up, own, 0, frames)


def _of_socket(ws: WebSocket) -> tuple[int, Sequence[bytes]]:
    """Return what is kept for a connection beside frames, and the frames: a few may be in its transport only."""
    own = ws.held_bytes - ws.queued
    if ws.unsent:
        return own - sum(map(len, ws.unsent)), ws.unsent
    if ws.stuck is None:
        return own, ws.out
    return own - len(ws.stuck), [*ws.out, ws.stuck]
