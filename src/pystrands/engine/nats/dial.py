"""From a server's address to a link on which NATS has let us in."""

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar, cast

from pystrands.build import VERSION
from pystrands.engine.nats.credentials import Credentials, tls_context
from pystrands.engine.nats.link import NatsLink, NatsLinkOwner
from pystrands.engine.nats.options import NatsOptions, NatsServer
from pystrands.engine.nats.protocol import NatsProtocolError, connect
from pystrands.engine.nats.server_info import ServerInfo
from pystrands.protocol.printable import printable

__all__ = ["RefusedError", "Secrets", "addresses", "dial", "on_thread"]

T = TypeVar("T")

_OPTIONS: Final = {
    "verbose": False,
    "pedantic": False,
    "echo": False,
    "headers": True,
    "no_responders": True,
    "protocol": 1,
    "lang": "python",
}


@dataclass(frozen=True, slots=True)
class Secrets:
    """What files hold, as they were when they were read."""

    credentials: Credentials
    context: ssl.SSLContext | None
    """None where TLS is not asked for; a server may want it all the same."""

    @classmethod
    def read(cls, options: NatsOptions) -> Self:
        """Read the files. Raises ConfigError. Blocks."""
        is_tls = options.wants_tls or any(each.is_tls for each in options.servers)
        return cls(Credentials(options.credentials), tls_context(options) if is_tls else None)


_ALERT: Final = re.compile(r"alert (unknown ca|.*certificate)")
"""What TLS says where a server does not take our certificate, or wants one."""


class RefusedError(OSError):
    """A server does not take what it is shown, or we not what it shows; ``option`` is that to look at."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(problem)
        self.option = option


async def addresses(loop: asyncio.AbstractEventLoop, server: NatsServer) -> list[str]:
    """Return the IP addresses of a server. Raises OSError."""
    try:
        return [str(ipaddress.ip_address(server.host))]
    except ValueError:  # a name
        found = await on_thread(loop, lambda: socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM))
        return list(dict.fromkeys(str(each[4][0]) for each in found))


async def dial(
    loop: asyncio.AbstractEventLoop,
    owner: NatsLinkOwner,
    server: NatsServer,
    address: str,
    options: NatsOptions,
    secrets: Secrets,
) -> NatsLink:
    """Return a link that may begin. Raises OSError, whose text fits after the server's address, and ConfigError."""
    made: list[NatsLink] = []

    def make() -> Any:
        made.append(NatsLink(loop, owner, write_buffer=options.write_buffer, ping_interval=options.ping_interval))
        return made[-1]

    try:
        async with asyncio.timeout(options.connect_timeout):
            transport, _ = await loop.create_connection(make, address, server.port)
            await _greet(loop, made[-1], transport, server, options, secrets)
    except BaseException as error:
        for each in made:
            each.abort()
        if isinstance(error, ssl.SSLCertVerificationError):
            what = f"has a certificate that is not accepted: {error.verify_message}"
            raise RefusedError("nats_tls_ca", what) from None
        if isinstance(error, OSError | NatsProtocolError) and not isinstance(error, RefusedError):
            problem = _in_words(error, options)
            if _ALERT.search(problem):
                raise RefusedError("nats_tls_cert", problem) from None
            raise OSError(problem) from None
        raise
    return made[-1]


async def _greet(
    loop: asyncio.AbstractEventLoop,
    link: NatsLink,
    transport: asyncio.Transport,
    server: NatsServer,
    options: NatsOptions,
    secrets: Secrets,
) -> None:
    """Hear what the server is, begin TLS, and show our credentials."""
    if link.info is None:
        await link.expect()
    info = _checked(link)
    is_tls = server.is_tls or options.wants_tls or info.tls_required
    if is_tls:
        if not (info.tls_required or info.tls_available):
            raise OSError("has no TLS, which tls:// and the nats-tls options ask for")
        link.check_silence()
        context = secrets.context
        if context is None:
            context = await on_thread(loop, lambda: tls_context(options))
        name = server.tls_name or server.host
        secured = await loop.start_tls(transport, cast("Any", link), context, server_hostname=name)
        if secured is None:
            raise OSError(link.problem or "closed the connection")
        link.secured(secured)
    shown = secrets.credentials.shown(server, info.nonce)
    link.write(connect({**_OPTIONS, "version": VERSION, "name": options.name, "tls_required": is_tls, **shown}))
    await link.answer()
    _checked(link, "nats_credentials" if options.credentials else "nats_url")


def _checked(link: NatsLink, option: str = "nats_url") -> ServerInfo:
    """Return what the server has said of itself. Raises OSError where it can't be used."""
    if link.is_refused:
        raise RefusedError(option, link.problem)
    info = link.info
    if not link.is_open or info is None:
        raise OSError(link.problem or "says nothing")
    if info.ldm:
        raise OSError("is about to stop")
    if not info.headers:
        raise OSError("has no headers (nats-server before 2.2, or no_header_support), which are needed")
    return info


def _in_words(error: OSError | NatsProtocolError, options: NatsOptions) -> str:
    """Return what is the matter, in words that fit after a server's address."""
    if isinstance(error, TimeoutError) and not error.errno:
        return f"does not answer within {options.connect_timeout:g} s"
    if isinstance(error, ssl.SSLError):
        return f"could not begin TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, NatsProtocolError):
        return f"does not speak the protocol of NATS: {error}"
    return os.strerror(error.errno) if error.errno else printable(str(error)) or "is not reached"


async def on_thread(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> T:
    """Run what blocks on a thread that nobody waits for at the program's end, as asyncio would for its own."""
    result: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: Exception | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(cast("T", value))

    def run() -> None:
        value, raised = None, None
        try:
            value = function()
        except Exception as error:  # noqa: BLE001 - it is for who waits
            raised = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, value, raised)

    threading.Thread(target=run, name="pystrands-nats", daemon=True).start()
    return await result
