"""The sockets of all workers: the parent makes them, each worker listens on its own."""

import socket
from collections.abc import Sequence
from typing import Final

from pystrands.broker.config import BrokerConfig
from pystrands.broker.net.listening import GivenSockets, hosts
from pystrands.errors import ConfigError

__all__ = ["bind_for_workers", "check_ports", "port_of"]

_ATTEMPTS: Final = 20
_LAST_PORT: Final = 65535


def check_ports(config: BrokerConfig, count: int) -> None:
    """Raise ConfigError where the ports of ``count`` workers meet, or where there are not so many."""
    taken = {config.ws_port: "the port for WebSocket clients"}
    for name, first, what in (
        ("tcp_port", config.tcp_port, "one of the ports for backends"),
        ("admin_port", config.admin_port, "one of the admin ports"),
    ):
        if first <= 0:
            continue
        last = first + count - 1
        if last > _LAST_PORT:
            raise ConfigError(name, f"{count} workers need the ports {first} to {last}, and there are {_LAST_PORT}")
        for port in range(first, last + 1):
            if port in taken:
                raise ConfigError(
                    name,
                    f"{count} workers need the ports {first} to {last}, and {port} is {taken[port]}: choose others",
                )
            taken[port] = what


def bind_for_workers(config: BrokerConfig, count: int) -> list[GivenSockets]:
    """Return the sockets of each worker: clients of all have one port, backends and the admin port of each their own.

    They are bound and listen not yet. Raises OSError, and then there is none.
    """
    made: list[socket.socket] = []
    try:
        # One without SO_REUSEPORT finds out whether another program has the port, which could share it otherwise.
        probes = _bind(config.ws_host, config.ws_port, made, share=False)
        port = port_of(probes)
        for each in probes:
            each.close()
        result = []
        for i in range(count):
            ws = _bind(config.ws_host, port, made, share=True)
            tcp = _bind(config.tcp_host, config.tcp_port + i if config.tcp_port else 0, made, share=False)
            admin = []
            if config.admin_port >= 0:
                admin_port = config.admin_port + i if config.admin_port else 0
                admin = _bind(config.admin_host, admin_port, made, share=False)
            result.append(GivenSockets(ws=ws, tcp=tcp, admin=admin))
    except BaseException:
        for each in made:
            each.close()
        raise
    return result


def port_of(sockets: Sequence[socket.socket]) -> int:
    """Return the port of sockets that have one in common."""
    port: int = sockets[0].getsockname()[1]
    return port


def _bind(host: str, port: int, made: list[socket.socket], *, share: bool) -> list[socket.socket]:
    """Return a socket for each address of the host, on one port; all that were ever made are in ``made``."""
    addresses = dict.fromkeys(
        (family, address)
        for name in hosts(host)
        for family, _, _, _, address in socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    for attempt in range(_ATTEMPTS):
        sockets: list[socket.socket] = []
        chosen = port
        try:
            for family, address in addresses:
                sock = socket.socket(family, socket.SOCK_STREAM)
                sockets.append(sock)
                made.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if share:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address[0], chosen, *address[2:]))
                chosen = port_of(sockets)
        except OSError:
            if port or attempt == _ATTEMPTS - 1:
                raise
            for sock in sockets:  # what is free on one address may be taken on the next: try another
                sock.close()
        else:
            break
    return sockets
