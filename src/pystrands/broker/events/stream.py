"""A client's events, and the sessions that get them: what there is; :mod:`.assignments` has the rules."""

import math
from abc import ABC, abstractmethod
from collections import deque
from enum import Enum

from mypy_extensions import trait

__all__ = ["ClientEvent", "ClientStream", "Consumer", "JoinEvent", "Kind", "NumberedEvent", "TokenEvent", "Tracker"]


class Kind(Enum):
    """What happened. Only messages, and what goes with a big context, need credit; only messages are ever dropped."""

    NEW = "new_connection"
    ADOPTED = "client_adopted"
    MESSAGE = "new_message"
    ERROR = "error"
    SUSPENDED = "client_suspended"
    RESUMED = "client_resumed"
    REFRESH = "token_request"
    GONE = "disconnected"


class ClientEvent:
    """One thing that happened to a client.

    ``content`` is the message, the text of an error, or the reason of a close; ``size`` is what it counts for credit,
    in bytes (a ``str`` counts as many as it has characters, and so does a big context that goes with it: of what is no
    message only that counts, from its sending on); ``code`` is the close code, where that is what it tells.
    """

    __slots__ = ("blamed", "code", "content", "kind", "number", "redelivered", "size", "stream")

    def __init__(
        self, stream: "ClientStream", kind: Kind, number: int, content: str | bytes = "", size: int = 0, code: int = 0
    ) -> None:
        self.stream = stream
        self.kind = kind
        self.number = number
        """The broker's own, the same in every delivery."""
        self.content = content
        self.size = size
        self.code = code
        self.blamed = 0
        """How many sessions have died that may have been handling it."""
        self.redelivered = False
        """Whether it may have been handled before."""


class NumberedEvent(ClientEvent):
    """A message that its client has numbered.

    ``k``: that number. ``message_id``: what it is called, whenever it is sent again. ``room_id``: the room that it was
    sent to; None where it was to none.
    """

    __slots__ = ("asks", "is_answered", "k", "message_id", "room_id")

    def __init__(
        self,
        stream: "ClientStream",
        number: int,
        content: str | bytes,
        size: int,
        k: int,
        message_id: str,
        room_id: str | None,
    ) -> None:
        super().__init__(stream, Kind.MESSAGE, number, content, size)
        self.k = k
        self.message_id = message_id
        self.room_id = room_id
        self.asks = False
        """Whether its client wants a reply."""
        self.is_answered = False


class TokenEvent(ClientEvent):
    """A new token that a client shows, which calls the question ``ident``. It is no message: the token is not shown."""

    __slots__ = ("ident", "token")

    def __init__(self, stream: "ClientStream", number: int, ident: str, token: str) -> None:
        super().__init__(stream, Kind.REFRESH, number)
        self.ident = ident
        self.token = token


class JoinEvent(NumberedEvent):
    """A client that wants to be in the room ``room_id``; the content is what it says beside that.

    It goes the way of a message: it waits, needs credit, and may be dropped.
    """

    __slots__ = ("has_data",)

    def __init__(
        self, stream: "ClientStream", number: int, data: str | bytes | None, k: int, message_id: str, room_id: str
    ) -> None:
        content = "" if data is None else data
        super().__init__(stream, number, content, len(content) + len(room_id), k, message_id, room_id)
        self.asks = True
        self.has_data = data is not None


@trait
class Tracker(ABC):
    """Who hears what becomes of a stream's events. Nothing here raises."""

    @abstractmethod
    def on_finished(self, event: ClientEvent) -> None:
        """The consumer has finished it, or, where it does not say so, has got it."""

    @abstractmethod
    def on_dropped(self, event: ClientEvent, code: str, text: str) -> None:
        """Nobody will handle this message; ``code`` says why to programs, ``text`` to people."""


