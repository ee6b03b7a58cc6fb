"""Which other brokers there are: heartbeats, who is dead, who comes back. Pure: the time is an argument."""

import logging
import math
from abc import abstractmethod
from typing import Final, final

from mypy_extensions import trait

from pystrands.engine.cluster import Peer
from pystrands.engine.nats.envelope import VERSION, beat_byte
from pystrands.engine.nats.member import Member
from pystrands.engine.nats.publisher import Publisher
from pystrands.engine.nats.receiver import PublicationReceiver
from pystrands.engine.nats.stamps import Stamps
from pystrands.engine.nats.talk import AskTails, Beat, Bye, Hello
from pystrands.engine.nats.voice import Voice, number_of

__all__ = ["BEAT_INTERVAL", "DEAD_AFTER", "Membership", "MembershipOwner"]

_log = logging.getLogger(__name__)

BEAT_INTERVAL: Final = 1.0
"""Seconds between heartbeats."""
DEAD_AFTER: Final = 5.0
"""Seconds of silence after which a broker is dead."""
_MISSED: Final = 60.0
"""Seconds for which messages are kept for a broker that died without a word, though nobody else is there."""
_REMEMBERED: Final = 600.0
"""Seconds for which such a broker is known when it comes back."""
_PAUSED: Final = 2.0
"""Seconds between two looks, after which it was us who slept."""
_NEW: Final = 3
"""Heartbeats of a broker that has only just begun."""
_CALL_AGAIN: Final = 0.25
"""Seconds after which a newcomer calls again, when nobody has answered."""
_RETURN: Final = 2.5
"""Seconds in which all come back to a server that has begun: only then it can know who is gone."""
_YOUNG: Final = 5.0
"""Seconds after our first connection in which others may still come back from an outage that began before it."""
_AWAY: Final = 0.5
"""Seconds after which NATS was not there when this broker began."""
_BELIEVED: Final = 2
"""Heartbeats in a row that say that messages which have come were not the broker's."""
_TAILS: Final = 4096
"""Subjects in one heartbeat."""


@trait
class MembershipOwner:
    """Is told who comes and goes."""

    @abstractmethod
    def on_peers(self) -> None:
        """What others are to know of the other brokers has changed."""

    @abstractmethod
    def on_returned(self, since: float) -> None:
        """A broker can be reached again, which could not since that time at the latest."""

    @abstractmethod
    def on_dead(self, member: Member) -> None:
        """A broker has ended, or seems to have."""

    @abstractmethod
    def on_answered(self) -> None:
        """All who are there have answered our first hello."""


