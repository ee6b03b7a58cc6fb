"""What every client does on its event loop: connect, keep connected, send, ask, disconnect."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from functools import partial

from pystrands.client.confirmation import Confirmation
from pystrands.client.connection.broker_connection import BrokerConnection
from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.client.connection.choice import LinkChoice
from pystrands.client.connection.forking import forgets_in_children
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.link_info import LinkInfo
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits
from pystrands.client.history import History, history_of
from pystrands.client.lifetime import CANCELLED_TIMEOUT, DISCONNECT_TIMEOUT, ClientLifetime, Invoke
from pystrands.client.options import Options
from pystrands.client.requests import AT_ONCE, Encode, to_client
from pystrands.client.signals import (
    end_all,
    ended_by_sigterm,
    handling_sigterm,
    interrupted,
    warn_if_the_program_goes_on,
)
from pystrands.context import Context
from pystrands.errors import ClientGone, NotConnected, NotSupported, Refused
from pystrands.presence import Member
from pystrands.protocol.messages import ResultParams, message_content

__all__ = ["REQUEST_TIMEOUT", "BackendCore", "Outage"]

logger = logging.getLogger(__name__)

NOT_CONNECTED = "not connected to the broker"
NEVER_CONNECTED = f"{NOT_CONNECTED}: neither connect() nor run was called yet"
FORKED = (
    f"{NOT_CONNECTED}: this process was forked from the one that is, whose connection stayed there; connect() here, too"
)
REQUEST_TIMEOUT = 10.0
"""Seconds for the broker's answer, unless the caller says otherwise."""

_request_numbers = itertools.count(1)


class Outage:
    """Logs messages that find no link: one warning for each outage, the rest at DEBUG."""

    __slots__ = ("_warned", "why")

    def __init__(self) -> None:
        self._warned = False
        self.why = NEVER_CONNECTED
        """What is the matter when there is no link."""

    def begin(self, why: str) -> None:
        """From now on there is no link, for a reason that is worth a warning of its own."""
        self.why, self._warned = why, False

    def over(self) -> None:
        """Messages go out again."""
        self._warned = False
        self.why = NOT_CONNECTED

    def unsent(self) -> bool:
        """Log that a message was not sent; return False, as its ``send`` does."""
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "%s: a message was not sent, and send returned False", self.why)
        return False

    def unasked(self) -> NotConnected:
        """Return what to raise where an answer is needed."""
        return NotConnected(f"{self.why}, and this needs its answer")


