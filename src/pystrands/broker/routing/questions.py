"""What brokers ask each other, as bytes: JSON, so that brokers of two versions can work together."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from pystrands.broker.routing.client_commands import ClientCommand
from pystrands.protocol.messages import RequestClient

__all__ = [
    "BrokerStatus",
    "CloseUser",
    "Members",
    "MembersAnswer",
    "encode",
    "read_command",
    "read_members",
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


class BrokerStatus(Struct, tag="status"):
    """What do you have? The answer is what ``status`` tells."""


class MembersAnswer(Struct):
    """Contexts, as JSON; or why there are none."""

    members: list[Raw] = msgspec.field(default_factory=list)
    error: str = ""


Question: TypeAlias = Members | BrokerStatus | CloseUser

encode: Final = msgspec.json.Encoder().encode
_question: Final[Callable[[bytes], Question]] = msgspec.json.Decoder(Question).decode
_command: Final[Callable[[bytes], ClientCommand | RequestClient]] = msgspec.json.Decoder(
    ClientCommand | RequestClient
).decode
_result: Final = msgspec.json.Decoder(dict[str, Any]).decode
_members: Final = msgspec.json.Decoder(MembersAnswer).decode


def read_question(question: bytes) -> Question:
    """Raises ValueError on what this broker does not know."""
    return _question(question)


def read_command(command: bytes) -> ClientCommand | RequestClient:
    """Raises ValueError on what this broker does not know."""
    return _command(command)


def read_result(answer: bytes) -> dict[str, Any]:
    """Raises ValueError on what is no answer."""
    return _result(answer)


def read_members(answer: bytes) -> MembersAnswer:
    """Raises ValueError on what is no answer."""
    return _members(answer)
