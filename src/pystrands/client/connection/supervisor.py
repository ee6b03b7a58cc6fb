"""Keeps one broker's link up: connects, waits, connects again."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from pystrands.client.connection import dial
from pystrands.client.connection.addresses import Addresses, BrokerAddress
from pystrands.client.connection.backoff import Backoff
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits
from pystrands.client.options import Options
from pystrands.protocol.printable import printable

__all__ = ["LinkSupervisor"]

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT: Final = 0.25
"""Seconds for what else may listen there to answer that; a broker that is silent for longer speaks protocol 1."""
_REASON: Final = 300
"""Characters of the broker's reason for a refusal that are shown."""
USEFUL_AFTER: Final = 1.0
"""A link that lived for so many seconds was no failure, even when nothing came."""
LAST_DELAY: Final = 0.25
"""Seconds between attempts at most, when the end has begun."""


class LinkSupervisor:
    """Owns the lifetime of the connection to one broker; each connection is a new BrokerLink from ``make_link``.

    ``addresses`` are the broker's, which others may change; where one fails the next attempt is at another one.
    ``attach(link)`` is called once for each that commands can go out on. ``may_be_old()`` tells whether a broker that
    says no hello may be one that knows none.

    :meth:`run` is its task. It ends when the first attempt fails and ``persistent`` is not set, when the link is lost
    and ``options.auto_reconnect`` is not set, when the broker refuses the backend, or after :meth:`stop`; after
    :meth:`finish` also when an attempt fails.
    """

    def __init__(
        self,
        options: Options,
        addresses: Addresses,
        make_link: Callable[[], BrokerLink],
        *,
        persistent: bool,
        attach: Callable[[BrokerLink], None] = lambda _: None,
        may_be_old: Callable[[], bool] = lambda: True,
        limits: TimeLimits = TIME_LIMITS,
    ) -> None:
        self.link: BrokerLink | None = None
        """The link that commands go to; None while there is none."""
        self.persistent = persistent
        """Whether a first attempt that fails is followed by others."""
        self.ended = False
        """Whether :meth:`run` has ended."""
        self.refusal = ""
        """Why the broker does not let this backend in; empty while nothing of the kind was heard."""
        self._options = options
        self._limits = limits
        self._addresses = addresses
        self._make_link = make_link
        self._attach = attach
        self._may_be_old = may_be_old
        self._loop = asyncio.get_running_loop()
        self._outcomes: list[asyncio.Future[bool]] = []
        self._hurry = asyncio.Event()
        self._stopping = False
        self._worthwhile: Callable[[], bool] | None = None
        self._failures = 0
        """Attempts that have failed since there was a link."""
        self._trouble: object = None
        """What kind of failure was spoken of last."""
        self._silent_until = 0.0
        self._is_there = False
        self.is_unreachable = False
        """Whether the last attempt has shown that nobody is there, or another broker; silence shows nothing."""
        self._tls: ssl.SSLContext | None = options.ssl if isinstance(options.ssl, ssl.SSLContext) else None
        if options.ssl is True:
            self._tls = ssl.create_default_context()

    @property
    def _broker(self) -> str:
        return f"the broker at {self._addresses.current}"

    async def attempt(self) -> bool:
        """Return True when connected, else try now and return whether that succeeded. Cancelling stops only waiting."""
        if self.link is not None and self.link.is_open:
            return True
        if self.ended:
            return False
        outcome: asyncio.Future[bool] = self._loop.create_future()
        self._outcomes.append(outcome)
        self._hurry.set()
        return await outcome

    async def run(self) -> None:
        """Connect, and keep connected. Cancelling it drops a connection that is not up yet, and leaves one that is."""
        options = self._options
        backoff = Backoff(options.reconnect_delay, options.max_reconnect_delay, options.reconnect_backoff)
        try:
            while not self._stopping:
                self._hurry.clear()
                link = await self._open()
                connected = link is not None and link.is_open
                self._notify_attempts(connected)
                self.persistent |= connected
                if link is not None and await self._stays_up(link):
                    backoff.reset()
                if self.refusal or not (self.persistent and options.auto_reconnect):
                    return
                if self._worthwhile is None:
                    await self._pause(backoff.next())
                elif connected or self._worthwhile():
                    await self._pause(min(backoff.next(), LAST_DELAY))
                else:
                    return
        finally:
            self.ended = True
            self._notify_attempts(False)

    def hurry(self) -> None:
        """Try now, where it waits for its next attempt: there is an address that is likely to work."""
        self._hurry.set()

    def usable(self, link: BrokerLink) -> None:
        """Note that commands can go out on a link: handlers may send from now on."""
        if self.link is not link:
            self.link = link
            self._attach(link)

    def finish(self, worthwhile: Callable[[], bool]) -> None:
        """The end has begun: go on for it, if this would go on at all, and try at once, and again in quick succession.

        After an attempt that failed there is another one only when ``worthwhile()``.
        """
        if self.persistent and self._options.auto_reconnect:
            self._worthwhile = worthwhile
            self._hurry.set()
        else:
            self.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping

    def refused(self, link: BrokerLink, reason: str, final: bool) -> None:
        """The broker does not let this backend in; if that is ``final``, it would not the next time, either."""
        link.problem = f"refuses this backend: {printable(' '.join(reason.split())[:_REASON])}"
        if final:
            self.refusal = f"{self._broker} {link.problem}"
        link.abort()

    def stop(self) -> None:
        """Make no more connections; the link that is up stays as it is."""
        self._stopping = True
        self._hurry.set()

    async def _open(self) -> BrokerLink | None:
        link: BrokerLink | None = None
        self._is_there = False
        try:
            async with asyncio.timeout(self._limits.connect):
                link = await self._connect()
            asked = await self._greeted(link)
        # TimeoutError is an OSError, UnicodeError a name that can't be one, RuntimeError no thread that looks one up.
        except (OSError, UnicodeError, RuntimeError) as error:
            self._failed(type(error), f"could not connect to {self._broker}: {self._reason(error)}")
            self._addresses.failed()
            self.is_unreachable = not (self._is_there and isinstance(error, TimeoutError))
            return None
        except BaseException:
            if link is not None:
                link.abort()
            raise
        if self.refusal:
            logger.error("%s", self.refusal)
            link.abort()
            return None
        if link.is_other:
            logger.debug("%s %s", self._broker, link.problem)
            self._addresses.failed()
            self.is_unreachable = True
            return None
        self.is_unreachable = False
        problem = ""
        if link.problem:
            problem = f"{self._broker} {link.problem}"
        elif link.awaits_welcome:
            problem = f"{self._broker} did not finish the greeting"
        elif not link.has_received and not link.is_open and not asked:
            problem = f"{self._broker} closed the connection at once"
            problem += "; does it ask for a certificate that ssl= has not?" if self._tls else ""
            self.is_unreachable = True
        elif not link.has_received and not (link.is_open and self._may_be_old()):
            problem = f"{self._broker} says no hello{self._silence}"
        if problem:
            self._failed(problem, problem)
            self._addresses.failed()
            link.abort()
            return None
        return link

    async def _connect(self) -> BrokerLink:
        address = self._addresses.current
        found: list[str] = []
        limits = self._limits
        sock = await dial.connect(
            self._loop, address.host, address.port, limits.connect, found=found, next_after=limits.next_address
        )
        self._is_there = True

        def make() -> Any:  # a protocol, if not by name
            link = self._make_link()
            link.dialed, link.siblings = _behind(address, sock, found)
            return link

        try:
            name = None if self._tls is None else address.name or address.host
            _, link = await self._loop.create_connection(make, sock=sock, ssl=self._tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        return cast("BrokerLink", link)

    async def _greeted(self, link: BrokerLink) -> bool:
        """Wait until the link is ready, or what is to be known of it is known; return whether a hello was asked for."""
        await asyncio.wait([link.ready], timeout=self._limits.hello)
        asked = not link.has_received and link.is_open
        if asked:
            link.ask()  # what is no broker answers to that, or hangs up
            await asyncio.wait([link.ready], timeout=ANSWER_TIMEOUT if self._may_be_old() else self._limits.connect)
        if link.awaits_welcome and link.is_open:
            await asyncio.wait([link.ready], timeout=self._limits.connect)
        return asked

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._limits.connect:g} s"
        reason = printable(str(error)) or type(error).__name__  # uvloop has no text for what is no TLS
        if isinstance(error, ConnectionRefusedError):
            return f"{reason}; does the broker (pystrands server) run there?"
        no_tls = isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError)
        if self._tls is not None and no_tls and not isinstance(error, ssl.SSLCertVerificationError):
            reason += "; does it speak TLS? If not, leave ssl= out"
        return reason

    @property
    def _silence(self) -> str:
        """What the silence of a broker may mean."""
        return "" if self._tls is not None else "; does it want TLS? Then give ssl="

    def _failed(self, kind: object, problem: str) -> None:
        """Log that an attempt failed: a warning for a new kind of failure, and once a minute while it goes on."""
        now = self._loop.time()
        self._failures += 1
        level = logging.DEBUG
        if kind != self._trouble or now >= self._silent_until:
            self._trouble, self._silent_until = kind, now + self._limits.reminder
            level = logging.WARNING
        so_far = f" ({self._failures} attempts so far)" if self._failures > 1 else ""
        logger.log(level, "%s%s", problem, so_far)

    async def _stays_up(self, link: BrokerLink) -> bool:
        """Wait for the end of ``link``; return whether it was of use."""
        options = self._options
        started = self._loop.time()
        self.usable(link)
        silence = "" if link.has_received else f", which says no hello{self._silence}"
        failed = f" ({self._failures} attempts failed)" if self._failures else ""
        logger.info("connected to %s%s%s", self._broker, silence, failed)
        self._failures, self._trouble = 0, None
        await asyncio.wait([link.closed])  # not awaited itself: cancelling this task must not cancel it
        self.link = None
        if not self._stopping:
            level = logging.WARNING if options.auto_reconnect else logging.ERROR
            then = "reconnecting" if options.auto_reconnect else "auto_reconnect is off"
            why = "" if link.has_received else f", which said nothing{self._silence}"
            why = f", which {link.problem}" if link.problem else why
            logger.log(level, "lost the link to %s%s; %s", self._broker, why, then)
        return link.has_received or self._loop.time() - started >= USEFUL_AFTER

    async def _pause(self, delay: float) -> None:
        logger.debug("next attempt to connect in %.2f s", delay)
        try:
            async with asyncio.timeout(delay):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def _notify_attempts(self, connected: bool) -> None:
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            if not outcome.done():
                outcome.set_result(connected)


def _behind(
    address: BrokerAddress, sock: socket.socket, found: list[str]
) -> tuple[BrokerAddress, tuple[BrokerAddress, ...]]:
    """Return where a socket leads, and the other addresses of that name: a name with one address stands for itself."""
    if len(found) < 2:
        return address, ()
    here = sock.getpeername()[0]
    others = [BrokerAddress(each, address.port, address.host) for each in found if each != here]
    return BrokerAddress(here, address.port, address.host), tuple(others)