class BackendCore:
    """The methods of a client, on one event loop at a time; ``options()`` is asked at each connect."""

    def __init__(
        self,
        options: Callable[[], Options],
        invoke: Invoke,
        outage: Outage | None = None,
        limits: TimeLimits = TIME_LIMITS,
    ) -> None:
        self.outage = outage or Outage()
        self._options = options
        self._invoke = invoke
        self.limits = limits
        """Of the lifetimes that begin from now on."""
        self._lifetime: ClientLifetime | None = None
        self.outgoing: Outgoing | LinkChoice | None = None
        """The way out of the last lifetime, which may be over: then it takes nothing."""
        forgets_in_children(self)

    def forget(self) -> object:
        """Be in a forked child: the parent's lifetime, which is returned, is none of this process."""
        lifetime, self._lifetime, self.outgoing = self._lifetime, None, None
        if lifetime is not None:
            self.outage.begin(FORKED)
        return lifetime

    @property
    def lifetime(self) -> ClientLifetime | None:
        """The lifetime that goes on, on whatever loop; None after its end."""
        lifetime = self._lifetime
        if lifetime is not None and (lifetime.closed.done() or lifetime.loop.is_closed()):
            return None
        return lifetime

    @property
    def link(self) -> BrokerLink | None:
        """The home link; None when it is not up."""
        lifetime = self.lifetime
        if lifetime is None:
            return None
        link = lifetime.connection.link
        return link if link is not None and link.is_open else None

    @property
    def broker(self) -> BrokerInfo | None:
        """What is known of the broker that this code sends to, from its link or the last one; None before the first."""
        lifetime = self._lifetime
        return None if lifetime is None or lifetime.is_over or self.outgoing is None else self.outgoing.broker

    @property
    def links(self) -> tuple[LinkInfo, ...]:
        """What there is to tell of each link."""
        lifetime = self.lifetime
        return () if lifetime is None else lifetime.brokers.links

    @property
    def connected(self) -> bool:
        """Whether a link is up and not about to be closed."""
        lifetime = self.lifetime
        return lifetime is not None and not lifetime.stopping and lifetime.brokers.is_up

    @property
    def stopping(self) -> bool:
        """Whether a lifetime goes on that is about to end, so that :meth:`connect` would begin a new one."""
        lifetime = self.lifetime
        return lifetime is not None and lifetime.stopping

    def _begin(self, *, persistent: bool) -> ClientLifetime:
        lifetime = self.lifetime
        if lifetime is not None:
            _check_loop(lifetime)
        if lifetime is None or lifetime.stopping:
            lifetime = self._lifetime = ClientLifetime(
                self._options(), self._invoke, persistent=persistent, use=self._use, limits=self.limits
            )
            self.outage.why = NOT_CONNECTED
        elif persistent:
            lifetime.brokers.persist()
        return lifetime

    def _use(self, outgoing: Outgoing | LinkChoice) -> None:
        self.outgoing = outgoing

    async def connect(self) -> bool:
        """See :meth:`pystrands.AsyncPyStrandsClient.connect`."""
        lifetime = self._begin(persistent=False)
        try:
            connected = await lifetime.brokers.attempt()
        except asyncio.CancelledError:
            if not lifetime.brokers.is_persistent:
                lifetime.begin_closing(0)
            raise
        if not connected and lifetime.stopping:
            await asyncio.wait([lifetime.closed])
        return connected

    async def run_forever(self) -> None:
        """See :meth:`pystrands.AsyncPyStrandsClient.run_forever`."""
        lifetime = self._begin(persistent=True)
        with ended_by_sigterm(partial(_close_soon, lifetime)), handling_sigterm():
            try:
                await asyncio.wait([lifetime.closed])
            except asyncio.CancelledError:
                task = asyncio.current_task()
                by_ctrl_c = interrupted(task)
                lifetime.begin_closing(CANCELLED_TIMEOUT)
                if by_ctrl_c:
                    end_all()
                # Whoever is cancelled again and again, as in a cancelled scope of anyio, must wait all the same: when
                # this returns the loop may end, and take from handlers the second that they have.
                while not lifetime.closed.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([lifetime.closed])
                # After Ctrl+C it returns, as after SIGTERM: asyncio.run() would end with a traceback of this library.
                if not by_ctrl_c or task is None or task.uncancel():
                    raise
        warn_if_the_program_goes_on(lifetime.loop)
        if refusal := lifetime.brokers.refusal:
            raise Refused(refusal)

    async def disconnect(self, timeout: float = DISCONNECT_TIMEOUT) -> None:
        """See :meth:`pystrands.AsyncPyStrandsClient.disconnect`."""
        lifetime = self.lifetime
        if lifetime is not None:
            _check_loop(lifetime)
            await lifetime.close(timeout)

    def send_now(self, line: bytes) -> bool:
        """Hand ``line`` on if that takes no waiting; False leaves it to :meth:`send`."""
        return self.outgoing is not None and self.outgoing.send_now(line)

    async def send(self, line: bytes, to: str = "", timeout: float | None = None) -> bool:
        """Hand ``line`` on; return whether it was taken. Waits under back-pressure, and while ``to`` is full."""
        lifetime = self.lifetime
        if lifetime is not None:
            _check_loop(lifetime)
            _check_timeout(timeout)
            outgoing = lifetime.brokers.choice.choose()
            try:
                if await outgoing.send(line, to, timeout):
                    self.outage.over()
                    return True
            except TimeoutError:
                logger.debug("there was no room for a message within %s s: send returned False", timeout)
                return False
            if to == AT_ONCE and outgoing.is_up:
                return False
        return self.outage.unsent()

    async def ask(
        self,
        encode: Encode,
        timeout: float | None = REQUEST_TIMEOUT,
        to: str = "",
        whose: str = "the broker",
    ) -> ResultParams:
        """Send the command that ``encode(request_id)`` gives, and return the broker's answer.

        It waits for its recipient as :meth:`send` does. Raises NotConnected without a link, NotSupported when the
        broker never answers such things, TimeoutError after ``timeout`` seconds (the command is not withdrawn, if it
        was sent), and OutcomeUnknown when the broker is replaced meanwhile. ``whose`` answer it is, for people.
        """
        lifetime = self.lifetime
        if lifetime is None:
            raise self.outage.unasked()
        _check_loop(lifetime)
        _check_timeout(timeout)
        end = None if timeout is None else lifetime.loop.time() + timeout
        connection = lifetime.brokers.chosen()
        if not connection.is_up:
            connection = await self._at_home(lifetime, connection, end)
        outgoing, results, broker = connection.outgoing, connection.incoming.results, connection.outgoing.broker
        if broker is None or not outgoing.is_up:
            raise self.outage.unasked()
        if not broker.said_hello:
            raise NotSupported("the broker at the other end is the original one, which can't do this")
        request_id = str(next(_request_numbers))
        answer: asyncio.Future[ResultParams] = lifetime.loop.create_future()
        results[request_id] = answer
        try:
            async with asyncio.timeout_at(end):
                if not await outgoing.send(encode(request_id), to):
                    raise NotConnected("the link to the broker was lost before this could be sent")
                return await answer
        except TimeoutError:
            why = "the recipient takes no more for now" if to in outgoing.full else f"{whose} has not answered"
            raise TimeoutError(f"{why}: waited for {timeout or 0:g} s (timeout=)") from None
        finally:
            del results[request_id]

    @staticmethod
    async def _at_home(lifetime: ClientLifetime, connection: BrokerConnection, end: float | None) -> BrokerConnection:
        try:
            async with asyncio.timeout_at(end):
                return await lifetime.brokers.at_home(connection)
        except TimeoutError:
            return connection

    async def found(self, encode: Encode, timeout: float) -> bool:
        """Ask something about a client; return whether it existed."""
        return (await self.ask(encode, timeout)).found

    async def matched(self, encode: Encode, timeout: float) -> int:
        """Ask for something to be done with clients; return how many these were."""
        return (await self.ask(encode, timeout)).matched

    async def present(self, encode: Encode, timeout: float) -> list[Member]:
        """Ask who is present in a room."""
        return (await self.ask(encode, timeout)).present

    async def members(self, encode: Encode, timeout: float) -> list[Context]:
        """Ask who is in a room."""
        return (await self.ask(encode, timeout)).members

    async def done(self, encode: Encode, timeout: float) -> None:
        """Have something done."""
        await self.ask(encode, timeout)

    async def history(self, encode: Encode, timeout: float) -> History:
        """Ask what was sent to a room."""
        return history_of(await self.ask(encode, timeout))

    async def confirm(self, encode: Encode, timeout: float | None, to: str = "") -> Confirmation:
        """Send a message, and return what became of it at the broker; without a timeout it is REQUEST_TIMEOUT."""
        answer = await self.ask(encode, REQUEST_TIMEOUT if timeout is None else timeout, to)
        return Confirmation(answer.matched, answer.skipped, answer.complete)

    async def request(self, client_id: str, encode: Encode, timeout: float) -> str | bytes:
        """Ask a client, and return its answer. Raises ClientGone, RequestFailed, NotSupported and TimeoutError."""
        answer = await self.ask(encode, timeout, to_client(client_id), "the client")
        if not answer.found:
            raise ClientGone(f"no client has the client_id {client_id!r}")
        return message_content(answer.message, answer.binary)


def _check_loop(lifetime: ClientLifetime) -> None:
    """Raise RuntimeError on any other event loop than that of the connection, where nothing of it may be touched."""
    if lifetime.loop is not asyncio.get_running_loop():
        raise RuntimeError(
            "this client is connected on another event loop: await its methods there, from here with "
            "asyncio.run_coroutine_threadsafe(), or disconnect() it there first; a PyStrandsClient can be used anywhere"
        )


def _check_timeout(timeout: float | None) -> None:
    if not isinstance(timeout, int | float | None):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")


def _close_soon(lifetime: ClientLifetime) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        lifetime.loop.call_soon_threadsafe(lifetime.begin_closing, DISCONNECT_TIMEOUT)
