"""The command ``pystrands``: ``server`` and ``demo``, and the tools for a running broker.

Each option comes from its flag, else from the environment, else from the TOML file, else from its default.
Exit codes: 0 after an orderly end, 1 when the broker can't start, 2 for a value that can't work; always with one line.
"""

import asyncio
import errno
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pystrands.broker.config import BrokerConfig, options
from pystrands.broker.option import Option
from pystrands.build import BUILD, VERSION
from pystrands.cli.logs import FORMATS, log_to_stderr
from pystrands.cli.options import (
    Command,
    Failure,
    Group,
    WrongValue,
    add_options,
    label,
    read_file,
    resolve,
    service_links,
    tell,
)
from pystrands.cli.signals import Hangups, stop_event
from pystrands.cli.tools import COMMANDS
from pystrands.cli.types import write_types
from pystrands.cli.workers.cpus import available_cpus
from pystrands.environment import warn_of_unknown_variables
from pystrands.errors import ConfigError
from pystrands.protocol.address import is_wildcard

if TYPE_CHECKING:
    from pystrands.broker.net.listening import GivenSockets
    from pystrands.broker.server import Broker
    from pystrands.cli.workers.place import WorkerPlace

__all__ = ["DEMO_OPTIONS", "SERVER_OPTIONS", "Failure", "WrongValue", "main", "read_file", "resolve", "start_problem"]

log = logging.getLogger(__name__)

LOG_LEVEL = Option(
    name="log_level", default="info", help="how much is logged to stderr", choices=("debug", "info", "warning", "error")
)
LOG_FORMAT = Option(
    name="log_format", default="text", help="lines for people, or one JSON object a line", choices=FORMATS
)
WORKERS = Option(
    name="workers",
    default=1,
    help="processes that share the port for WebSocket clients (Linux); `auto` or 0: as many as CPUs",
    minimum=0,
    maximum=1024,
    word="auto",
)
SERVER_OPTIONS = (*options(), WORKERS, LOG_LEVEL, LOG_FORMAT)
DEMO_OPTIONS = tuple(
    each
    for each in SERVER_OPTIONS
    if each.name in {"ws_host", "ws_port", "tcp_host", "tcp_port", "allow_insecure_backends"}
)


def _config(values: Mapping[str, Any], sources: Mapping[str, str]) -> BrokerConfig:
    try:
        return BrokerConfig(**values)
    except ConfigError as error:
        raise _wrong_value(error, sources) from None


def _wrong_value(error: ConfigError, sources: Mapping[str, str]) -> WrongValue:
    flag = "--" + error.option.replace("_", "-")
    return WrongValue(f"{label(flag, sources.get(error.option, ''))}: {error.problem}")


# ---- the commands


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="pystrands", message=f"%(prog)s, version %(version)s, {BUILD}")
def main() -> None:
    """PyStrands: WebSockets that stay open while your Python code comes and goes."""


for each_command in (*COMMANDS, write_types):
    main.add_command(each_command)


@main.command(
    cls=Command,
    epilog="Each option can also be set in the environment (PYSTRANDS_WS_PORT=8080) or in the file (ws-port = 8080)."
    " A flag wins over the environment, and the environment over the file."
    " SIZE is a number of bytes, or one with KiB, MiB or GiB.",
)
@add_options(SERVER_OPTIONS)
@click.option("--config", metavar="FILE", help="TOML file with options.  [PYSTRANDS_CONFIG]")
def server(config: str | None, **flags: str | None) -> None:
    """Run the broker: WebSocket clients on one port, backends on the other."""
    with Hangups() as hangups:
        file: Mapping[str, object] = {}
        path = config if config is not None else os.environ.get("PYSTRANDS_CONFIG", "")
        if path or config is not None:
            file = read_file(path, SERVER_OPTIONS, "" if config is not None else "PYSTRANDS_CONFIG")
        values, sources = resolve(SERVER_OPTIONS, flags, os.environ, file, path)
        level = str(values.pop(LOG_LEVEL.name, LOG_LEVEL.default))
        log_format = str(values.pop(LOG_FORMAT.name, LOG_FORMAT.default))
        count = int(values.pop(WORKERS.name, WORKERS.default)) or available_cpus()
        if count > 1:
            _serve_with_workers(values, sources, count, level, log_format, hangups)
            return
        broker_config = _config(values, sources)
        raise_file_limit()

        from pystrands.broker.server import Broker  # noqa: PLC0415 - picows and uvloop are not needed for --help

        def on_start(broker: "Broker") -> None:
            log_to_stderr(level, log_format)
            _tell_of_start(
                broker_config,
                log_format,
                clients=str(broker.ws_port),
                backends=str(broker.tcp_port),
                metrics=str(broker.admin_port) if broker.admin_port >= 0 else "",
            )

        _run(broker_config, Broker(broker_config), on_start, hangups=hangups, long_lived=True)


