"""This broker's own messages on their way to the others: numbered, kept for a while, and given again who missed some.

Pure: the time is an argument, and what is sent goes to a Transport.
"""

from operator import attrgetter
from typing import Final, final

from pystrands.engine.nats.envelope import (
    HEAD_SIZE,
    MESSAGE,
    PART,
    flags_of,
    pack_head,
    pack_part,
    pack_rest,
    prefix_of,
    unpack_head,
)
from pystrands.engine.nats.ring import PublicationRing
from pystrands.engine.nats.subjects import Subjects
from pystrands.engine.nats.talk import Answer, Chain, ChainsAnswer, Tails
from pystrands.engine.nats.transport import Transport
from pystrands.engine.publication import Audience, Publication

__all__ = ["PART_BYTES", "Publisher"]

PART_BYTES: Final = 256 * 1024
"""Bytes of messages in one answer to who has missed some: handling it takes its receiver some milliseconds."""
_BESIDE: Final = 4096
"""What an answer that repeats one message has beside it, at most."""
_SUBJECT_BYTES: Final = 300
"""What is kept for a subject that messages went to."""
_SWEEP_AT: Final = 10_000

_ROOM: Final = Audience.ROOM
_CLIENT: Final = Audience.CLIENT
_USER: Final = Audience.USER


@final
class _Subject:
    """Where messages went to, and the number of the last one."""

    __slots__ = ("is_untold", "last", "name", "prefix")

    def __init__(self, name: bytes, prefix: bytes) -> None:
        self.name = name
        self.prefix = prefix
        self.last = 0
        self.is_untold = False
        """Whether others are to hear of that number by itself: the message may be lost, and no other follow."""


_by_last: Final = attrgetter("last")


