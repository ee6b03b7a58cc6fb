"""What brokers tell and ask each other: every kind as a class, in MessagePack behind an envelope's head. Pure.

Fields that a newer version adds have defaults, and are skipped by an older one. Numbers of messages are those of the
sender's own stream, unless the field says otherwise.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from pystrands.engine.nats.envelope import HEAD_SIZE, Malformed, pack_head

__all__ = [
    "Answer",
    "AskAll",
    "AskChains",
    "AskTails",
    "Beat",
    "Bye",
    "Call",
    "Chain",
    "ChainsAnswer",
    "Claim",
    "ClaimAnswer",
    "Command",
    "CommandAnswer",
    "Hello",
    "Here",
    "Part",
    "Question",
    "Tails",
    "Talk",
    "Tallies",
    "TalliesAnswer",
    "Told",
    "pack",
    "unpack",
]


class Talk(msgspec.Struct, frozen=True, array_like=True):
    """What one broker tells another."""


class Beat(Talk, frozen=True, array_like=True):
    """A heartbeat, to all: the sender lives."""

    broker_id: str
    seq: int
    """The number of its last message."""
    beat: int
    """The number of this heartbeat; a missing one tells that something was lost."""
    address: str
    """Where its port for backends is reached; empty while it does not listen."""
    is_draining: bool
    clock: int
    """What its clock says, in nanoseconds, by which claims get their stamps."""
    version: int
    """The newest version that it understands."""
    is_listening: bool = True
    """Whether it has subscribed, on its present connection, to all that it wants."""
    tails: tuple[bytes | int, ...] = ()
    """The last numbers on subjects since the heartbeat before, as alternating subject and number: who has not heard so
    far has missed some."""


class Hello(Talk, frozen=True, array_like=True):
    """What a broker says when it is connected, to all; and to each that it meets, with ``base``."""

    beat: Beat
    wants: bool
    """Whether the other is to say hello as well."""
    base: int = -1
    """To one broker: messages after this one are for it as well."""
    peers: tuple[str, ...] = ()
    """To one broker: whom else there is."""
    connected: int = 0
    """Milliseconds since the sender was connected: whether all others have had the time to come back to NATS."""


class Bye(Talk, frozen=True, array_like=True):
    """The sender has ended, in order."""


class AskTails(Talk, frozen=True, array_like=True):
    """Asks for the last numbers on all subjects that have messages after that one."""

    after: int


class Tails(Talk, frozen=True, array_like=True):
    """The answer to it, as in heartbeats; it may be about a part of them."""

    after: int
    """What was asked for."""
    tails: tuple[bytes | int, ...]
    upto: int = -1
    """These are those up to that message, and more are to be asked for after it; -1: these are all."""


class AskAll(Talk, frozen=True, array_like=True):
    """Asks for all messages after that one."""

    after: int


class Answer(Talk, frozen=True, array_like=True):
    """Messages to whom asked for all; the next question goes on after ``last``."""

    after: int
    """What was asked for."""
    first: int
    """The first one that there is still."""
    last: int
    """The last one that this answer is about."""
    is_all: bool
    """Whether there are no more."""
    ages: tuple[int, ...]
    """Milliseconds since each was published."""
    envelopes: tuple[bytes, ...]


class Chain(msgspec.Struct, frozen=True, array_like=True):
    """A subject on which messages are missing: those after ``after`` are asked for, if they are not older than that."""

    subject: bytes
    after: int
    age: int
    """Milliseconds; -1 where age does not matter."""


class AskChains(Talk, frozen=True, array_like=True):
    """Asks for messages on some subjects."""

    chains: tuple[Chain, ...]


class ChainsAnswer(Talk, frozen=True, array_like=True):
    """Messages on one subject that were asked for, oldest first."""

    subject: bytes
    after: int
    """What was asked for."""
    is_whole: bool
    """Whether none is missing any more."""
    is_all: bool
    """Whether there are no more."""
    last: int
    """The last one on the subject that this answer is about."""
    ages: tuple[int, ...]
    envelopes: tuple[bytes, ...]


class Question(Talk, frozen=True, array_like=True):
    """What a broker asks of all others."""

    number: int
    question: bytes


class Part(Talk, frozen=True, array_like=True):
    """A part of the answer to it."""

    number: int
    index: int
    is_last: bool
    content: bytes


class Command(Talk, frozen=True, array_like=True):
    """What the broker that has a client is to do, once for each number."""

    number: int
    client_id: bytes
    command: bytes


class CommandAnswer(Talk, frozen=True, array_like=True):
    """What became of it."""

    number: int
    index: int
    is_last: bool
    content: bytes


class Claim(Talk, frozen=True, array_like=True):
    """The sender has, or is about to have, a client of that id; another one goes."""

    number: int
    client_id: bytes
    stamp: int
    is_repeated: bool
    """Whether it is not new: the older of two that have claimed goes, by their stamps."""


class ClaimAnswer(Talk, frozen=True, array_like=True):
    """What became of it."""

    number: int
    is_here: bool
    """Whether there was such a client; it is gone now, unless its claim is the newer one."""
    is_lost: bool
    """Whether its claim is the newer one, and the client of the asker goes."""


class Tallies(Talk, frozen=True, array_like=True):
    """Asks what became of some messages, as alternating number and subject."""

    number: int
    messages: tuple[bytes | int, ...]


class TalliesAnswer(Talk, frozen=True, array_like=True):
    """For how many clients they were, and how many of them took them, each after the other; -1 where it is unknown."""

    number: int
    counts: tuple[int, ...]


class Call(Talk, frozen=True, array_like=True):
    """Asks all others whether they are there."""

    number: int


class Here(Talk, frozen=True, array_like=True):
    """The answer to it."""

    number: int
    is_listening: bool
    """Whether what is for the sender's clients reaches it."""


class Told(Talk, frozen=True, array_like=True):
    """What is told on a room's subject to those that have clients there, once."""

    room_id: bytes
    told: bytes


_KINDS: Final[dict[int, type[Talk]]] = {
    2: Hello,
    3: Beat,
    4: Bye,
    5: Tails,
    6: AskTails,
    7: AskAll,
    8: Answer,
    9: AskChains,
    10: ChainsAnswer,
    11: Question,
    12: Part,
    13: Command,
    14: CommandAnswer,
    15: Claim,
    16: ClaimAnswer,
    17: Tallies,
    18: TalliesAnswer,
    19: Call,
    20: Here,
    21: Told,
}
_numbers: Final = {kind: number for number, kind in _KINDS.items()}
_decode: Final[dict[int, Callable[[bytes], Any]]] = {
    number: msgspec.msgpack.Decoder(kind).decode for number, kind in _KINDS.items()
}
_encode: Final = msgspec.msgpack.Encoder().encode


def pack(talk: Talk, epoch: int, sender: int) -> bytes:
    """Return an envelope with it."""
    return pack_head(_numbers[type(talk)], 0, epoch, sender, 0, 0) + _encode(talk)


def unpack(kind: int, envelope: bytes) -> Talk | None:
    """Return what is behind an envelope's head; None for a kind that is unknown. Raises Malformed."""
    decode = _decode.get(kind)
    if decode is None:
        return None
    try:
        talk: Talk = decode(envelope[HEAD_SIZE:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    return talk
