"""The connection to NATS: messages out, messages in, over whichever link there is."""

import asyncio
from collections.abc import Callable
from typing import Final

from pystrands.engine.nats.link import NatsLink
from pystrands.engine.nats.options import NatsOptions
from pystrands.engine.nats.protocol import pub, sub, unsub
from pystrands.engine.nats.supervisor import Supervisor
from pystrands.engine.nats.transport import Transport, TransportOwner

__all__ = ["NatsConnection"]

_DEFAULT_MAX_PAYLOAD: Final = 1 << 20
"""Bytes; what servers take that are not configured otherwise."""


class NatsConnection(Transport):
    """``owner`` hears of each link, subscribes again on it, and gets messages: nothing is kept from one to the next.

    Nothing here blocks but :meth:`start` and :meth:`stop`.
    """

    def __init__(self, options: NatsOptions, loop: asyncio.AbstractEventLoop, owner: TransportOwner) -> None:
        self._owner = owner
        self._link: NatsLink | None = None
        self._last_sid = 0
        self._is_stopped = False
        self._local_host = ""
        self._max_payload = _DEFAULT_MAX_PAYLOAD
        self._supervisor = Supervisor(options, loop, self._take, self._drop)

    async def start(self, timeout: float) -> None:
        """Begin to connect; return when NATS has let us in. Without end where ``timeout``, in seconds, is 0.

        Raises ConfigError where it takes none of our credentials, and for files that can't be used; TimeoutError. After
        that, and when cancelled, it has let go of everything.
        """
        await self._supervisor.start(timeout)

    @property
    def denied(self) -> "asyncio.Future[str]":
        """Done, with what is the matter, when NATS does not let us publish or subscribe what we have to."""
        return self._supervisor.denied

    async def stop(self) -> None:
        """Have what was sent arrive, and close: four seconds at most. The owner hears nothing more."""
        self._is_stopped = True
        await self._supervisor.stop()

    # --- links ---

    def _take(self, link: NatsLink) -> None:
        self._link = link
        self._local_host = link.host("sockname")
        link.begin(self._owner)
        self._owner.on_connected()

    def _drop(self, link: NatsLink) -> None:
        link.mute()
        self._link = None
        if not self._is_stopped:
            self._owner.on_disconnected()

    @property
    def is_up(self) -> bool:
        """Whether NATS can be reached now."""
        return self._link is not None

    @property
    def max_payload(self) -> int:
        """The most bytes that a message may have, as the server has said last."""
        link = self._link
        if link is not None:
            self._max_payload = link.max_payload
        return self._max_payload

    @property
    def local_host(self) -> str:
        """This machine's address towards the server; empty before there was one."""
        return self._local_host

    @property
    def held_bytes(self) -> int:
        """How many bytes wait to be sent, or are part of a message that is not whole."""
        link = self._link
        return 0 if link is None else link.held_bytes

    # --- messages ---

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> None:
        """Send a message; silently nothing while NATS is away."""
        link = self._link
        if link is not None:
            link.write(pub(subject, payload, reply))

    def subscribe(self, subject: bytes) -> int:
        """Have messages to a subject come; return the subscription's number, of which there is only one ever."""
        self._last_sid += 1
        link = self._link
        if link is not None:
            link.write(sub(subject, self._last_sid))
        return self._last_sid

    def unsubscribe(self, sid: int) -> None:
        """Have them come no more."""
        link = self._link
        if link is not None:
            link.write(unsub(sid))

    def ping(self, answered: Callable[[], None]) -> None:
        """Have ``answered`` called when the server has handled all that was sent before, and what it had came.

        It is never called where the connection is lost before that, or is not there.
        """
        link = self._link
        if link is not None:
            link.ping(answered)
