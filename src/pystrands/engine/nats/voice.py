"""How this broker speaks to others: who it is, and how its talk becomes bytes. Pure."""

from hashlib import blake2b
from typing import Final, final

from pystrands.engine.nats.subjects import Subjects
from pystrands.engine.nats.talk import Talk, pack
from pystrands.engine.nats.transport import Transport

__all__ = ["SLACK", "Voice", "number_of"]

SLACK: Final = 4096
"""What an envelope has beside what it carries, at most."""
_PARTS: Final = 512 * 1024 - SLACK
_SUBJECT_BYTES: Final = 176
"""The longest subject that there is, with the numbers that are told of it."""


def number_of(broker_id: str) -> int:
    """Return the number that stands for a broker in heads of messages. Two are the same never, as far as matters."""
    return int.from_bytes(blake2b(broker_id.encode(errors="surrogatepass"), digest_size=8).digest()) >> 4


@final
class Voice:
    """Sends talk, in the order of the calls and of the messages of this broker."""

    __slots__ = ("broker_id", "epoch", "mine", "number", "subjects", "transport")

    def __init__(self, transport: Transport, subjects: Subjects, broker_id: str) -> None:
        self.transport = transport
        self.subjects = subjects
        self.broker_id = broker_id
        self.number = number_of(broker_id)
        self.mine = subjects.broker(broker_id)
        """Where this broker is spoken to."""
        self.epoch = 0
        """How many times it was connected to NATS."""

    def say(self, subject: bytes, talk: Talk, reply: bytes = b"") -> None:
        """Send something to a subject. ``reply``: where it is said that nobody was there."""
        self.transport.publish(subject, pack(talk, self.epoch, self.number), reply)

    def call(self, talk: Talk, reply: bytes = b"") -> None:
        """Send something to all others."""
        self.transport.publish(self.subjects.everyone, pack(talk, self.epoch, self.number), reply)

    def fits(self, size: int) -> bool:
        """Whether so many bytes can go in one piece."""
        return size + SLACK <= self.transport.max_payload

    def part_bytes(self) -> int:
        """Return how many bytes a part of what goes in parts has."""
        return max(min(_PARTS, self.transport.max_payload - SLACK), 1024)

    def subjects_at_once(self, most: int) -> int:
        """Return of how many subjects can be told or asked in one piece; ``most`` at most."""
        return min(most, self.part_bytes() // _SUBJECT_BYTES)
