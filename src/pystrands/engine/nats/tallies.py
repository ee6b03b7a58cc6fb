"""What became of this broker's messages at others, for who wants to know. Pure: the time is an argument."""

from collections.abc import Iterable
from typing import Final, cast, final

from pystrands.engine.cluster import Confirmed
from pystrands.engine.nats.envelope import Malformed
from pystrands.engine.nats.member import Member
from pystrands.engine.nats.receiver import PublicationReceiver
from pystrands.engine.nats.talk import Tallies as AskTallies
from pystrands.engine.nats.talk import TalliesAnswer
from pystrands.engine.nats.voice import Voice

__all__ = ["Tallies"]

_AGAIN: Final = 1.0
"""Seconds after which the question is asked again."""
_SOON: Final = 0.2
"""Seconds after which it is where a broker is away that may have the client."""
_GIVEN_UP: Final = 15.0
"""Seconds after which a question of others that can't be answered is forgotten."""
_MANY_LOOKS: Final = 10
_MAX_PENDING: Final = 1000
_BESIDE: Final = 300


@final
class _Tally:
    """One message, or those of one turn, and what was answered so far."""

    __slots__ = ("confirmed", "counts", "deadline", "is_complete", "is_sure", "messages", "number", "open", "reply",
                 "sent", "subject")  # fmt: skip

    def __init__(self, number: int, subject: bytes, reply: bytes, members: Iterable[int]) -> None:
        self.number = number
        self.subject = subject
        self.reply = reply
        self.open = set(members)
        self.messages: list[bytes | int] = []
        self.counts: list[int] = []
        self.confirmed: list[Confirmed] = []
        self.deadline = 0.0
        self.sent = 0.0
        self.is_complete = True
        self.is_sure = False
        """Whether it was sent to a client's broker when all who live had said that they are there."""


@final
class _Pending:
    """A question of another broker about messages that have not come yet."""

    __slots__ = ("asker", "looks", "next_look", "question", "sender", "until")

    def __init__(self, sender: int, asker: bytes, question: AskTallies, until: float) -> None:
        self.sender = sender
        self.asker = asker
        self.question = question
        self.until = until
        self.looks = 0
        """How many times it was looked whether it can be answered."""
        self.next_look = 0.0


