"""Keeps one link to NATS up: dials servers in their order, again after a loss, and before a server stops."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pystrands.engine.nats.dial import RefusedError, Secrets, addresses, dial, on_thread
from pystrands.engine.nats.link import NatsLink, NatsLinkOwner
from pystrands.engine.nats.options import NatsOptions, NatsServer
from pystrands.errors import ConfigError
from pystrands.protocol.printable import printable

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

_FIRST_DELAY: Final = 0.05
"""Seconds before the first attempt after a loss; doubled with each that fails."""
_MOST_STANDBYS: Final = 64
"""Servers that another one may tell us of."""
_LEAST_PAYLOAD: Final = 16 * 1024
"""What the server has to take in one piece, for questions of brokers to go through."""
_GOODBYE: Final = 2.0
"""Seconds for a server to take what is written when we leave it."""
_ADVICE: Final = {
    "nats_url": "check the token, or user and password, in nats-url; or give nats-credentials",
    "nats_credentials": "check that file, and that NATS knows its user",
    "nats_tls_ca": "give the certificates of who has signed it",
    "nats_tls_cert": "give a certificate that NATS accepts",
}


class Supervisor(NatsLinkOwner):
    """``take(link)`` is called with each link that is let in, ``drop(link)`` when it is of no more use."""

    def __init__(
        self,
        options: NatsOptions,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[NatsLink], None],
        drop: Callable[[NatsLink], None],
    ) -> None:
        self._options = options
        self._loop = loop
        self._take = take
        self._drop = drop
        self._link: NatsLink | None = None
        self._server = options.servers[0]  # of that link, or the last one
        self._standbys: list[NatsServer] = []
        self._began = 0.0
        self._attempts = 0  # since there was a link that lasted
        self._wanted = asyncio.Event()
        """Set when the link is lost, or its server is about to stop."""
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] = loop.create_future()
        self._said = ""
        self._complaints: dict[str, int] = {}
        self.denied: asyncio.Future[str] = loop.create_future()
        """Done, with what is the matter, when the server does not let us publish or subscribe what we have to."""
        self._has_warned = False

    # --- from start to stop ---

    async def start(self, timeout: float) -> None:
        """Begin, and return when NATS has let us in; without end where ``timeout`` is 0.

        Raises ConfigError where it takes none of our credentials, and for files that can't be used; TimeoutError.
        """
        self._task = self._loop.create_task(self._run())
        try:
            await asyncio.wait([self._first, self._task], timeout=timeout or None, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
        except BaseException:
            await self.stop()
            raise
        if not self._first.done():
            await self.stop()
            raise TimeoutError(f"NATS has not let this broker in within {timeout:g} s: {self._said or 'no answer'}")

    async def stop(self) -> None:
        """Have what was sent arrive, then end the link."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConfigError):
                await asyncio.wait([self._task])
        link, self._link = self._link, None
        if link is None:
            return
        self._drop(link)
        try:
            await asyncio.wait([link.answer()], timeout=_GOODBYE)
            link.close()
            await asyncio.wait([link.closed], timeout=_GOODBYE)
        finally:
            link.abort()

    async def _run(self) -> None:
        while True:
            link = await self._connect()
            older, self._link = self._link, link
            if older is not None:
                self._leave(older)
            self._began = self._loop.time()
            self._wanted.clear()
            self._tell_of(link)
            try:
                self._take(link)
            except Exception:
                logger.exception("the connection to NATS could not begin")
                link.abort("could not be used")
            self.link_informed(link)
            if not self._first.done():
                self._first.set_result(None)
            await self._wanted.wait()

    def _tell_of(self, link: NatsLink) -> None:
        self._said = ""
        info = link.info
        assert info is not None
        name = printable(info.server_name)
        logger.info("connected to NATS at %s (%s, version %s)", self._server, name, printable(info.version))
        if info.max_payload < _LEAST_PAYLOAD:
            logger.warning(
                "NATS at %s takes %d bytes at once: brokers need %d to ask each other, so raise its max_payload",
                self._server,
                info.max_payload,
                _LEAST_PAYLOAD,
            )
        if self._server.user and link.is_exposed and not self._has_warned:
            self._has_warned = True
            what = "the token" if self._server.password is None else "the password"
            logger.warning(
                "%s for NATS travels in the clear to %s: use tls://, or a private network", what, self._server
            )

    def _leave(self, link: NatsLink) -> None:
        """End a link that another one replaces, when what was sent on it is out."""
        self._drop(link)
        link.close()
        self._loop.call_later(_GOODBYE, link.abort)

    # --- a link ends ---

    def link_informed(self, link: NatsLink) -> None:
        """Remember which servers there are; look for another one if this one is about to stop."""
        info = link.info
        if info is None or link is not self._link:
            return
        server = replace(self._server, is_tls=link.is_tls)
        found = [each for url in info.connect_urls[:_MOST_STANDBYS] if (each := server.discovered(url))]
        known = {(each.host, each.port) for each in self._options.servers}
        self._standbys = [each for each in found if (each.host, each.port) not in known and self._options.may_use(each)]
        if info.ldm and not self._wanted.is_set():
            logger.info("NATS at %s is about to stop: looking for another server", self._server)
            self._wanted.set()

    def link_complained(self, link: NatsLink, problem: str) -> None:  # noqa: ARG002 - the owner's
        """Say it: the first of its kind, and then less and less often."""
        kind = " ".join(problem.split()[:4])
        count = self._complaints.get(kind, 0) + 1
        if len(self._complaints) < _MOST_STANDBYS or count > 1:
            self._complaints[kind] = count
        level = logging.WARNING if count & (count - 1) == 0 else logging.DEBUG  # 1, 2, 4, 8 ...
        advice = ""
        if problem.lower().startswith("permissions"):
            advice = ": it has to allow ps.CLUSTER.>"
            if not self.denied.done():
                self.denied.set_result(f"{self._server} says: {problem}{advice}")
        logger.log(level, "NATS at %s says: %s (%d so far)%s", self._server, problem, count, advice)

    def link_lost(self, link: NatsLink) -> None:
        """Go without, and look for another."""
        if link is not self._link:
            return
        self._link = None
        logger.warning("NATS is lost: %s %s; this broker goes on alone until it is back", self._server, link.problem)
        self._wanted.set()
        self._drop(link)

    # --- another one begins ---

    async def _connect(self) -> NatsLink:
        """Return a link, however long it takes."""
        if self._loop.time() - self._began > self._options.longest_delay:
            self._attempts = 0
        while True:
            if self._began or self._attempts:
                await self._pause()
            link = await self._round()
            if link is not None:
                return link
            self._attempts += 1

    async def _pause(self) -> None:
        """Wait, longer with each attempt; at random, so that brokers that lost NATS together come back one by one."""
        delay = min(_FIRST_DELAY * 2 ** min(self._attempts, 20), self._options.longest_delay)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        link = self._link
        if link is None:
            await asyncio.sleep(delay)
        elif (await asyncio.wait([link.closed], timeout=delay))[0]:  # the one that was about to stop has stopped
            self._attempts = 0

    async def _round(self) -> NatsLink | None:
        """Try each server once, and say what is the matter where none lets us in."""
        problems: list[str] = []
        refused = ""
        try:
            secrets = await on_thread(self._loop, lambda: Secrets.read(self._options))
            for server in (*self._options.servers, *self._standbys):
                try:
                    link = await self._try(server, secrets)
                except OSError as error:
                    problems.append(f"{server} {error}")
                    if isinstance(error, RefusedError):
                        refused = error.option
                else:
                    self._server = server
                    return link
        except ConfigError as error:
            if not self._first.done():
                raise
            problems.append(str(error))
        if refused and not self._first.done():
            raise ConfigError(refused, f"{'; '.join(problems)}: {_ADVICE[refused]}")
        self._say("; ".join(problems))
        return None

    async def _try(self, server: NatsServer, secrets: Secrets) -> NatsLink:
        """Return a link to a server, by whichever of its addresses. Raises OSError, in words, and ConfigError."""
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                found = await addresses(self._loop, server)
        except TimeoutError:
            raise OSError("has a name that is not looked up in time") from None
        except OSError as error:
            raise OSError(f"can't be found: {error.strerror or error}") from None
        problem = OSError("has no address")
        for address in found:
            try:
                link = await dial(self._loop, self, server, address, self._options, secrets)
            except OSError as error:
                problem = error
                continue
            older = self._link
            if older is None or older.info is None or link.info is None or older.info.server_id != link.info.server_id:
                return link
            link.abort()
            problem = OSError("is about to stop")
        raise problem

    def _say(self, problem: str) -> None:
        """Say it once, until it is another one."""
        if problem != self._said:
            self._said = problem
            logger.warning("NATS can't be reached, and is tried again: %s", problem)
