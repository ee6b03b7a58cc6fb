"""What the client's core wants done. Pure data."""

from typing import NamedTuple, TypeAlias

from pystrands.presence import Member

__all__ = [
    "Abandon",
    "Action",
    "Ask",
    "AskToken",
    "Close",
    "Deliver",
    "Dial",
    "Gap",
    "History",
    "Joined",
    "Left",
    "PresenceChanged",
    "Replied",
    "Resumed",
    "Settle",
    "Signal",
    "StateChanged",
    "Write",
]


class AskToken(NamedTuple):
    """Get a token, and tell it with `token()`."""


class Dial(NamedTuple):
    """Open a WebSocket with these subprotocols. What earlier ones do from now on is nobody's."""

    subprotocols: list[str]


class Write(NamedTuple):
    """Send a frame."""

    frame: str | bytes


class Close(NamedTuple):
    """Close the WebSocket; what it does from now on is nobody's."""

    code: int
    reason: str = ""


class Abandon(NamedTuple):
    """Let go of the WebSocket without waiting for its close; what it does from now on is nobody's."""


class Deliver(NamedTuple):
    """A message. ``room`` is None for one to this client alone or to everyone, ``number`` for a volatile one.

    ``number`` is also about when it was sent, in microseconds since 1970. ``replayed``: it is of a room's history,
    of a room that the client was in before its session was lost.
    """

    body: str | bytes
    room: str | None
    number: int | None
    replayed: bool = False


class Replied(NamedTuple):
    """The reply to a request, which is settled by it; no `Settle` follows."""

    ident: int
    body: str | bytes
    number: int | None


class Ask(NamedTuple):
    """The server asks; answer with `answer()`, and this number, which is also about when it was asked."""

    body: str | bytes
    number: int


class Joined(NamedTuple):
    """The client is in a room."""

    room: str


class History(NamedTuple):
    """Older messages of a room, which were asked for under ``ident``; numbers and bodies, the oldest first.

    To a join it is the answer: the client is in the room, and what comes behind this is newer. ``complete``: whether
    they go back to the first that may be read.
    """

    ident: int
    room: str
    messages: list[tuple[int, str | bytes]]
    complete: bool


class Gap(NamedTuple):
    """Messages of a room may be missing."""

    room: str


class Left(NamedTuple):
    """The client is in a room no more; ``why`` is empty where it wanted that itself."""

    room: str
    why: str = ""


class PresenceChanged(NamedTuple):
    """Who is present in a room has changed; each member is as it is now, or was."""

    room: str
    joined: list[Member]
    left: list[Member]
    updated: list[Member]


class Signal(NamedTuple):
    """What another member of a room says to those who are there; ``sender``: its user, or its id."""

    room: str
    name: str
    sender: str
    body: str | bytes


class Settle(NamedTuple):
    """What became of a message: ``code`` is empty where its handler has finished, else ``text`` is for people."""

    ident: int
    code: str = ""
    text: str = ""


class StateChanged(NamedTuple):
    """``state``: connecting, open, waiting or closed. ``code``: of the close; ``retry_in``: seconds until the dial."""

    state: str
    code: int = 0
    reason: str = ""
    retry_in: float = 0.0


class Resumed(NamedTuple):
    """The connection is back. ``resumed``: as the same session, so that what was missed came: ``replayed`` messages.

    ``gaps``: rooms in which messages may be missing; None stands for those that are in no room.
    """

    resumed: bool
    replayed: int
    gaps: list[str | None]


Action: TypeAlias = (
    AskToken
    | Dial
    | Write
    | Close
    | Abandon
    | Deliver
    | Replied
    | Ask
    | Joined
    | History
    | Gap
    | Left
    | PresenceChanged
    | Signal
    | Settle
    | StateChanged
    | Resumed
)
