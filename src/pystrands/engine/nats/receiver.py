"""Other brokers' messages: each of a subject once, in order, and what is missing is asked for. Pure."""

from collections.abc import Callable
from typing import Final, cast, final

from pystrands.engine.base import Sink
from pystrands.engine.nats.envelope import (
    CONFIRM,
    HEAD_SIZE,
    PART,
    VERSION,
    Malformed,
    address_of,
    audience_of,
    publication_of,
    unpack_head,
    unpack_part,
)
from pystrands.engine.nats.member import Member
from pystrands.engine.nats.subscriptions import Subscription, Subscriptions
from pystrands.engine.nats.talk import Answer, AskAll, AskChains, Chain, ChainsAnswer, Tails
from pystrands.engine.nats.voice import Voice
from pystrands.engine.publication import Audience, Delivered

__all__ = ["ASK_AGAIN", "Receiver"]

ASK_AGAIN: Final = 1.0
"""Seconds after which a question that was not answered is asked again."""
_MARGIN: Final = 1.0
"""Seconds by which a message may be older than the interest in it here, for its sender to give it."""
_MAX_CHAINS: Final = 1000
"""Subjects in one question."""
_MAX_RESULTS: Final = 10_000
"""Messages of which it is remembered what became of them, for who wants to know."""
_RESULT_BYTES: Final = 250
_MAX_PARTS: Final = 4096

_ROOM: Final = Audience.ROOM
_CLIENT: Final = Audience.CLIENT