@final
class Publisher:
    """Numbers messages, sends them, and keeps the newest ``ring_bytes`` of them.

    While it is not ``is_active``, since nobody else is there, it counts them only: who comes later hears of the number
    that was reached, and who comes back hears how many it has missed.
    """

    def __init__(self, transport: Transport, subjects: Subjects, number: int, ring_bytes: int) -> None:
        self.epoch = 0
        """The number of the connection to NATS."""
        self.seq = 0
        """The number of the last message."""
        self.beat = 0
        """What stands for the last heartbeat in heads of messages."""
        self.last_subject = subjects.everyone
        """Where that one went."""
        self.last_is_private = False
        self.is_active = False
        self.published = 0
        """How many messages were published while somebody else was there."""
        self._transport = transport
        self._subjects = subjects
        self._number = number
        self._ring = PublicationRing(ring_bytes)
        self._rooms: dict[str, _Subject] = {}
        self._clients: dict[str, _Subject] = {}
        self._users: dict[str, _Subject] = {}
        self._everyone = _Subject(subjects.everyone, prefix_of(""))
        self._by_name: dict[bytes, _Subject] = {self._everyone.name: self._everyone}
        self._sweep_at = _SWEEP_AT
        self._untold: list[_Subject] = []

    @property
    def ring_bytes(self) -> int:
        """How many bytes are kept."""
        return self._ring.bytes

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept, with what is known of subjects."""
        return self._ring.bytes + len(self._by_name) * _SUBJECT_BYTES

    # --- sending ---

    def publish(self, publication: Publication, now: float) -> int:
        """Send a message, or keep it until NATS is back; return its number."""
        if not self.is_active:
            self.seq += 1
            return self.seq
        self.published += 1
        subject = self.subject_of(publication)
        self.last_subject = subject.name
        self.last_is_private = publication.audience is _CLIENT
        flags = flags_of(publication)
        rest = pack_rest(publication)
        size = HEAD_SIZE + len(subject.prefix) + len(rest)
        if size > self._transport.max_payload - _BESIDE:
            return self._publish_parts(subject, flags, rest, now)
        return self._publish(subject, flags, rest, now)

    def _publish(self, subject: _Subject, flags: int, rest: bytes, now: float) -> int:
        self.seq = seq = self.seq + 1
        previous = subject.last
        envelope = pack_head(MESSAGE, flags, self.epoch, self._number, seq, previous, self.beat)
        envelope += subject.prefix + rest
        subject.last = seq
        if not subject.is_untold:
            subject.is_untold = True
            self._untold.append(subject)
        self._ring.append(envelope, now)
        self._transport.publish(subject.name, envelope)
        return seq

    def _publish_parts(self, subject: _Subject, flags: int, rest: bytes, now: float) -> int:
        size = max(self._transport.max_payload - _BESIDE - HEAD_SIZE - len(subject.prefix), 1024)
        count = -(-len(rest) // size)
        seq = 0
        for index in range(count):
            part = pack_part(index, count) + rest[index * size : (index + 1) * size]
            seq = self._publish(subject, flags | PART, part, now)
        return seq

    def subject_of(self, publication: Publication) -> _Subject:
        """Return where a message goes."""
        audience, address = publication.audience, publication.address
        if audience is _ROOM:
            subject = self._rooms.get(address)
            if subject is not None:
                return subject
            subject = self._rooms[address] = _Subject(self._subjects.room(address), prefix_of(address))
        elif audience is _CLIENT:
            subject = self._clients.get(address)
            if subject is not None:
                return subject
            subject = self._clients[address] = _Subject(self._subjects.client(address), prefix_of(address))
        elif audience is _USER:
            subject = self._users.get(address)
            if subject is not None:
                return subject
            subject = self._users[address] = _Subject(self._subjects.user(address), prefix_of(address))
        else:
            return self._everyone
        self._by_name[subject.name] = subject
        if len(self._by_name) > self._sweep_at:
            self._sweep(subject)
        return subject

    def _sweep(self, new: _Subject) -> None:
        """Forget subjects of which no message is kept any more."""
        first = self._ring.first
        kept = {name: each for name, each in self._by_name.items() if each.last >= first}
        kept[self._everyone.name] = self._everyone
        kept[new.name] = new
        self._by_name = kept
        self._rooms = {room_id: each for room_id, each in self._rooms.items() if each.name in kept}
        self._clients = {client_id: each for client_id, each in self._clients.items() if each.name in kept}
        self._users = {user: each for user, each in self._users.items() if each.name in kept}
        self._sweep_at = max(_SWEEP_AT, 2 * len(kept))

    def rest(self) -> None:
        """Count messages only, from now on: nobody else is there."""
        self.is_active = False
        self.tails(len(self._untold))
        self._ring.clear(self.seq + 1)

    def wake(self) -> None:
        """Keep and send messages from now on."""
        if not self.is_active:
            self.is_active = True
            self._ring.clear(self.seq + 1)

    # --- who has missed some ---

    def tails(self, count: int) -> tuple[bytes | int, ...]:
        """Return subjects that messages went to since the last call, each with its last number; at most so many."""
        untold = self._untold
        if len(untold) > count:  # what nobody can get any more is not worth telling
            first = self._ring.first
            untold = [each for each in untold if each.last >= first]
        self._untold = untold[count:]
        del untold[count:]
        for each in untold:
            each.is_untold = False
        return tuple(value for each in untold for value in (each.name, each.last))

    def answer_tails(self, after: int, most: int) -> Tails:
        """Return subjects that messages after that one went to, each with its last number; those with the lowest."""
        found = [each for each in self._by_name.values() if each.last > after]
        upto = -1
        if len(found) > most:
            found.sort(key=_by_last)
            del found[most:]
            upto = found[-1].last
        return Tails(after, tuple(value for each in found for value in (each.name, each.last)), upto)

    def answer_all(self, after: int, now: float) -> Answer:
        """Return messages after that one, oldest first."""
        ring = self._ring
        first = ring.first if self.is_active else self.seq + 1
        ages: list[int] = []
        envelopes: list[bytes] = []
        size = 0
        seq = max(after + 1, first)
        while seq <= self.seq:
            envelope = ring.get(seq)
            assert envelope is not None
            if self._fits(envelope):
                size += len(envelope) + 8
                if envelopes and size > self._part_bytes():
                    break
                ages.append(_age(ring.time(seq), now))
                envelopes.append(envelope)
            seq += 1
        return Answer(after, first, seq - 1, seq > self.seq, tuple(ages), tuple(envelopes))

    def answer_chain(self, chain: Chain, now: float) -> ChainsAnswer:
        """Return messages on one subject after that one, oldest first."""
        subject = self._by_name.get(chain.subject)
        last = 0 if subject is None else subject.last
        found: list[int] = []
        seq, is_whole = last, True
        while seq > chain.after:
            envelope = self._ring.get(seq)
            if envelope is None:
                is_whole = chain.age >= 0 and self._reaches(chain.age, now)
                break
            if chain.age >= 0 and _age(self._ring.time(seq), now) > chain.age:
                break
            if not self._fits(envelope):
                is_whole = False
                break
            found.append(seq)
            seq = unpack_head(envelope)[7]
        found.reverse()
        return self._chain_answer(chain, found, is_whole, last, now)

    def _reaches(self, age: int, now: float) -> bool:
        """Whether all messages that are not older than that are kept."""
        first = self._ring.first
        return first == 1 or first > self.seq or _age(self._ring.time(first), now) > age

    def _chain_answer(self, chain: Chain, found: list[int], is_whole: bool, last: int, now: float) -> ChainsAnswer:
        ring = self._ring
        envelopes: list[bytes] = []
        size = 0
        for seq in found:
            envelope = ring.get(seq)
            assert envelope is not None
            size += len(envelope) + 8
            if envelopes and size > self._part_bytes():
                break
            envelopes.append(envelope)
        taken = found[: len(envelopes)]
        is_all = len(taken) == len(found)
        ages = tuple(_age(ring.time(seq), now) for seq in taken)
        return ChainsAnswer(
            chain.subject, chain.after, is_whole, is_all, last if is_all else taken[-1], ages, tuple(envelopes)
        )

    def _fits(self, envelope: bytes) -> bool:
        """Whether an answer can have it: a server may take less than the one before, and closes on more."""
        return len(envelope) <= self._transport.max_payload - _BESIDE // 2

    def _part_bytes(self) -> int:
        return min(PART_BYTES, self._transport.max_payload - _BESIDE)


def _age(published: float, now: float) -> int:
    return max(int((now - published) * 1000), 0)
