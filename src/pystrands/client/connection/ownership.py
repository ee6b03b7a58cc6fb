"""Which clients a backend has, so that it can tell of their end when nobody else does."""

from typing import Final, TypeAlias

import msgspec

from pystrands.context import Context
from pystrands.protocol.messages import (
    ClientAdopted,
    ClientContext,
    ClientErrorParams,
    ContextParams,
    Disconnected,
    DisconnectedParams,
    Event,
    JoinRequestParams,
    NewConnection,
    NewMessage,
    NewMessageParams,
    TokenRequestParams,
)

__all__ = ["Ownership"]

WithContext: TypeAlias = (
    ContextParams | DisconnectedParams | NewMessageParams | TokenRequestParams | JoinRequestParams | ClientErrorParams
)
"""The params of the events of clients."""

_OWNED: Final = (NewMessage, NewConnection, ClientAdopted)
_KEPT_LINE: Final = 1024
"""Bytes of the longest line that is kept for its context; of a longer one the context alone is."""


class Ownership:
    """The clients that this backend owns at one broker, so that each is told of when that broker or session dies.

    Only kept for brokers that say hello. A client is owned from the first event of it until it is told as disconnected.
    In protocol 1 a link that comes back to the *same* broker process starts with none: that broker gave its clients to
    other backends meanwhile, which hear of their end; those that come back here are owned again from their next event.
    """

    __slots__ = ("_broker_id", "_known", "_lines")

    def __init__(self) -> None:
        self._broker_id = ""
        # Each client's last line, which has its latest context. A handler may change the Context that it was given, and
        # to keep the line costs less than to see whether anything is new.
        self._lines: dict[str, bytes] = {}
        # Of clients whose context is big: the line that told of it, to which their events refer.
        self._known: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def hello(self, broker_id: str, *, keeps_sessions: bool = False) -> list[Context]:
        """A link is up to the broker process ``broker_id``; return the clients that died with the one before."""
        if broker_id == self._broker_id and keeps_sessions:
            return []
        lost = self.release_all()
        if broker_id == self._broker_id:
            return []
        self._broker_id = broker_id
        return lost

    def release_all(self) -> list[Context]:
        """Return the clients that are owned, each as its last event showed it, which are no longer."""
        lines = list(self._lines.values())
        self._lines.clear()
        self._known.clear()
        return [_decode(line).params.context for line in lines]

    def owns(self, client_id: str, context: Context, line: bytes) -> None:
        """Note that the client of ``context``, which came in ``line`` as it is now, is this backend's."""
        if self._known:
            self._known.pop(client_id, None)
        self._lines[client_id] = line if len(line) <= _KEPT_LINE else _shortened(context)

    def on_event(self, event: Event, line: bytes) -> None:
        """Note whose event came, in which line."""
        if isinstance(event, _OWNED):
            context = event.params.context
            if not event.params.known:
                self.owns(context.client_id, context, line)
        elif isinstance(event, Disconnected):
            self._lines.pop(event.params.context.client_id, None)
            self._known.pop(event.params.context.client_id, None)

    def keep(self, event: ClientContext, line: bytes) -> None:
        """Keep a context, which came in ``line``, for the events that refer to it."""
        self._known[event.params.context.client_id] = line

    def fill_in(self, params: WithContext) -> int:
        """Give an event that refers to a kept context one of its own; return the bytes of its line, 0 if there is none.

        The event's client is this backend's from then on.
        """
        client_id = params.context.client_id
        line = self._known.get(client_id)
        if line is None:
            return 0
        self._lines[client_id] = line
        params.context = _decode(line).params.context
        return len(line)


class _WithContext(msgspec.Struct):
    context: Context


class _OfClient(msgspec.Struct):
    """What the lines of a client's events have in common."""

    params: _WithContext


_decode: Final = msgspec.json.Decoder(_OfClient).decode


def _shortened(context: Context) -> bytes:
    """Return a line with that context and nothing else."""
    return msgspec.json.encode(_OfClient(_WithContext(context)))