class ClientStream(ABC):
    """One client's events, and what of the client they tell.

    ``waiting`` are those that no session has; None stands for none.
    """

    __slots__ = (
        "after",
        "before",
        "bytes_in_flight",
        "client_id",
        "consumer",
        "expires_at",
        "in_flight",
        "messages_in_flight",
        "room_id",
        "small",
        "told",
        "tracker",
        "user",
        "waiting",
        "was_held",
    )

    def __init__(self, client_id: str, room_id: str) -> None:
        self.client_id = client_id
        self.room_id = room_id
        """The room that it was let into."""
        self.user: str | None = None
        """Who the client is, where its backend has said so when it let it in."""
        self.expires_at = math.inf
        """Seconds since 1970 from which on none of its messages is delivered."""
        self.small = b""
        """Its context as JSON, if that is small, and an event has needed it since its last change."""
        self.told = 0
        """The number of the session that was told of the present context, which is not small; 0: none was."""
        self.consumer: Consumer | None = None
        self.tracker: Tracker | None = None
        """Who is told what becomes of its events, where somebody wants to know."""
        self.waiting: deque[ClientEvent] | None = None
        self.in_flight = 0
        """Events that the consumer has and has not finished."""
        self.messages_in_flight = 0
        self.bytes_in_flight = 0
        self.was_held = False
        """Whether a session had it before the present one, so that the next one has to adopt it."""
        self.after: ClientStream | None = None
        """A stream that has to be over before this one begins (LINK rule 24)."""
        self.before: ClientStream | None = None
        """The stream that waits for this one."""

    @property
    @abstractmethod
    def rooms(self) -> tuple[str, ...]:
        """All rooms that the client is in; of one that is gone, those that it was in."""

    @property
    @abstractmethod
    def context(self) -> bytes:
        """The JSON of the client's context: the constant part of all of its events."""

    @property
    @abstractmethod
    def context_size(self) -> int:
        """How many bytes the context has as JSON, at most."""

    @property
    @abstractmethod
    def told_bytes(self) -> int:
        """How many bytes the client's last event tells: they are kept until that is finished."""

    @abstractmethod
    def read_on(self) -> None:
        """Read from the client again, if it was not read from because its events had to wait."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Close the client, unless it is gone."""


class Consumer(ABC):
    """The events of one session: what it may get, and what it has not finished."""

    __slots__ = (
        "answers",
        "binary",
        "bytes_in_flight",
        "contexts_in_flight",
        "crowded",
        "finishes",
        "is_leaving",
        "is_up",
        "keeps_contexts",
        "messages_in_flight",
        "starved",
        "streams",
        "unfinished",
    )

    def __init__(self) -> None:
        self.is_up = False
        """Whether events can be written to it now."""
        self.is_leaving = False
        """Whether it gets no more (LINK rule 16)."""
        self.binary = True
        """Whether it takes messages that are no text (LINK rule 9)."""
        self.answers = False
        """Whether it takes messages whose clients want replies, and decides where they join rooms."""
        self.finishes = True
        """Whether it says what it has finished."""
        self.keeps_contexts = False
        """Whether it takes the context of a client in a line of its own, and keeps it for the events that follow."""
        self.streams: dict[ClientStream, None] = {}
        """Those it has, the longest held first: what happens to all of them happens in the same order every time."""
        self.unfinished: dict[int, ClientEvent] = {}
        self.messages_in_flight = 0
        self.bytes_in_flight = 0
        self.starved: dict[ClientStream, None] = {}
        """Streams whose next event waits for the session's credit, in the order in which they get it."""
        self.contexts_in_flight = 0
        """Bytes of the big contexts that went with unfinished events which are no messages."""
        self.crowded: dict[ClientStream, None] = {}
        """Streams whose next event, no message, waits for that to become less, in order."""

    @property
    @abstractmethod
    def is_absent(self) -> bool:
        """Whether it has been away for so long that it need not be waited for."""

    @abstractmethod
    def context_bytes(self, stream: ClientStream) -> int:
        """Return how many bytes of context go with a client's next event, at most; 0 where that is small, or known."""

    @abstractmethod
    def send(self, event: ClientEvent) -> int:
        """Write an event; return its number in the session, or 0 where nothing will say that it is done."""
