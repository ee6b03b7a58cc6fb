"""What a client has sent and no handler has finished with. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from pystrands.protocol.v1.envelope import join, json_text

__all__ = ["IN_FLIGHT", "NOBODYS", "QUEUE_BYTES", "QUEUE_MESSAGES", "Outbox", "Sent"]

NOBODYS: Final = -1
"""The ident of what nobody is told of."""
IN_FLIGHT: Final = 256
"""Messages that are on their way at once (promise 14)."""
QUEUE_MESSAGES: Final = 1000
QUEUE_BYTES: Final = 4 * 1024 * 1024


class Sent:
    """A message; ``k`` is its number, 0 until it is written first. ``name``: from a session that is lost.

    ``asks``: whether it wants a reply. ``re``: the number of what it answers, ``failure`` why there is no answer.
    """

    __slots__ = ("asks", "body", "failure", "ident", "k", "kind", "name", "re", "room", "size")

    def __init__(
        self, ident: int, body: str | bytes | None, room: str | None = None, kind: str = "", *, asks: bool = False
    ) -> None:
        self.ident = ident
        self.body = body
        self.room = room
        self.kind = kind
        self.asks = asks
        self.re = 0
        self.failure: dict[str, str] | None = None
        self.name = ""
        self.k = 0
        self.size = 0 if body is None else len(body if isinstance(body, bytes) else body.encode())

    def frame(self) -> str | bytes:
        """Return it as it is written."""
        header: dict[str, object] = {"k": self.k}
        if self.kind:
            header["t"] = self.kind
        if self.asks and not self.kind:
            header["q"] = 1
        if self.re:
            header["re"] = self.re
        if self.failure is not None:
            header["err"] = self.failure
        if self.room is not None:
            header["r"] = self.room
        if self.name:
            header["id"] = self.name
        return join(json_text(header), self.body)


class Outbox:
    """Messages in their order: first those that are written, then those that wait."""

    __slots__ = ("_k", "_sent", "_waiting", "max_bytes", "max_messages", "size")

    def __init__(self, max_messages: int = QUEUE_MESSAGES, max_bytes: int = QUEUE_BYTES) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.size = 0
        self._sent: deque[Sent] = deque()
        self._waiting: deque[Sent] = deque()
        self._k = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sent) + len(self._waiting)

    def takes(self, message: Sent) -> bool:
        """Whether there is room for one more."""
        return len(self) < self.max_messages and self.size + message.size <= self.max_bytes

    def add(self, message: Sent) -> None:
        """Append a message."""
        self._waiting.append(message)
        self.size += message.size

    def next(self) -> Sent | None:
        """Return a message to write, which has its number now; None where there is none, or enough is on its way."""
        if not self._waiting or len(self._sent) >= IN_FLIGHT:
            return None
        message = self._waiting.popleft()
        self._k += 1
        message.k = self._k
        self._sent.append(message)
        return message

    def done(self, k: int) -> list[Sent]:
        """Take out all up to that number."""
        finished = []
        while self._sent and self._sent[0].k <= k:
            message = self._sent.popleft()
            self.size -= message.size
            finished.append(message)
        return finished

    def failed(self, k: int) -> Sent | None:
        """Take out the message of that number, if it is there."""
        for message in self._sent:
            if message.k == k:
                self._sent.remove(message)
                self.size -= message.size
                return message
        return None

    def withdraw(self, ident: int) -> bool:
        """Take out a message that was never written; return whether that was possible (promise 15)."""
        for message in self._waiting:
            if message.ident == ident and not message.name:
                self._waiting.remove(message)
                self.size -= message.size
                return True
        return False

    def after(self, k: int) -> Iterator[Sent]:
        """Return what was written after that number, to be written again."""
        return (message for message in self._sent if message.k > k)

    @property
    def joining(self) -> set[str]:
        """The rooms whose joins are in here."""
        everything = (*self._sent, *self._waiting)
        return {message.room for message in everything if message.kind == "join" and message.room is not None}

    def put_first(self, messages: list[Sent]) -> None:
        """Have messages go out before all that waits, whatever the bounds."""
        self._waiting.extendleft(reversed(messages))
        self.size += sum(message.size for message in messages)

    def lose(self, session_name: str) -> None:
        """The session is lost: what was written is to be written again, under new numbers and its old names.

        Nobody wants the answers any more that are not finished.
        """
        for message in reversed(self._sent):
            message.name = message.name or f"{session_name}-{message.k}"
            message.k = 0
            self._waiting.appendleft(message)
        self._sent.clear()
        for message in [each for each in self._waiting if each.re]:
            self._waiting.remove(message)
            self.size -= message.size
        self._k = 0

    def clear(self) -> list[Sent]:
        """Take all out."""
        everything = [*self._sent, *self._waiting]
        self._sent.clear()
        self._waiting.clear()
        self.size = 0
        return everything