def _tell_of_start(config: BrokerConfig, log_format: str, *, clients: str, backends: str, metrics: str) -> None:
    """Say where it listens; each is a port, or what stands for several."""
    log.info("PyStrands %s, %s", VERSION, BUILD)
    _warn_of_environment(SERVER_OPTIONS)
    say = log.info if log_format == "json" else _say
    scheme = "wss" if config.tls_cert else "ws"
    say(f"WebSocket clients: {scheme}://{_address(config.ws_host, clients)}")
    say(f"backends: {_address(config.tcp_host, backends)}")
    if metrics:
        say(f"metrics: http://{_address(config.admin_host, metrics)}/metrics")


def _serve_with_workers(
    values: Mapping[str, Any],
    sources: Mapping[str, str],
    count: int,
    level: str,
    log_format: str,
    hangups: Hangups,
) -> None:
    from pystrands.cli.workers.start import ports_text, run_workers, workers_config  # noqa: PLC0415 - of Linux

    try:
        config = workers_config(values, count, lambda values: _config(values, sources))
    except ConfigError as error:
        raise _wrong_value(error, sources) from None
    raise_file_limit()

    def on_ready(sockets: "Sequence[GivenSockets]") -> None:
        log_to_stderr(level, log_format)
        _tell_of_start(
            config,
            log_format,
            clients=ports_text([sockets[0].ws]),
            backends=ports_text([each.tcp for each in sockets]),
            metrics=ports_text([each.admin for each in sockets]) if sockets[0].admin else "",
        )
        log.info("%d workers", count)

    try:
        begun = run_workers(config, count, on_ready)
    except OSError as error:
        raise start_problem(config, error) from None
    if begun is None:
        return
    config, place = begun  # from here on this is a worker's process

    from pystrands.broker.server import Broker  # noqa: PLC0415 - as above

    if logging.getLogger().hasHandlers():  # one that begins later: the log of the whole is there already
        log_to_stderr(level, log_format, worker=place.number)

    def on_start(_: "Broker") -> None:
        log_to_stderr(level, log_format, worker=place.number)
        place.is_ready()

    try:
        _run(config, Broker(config, sockets=place.sockets), on_start, hangups=hangups, place=place, long_lived=True)
    except Failure as error:
        place.has_failed(error.message, error.exit_code)
        raise SystemExit(error.exit_code) from None


@main.command(cls=Command)
@add_options(DEMO_OPTIONS)
@click.option(
    "--brokers", type=click.IntRange(1, 16), default=1, help="How many, joined by a NATS server (Linux).  [1]"
)
def demo(brokers: int, **flags: str | None) -> None:
    """Run a chat to try out: the broker, a backend and a web page, in one process."""
    config = _config(*resolve(DEMO_OPTIONS, flags, os.environ, {}))
    raise_file_limit()
    with several_brokers(config, brokers) as configs:
        from pystrands.demo import serve_brokers  # noqa: PLC0415 - as for the broker

        shown: list[Broker] = []

        @asynccontextmanager
        async def serving() -> AsyncIterator["Broker"]:
            async with serve_brokers(configs, backends=1 if len(configs) == 1 else 2) as made:
                shown.extend(made)
                yield made[0]

        def on_start(_: "Broker") -> None:
            log_to_stderr("warning", "text")
            _warn_of_environment(DEMO_OPTIONS)
            host = "127.0.0.1" if is_wildcard(config.ws_host) else config.ws_host
            first, *others = (f"http://{_address(host, broker.ws_port)}/" for broker in shown)
            _say(f"Open {first} in two tabs" if not others else f"Open {first} and {' and '.join(others)}")
            _say("Ctrl+C ends the demo")

        _run(config, serving(), on_start)


@contextmanager
def several_brokers(config: BrokerConfig, count: int) -> Iterator[list[BrokerConfig]]:
    """Give the configurations of the demo's brokers; each has ports two above those of the last."""
    if count == 1:
        yield [config]
        return
    if sys.platform != "linux":
        raise WrongValue("--brokers: only on Linux the demo starts a NATS server, which joins several brokers")

    from pystrands.cli.workers.nats import started_nats  # noqa: PLC0415 - of Linux

    nats = started_nats("--brokers", lambda _: None)
    nats.ignore_reports()
    try:
        yield [
            replace(
                config,
                ws_port=config.ws_port + 2 * i if config.ws_port else 0,
                tcp_port=config.tcp_port + 2 * i if config.tcp_port else 0,
                nats_url=(nats.url,),
            )
            for i in range(count)
        ]
    finally:
        nats.end()


