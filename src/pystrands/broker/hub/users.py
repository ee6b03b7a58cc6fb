"""Which clients are whose: a user may have any number of them."""

from collections.abc import Callable, Sequence

from pystrands.broker.hub.client import ConnectedClient

__all__ = ["Users"]


class Users:
    """The clients of this broker by user. A user with one client takes no more than an entry.

    ``on_first`` and ``on_last`` are told of users who come and go with their first and last client.
    """

    __slots__ = ("_clients", "_on_first", "_on_last")

    def __init__(self, on_first: Callable[[str], None], on_last: Callable[[str], None]) -> None:
        self._clients: dict[str, ConnectedClient | dict[ConnectedClient, None]] = {}
        self._on_first = on_first
        self._on_last = on_last

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._clients)

    def clients(self, user: str) -> Sequence[ConnectedClient]:
        """Return the clients of a user, in the order in which they came."""
        found = self._clients.get(user)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, dict) else (found,)

    def add(self, client: ConnectedClient, user: str) -> None:
        """A client is in that is the user's."""
        found = self._clients.get(user)
        if found is None:
            self._clients[user] = client
            self._on_first(user)
        elif isinstance(found, dict):
            found[client] = None
        else:
            self._clients[user] = {found: None, client: None}

    def remove(self, client: ConnectedClient, user: str) -> None:
        """A client is gone that was the user's."""
        found = self._clients[user]
        if isinstance(found, dict):
            del found[client]
            if len(found) == 1:
                (self._clients[user],) = found
        else:
            del self._clients[user]
            self._on_last(user)
