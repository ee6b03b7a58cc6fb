"""Clients that are gone, and with which no backend has finished: who takes an id waits for it, and they are bounded."""

import logging
import sys
from collections.abc import Callable
from typing import Final

from pystrands.broker.events.stream import ClientStream

__all__ = ["EndingStreams"]

logger = logging.getLogger(__name__)

_BYTES: Final = 1000
"""What a client that is gone takes beside its rooms and metadata, until its backend has finished with it."""


class EndingStreams:
    """The streams of clients that are gone, until their last event is finished.

    Nobody can be closed for the memory that they take. When it is more than ``limit`` bytes no more are to come, and
    go, until it is half of that: :attr:`is_behind`. Then each ``listener`` is called.
    """

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.bytes = 0
        """What is kept for them."""
        self._limit = limit
        self._is_behind = False
        self._listeners: list[Callable[[], None]] = []
        self._by_id: dict[str, ClientStream] = {}

    def __len__(self) -> int:
        """How many ids have such a client."""
        return len(self._by_id)

    @property
    def is_behind(self) -> bool:
        """Whether there are too many, and no client's context may grow either. Asking logs it, the first time."""
        if self.bytes > self._limit and not self._is_behind:
            self._is_behind = True
            logger.error(
                "%d bytes are kept for clients that are gone, since backends have not finished with them (does "
                "on_disconnect return?): no more are let in, and no client's rooms and metadata grow, until it is an "
                "eighth of --memory-budget",
                self.bytes,
            )
        return self._is_behind

    def listen(self, listener: Callable[[], None]) -> None:
        """Have it called, which must not raise, whenever there are no longer too many."""
        self._listeners.append(listener)

    def find(self, client_id: str) -> ClientStream | None:
        """Return the youngest of that id."""
        return self._by_id.get(client_id)

    def add(self, stream: ClientStream) -> None:
        """A client is gone."""
        self._by_id[stream.client_id] = stream
        self.bytes += stream.told_bytes + _BYTES

    def remove(self, stream: ClientStream) -> None:
        """Its last event is finished."""
        if self._by_id.get(stream.client_id) is stream:
            del self._by_id[stream.client_id]
        self.bytes -= stream.told_bytes + _BYTES
        if self._is_behind and self.bytes <= self._limit >> 1:
            self._is_behind = False
            for listener in self._listeners:
                listener()