@final
class Membership:
    """The other brokers. The publisher rests while there is none, and the receiver takes messages of these only."""

    def __init__(
        self, voice: Voice, publisher: Publisher, receiver: PublicationReceiver, stamps: Stamps, owner: MembershipOwner
    ) -> None:
        self.address = ""
        self.is_draining = False
        self.is_connected = False
        self._voice = voice
        self._publisher = publisher
        self._receiver = receiver
        self._stamps = stamps
        self._owner = owner
        self._members: dict[int, Member] = receiver.members
        self._missed: dict[int, Member] = {}  # died without a word
        self._named: dict[int, str] = {}  # whom others have named, and we have not heard
        self._began = -1.0
        self._young_until = math.inf
        self._connected_at = -1.0
        self._believes_at = 0.0  # from when on NATS is believed that somebody is not there
        self._beat = 0
        self._next_beat = 0.0
        self._looked = 0.0
        self._called = -1.0
        self._is_asking = False  # NATS, whether it has nothing of those who are silent
        self._silent_at = 0.0
        self._told: tuple[tuple[str, str, bool], ...] = ()
        self._is_asked = False  # whether anybody could have heard our first hello
        self.is_answered = False
        """Whether all who are there have answered our first hello."""
        self._answer_by = 0.0

    @property
    def members(self) -> list[Member]:
        """The other brokers that live."""
        return list(self._members.values())

    @property
    def peers(self) -> list[Peer]:
        """Those of them that backends can reach."""
        return [Peer(each.broker_id, each.address, each.is_draining) for each in self._members.values() if each.address]

    @property
    def is_alone(self) -> bool:
        """Whether no other broker lives."""
        return not self._members

    @property
    def is_missing_some(self) -> bool:
        """Whether brokers that have gone without a word may still come back."""
        return bool(self._missed)

    def lag(self, now: float) -> float:
        """Return how long that one of them has been silent which has been longest."""
        return max((now - each.heard for each in self._members.values()), default=0.0)

    # --- what we say ---

    def _make_beat(self, tails: tuple[bytes | int, ...] = ()) -> Beat:
        return Beat(
            self._voice.broker_id,
            self._publisher.seq,
            self._beat,
            self.address,
            self.is_draining,
            self._stamps.clock,
            VERSION,
            self._receiver.is_listening,
            tails,
        )

    def say_beat(self, now: float) -> None:
        """Say that we live, and what others may have missed."""
        self._beat += 1
        self._publisher.beat = beat_byte(self._beat)
        self._next_beat = now + BEAT_INTERVAL
        self._voice.call(self._make_beat(self._publisher.tails(self._voice.subjects_at_once(_TAILS))))

    def say_bye(self) -> None:
        """Say that we end."""
        self._voice.call(Bye())

    def _call(self, now: float, reply: bytes = b"") -> None:
        """Say hello to all, who say hello to us."""
        self._called = now
        self._voice.call(Hello(self._make_beat(), wants=True), reply)

    def _call_named(self, number: int, name: str) -> None:
        """Say hello to one that others have named. Whether nobody is there NATS says, for that number."""
        hello = Hello(self._make_beat(), wants=True)
        self._voice.say(self._voice.subjects.broker(name), hello, self._voice.mine + b".%d" % number)

    def _greet(self, member: Member, wants: bool, now: float) -> None:
        names = tuple(each.broker_id for each in self._members.values() if each is not member)
        connected = int((now - self._connected_at) * 1000)
        self._voice.say(member.subject, Hello(self._make_beat(), wants, member.promised, names, connected))

    # --- what we hear ---

    def on_hello(self, hello: Hello, epoch: int, now: float) -> None:
        """Take another broker's hello: to all when it is connected, or to us."""
        member = self._hear(hello.beat, epoch, now)
        if hello.base >= 0:
            self._note_named(hello)
            self._meet(member, hello.base)
        if hello.wants:
            self._greet(member, not member.is_met, now)
        self._look_whether_answered()

    def _note_named(self, hello: Hello) -> None:
        """Wait for those whom another broker has named, before we are ready; they are asked whether they are there."""
        if self.is_answered:
            return
        for name in hello.peers:
            number = number_of(name)
            if number != self._voice.number and number not in self._members:
                self._named[number] = name
                if hello.connected >= _RETURN * 1000:
                    self._call_named(number, name)

    def on_beat(self, beat: Beat, epoch: int, now: float) -> None:
        """Take another broker's heartbeat."""
        member = self._hear(beat, epoch, now)
        if not member.is_met:
            if now - member.greeted >= BEAT_INTERVAL:
                member.greeted = now
                self._greet(member, wants=True, now=now)
        elif not member.is_behind:
            self._look_whether_true(member, beat.seq)
            if self._receiver.on_tails(member, beat.tails):
                if not member.queue:
                    member.seen = max(member.seen, beat.seq)
                if not member.has_missed_beats:
                    member.safe = member.seen

    def _look_whether_true(self, member: Member, seq: int) -> None:
        """See whether somebody else sends messages in a broker's name: its own numbers only grow.

        One heartbeat may be false itself. After two we believe these, rather than miss all that comes.
        """
        member.backward = member.backward + 1 if seq < member.safe else 0
        if member.backward == _BELIEVED:
            member.backward = 0
            _log.warning(
                "Numbers of broker %r have gone back from %d to %d: somebody else has sent to NATS in its name; "
                "messages of it may be lost", member.broker_id, member.safe, seq,
            )  # fmt: skip
            self._receiver.begin_anew(member, seq)

    def _hear(self, beat: Beat, epoch: int, now: float) -> Member:
        """Take note that a broker lives, and of what it says of itself."""
        self._stamps.see(beat.clock)
        number = number_of(beat.broker_id)
        member = self._members.get(number)
        if member is None:
            member = self._enter(beat.broker_id, number, now)
            if self._is_young and beat.beat > self._beat and member.epoch < 0:
                member.promised = 0  # it has been there for longer, away from NATS: all of ours is for it
        if member.epoch < 0:  # never heard; where it has been there for longer it may have clients of any id
            was_away, since = beat.beat > _NEW, 0.0
        else:
            was_away, since = now - member.heard > DEAD_AFTER or member.epoch != epoch, member.heard
        member.heard = now
        member.is_listening = beat.is_listening
        member.newest_epoch = max(member.newest_epoch, epoch)
        if epoch != member.epoch:
            member.epoch = epoch
            member.seq = beat.seq
            if member.is_met and (member.is_behind or beat.seq != member.seen or not self._receiver.is_listening):
                self._receiver.fall_behind(member)
            member.has_missed_beats = False
        elif member.is_met and not member.is_behind:
            member.has_missed_beats |= beat.beat > member.beat + 1
            if member.has_missed_beats:
                self._voice.say(member.subject, AskTails(member.safe))  # what was between nobody else tells
        member.beat = beat.beat
        member.beat_byte = beat_byte(member.beat)
        member.seq = beat.seq
        if was_away and member.away_since < 0:
            member.away_since = since
        if member.away_since >= 0 and member.is_listening and member.is_met:
            since, member.away_since = member.away_since, -1.0
            self._owner.on_returned(since)
        member.address, member.is_draining = beat.address, beat.is_draining
        if beat.address == self.address:
            self._look_whether_double(member)
        self._tell()
        return member

    def _look_whether_double(self, member: Member) -> None:
        """Tell, once, that another broker is said to be where this one is; a successor may be while this one drains."""
        if self.address and not (member.is_double or member.is_draining or self.is_draining):
            member.is_double = True
            _log.warning(
                "Broker %r has the same address for backends as this one, %r: they reach one of the two only. "
                "Give each an --advertise of its own",
                member.broker_id,
                self.address,
            )

    def _enter(self, broker_id: str, number: int, now: float) -> Member:
        member = self._missed.pop(number, None)
        if member is None:
            member = Member(broker_id, number, self._voice.subjects.broker(broker_id), now)
            member.promised = self._publisher.seq
        else:
            self._receiver.fall_behind(member)
        member.is_alive = True
        self._publisher.wake()
        self._members[number] = member
        self._named.pop(number, None)
        return member

    def _meet(self, member: Member, base: int) -> None:
        """Take note from which message on it sends to us as well."""
        if member.is_met:
            return
        member.is_met = True
        member.base = member.after = member.seen = member.safe = base
        if member.seq == base and self._receiver.is_listening:
            member.is_behind = False
        else:
            self._receiver.fall_behind(member)

    def on_bye(self, sender: int) -> None:
        """Take note that a broker has ended, in order."""
        member = self._members.get(sender)
        if member is not None:
            self._leave(member)
        else:
            member = self._missed.pop(sender, None)
        if member is not None:
            self._receiver.on_gone(member)
            self._settle()

    def on_stranger(self, now: float) -> None:
        """Have whoever sends messages, and is not known, say who it is."""
        if now - self._called >= BEAT_INTERVAL:
            self._call(now)

    # --- who is there ---

    def _leave(self, member: Member) -> None:
        del self._members[member.number]
        member.is_alive = False
        self._owner.on_dead(member)

    def _settle(self) -> None:
        """Take note that somebody has left."""
        self._rest_if_alone()
        self._look_whether_answered()
        self._tell()

    @property
    def _is_young(self) -> bool:
        """Whether others may still come back from an outage of NATS that began before we were there."""
        return self._looked < self._young_until

    def _rest_if_alone(self) -> None:
        if not (self._members or self._missed or self._is_young):
            self._publisher.rest()

    def _tell(self) -> None:
        told = tuple(
            (each.broker_id, each.address, each.is_draining) for each in self._members.values() if each.address
        )
        if told != self._told:
            self._told = told
            self._owner.on_peers()

    def tick(self, now: float) -> None:
        """Look at the time; to be called ten times a second."""
        slept, self._looked = now - self._looked > _PAUSED, now
        if self._began < 0:
            self._began = now
        if self._publisher.is_active:
            self._rest_if_alone()
        if not self.is_connected:
            return
        if slept:  # what others have said meanwhile is still to be read
            for member in self._members.values():
                member.heard = max(member.heard, now - BEAT_INTERVAL)
        if now >= self._next_beat:
            self.say_beat(now)
        if not self._is_asking and any(now - member.heard > DEAD_AFTER for member in self._members.values()):
            self._is_asking, self._silent_at = True, now
            self._voice.transport.ping(self._bury)  # a server that hangs, or is behind, is nobody's death
        dead: list[Member] = []
        for member in list(self._missed.values()):
            if now - member.heard > _REMEMBERED or (not self._members and now - member.heard > _MISSED):
                del self._missed[member.number]
                self._receiver.on_gone(member)
                dead.append(member)
        if dead:
            self._settle()
        if not self.is_answered:
            if now >= self._answer_by:
                self._is_asked = True
                self._look_whether_answered(late=True)
            elif now - self._called >= _CALL_AGAIN:
                self._call(now, self._voice.mine + b".0")

    def _bury(self) -> None:
        """Those are dead of whom NATS had nothing to tell, after all that time."""
        self._is_asking = False
        dead = [member for member in self._members.values() if self._silent_at - member.heard > DEAD_AFTER]
        for member in dead:
            self._leave(member)
            self._missed[member.number] = member
        if dead:
            self._settle()

    # --- NATS comes and goes ---

    def on_connected(self, now: float) -> None:
        """NATS is there: say hello. Nobody is dead for not having been heard meanwhile."""
        self.is_connected = True
        self._looked = now
        self._next_beat = now + BEAT_INTERVAL
        for member in self._members.values():
            member.heard = now
            member.is_listening = False
        self._answer_by = now + DEAD_AFTER
        if self._young_until == math.inf:
            self._young_until = now + _YOUNG
            self._publisher.wake()
        was_there = self._connected_at < 0 and (self._began < 0 or now - self._began < _AWAY)
        self._believes_at = now if was_there else now + _RETURN
        self._connected_at = now
        self._call(now, self._voice.mine + b".0")

    def on_disconnected(self) -> None:
        """NATS is gone, and nobody can be heard."""
        self.is_connected = False
        self._is_asking = False
        for member in self._members.values():
            if member.away_since < 0:
                member.away_since = member.heard

    def has_named(self, number: int) -> bool:
        """Whether a broker of that number was named, and has not been heard."""
        return number in self._named

    def on_nobody(self, number: int, now: float) -> None:
        """Nobody was there to hear our hello: to all, where ``number`` is 0, or to one that was named."""
        if now < self._believes_at:
            return
        if number == 0:
            self._is_asked = True
        else:
            self._named.pop(number, None)
        self._look_whether_answered()

    def _look_whether_answered(self, late: bool = False) -> None:
        """See whether all who are there have said hello, after our first one."""
        if self.is_answered or not (self._members or self._is_asked):
            return
        if not late and (self._named or not all(member.is_met for member in self._members.values())):
            return
        self.is_answered = True
        self._owner.on_answered()
