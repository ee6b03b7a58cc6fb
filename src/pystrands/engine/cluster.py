"""The two interfaces between a broker and the other brokers of its cluster, beside messages.

Questions, commands and answers are bytes here: what they mean is the brokers' own. Everything is a callback on the
broker's event loop; nothing blocks, and nothing raises.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias, final

from mypy_extensions import mypyc_attr

from pystrands.engine.publication import Delivered

__all__ = ["Claimed", "Cluster", "Confirmed", "Node", "Peer", "Replied", "Reply", "Surveyed"]


@final
class Peer:
    """Another broker that lives. ``address``: ``host:port`` for backends, as it advertises it."""

    __slots__ = ("address", "broker_id", "is_draining")

    def __init__(self, broker_id: str, address: str, is_draining: bool = False) -> None:
        self.broker_id = broker_id
        self.address = address
        self.is_draining = is_draining

    def __repr__(self) -> str:
        return f"<Peer {self.broker_id} at {self.address!r}{', draining' if self.is_draining else ''}>"


Reply: TypeAlias = Callable[[bytes], None]
"""Takes the answer to another broker's question; called once, now or later."""
Claimed: TypeAlias = Callable[[], None]
"""Called when no other broker has a client of that id any more, as far as can be known."""
Replied: TypeAlias = Callable[[bytes | None, str], None]
"""Takes the answer of the broker that has the client; or None, with why there is none, which is empty where no broker
has such a client."""
Surveyed: TypeAlias = Callable[[Sequence[tuple[str, bytes]], Sequence[str]], None]
"""Takes answers, each with the id of its broker, and the ids of those that live and have not answered in time."""
Confirmed: TypeAlias = Callable[[Delivered, bool], None]
"""Takes how many clients a message was for at all other brokers, and how many took it; and whether all have said so."""


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have doubles
class Node(ABC):
    """This broker, as the cluster sees it: it answers what other brokers ask."""

    @abstractmethod
    def on_question(self, question: bytes, reply: Reply) -> None:
        """Answer ``question``, which another broker asks of all, by calling ``reply`` once, now or later."""

    @abstractmethod
    def on_command(self, client_id: str, command: bytes, reply: Reply) -> None:
        """Carry out another broker's ``command`` on the client ``client_id``, and call ``reply`` once, now or later.

        Who is not here is answered about as well.
        """

    @abstractmethod
    def on_claim(self, client_id: str, released: Claimed) -> None:
        """Close the client ``client_id``: somebody at another broker takes the id.

        ``released`` is to be called when its last event is queued.

        Where there is none, ``released`` is called at once.
        """

    def on_told(self, room_id: str, told: bytes) -> None:  # noqa: B027 - for who wants to hear it
        """Take ``told``, what another broker tells those that have clients in ``room_id``, by :meth:`Cluster.tell`."""

    @abstractmethod
    def on_peers(self, peers: Sequence[Peer]) -> None:
        """Take ``peers`` for the other brokers from now on; called after each change."""

    @abstractmethod
    def on_gap(self, broker_id: str, lost: int) -> None:
        """Note that up to ``lost`` messages of the broker ``broker_id`` did not come, and never will."""


@mypyc_attr(allow_interpreted_subclasses=True)  # anybody's, as engines are
class Cluster(ABC):
    """The other brokers, as this one sees them."""

    @property
    @abstractmethod
    def peers(self) -> Sequence[Peer]:
        """The other brokers that live."""

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether other brokers can be reached now. If not, this one goes on alone."""

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept for other brokers: what they may ask for again, and what they have not answered."""
        return 0

    @property
    def heartbeat_lag(self) -> float:
        """Seconds since that broker was heard which has been silent for longest; 0 where there is no other."""
        return 0.0

    @property
    def local_host(self) -> str:
        """This machine's address towards the others, once the engine has started; empty where it is not known."""
        return ""

    @abstractmethod
    def join(self, node: Node) -> None:
        """Have ``node`` answer for this broker. Called once, before the engine is started."""

    @abstractmethod
    def advertise(self, address: str) -> None:
        """Tell the others where this broker's port for backends is reached; it listens from now on.

        ``address``: ``host:port``.
        """

    @abstractmethod
    def drain(self) -> None:
        """Tell the others that this broker takes no new clients."""

    @abstractmethod
    def claim(self, client_id: str, claimed: Claimed) -> None:
        """Take ``client_id`` for a client of this broker, before it is let in; the other of that id is closed first.

        Where nobody else is there, or can be reached, ``claimed`` is called before this returns.
        """

    @abstractmethod
    def release(self, client_id: str) -> None:
        """Give ``client_id`` up: that client is gone.

        To be called once for each :meth:`claim`, also where nobody was let in in the end.
        """

    @abstractmethod
    def command(self, client_id: str, command: bytes, timeout: float, replied: Replied) -> None:
        """Have the broker that has the client ``client_id`` carry out ``command``, once, within ``timeout`` seconds.

        ``replied`` is called with its answer, or with why there is none.
        """

    @abstractmethod
    def survey(self, question: bytes, timeout: float, surveyed: Surveyed) -> None:
        """Ask all other brokers that live ``question``, and call ``surveyed`` with their answers.

        Those that die meanwhile are not waited for, others ``timeout`` seconds. Equal questions at once are one. Where
        there is no other broker ``surveyed`` is called before this returns.
        """

    def tell(self, room_id: str, told: bytes) -> None:  # noqa: B027 - engines that can't tell nobody
        """Tell ``told`` to all other brokers with clients in ``room_id``: now or never, before or after messages."""

    @abstractmethod
    def confirm(self, timeout: float, confirmed: Confirmed) -> None:
        """Ask the others what became of the publication that was published last, which asked to be confirmed.

        Called in the same turn, right after the engine's ``publish``. ``confirmed`` is called when all have said so, or
        after ``timeout`` seconds.
        """