@final
class Tallies:
    """Both sides of it."""

    def __init__(self, voice: Voice, receiver: PublicationReceiver, members: dict[int, Member]) -> None:
        self._voice = voice
        self._receiver = receiver
        self._members = members
        self._tallies: dict[int, _Tally] = {}
        self._unsent: _Tally | None = None
        self._pending: list[_Pending] = []

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        return sum(_BESIDE * (1 + len(tally.confirmed)) for tally in self._tallies.values())

    # --- who asks ---

    def ask_all(self, number: int, seq: int, subject: bytes, timeout: float, confirmed: Confirmed, now: float) -> bool:
        """Ask what became of a message to many, at the end of this turn; return whether that is the turn's first."""
        tally = self._unsent
        is_first = tally is None
        if tally is None:
            tally = self._unsent = _Tally(number, self._voice.subjects.everyone, b"", self._members)
        self._add(tally, seq, subject, timeout, confirmed, now)
        if len(tally.confirmed) >= self._voice.subjects_at_once(_MAX_PENDING):
            self.send(now)
        return is_first

    def ask_holder(
        self, number: int, seq: int, subject: bytes, timeout: float, confirmed: Confirmed, now: float
    ) -> None:
        """Ask what became of a message to one client."""
        tally = _Tally(number, subject, self._voice.mine + b".%d" % number, ())
        self._add(tally, seq, subject, timeout, confirmed, now)
        self._tallies[number] = tally
        self._send(tally, now)

    @staticmethod
    def _add(tally: _Tally, seq: int, subject: bytes, timeout: float, confirmed: Confirmed, now: float) -> None:
        tally.messages += [seq, subject]
        tally.counts += [0, 0]
        tally.confirmed.append(confirmed)
        tally.deadline = max(tally.deadline, now + timeout)

    def send(self, now: float) -> None:
        """Send the question of this turn."""
        tally, self._unsent = self._unsent, None
        if tally is not None:
            self._tallies[tally.number] = tally
            if tally.open:
                self._send(tally, now)
            else:
                self._end(tally)

    def _send(self, tally: _Tally, now: float) -> None:
        tally.sent = now
        tally.is_sure = False
        self._voice.say(tally.subject, AskTallies(tally.number, tuple(tally.messages)), tally.reply)

    def on_answer(self, sender: int, answer: TalliesAnswer) -> None:
        """Take what became of messages at another broker."""
        tally = self._tallies.get(answer.number)
        if tally is None or len(answer.counts) != len(tally.counts):
            return
        if tally.reply:
            tally.open.clear()
        elif sender not in tally.open:
            return
        else:
            tally.open.remove(sender)
        for index, count in enumerate(answer.counts):
            if count < 0:
                tally.is_complete = False
            else:
                tally.counts[index] += count
        if not tally.open:
            self._end(tally)

    def on_nobody(self, number: int) -> bool:
        """Nobody took a question about a client's message; return whether it is to be known first if all are there."""
        tally = self._tallies.get(number)
        if tally is None:
            return False
        if tally.is_sure:
            self._end(tally)
        return not tally.is_sure

    def on_all_here(self, number: int, now: float) -> None:
        """All who live are there: whoever may have been away before has the question now."""
        tally = self._tallies.get(number)
        if tally is not None:
            self._send(tally, now)
            tally.is_sure = True

    def on_unknown(self, number: int, now: float) -> None:
        """One who may have that client is away: ask soon again."""
        tally = self._tallies.get(number)
        if tally is not None:
            tally.sent = now - _AGAIN + _SOON

    def on_dead(self, sender: int) -> None:
        """Wait no more for a broker."""
        for tally in list(self._tallies.values()):
            if sender in tally.open:
                tally.open.remove(sender)
                if not tally.open:
                    self._end(tally)

    def _end(self, tally: _Tally) -> None:
        del self._tallies[tally.number]
        counts = tally.counts
        for index, confirmed in enumerate(tally.confirmed):
            confirmed((counts[2 * index], counts[2 * index + 1]), tally.is_complete)

    def on_disconnected(self) -> None:
        """Others can't be asked any more: what they have said so far is all."""
        for tally in list(self._tallies.values()):
            tally.is_complete = False
            self._end(tally)

    def tick(self, now: float) -> None:
        """End what was not answered in time, and ask again."""
        for tally in list(self._tallies.values()):
            if now >= tally.deadline:
                tally.is_complete = False
                self._end(tally)
            elif now - tally.sent >= _AGAIN:
                self._send(tally, now)
        if self._pending:
            self.look(now)

    # --- who is asked ---

    def on_question(self, sender: int, asker: bytes, question: AskTallies, now: float) -> None:
        """Answer another broker, once its messages have come. Raises Malformed."""
        values = question.messages
        if not all(isinstance(each, bytes if index % 2 else int) for index, each in enumerate(values)):
            raise Malformed("it has no numbers, each with a subject")
        self._pending.append(_Pending(sender, asker, question, now + _GIVEN_UP))
        if len(self._pending) > _MAX_PENDING:
            del self._pending[0]
        self.look(now)

    def look(self, now: float) -> None:
        """Answer what can be answered by now."""
        pending, self._pending = self._pending, []
        for each in pending:
            member = self._members.get(each.sender)
            if member is None or now >= each.until:
                continue
            if now < each.next_look:
                self._pending.append(each)
                continue
            each.looks += 1
            if each.looks > _MANY_LOOKS:  # each one asks again for what has not come: it may never have been there
                each.next_look = now + _SOON
            counts = self._counts(member, each.question)
            if counts is None:
                self._pending.append(each)
            else:
                self._voice.say(each.asker, TalliesAnswer(each.question.number, counts))

    def _counts(self, member: Member, question: AskTallies) -> tuple[int, ...] | None:
        """Return what became of messages; None while one of them has not come."""
        counts: list[int] = []
        values = question.messages
        for index in range(0, len(values) - 1, 2):
            found = self._receiver.outcome(member, cast("int", values[index]), cast("bytes", values[index + 1]))
            if found is None:
                return None
            counts += found
        return tuple(counts)
