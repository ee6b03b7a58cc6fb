"""What one broker does in its cluster: takes apart what comes, and hands it on. It has no clock of its own."""

import logging
from collections.abc import Callable
from typing import Final, final

from pystrands.engine.base import Sink
from pystrands.engine.cluster import Node
from pystrands.engine.nats import talk
from pystrands.engine.nats.claims import Claims
from pystrands.engine.nats.commands import RemoteCommands
from pystrands.engine.nats.envelope import HEAD_SIZE, MESSAGE, VERSION, Malformed, unpack_head
from pystrands.engine.nats.member import Member
from pystrands.engine.nats.membership import Membership, MembershipOwner
from pystrands.engine.nats.publisher import Publisher
from pystrands.engine.nats.receiver import PublicationReceiver
from pystrands.engine.nats.roll_call import RollCall
from pystrands.engine.nats.stamps import Stamps
from pystrands.engine.nats.subjects import Subjects
from pystrands.engine.nats.subscriptions import Subscriptions
from pystrands.engine.nats.surveys import Surveys
from pystrands.engine.nats.tallies import Tallies
from pystrands.engine.nats.transport import Transport, TransportOwner
from pystrands.engine.nats.voice import Voice, number_of

__all__ = ["COUNTERS", "TICK", "Core"]

TICK: Final = 0.1
"""Seconds between calls of :meth:`Core.tick`."""
_TAILS: Final = 4096
"""Subjects in one answer about their last numbers."""
COUNTERS: Final = (
    "engine_published", "engine_received", "engine_gaps", "engine_lost", "engine_repairs", "engine_unknown",
)  # fmt: skip
_log = logging.getLogger(__name__)


