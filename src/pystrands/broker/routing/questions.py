"""What brokers ask each other, as bytes: JSON, so that brokers of two versions can work together."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from pystrands.broker.routing.client_commands import ClientCommand
from pystrands.protocol.messages import RequestClient
from pystrands.protocol.v1.presence import Entry

__all__ = [
    "BrokerStatus",
    "CloseUser",
    "KeepRooms",
    "KeptRoom",
    "KeptRooms",
    "KeptRoomsAnswer",
    "Members",
    "MembersAnswer",
    "PresenceChange",
    "PresenceChanged",
    "PresenceState",
    "PresenceStates",
    "Present",
    "PresentAnswer",
    "WatchPresence",
    "encode",
    "read_command",
    "read_kept",
    "read_members",
    "read_presence",
    "read_present",
    "read_question",
    "read_result",
]


class Members(Struct, tag="members"):
    """Who is in a room? ``limit``: bytes that the asker can use of an answer; 0 for any number."""

    room_id: str
    limit: int = 0


class CloseUser(Struct, tag="close_user"):
    """Close all clients of a user. ``name``: what this question is called, however often it comes."""

    user: str
    code: int
    reason: str
    name: str


class Present(Struct, tag="present"):
    """Who is present in a room? ``limit``: bytes that the asker can use of an answer; 0 for any number."""

    room_id: str
    limit: int = 0


class WatchPresence(Struct, tag="watch_presence"):
    """Somebody at that broker wants to know who is present in these rooms; ``is_full``: it asks who is there now."""

    broker_id: str
    rooms: list[str]
    is_full: bool


class PresenceChange(Struct):
    """What has changed in one room: ``entries`` are new or other ones, ``left`` users who are gone.

    ``number``: that of this change; ``before``: that of the one before it.
    """

    room_id: str
    before: int
    number: int
    entries: list[Entry] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)


class PresenceChanged(Struct, tag="presence_changed"):
    """No question: who is present at that broker has changed."""

    broker_id: str
    changes: list[PresenceChange]


class KeptRoom(Struct):
    """A room whose history is kept: so many messages, 0 for none any more, for so many seconds."""

    room_id: str
    limit: int
    ttl: float


class KeepRooms(Struct, tag="keep"):
    """Keep the histories of these rooms."""

    rooms: list[KeptRoom]


class KeptRooms(Struct, tag="kept"):
    """Which histories do you keep? The answer is a :class:`KeptRoomsAnswer`."""


class KeptRoomsAnswer(Struct):
    """Those that are kept; or why that can't be."""

    rooms: list[KeptRoom] = msgspec.field(default_factory=list)
    error: str = ""


class BrokerStatus(Struct, tag="status"):
    """What do you have? The answer is what ``status`` tells."""


class PresenceState(Struct):
    """Who is present in a room at one broker, as of the change of that number."""

    number: int = 0
    entries: list[Entry] = msgspec.field(default_factory=list)


class PresenceStates(Struct):
    """Those of several rooms."""

    rooms: dict[str, PresenceState] = msgspec.field(default_factory=dict)


class PresentAnswer(Struct):
    """Who is present; or why that can't be told."""

    entries: list[Entry] = msgspec.field(default_factory=list)
    error: str = ""


class MembersAnswer(Struct):
    """Contexts, as JSON; or why there are none."""

    members: list[Raw] = msgspec.field(default_factory=list)
    error: str = ""


Question: TypeAlias = (
    Members | BrokerStatus | CloseUser | Present | WatchPresence | PresenceChanged | KeepRooms | KeptRooms
)

encode: Final = msgspec.json.Encoder().encode
_question: Final[Callable[[bytes], Question]] = msgspec.json.Decoder(Question).decode
_command: Final[Callable[[bytes], ClientCommand | RequestClient]] = msgspec.json.Decoder(
    ClientCommand | RequestClient
).decode
_result: Final = msgspec.json.Decoder(dict[str, Any]).decode
_presence: Final = msgspec.json.Decoder(PresenceStates).decode
_present: Final = msgspec.json.Decoder(PresentAnswer).decode
_members: Final = msgspec.json.Decoder(MembersAnswer).decode
_kept: Final = msgspec.json.Decoder(KeptRoomsAnswer).decode


def read_question(question: bytes) -> Question:
    """Raises ValueError on what this broker does not know."""
    return _question(question)


def read_command(command: bytes) -> ClientCommand | RequestClient:
    """Raises ValueError on what this broker does not know."""
    return _command(command)


def read_result(answer: bytes) -> dict[str, Any]:
    """Raises ValueError on what is no answer."""
    return _result(answer)


def read_presence(answer: bytes) -> PresenceStates:
    """Raises ValueError on what is no answer."""
    return _presence(answer)


def read_present(answer: bytes) -> PresentAnswer:
    """Raises ValueError on what is no answer."""
    return _present(answer)


def read_members(answer: bytes) -> MembersAnswer:
    """Raises ValueError on what is no answer."""
    return _members(answer)


def read_kept(answer: bytes) -> KeptRoomsAnswer:
    """Raises ValueError on what is no answer."""
    return _kept(answer)
