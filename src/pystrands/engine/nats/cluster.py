"""The other brokers of a cluster on NATS, as a broker sees them."""

from collections.abc import Sequence
from typing import final

from pystrands.engine.cluster import Claimed, Cluster, Confirmed, Node, Peer, Replied, Surveyed
from pystrands.engine.nats.commands import UNREACHABLE
from pystrands.engine.nats.core import Core

__all__ = ["NatsCluster"]


@final
class NatsCluster(Cluster):
    """Asks them by way of a Core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def peers(self) -> Sequence[Peer]:
        """The other brokers that live, and listen to backends."""
        return self._core.membership.peers

    @property
    def is_connected(self) -> bool:
        """Whether NATS can be reached now."""
        return self._core.membership.is_connected

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        core = self._core
        return (
            core.transport.held_bytes
            + core.publisher.held_bytes
            + core.subscriptions.held_bytes
            + core.receiver.held_bytes
            + core.commands.held_bytes
            + core.surveys.held_bytes
            + core.tallies.held_bytes
            + core.claims.held_bytes
        )

    @property
    def heartbeat_lag(self) -> float:
        """Seconds since that broker was heard which has been silent for longest."""
        core = self._core
        return core.membership.lag(core.now())

    @property
    def local_host(self) -> str:
        """This machine's address towards NATS."""
        return self._core.transport.local_host

    def join(self, node: Node) -> None:
        """Have ``node`` answer for this broker."""
        self._core.node = node

    def advertise(self, address: str) -> None:
        """Tell the others where this broker's port for backends is reached."""
        core = self._core
        core.membership.address = address
        core.membership.say_beat(core.now())

    def drain(self) -> None:
        """Tell the others that this broker takes no new clients."""
        core = self._core
        core.membership.is_draining = True
        core.membership.say_beat(core.now())

    def claim(self, client_id: str, claimed: Claimed) -> None:
        """Take an id for a client of this broker."""
        core = self._core
        core.claims.claim(core.next_number(), client_id, claimed, core.now(), core.membership.is_alone)

    def release(self, client_id: str) -> None:
        """That client is gone."""
        core = self._core
        core.claims.release(client_id, core.now())

    def command(self, client_id: str, command: bytes, timeout: float, replied: Replied) -> None:
        """Have the broker that has the client do something."""
        core = self._core
        if core.membership.is_alone:
            replied(None, "")
        elif not self.is_connected:
            replied(None, UNREACHABLE)
        else:
            core.commands.ask(core.next_number(), client_id, command, timeout, replied, core.now())

    def survey(self, question: bytes, timeout: float, surveyed: Surveyed) -> None:
        """Ask all other brokers that live."""
        core = self._core
        if core.surveys.ask(question, timeout, surveyed, core.now()):
            core.soon()

    def tell(self, room_id: str, told: bytes) -> None:
        """Tell all other brokers that have clients in a room, now or never."""
        self._core.tell(room_id, told)

    def confirm(self, timeout: float, confirmed: Confirmed) -> None:
        """Ask the others what became of the publication that was published last."""
        core = self._core
        publisher = core.publisher
        if core.membership.is_alone:
            confirmed((0, 0), not core.membership.is_missing_some)  # who may come back, and get it
        elif not self.is_connected:
            confirmed((0, 0), False)
        elif publisher.last_is_private:
            core.tallies.ask_holder(
                core.next_number(), publisher.seq, publisher.last_subject, timeout, confirmed, core.now()
            )
        elif core.tallies.ask_all(
            core.next_number(), publisher.seq, publisher.last_subject, timeout, confirmed, core.now()
        ):
            core.soon()
