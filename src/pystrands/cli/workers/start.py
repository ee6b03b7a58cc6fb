"""From the options of ``pystrands server --workers N`` to N workers."""

import contextlib
import dataclasses
import gc
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pystrands.broker.config import BrokerConfig
from pystrands.broker.net.listening import GivenSockets
from pystrands.cli.options import WrongValue
from pystrands.cli.workers.nats import NatsKeeper, started_nats
from pystrands.cli.workers.place import WorkerPlace
from pystrands.cli.workers.sockets import bind_for_workers, check_ports, port_of
from pystrands.cli.workers.supervisor import WorkerSupervisor
from pystrands.protocol.address import is_wildcard

__all__ = ["ports_text", "run_workers", "workers_config"]

log = logging.getLogger(__name__)

_OURS: Final = "nats://127.0.0.1"
"""Stands for the server that is not started yet."""
_OF_WORKERS: Final = ("pystrands.broker.server", "pystrands.engine.nats.engine", "uvloop")
_MARGIN: Final = 10.0
"""Seconds that a worker has beyond those that its options give it for its end."""


def workers_config(
    values: Mapping[str, Any], count: int, make_config: Callable[[Mapping[str, Any]], BrokerConfig]
) -> BrokerConfig:
    """Return the configuration that all workers have in common. Raises ConfigError, and what ``make_config`` raises."""
    if sys.platform != "linux":
        raise WrongValue(
            "--workers: only Linux spreads clients of one port over several processes: start several brokers, each at"
            " ports of its own and with the same --nats-url"
        )
    # Without servers of theirs the workers get one, but what is said of servers has nothing to be about.
    ours = {} if any(name in values for name in _ABOUT_NATS) else {"nats_url": (_OURS,)}
    config = make_config({**ours, **values})
    check_ports(config, count)
    return config


_ABOUT_NATS: Final = ("nats_url", "nats_credentials", "nats_tls_ca", "nats_tls_cert", "nats_tls_key")


def run_workers(
    config: BrokerConfig, count: int, on_ready: Callable[[Sequence[GivenSockets]], None]
) -> tuple[BrokerConfig, WorkerPlace] | None:
    """Run ``count`` workers, and a NATS server if ``config`` names none, until a signal ends all.

    Return None when they have ended; and in each worker's process what that worker is to be. ``on_ready`` is called
    with the sockets of all, once all serve. Raises OSError when an address can't be had, and Failure.
    """
    sockets = bind_for_workers(config, count)
    try:
        nats = started_nats("--workers", _tell) if config.nats_url == (_OURS,) else None
    except BaseException:
        for given in sockets:
            for each in (*given.ws, *given.tcp, *given.admin):
                each.close()
        raise
    _preload(config)
    url = (nats.url,) if nats is not None else config.nats_url
    supervisor = WorkerSupervisor(
        sockets=sockets,
        nats=nats,
        on_ready=lambda: on_ready(sockets),
        stop_within=config.drain_time + 2 * config.close_timeout + _MARGIN,
    )
    place = supervisor.run()
    return None if place is None else (_config_of(dataclasses.replace(config, nats_url=url), place, nats), place)


def _preload(config: BrokerConfig) -> None:
    """Have in this process what workers need, so that all share its memory, and those that come later begin at once."""
    for name in _OF_WORKERS if config.admin_port < 0 else (*_OF_WORKERS, "pystrands.broker.ops.prometheus"):
        with contextlib.suppress(ImportError):  # whoever needs it says so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _tell(line: str) -> None:
    if logging.getLogger().hasHandlers():  # before that it is part of why it does not start
        log.warning("the NATS server says: %s", line)


def _config_of(config: BrokerConfig, place: WorkerPlace, nats: NatsKeeper | None) -> BrokerConfig:
    """Return the configuration of one worker, with its ports, and what it tells other brokers of them."""
    port = port_of(place.sockets.tcp)
    advertise = config.advertise
    if advertise:
        host, _, first = advertise.rpartition(":")
        advertise = f"{host}:{int(first) + place.number - 1}"
    elif nats is not None:
        # All are on this machine: under the name by which a backend has found one of them it finds the others.
        host = "" if is_wildcard(config.tcp_host) else config.tcp_host
        advertise = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return dataclasses.replace(
        config,
        ws_port=port_of(place.sockets.ws),
        tcp_port=port,
        admin_port=port_of(place.sockets.admin) if place.sockets.admin else -1,
        advertise=advertise,
    )


def ports_text(sockets: Sequence[Sequence[Any]]) -> str:
    """Return the ports of these sockets as people write them: ``8081 to 8084``."""
    ports = [port_of(each) for each in sockets]
    if len(ports) > 1 and ports == list(range(ports[0], ports[0] + len(ports))):
        return f"{ports[0]} to {ports[-1]}"
    return ", ".join(map(str, ports))
