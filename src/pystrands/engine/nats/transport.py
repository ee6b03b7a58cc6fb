"""What the engine needs of a connection to NATS: bytes to subjects, and back."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from mypy_extensions import mypyc_attr

__all__ = ["Transport", "TransportOwner"]


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have doubles
class TransportOwner(ABC):
    """Is told what happens on a connection to NATS. Nothing here may raise."""

    @abstractmethod
    def on_connected(self) -> None:
        """Take note that NATS is there, each time; there are no subscriptions then."""

    @abstractmethod
    def on_disconnected(self) -> None:
        """Take note that NATS is gone; nothing of that connection comes after this."""

    @abstractmethod
    def on_message(self, sid: int, subject: bytes, reply: bytes, status: int, payload: bytes) -> None:
        """Take a message for a subscription; ``status`` is 503 where nobody was there to take our request."""


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have a double
class Transport(ABC):
    """A connection to NATS that is made again when it is lost. What is sent leaves in the order of the calls."""

    @property
    @abstractmethod
    def is_up(self) -> bool:
        """Whether NATS can be reached now."""

    @property
    @abstractmethod
    def max_payload(self) -> int:
        """The most bytes that a message may have, as the server has said last."""

    @property
    @abstractmethod
    def local_host(self) -> str:
        """This machine's address towards the server; empty where it is not known."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """How many bytes wait to be sent, or are part of a message that is not whole."""

    @abstractmethod
    async def start(self, timeout: float) -> None:
        """Begin to connect; returns when that has succeeded once. Without end where ``timeout`` is 0."""

    @abstractmethod
    async def stop(self) -> None:
        """Send what is to be sent, and close."""

    @abstractmethod
    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> None:
        """Send a message; silently nothing while NATS is away."""

    @abstractmethod
    def subscribe(self, subject: bytes) -> int:
        """Have messages to a subject come, those of this connection excepted; return the subscription's number."""

    @abstractmethod
    def unsubscribe(self, sid: int) -> None:
        """Have them come no more."""

    @abstractmethod
    def ping(self, answered: Callable[[], None]) -> None:
        """Have ``answered`` called when the server has handled all that was sent before, and what it had came.

        It is never called where the connection is lost before that, or is not there.
        """
