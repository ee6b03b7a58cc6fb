"""Other brokers' messages: each of a subject once, in order, and what is missing is asked for. Pure."""

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Final, final

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
from pystrands.engine.nats.member import WAITING_BYTES, Member, Waiting
from pystrands.engine.nats.subscriptions import Subscription, Subscriptions
from pystrands.engine.nats.talk import Answer, AskAll, AskChains, AskTails, Chain, ChainsAnswer, Tails
from pystrands.engine.nats.voice import Voice
from pystrands.engine.publication import Audience, Delivered

__all__ = ["ASK_AGAIN", "PublicationReceiver"]

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
_DENIED: Final = 3
"""Answers that have not what is missing before a message, after which that is not waited for."""

_MAX_WAITING: Final = 4 * 1024 * 1024
"""Bytes of one broker's messages that wait for others of it."""

_by_seq: Final = attrgetter("seq")
_ROOM: Final = Audience.ROOM
_CLIENT: Final = Audience.CLIENT
_USER: Final = Audience.USER


@final
class PublicationReceiver:
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
        self.waiting_bytes = 0
        """What is kept of messages that wait for others."""
        self.is_listening = False
        """Whether all subscriptions are made."""
        self._voice = voice
        self._subscriptions = subscriptions
        self._counters = counters
        self._on_gap = on_gap
        self._soon = soon
        self._partial: dict[tuple[int, bytes], list[bytes]] = {}  # messages that come in parts, by sender and subject
        self._results: dict[tuple[int, int], Delivered] = {}
        self._unknown_to: dict[int, int] = {}  # up to which message of whom there may be no result that there was

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        partial = sum(len(part) for parts in self._partial.values() for part in parts)
        return partial + self.waiting_bytes + len(self._results) * _RESULT_BYTES

    # --- live messages ---

    def on_message(self, subscription: Subscription, envelope: bytes) -> bool:
        """Take a message; return False when its sender is not known."""
        head = unpack_head(envelope)
        sender, seq, previous = head[5], head[6], head[7]
        member = self.members.get(sender)
        if member is None:
            return False
        if member.is_behind:
            member.seq = max(member.seq, seq)
            return True
        if head[4] != member.epoch or (head[3] != member.beat_byte and head[3]):
            member.epoch = head[4]
            member.beat_byte = head[3]
            member.seq = max(member.seq, seq)
            self.fall_behind(member)
        elif member.queue or member.chains:
            self._enqueue(member, Waiting(seq, envelope, subscription))
            self._drain(member)
        else:
            last = subscription.last if sender == subscription.sender else subscription.last_of(sender)
            if previous == last or self._is_next(member, subscription, seq, previous, last):
                member.seen = seq
                subscription.set_last(sender, seq)
                self._hand_on(member, subscription, seq, head[2], envelope)
            elif member.chains:
                self._enqueue(member, Waiting(seq, envelope, subscription))
            elif not member.is_behind:
                member.seen = max(member.seen, seq)
        return True

    def _is_next(self, member: Member, subscription: Subscription, seq: int, previous: int, last: int) -> bool:
        """Whether a message is the next one. Where one before it is missing, that is asked for."""
        first = member.base if last < 0 else last
        if seq <= first:
            return False
        if previous <= first:
            return True
        member.seq = max(member.seq, seq)
        self._lack(member, subscription, previous, last)
        return False

    # --- messages that wait for others, so that all come in order ---

    def _enqueue(self, member: Member, waiting: Waiting) -> None:
        member.queue.append(waiting)
        self.waiting_bytes += len(waiting.envelope) + WAITING_BYTES
        member.queue_bytes += len(waiting.envelope) + WAITING_BYTES
        if member.queue_bytes > _MAX_WAITING and not member.is_behind:
            self.fall_behind(member)  # it has them all: better asked for once more than kept here as well

    def _clear_queue(self, member: Member) -> None:
        """Drop what waits, and comes once more; what was given for one subject, and will not, is asked for again."""
        for waiting in member.queue:
            if waiting.is_extra and waiting.seq <= member.after and waiting.subscription is not None:
                subject = waiting.subscription.subject
                if subject not in member.chains:
                    member.chains[subject] = -1.0
                    member.to_ask.append(subject)
        self.waiting_bytes -= member.queue_bytes
        member.queue_bytes = 0
        member.queue.clear()

    def _drain(self, member: Member) -> None:
        """Take messages that wait, until one is missing in between."""
        queue = member.queue
        while queue and not member.chains:
            waiting = queue[0]
            if not self._take(member, waiting):
                break
            queue.popleft()
            size = len(waiting.envelope) + WAITING_BYTES
            self.waiting_bytes -= size
            member.queue_bytes -= size
            if not waiting.is_extra and waiting.seq > member.seen:
                member.seen = waiting.seq
        if not queue and member.is_behind and member.is_answered:
            member.is_answered = False
            member.after = member.seen
            member.asked = -1.0
            self._soon()

    def _take(self, member: Member, waiting: Waiting) -> bool:
        """Take a message that has waited, or came late; return False when one before it is missing."""
        envelope, seq, subscription = waiting.envelope, waiting.seq, waiting.subscription
        if not envelope:  # the end of an answer
            return True
        head = unpack_head(envelope)
        if subscription is None:
            subscription = self._subscription_of(head[2], envelope)
            if subscription is None:
                return True
        elif not subscription.is_wanted:
            return True
        last, previous, was_behind = subscription.last_of(member.number), head[7], member.is_behind
        if previous < waiting.first:  # what is missing before it is lost, and that was told
            if seq <= max(last, member.base):
                return True
        elif previous != last and not self._is_next(member, subscription, seq, previous, last):
            return subscription.subject not in member.chains and member.is_behind == was_behind
        subscription.set_last(member.number, seq)
        if waiting.published >= subscription.since:
            self._hand_on(member, subscription, seq, head[2], envelope)
        return True

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
        key = (member.number, subscription.subject)
        if index == 0:
            self._partial[key] = []
        so_far = self._partial.get(key)
        if so_far is None or len(so_far) != index or count > _MAX_PARTS:  # those before it are lost, and that was told
            self._partial.pop(key, None)
            return None
        so_far.append(envelope[at:])
        if index + 1 < count:
            return None
        del self._partial[key]
        return b"".join(so_far)

    # --- what is missing of a broker ---

    def fall_behind(self, member: Member) -> None:
        """Take nothing of a broker until it has answered what there was after what has come so far."""
        if not member.is_behind:
            member.is_behind = True
            member.after = member.seen
        self._clear_queue(member)
        member.is_answered = False
        member.asked = -1.0
        self._soon()

    def _ask_all(self, member: Member, now: float) -> None:
        if member.is_met and not member.is_answered:
            member.asked = now
            self._voice.say(member.subject, AskAll(member.after))

    def on_answer(self, member: Member, answer: Answer, epoch: int, now: float) -> None:
        """Take the messages that were missing."""
        if not member.is_behind or member.is_answered or not self.is_listening or answer.after != member.after:
            return
        member.epoch = epoch
        self._counters["engine_repairs"] += 1
        if answer.first > member.after + 1:
            member.seen = answer.first - 1
            self._lose(member, member.seen - member.after)
        for age, envelope in zip(answer.ages, answer.envelopes, strict=False):
            if len(envelope) >= HEAD_SIZE:
                waiting = Waiting(unpack_head(envelope)[6], envelope, None)
                waiting.published = now - age / 1000
                waiting.first = answer.first
                self._enqueue(member, waiting)
        self._enqueue(member, Waiting(max(answer.last, answer.first - 1, member.after), b"", None))
        if answer.is_all:
            member.is_behind = False  # what comes from now on follows these
        else:
            member.is_answered = True
        self._drain(member)

    def _subscription_of(self, flags: int, envelope: bytes) -> Subscription | None:
        """Return the subscription that a message would have come by; None where nobody is interested in it."""
        try:
            address, _ = address_of(envelope)
        except Malformed:
            self._counters["engine_unknown"] += 1
            return None
        subjects, audience = self._voice.subjects, audience_of(flags)
        if audience is _ROOM:
            return self._subscriptions.find(subjects.room(address))
        if audience is _CLIENT:
            return self._subscriptions.find(subjects.client(address))
        if audience is _USER:
            return self._subscriptions.find(subjects.user(address))
        return self._subscriptions.find(subjects.everyone)

    def begin_anew(self, member: Member, seq: int) -> None:
        """Take a broker's messages after that number, and tell that some are lost: what was known of them is false."""
        self._clear_queue(member)
        member.chains.clear()
        member.to_ask.clear()
        member.base = member.after = member.seen = member.safe = seq
        self._subscriptions.lower(member.number, seq)
        self._lose(member, 1)

    def _lose(self, member: Member, count: int) -> None:
        self._unknown_to[member.number] = member.seen
        self._counters["engine_gaps"] += 1
        self._counters["engine_lost"] += count
        self._on_gap(member.broker_id, count)

    # --- what is missing on a subject ---

    def _lack(self, member: Member, subscription: Subscription, seq: int, last: int) -> bool:
        """Ask for a message that has not come, while ``last`` is the one on its subject that has.

        Return whether all after what has come is asked for.

        Where the servers of NATS have lost it after all that came, others may be lost as well, of any subject: then
        these are asked for together, in their order. They are not where its subject was not heard before: it may be
        new here.
        """
        member.seq = max(member.seq, seq)
        if last >= 0 and seq > member.seen and not member.is_behind:
            self.fall_behind(member)
            return True
        self._miss(member, subscription)
        return False

    def _miss(self, member: Member, subscription: Subscription) -> None:
        """Ask for what is missing on a subject, at the end of this turn; all that comes waits for it."""
        if subscription.subject in member.chains:
            return
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
        most = self._voice.subjects_at_once(_MAX_CHAINS)
        asked, member.to_ask = member.to_ask[:most], member.to_ask[most:]
        chains = []
        for subject in asked:
            subscription = self._subscriptions.find(subject)
            if subscription is None:
                member.chains.pop(subject, None)
                continue
            last = subscription.last_of(member.number)
            age = int((now - subscription.since + _MARGIN) * 1000)
            chains.append(Chain(subject, max(last, member.base), age))
            member.chains[subject] = now
        if chains:
            self._voice.say(member.subject, AskChains(tuple(chains)))
        self._drain(member)
        if member.to_ask:
            self._soon()

    def on_chain(self, member: Member, answer: ChainsAnswer, now: float) -> None:
        """Take what was missing on a subject: in its place among what waits."""
        subject, number = answer.subject, member.number
        if subject not in member.chains:
            return
        subscription = self._subscriptions.find(subject)
        if subscription is not None:
            if answer.after != max(subscription.last_of(number), member.base):
                return
            self._counters["engine_repairs"] += 1
            if not answer.is_whole:
                self._lose(member, 1)
            self._insert(member, subscription, answer, now)
        del member.chains[subject]
        self._drain(member)
        if answer.is_all:
            self._look_whether_denied(member, subject)

    def _look_whether_denied(self, member: Member, subject: bytes) -> None:
        """Wait no more for what is missing before a message, where its sender does not have it.

        It may have forgotten, or somebody else has sent this message.
        """
        if not member.queue or subject not in member.chains:
            return
        waiting = member.queue[0]
        waiting.denied += 1
        if waiting.denied == _DENIED:
            waiting.first = unpack_head(waiting.envelope)[7] + 1
            del member.chains[subject]
            member.to_ask.remove(subject)
            self._lose(member, 1)
            self._drain(member)

    def _insert(self, member: Member, subscription: Subscription, answer: ChainsAnswer, now: float) -> None:
        envelopes = [each for each in answer.envelopes if len(each) >= HEAD_SIZE]
        done = unpack_head(envelopes[0])[7] if envelopes else answer.last  # what is before the first one is not for us
        subscription.set_last(member.number, max(done, answer.after))
        end = member.queue[-1].seq if member.queue else member.after  # while it is behind, others come once more
        found = []
        for age, envelope in zip(answer.ages, envelopes, strict=False):
            waiting = Waiting(unpack_head(envelope)[6], envelope, subscription)
            if member.is_behind and waiting.seq > end:
                break
            waiting.published = now - age / 1000
            waiting.is_extra = True
            found.append(waiting)
            member.queue_bytes += len(envelope) + WAITING_BYTES
            self.waiting_bytes += len(envelope) + WAITING_BYTES
        if found:
            member.queue = deque(sorted([*found, *member.queue], key=_by_seq))

    def on_tails_again(self, member: Member, answer: Tails) -> None:
        """Take the last numbers that were asked for, since heartbeats with some have not come; ask for more."""
        if member.has_missed_beats and answer.after == member.safe:
            if answer.upto < 0:
                member.has_missed_beats = False
            else:
                member.safe = answer.upto
                self._voice.say(member.subject, AskTails(member.safe))
            self.on_tails(member, answer.tails)

    def on_tails(self, member: Member, values: tuple[bytes | int, ...]) -> bool:
        """Look whether the last message on a subject has come; the values are subjects, each with its last number.

        Return False where all after what has come is to be asked for. Raises Malformed.
        """
        if member.is_behind or not self.is_listening:
            return not member.is_behind
        for index in range(0, len(values) - 1, 2):
            subject, seq = values[index], values[index + 1]
            if not isinstance(subject, bytes) or not isinstance(seq, int):
                raise Malformed("it has no subjects, each with a number")
            subscription = self._subscriptions.find(subject)
            if subscription is None:
                continue
            last = subscription.last_of(member.number)
            if seq > max(last, member.base) and self._lack(member, subscription, seq, last):
                return False
        return True

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
            self._clear_queue(member)
            member.is_answered = False
            member.asked = -1.0
            for subject in member.chains:
                member.chains[subject] = -1.0
            member.to_ask = list(member.chains)

    def on_gone(self, member: Member) -> None:
        """Forget a broker that has ended, and tell what of it was missing."""
        self.members.pop(member.number, None)
        self._unknown_to.pop(member.number, None)
        missing = member.seq - member.after if member.is_behind and member.is_met else 0
        missing += len(member.chains)
        member.chains.clear()
        for waiting in member.queue:
            waiting.first = waiting.seq  # what is missing before it does not come any more
            self._take(member, waiting)
        self._clear_queue(member)
        self._subscriptions.forget(member.number)
        if missing > 0:
            self._lose(member, missing)

    def tick(self, now: float) -> None:
        """Ask again what was not answered."""
        for number, subject in list(self._partial):
            if number not in self.members or self._subscriptions.find(subject) is None:
                del self._partial[number, subject]
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
        if member.is_behind or member.queue or member.chains:
            return None
        last = subscription.last_of(member.number)
        if max(last, member.base) >= seq:
            known = self._unknown_to.get(member.number, 0) < seq
            return (0, 0) if known else (-1, -1)  # it came before somebody here was interested, or is lost or forgotten
        self._lack(member, subscription, seq, last)
        return None