@final
class Receiver:
    """Hands what comes to ``sink``. ``on_gap`` is told of whom how many are lost.

    ``soon`` is called to have :meth:`ask` called at the end of this turn.
    """

    def __init__(
        self,
        voice: Voice,
        subscriptions: Subscriptions,
        counters: dict[str, int],
        on_gap: Callable[[str, int], None],
        soon: Callable[[], None],
    ) -> None:
        self.sink: Sink | None = None
        self.members: dict[int, Member] = {}
        """Who lives, and whose messages we take, by number."""
        self.received = 0
        self.parts_bytes = 0
        """What is kept of messages that come in parts."""
        self.is_listening = False
        """Whether all subscriptions are made."""
        self._voice = voice
        self._subscriptions = subscriptions
        self._counters = counters
        self._on_gap = on_gap
        self._soon = soon
        self._results: dict[tuple[int, int], Delivered] = {}
        self._unknown_to: dict[int, int] = {}  # up to which message of whom there may be no result that there was

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        return self.parts_bytes + len(self._results) * _RESULT_BYTES

    # --- live messages ---

    def on_message(self, subscription: Subscription, envelope: bytes) -> bool:
        """Take a message; return False when its sender is not known."""
        head = unpack_head(envelope)
        sender, seq, previous = head[5], head[6], head[7]
        member = self.members.get(sender)
        if member is None:
            return False
        if member.is_behind:
            return True
        if head[4] != member.epoch:
            member.epoch = head[4]
            self.fall_behind(member)
            return True
        if seq > member.seen:  # noqa: PLR1730 - for every message
            member.seen = seq
        last = subscription.last if sender == subscription.sender else subscription.last_of(sender)
        if previous == last or self._is_next(member, subscription, seq, previous, last):
            subscription.set_last(sender, seq)
            self._hand_on(member, subscription, seq, head[2], envelope)
        return True

    def _is_next(self, member: Member, subscription: Subscription, seq: int, previous: int, last: int) -> bool:
        """Whether none is missing before a message. Where it is, it is asked for, and the message comes with it."""
        if last < 0:
            last = member.base
        if seq <= last or (subscription.broken is not None and member.number in subscription.broken):
            return False
        if previous <= last:
            return True
        self._miss(member, subscription)
        return False

    def _hand_on(self, member: Member, subscription: Subscription, seq: int, flags: int, envelope: bytes) -> None:
        if envelope[0] != VERSION:
            self._counters["engine_unknown"] += 1
            return
        try:
            address, at = address_of(envelope)
            data = envelope
            if flags & PART:
                whole = self._join(member, subscription, envelope, at)
                if whole is None:
                    return
                data, at = whole, 0
            publication = publication_of(flags, address, data, at)
        except Malformed:
            self._counters["engine_unknown"] += 1
            return
        self.received += 1
        sink = self.sink
        if sink is None:
            return
        delivered = sink.deliver(publication)
        if flags & CONFIRM:
            self._results[member.number, seq] = delivered
            if len(self._results) > _MAX_RESULTS:
                sender, forgotten = next(iter(self._results))
                del self._results[sender, forgotten]
                self._unknown_to[sender] = forgotten

    def _join(self, member: Member, subscription: Subscription, envelope: bytes, at: int) -> bytes | None:
        """Keep a part of a message; return the rest of that message when it is the last one."""
        index, count, at = unpack_part(envelope, at)
        if subscription.parts is None:
            subscription.parts = {}
        parts = subscription.parts
        if index == 0:
            parts[member.number] = []
        so_far = parts.get(member.number)
        if so_far is None or len(so_far) != index or count > _MAX_PARTS:  # those before it are lost, and that was told
            parts.pop(member.number, None)
            return None
        so_far.append(envelope[at:])
        self.parts_bytes += len(envelope)
        if index + 1 < count:
            return None
        del parts[member.number]
        self.parts_bytes -= sum(len(part) for part in so_far)
        return b"".join(so_far)

    # --- what is missing of a broker ---

    def fall_behind(self, member: Member) -> None:
        """Take nothing of a broker until it has answered what there was after what has come so far."""
        if not member.is_behind:
            member.is_behind = True
            member.after = member.seen
        member.asked = -1.0
        self._soon()

    def _ask_all(self, member: Member, now: float) -> None:
        if member.is_met:
            member.asked = now
            self._voice.say(member.subject, AskAll(member.after))

    def on_answer(self, member: Member, answer: Answer, epoch: int, now: float) -> None:
        """Take the messages that were missing."""
        if not member.is_behind or not self.is_listening or answer.after != member.after:
            return
        member.epoch = epoch
        self._counters["engine_repairs"] += 1
        if answer.first > member.after + 1:
            member.seen = answer.first - 1
            self._lose(member, member.seen - member.after)
        for age, envelope in zip(answer.ages, answer.envelopes, strict=False):
            self._take(member, envelope, age, answer.first, now)
        member.after = member.seen = max(answer.last, answer.first - 1, member.after)
        if not answer.is_all:
            self._ask_all(member, now)
            return
        member.safe = member.seen
        member.is_behind = False

    def _take(self, member: Member, envelope: bytes, age: int, first: int, now: float) -> None:
        """Take a message that comes late; those before ``first`` are known to be lost."""
        if len(envelope) < HEAD_SIZE:
            return
        head = unpack_head(envelope)
        flags, seq, previous = head[2], head[6], head[7]
        subscription = self._subscription_of(flags, envelope)
        if subscription is None:
            return
        last = subscription.last_of(member.number)
        if previous >= first and previous != last:
            if not self._is_next(member, subscription, seq, previous, last):
                return
        elif seq <= max(last, member.base):
            return
        subscription.set_last(member.number, seq)
        if _is_for(subscription, age, now):
            self._hand_on(member, subscription, seq, flags, envelope)

    def _subscription_of(self, flags: int, envelope: bytes) -> Subscription | None:
        """Return the subscription that a message would have come by; None where nobody is interested in it."""
        try:
            address, _ = address_of(envelope)
            audience = audience_of(flags)
        except Malformed:
            self._counters["engine_unknown"] += 1
            return None
        subjects = self._voice.subjects
        if audience is _ROOM:
            return self._subscriptions.find(subjects.room(address))
        if audience is _CLIENT:
            return self._subscriptions.find(subjects.client(address))
        return self._subscriptions.find(subjects.everyone)

    def _lose(self, member: Member, count: int) -> None:
        self._unknown_to[member.number] = member.seen
        self._counters["engine_gaps"] += 1
        self._counters["engine_lost"] += count
        self._on_gap(member.broker_id, count)

    # --- what is missing on a subject ---

    def _miss(self, member: Member, subscription: Subscription) -> None:
        """Ask for what is missing on a subject, at the end of this turn; take nothing there meanwhile."""
        if subscription.broken is None:
            subscription.broken = set()
        subscription.broken.add(member.number)
        member.chains[subscription.subject] = -1.0
        if not member.to_ask:
            self._soon()
        member.to_ask.append(subscription.subject)

    def ask(self, now: float) -> None:
        """Ask for what was found to be missing."""
        if self.is_listening:
            for member in self.members.values():
                if member.is_behind and member.asked < 0:
                    self._ask_all(member, now)
                if member.to_ask:
                    self._ask_chains(member, now)

    def _ask_chains(self, member: Member, now: float) -> None:
        asked, member.to_ask = member.to_ask[:_MAX_CHAINS], member.to_ask[_MAX_CHAINS:]
        chains = []
        for subject in asked:
            subscription = self._subscriptions.find(subject)
            if subscription is None:
                self._mend(member, subject)
                continue
            last = subscription.last_of(member.number)
            age = int((now - subscription.since + _MARGIN) * 1000)
            chains.append(Chain(subject, max(last, member.base), age))
            member.chains[subject] = now
        if chains:
            self._voice.say(member.subject, AskChains(tuple(chains)))
        if member.to_ask:
            self._soon()

    def on_chain(self, member: Member, answer: ChainsAnswer, now: float) -> None:
        """Take what was missing on a subject."""
        subject = answer.subject
        if subject not in member.chains:
            return
        subscription = self._subscriptions.find(subject)
        if subscription is None:
            self._mend(member, subject)
            return
        number = member.number
        if answer.after != max(subscription.last_of(number), member.base):
            return
        self._counters["engine_repairs"] += 1
        if not answer.is_whole:
            self._lose(member, 1)
        for age, envelope in zip(answer.ages, answer.envelopes, strict=False):
            head = unpack_head(envelope)
            subscription.set_last(number, head[6])
            if _is_for(subscription, age, now):
                self._hand_on(member, subscription, head[6], head[2], envelope)
        subscription.set_last(number, max(answer.last, answer.after))
        if answer.is_all:
            self._mend(member, subject)
        else:
            self._miss(member, subscription)

    def _mend(self, member: Member, subject: bytes) -> None:
        """Take messages of a broker on a subject again."""
        member.chains.pop(subject, None)
        subscription = self._subscriptions.any(subject)
        if subscription is not None and subscription.broken is not None:
            subscription.broken.discard(member.number)
            if not subscription.broken:
                subscription.broken = None

    def on_tails(self, member: Member, tails: Tails) -> None:
        """Look whether the last message on a subject has come."""
        if member.is_behind or not self.is_listening:
            return
        values = tails.tails
        for index in range(0, len(values) - 1, 2):
            subscription = self._subscriptions.find(cast("bytes", values[index]))
            if subscription is None:
                continue
            seq = cast("int", values[index + 1])
            last = max(subscription.last_of(member.number), member.base)
            if seq > last and not (subscription.broken is not None and member.number in subscription.broken):
                self._miss(member, subscription)

    # --- brokers and NATS come and go, time passes ---

    def on_listening(self, now: float) -> None:
        """All subscriptions are made: ask everybody for what is missing."""
        self.is_listening = True
        self.ask(now)

    def on_disconnected(self) -> None:
        """Nothing comes any more; what comes after that is asked for later."""
        self.is_listening = False
        for member in self.members.values():
            if not member.is_behind:
                member.is_behind = True
                member.after = member.seen
            member.asked = -1.0

    def on_gone(self, member: Member) -> None:
        """Forget a broker that has ended, and tell what of it was missing."""
        self.members.pop(member.number, None)
        self._unknown_to.pop(member.number, None)
        missing = member.seq - member.after if member.is_behind and member.is_met else 0
        missing += len(member.chains)
        for subject in list(member.chains):
            self._mend(member, subject)
        self._subscriptions.forget(member.number)
        if missing > 0:
            self._lose(member, missing)

    def tick(self, now: float) -> None:
        """Ask again what was not answered."""
        if not self.is_listening:
            return
        for member in self.members.values():
            if member.is_behind and member.asked >= 0 and now - member.asked >= ASK_AGAIN:
                self._ask_all(member, now)
            late = [subject for subject, asked in member.chains.items() if 0 <= asked <= now - ASK_AGAIN]
            if late:
                for subject in late:
                    member.chains[subject] = -1.0
                if not member.to_ask:
                    self._soon()
                member.to_ask.extend(late)

    # --- who wants to know what became of a message ---

    def outcome(self, member: Member, seq: int, subject: bytes) -> Delivered | None:
        """Return for how many clients here a message was, and how many took it; -1 where that is unknown.

        None while it has not come: then it is asked for.
        """
        result = self._results.get((member.number, seq))
        if result is not None:
            return result
        subscription = self._subscriptions.find(subject)
        if subscription is None:
            return 0, 0
        if member.is_behind or (subscription.broken is not None and member.number in subscription.broken):
            return None
        if max(subscription.last_of(member.number), member.base) >= seq:
            known = self._unknown_to.get(member.number, 0) < seq
            return (0, 0) if known else (-1, -1)  # it came before somebody here was interested, or is lost or forgotten
        self._miss(member, subscription)
        return None


def _is_for(subscription: Subscription, age: int, now: float) -> bool:
    """Whether a message may have been published after somebody here became interested.

    Its sender said how many milliseconds that was ago when it answered, which was before ``now``. So no message is left
    out that was; and one that was not is at most as much older as its sender took to be asked and to answer.
    """
    return age <= (now - subscription.since) * 1000
