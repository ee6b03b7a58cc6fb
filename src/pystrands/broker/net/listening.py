"""Listening on all addresses of a host, on one port; and on sockets that another process holds as well."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

__all__ = ["GivenSockets", "ServerGroup", "hosts", "listen_on", "on_one_port"]

_ATTEMPTS: Final = 20
_EVERYWHERE: Final = {"::": ("::", "0.0.0.0")}  # noqa: S104 - who writes :: means it


class _Socket(Protocol):
    def getsockname(self) -> tuple[str, int]: ...


class Server(Protocol):
    """What listens."""

    @property
    def sockets(self) -> Sequence[_Socket]:
        """Those that it listens on, one for each address."""
        ...

    def close(self) -> None:
        """End it."""
        ...

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        ...


S = TypeVar("S", bound=Server)


def hosts(host: str) -> tuple[str, ...]:
    """Return what to listen on for a host: ``::`` is every interface, with IPv6 and with IPv4."""
    return _EVERYWHERE.get(host, (host,))


async def on_one_port(listen: Callable[[int], Awaitable[S]], port: int) -> S:
    """Return what ``listen(port)`` makes; where that is to be any port, it is the same one for every address.

    The system gives each address a port of its own, so that the one which is told would be right for only one of them.
    Raises OSError, and then nothing listens.
    """
    server = await listen(port)
    for _ in range(_ATTEMPTS):
        ports = [each.getsockname()[1] for each in server.sockets]
        if len(set(ports)) == 1:
            return server
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)  # uvloop closes in the next turn
        try:
            server = await listen(ports[0])
        except OSError:  # another program has it, for one of the addresses
            server = await listen(0)
    server.close()
    await server.wait_closed()
    raise OSError("no port is free on all addresses of the host")


@dataclass(slots=True, kw_only=True)
class GivenSockets:
    """What a broker listens on that did not make it: sockets that are bound, those of a side all on one port.

    Who made them holds them as well. So nothing that waits to be accepted is lost with this process: whoever gets
    them next accepts it. ``are_handed_over``: somebody else does already, so that this broker, when it stops, leaves
    to that one who comes, and turns nobody away.
    """

    ws: Sequence[socket.socket]
    tcp: Sequence[socket.socket]
    admin: Sequence[socket.socket] = field(default=())
    are_handed_over: bool = False


class ServerGroup:
    """Several servers, as one."""

    def __init__(self, servers: Sequence[asyncio.Server]) -> None:
        self._servers = servers
        self.sockets = tuple(each for server in servers for each in server.sockets)

    def close(self) -> None:
        """End them."""
        for server in self._servers:
            server.close()

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        for server in self._servers:
            await server.wait_closed()


async def listen_on(
    sockets: Sequence[socket.socket], factory: Callable[[], asyncio.BaseProtocol], backlog: int = 100
) -> ServerGroup:
    """Make protocols of those who connect to these sockets. Closing ends it in this process only."""
    loop = asyncio.get_running_loop()
    return ServerGroup([await loop.create_server(factory, sock=each, backlog=backlog) for each in sockets])