@final
class Core(TransportOwner, MembershipOwner):
    """All that there is of one broker in a cluster, but for the connection, the clock and the timers.

    ``connect`` makes the connection; ``now`` is a steady clock, in seconds, and ``wall`` that of the machine, in
    nanoseconds. ``soon`` has :meth:`work` called in the next turn of the loop; ``on_ready`` is called once, when all
    who are there have answered.
    """

    def __init__(
        self,
        connect: Callable[[TransportOwner], Transport],
        *,
        cluster: str,
        broker_id: str,
        counters: dict[str, int],
        ring_bytes: int,
        now: Callable[[], float],
        wall: Callable[[], int],
        soon: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        for name in COUNTERS:
            counters.setdefault(name, 0)
        self.transport = transport = connect(self)
        self._counters = counters
        self.now = now
        self.soon = soon
        self._on_ready = on_ready
        self.node: Node | None = None
        self._number = 0
        self._is_making = False
        subjects = Subjects(cluster)
        self.subjects = subjects
        self._voice = Voice(transport, subjects, broker_id)
        self.publisher = Publisher(transport, subjects, self._voice.number, ring_bytes)
        self.subscriptions = Subscriptions(transport)
        self.receiver = PublicationReceiver(self._voice, self.subscriptions, counters, self._on_gap, soon)
        stamps = Stamps(wall)
        self.membership = Membership(self._voice, self.publisher, self.receiver, stamps, self)
        self._members = self.receiver.members
        self.commands = RemoteCommands(self._voice, self._get_node)
        self.surveys = Surveys(self._voice, self._get_node, self._members)
        self.tallies = Tallies(self._voice, self.receiver, self._members)
        self._roll_call = RollCall(self._voice, self._members, self._on_all_here, self._on_somebody_away)
        self.claims = Claims(self._voice, self._get_node, self.subscriptions, stamps)
        self.subscriptions.want(subjects.everyone, now())

    def _get_node(self) -> Node | None:
        return self.node

    def tell(self, room_id: str, told: bytes) -> None:
        """Tell those that have clients in a room, where anybody else is there and NATS takes it at once."""
        name = room_id.encode(errors="surrogatepass")
        if not self.membership.is_alone and self.membership.is_connected and self._voice.fits(len(name) + len(told)):
            self._voice.say(self.subjects.room(room_id), talk.Told(name, told))

    def next_number(self) -> int:
        """Return a number for a request, which no other has."""
        self._number += 1
        return self._number

    # --- what comes ---

    def on_message(self, sid: int, subject: bytes, reply: bytes, status: int, payload: bytes) -> None:  # noqa: ARG002 - a TransportOwner's
        """Take a message, or what brokers tell each other."""
        if status:
            self._on_nobody(subject)
        elif len(payload) < HEAD_SIZE:
            self._counters["engine_unknown"] += 1
        elif payload[1] == MESSAGE:
            subscription = self.subscriptions.by_sid.get(sid)
            if subscription is not None and not self.receiver.on_message(subscription, payload):
                self._on_unexpected(payload)
        else:
            self._on_talk(payload)

    def _on_unexpected(self, payload: bytes) -> None:
        """A message came of a broker that is not known."""
        if unpack_head(payload)[5] != self._voice.number:
            self.membership.on_stranger(self.now())

    def _on_nobody(self, subject: bytes) -> None:
        """Nobody was there to take a request of ours, which said that number."""
        try:
            number = int(subject.rpartition(b".")[2])
        except ValueError:
            return
        now = self.now()
        if number == 0 or self.membership.has_named(number):
            self.membership.on_nobody(number, now)
            return
        self.claims.on_nobody(number)  # it is repeated to who is away
        if (self.commands.on_nobody(number) or self.tallies.on_nobody(number)) and self._roll_call.add(number):
            self.soon()

    def _on_all_here(self, number: int, now: float) -> None:
        self.commands.on_all_here(number, now)
        self.tallies.on_all_here(number, now)

    def _on_somebody_away(self, number: int, now: float) -> None:
        self.commands.on_unknown(number, now)
        self.tallies.on_unknown(number, now)

    def _on_talk(self, payload: bytes) -> None:
        head = unpack_head(payload)
        try:
            said = talk.unpack(head[1], payload) if head[0] == VERSION else None
        except Malformed:
            said = None
        if said is None:
            self._counters["engine_unknown"] += 1
            return
        if head[5] == self._voice.number:
            return  # a server that hung hands on late what we said over a connection before this one
        try:
            self._on_heard(head[5], said, head[4], self.now())
        except Malformed:
            self._counters["engine_unknown"] += 1

    def _on_heard(self, sender: int, said: talk.Talk, epoch: int, now: float) -> None:
        """Take what another broker says. Raises Malformed."""
        if isinstance(said, (talk.Beat, talk.Hello)):
            beat = said.beat if isinstance(said, talk.Hello) else said
            if number_of(beat.broker_id) != sender:
                raise Malformed("it says that it is from another broker than it says")
        if isinstance(said, talk.Beat):
            self.membership.on_beat(said, epoch, now)
        elif isinstance(said, talk.Hello):
            self.membership.on_hello(said, epoch, now)
        else:
            member = self._members.get(sender)
            if member is not None:
                self._on_said(member, said, epoch, now)
            elif isinstance(said, talk.Bye):
                self.membership.on_bye(sender)
            else:
                self.membership.on_stranger(now)

    def _on_said(self, member: Member, said: talk.Talk, epoch: int, now: float) -> None:
        """Take what a broker says that is known. Raises Malformed."""
        if isinstance(said, (talk.Answer, talk.ChainsAnswer, talk.Tails, talk.AskAll, talk.AskChains, talk.AskTails)):
            self._on_repair(member, said, epoch, now)
        elif isinstance(said, talk.Told):
            if self.node is not None:
                self.node.on_told(said.room_id.decode(errors="surrogatepass"), said.told)
        elif isinstance(said, talk.Question):
            self.surveys.on_question(member.subject, said)
        elif isinstance(said, talk.Part):
            if self.surveys.on_part(member.number, said):
                self.soon()
        elif isinstance(said, talk.Command):
            self.commands.on_command(member.number, member.subject, said, now)
        elif isinstance(said, talk.CommandAnswer):
            self.commands.on_answer(said)
        elif isinstance(said, talk.Claim):
            self.claims.on_claim(member.number, member.subject, said, epoch < member.newest_epoch, now)
        elif isinstance(said, talk.ClaimAnswer):
            self.claims.on_answer(said, now)
        elif isinstance(said, talk.Tallies):
            self.tallies.on_question(member.number, member.subject, said, now)
        elif isinstance(said, talk.TalliesAnswer):
            self.tallies.on_answer(member.number, said)
        elif isinstance(said, talk.Call):
            self._roll_call.on_call(member, said, self.receiver.is_listening)
        elif isinstance(said, talk.Here):
            self._roll_call.on_here(member.number, said, now)
        elif isinstance(said, talk.Bye):
            self.membership.on_bye(member.number)

    def _on_repair(self, member: Member, said: talk.Talk, epoch: int, now: float) -> None:
        if isinstance(said, talk.AskAll):
            self._voice.say(member.subject, self.publisher.answer_all(said.after, now))
        elif isinstance(said, talk.AskChains):
            for chain in said.chains:
                self._voice.say(member.subject, self.publisher.answer_chain(chain, now))
        elif isinstance(said, talk.AskTails):
            most = self._voice.subjects_at_once(_TAILS)
            self._voice.say(member.subject, self.publisher.answer_tails(said.after, most))
        elif isinstance(said, talk.Tails):
            self.receiver.on_tails_again(member, said)
        else:
            if isinstance(said, talk.Answer):
                self.receiver.on_answer(member, said, epoch, now)
            elif isinstance(said, talk.ChainsAnswer):
                self.receiver.on_chain(member, said, now)
            self.tallies.look(now)

    # --- NATS comes and goes ---

    def on_connected(self) -> None:
        """Subscribe, and say hello; rooms and clients follow in slices."""
        now = self.now()
        self._voice.epoch += 1
        self.publisher.epoch = self._voice.epoch
        self.transport.subscribe(self._voice.mine)
        self.transport.subscribe(self._voice.mine + b".*")
        self.subscriptions.on_connected()
        self.subscriptions.make_now(self.subjects.everyone)
        self.membership.on_connected(now)
        self._is_making = True
        self.soon()

    def on_disconnected(self) -> None:
        """Go on alone; what is published is kept."""
        self._is_making = False
        self.membership.on_disconnected()
        self.subscriptions.on_disconnected()
        self.receiver.on_disconnected()
        self.tallies.on_disconnected()
        self._roll_call.on_disconnected()
        self.claims.on_disconnected()

    def work(self) -> None:
        """Do what was put off to the next turn."""
        now = self.now()
        if self._is_making:
            if self.subscriptions.make_some():
                self.soon()
            else:
                self._is_making = False
                self.receiver.on_listening(now)
                self.membership.say_beat(now)
                self.surveys.on_connected()
                self.commands.on_connected(now)
        self.receiver.ask(now)
        self._roll_call.send(now)
        self.surveys.send()
        self.tallies.send(now)

    def tick(self) -> None:
        """Look at the time."""
        now = self.now()
        self.membership.tick(now)
        self.receiver.tick(now)
        self.subscriptions.expire(now)
        self.commands.tick(now)
        self.claims.tick(now, self.next_number)
        if self.surveys.tick(now):
            self.soon()
        self.tallies.tick(now)
        self._roll_call.tick(now)
        self.count()

    def count(self) -> None:
        """Count what was counted beside the counters."""
        self._counters["engine_published"] += self.publisher.published
        self._counters["engine_received"] += self.receiver.received
        self.publisher.published = self.receiver.received = 0

    def stop(self) -> None:
        """Say goodbye."""
        self.membership.say_bye()
        self.count()
        self.receiver.sink = None

    def start(self, sink: Sink) -> None:
        """Begin to hand messages to ``sink``."""
        self.receiver.sink = sink

    # --- other brokers come and go ---

    def on_peers(self) -> None:
        """Tell who can be reached now."""
        if self.node is not None:
            self.node.on_peers(self.membership.peers)

    def on_returned(self, since: float) -> None:
        """Repeat what another broker has not heard."""
        now = self.now()
        self.claims.repeat_since(since, now)
        self._roll_call.on_returned(now)

    def on_dead(self, member: Member) -> None:
        """Wait for nothing more of another broker."""
        if self.surveys.on_dead(member.number):
            self.soon()
        self.tallies.on_dead(member.number)
        self._roll_call.on_dead(member.number, self.now())

    def on_answered(self) -> None:
        """All who are there have answered."""
        self._on_ready()

    def _on_gap(self, broker_id: str, lost: int) -> None:
        _log.warning("Up to %d messages of broker %r are lost: they are not kept there", lost, broker_id)
        if self.node is not None:
            self.node.on_gap(broker_id, lost)