def _warn_of_environment(known: Iterable[Option]) -> None:
    if links := service_links(known, os.environ):
        log.warning("%s", links)
    warn_of_unknown_variables(log)


def _say(line: str) -> None:
    if problem := tell(line):
        log.warning("stdout can't be written, so this is not there: %s (%s)", line, problem.strerror)


# ---- the process


def _run(
    config: BrokerConfig,
    serving: "AbstractAsyncContextManager[Broker]",
    on_start: "Callable[[Broker], None]",
    *,
    hangups: Hangups | None = None,
    place: "WorkerPlace | None" = None,
    long_lived: bool = False,
) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_signal(config, serving, on_start, hangups, place, long_lived=long_lived))


async def _until_signal(
    config: BrokerConfig,
    serving: "AbstractAsyncContextManager[Broker]",
    on_start: "Callable[[Broker], None]",
    hangups: Hangups | None,
    place: "WorkerPlace | None",
    *,
    long_lived: bool,
) -> None:
    """Serve until a signal comes; without ``hangups`` SIGHUP, which a terminal sends when it is closed, is one."""
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(place.stop_event()) if place else stop_event(with_hangup=hangups is None)
        try:
            starting = asyncio.ensure_future(stack.enter_async_context(serving))
            if not await _is_started(starting, stop):
                return
            broker = starting.result()
        except ConfigError as error:
            raise WrongValue(f"--{error.option.replace('_', '-')}: {error.problem}") from None
        except OSError as error:
            raise start_problem(config, error) from None
        on_start(broker)  # the log begins here: a start that fails says so in one line, without a log around it
        if long_lived:
            # What exists now lives as long as the process: collections need not look at it again. Clients that
            # go leave nothing to collect, and what they have while they are there is looked at in small parts: a
            # full collection over many of them would stop everything for some fifty milliseconds.
            gc.collect()
            gc.freeze()
            # On asyncio's own loop they leave something, their transports; there the collector runs as it always does.
            if not type(asyncio.get_running_loop()).__module__.startswith("asyncio"):
                gc.set_threshold(5_000, 5, 1_000)
        with hangups.serving(broker) if hangups is not None else nullcontext():
            await stop.wait()
        log.info("Stopping" if place is not None else "Stopping; a second signal ends the process at once")


async def _is_started(starting: "asyncio.Future[Broker]", stop: asyncio.Event) -> bool:
    """Wait until it is, which may take long where other brokers can't be reached; False when it is to end before."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
    finally:
        stopping.cancel()
    return not starting.cancelled()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


def raise_file_limit() -> None:
    """Raise this process's limit of open files as far as it may go: each connection takes one."""
    try:
        import resource  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS takes no "unlimited"
            log.warning("The limit of open files stays at %d: %s", soft, error)


def start_problem(config: BrokerConfig, error: OSError) -> Failure:
    """Return what to tell when the broker could not listen: which address it is, and what to change.

    ``error`` alone does not say which of the addresses it was, so each is tried again.
    """
    addresses = [("ws", config.ws_host, config.ws_port), ("tcp", config.tcp_host, config.tcp_port)]
    if config.admin_port >= 0:
        addresses.append(("admin", config.admin_host, config.admin_port))
    for side, host, port in addresses:
        problem = _bind_problem(host, port)
        address = _address(host, port)
        if isinstance(problem, socket.gaierror) or getattr(problem, "errno", 0) == errno.EADDRNOTAVAIL:
            return WrongValue(f"--{side}-host: {host!r} is not an address of this machine")
        if problem is not None and problem.errno == errno.EADDRINUSE:
            return Failure(f"{address} is in use by another program: end it, or choose another --{side}-port")
        if problem is not None:
            return Failure(f"can't listen on {address}: {problem.strerror}; choose another --{side}-port")
    return Failure(f"can't listen: {error}")


def _bind_problem(host: str, port: int) -> OSError | None:
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                # As the event loop does it; on Windows the option would let two programs share the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
                probe.bind(address)
                probe.listen(1)
    except OSError as error:
        return error
    return None


def _address(host: str, port: int | str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
