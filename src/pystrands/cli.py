"""The command ``pystrands``: ``server`` and ``demo``, and the tools for a running broker.

Each option comes from its flag, else from the environment, else from the TOML file, else from its default.
Exit codes: 0 after an orderly end, 1 when the broker can't start, 2 for a value that can't work; always with one line.
"""

import asyncio
import difflib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pystrands.broker.config import BrokerConfig, Option, options
from pystrands.errors import ConfigError

if TYPE_CHECKING:
    from pystrands.broker.server import Broker

__all__ = ["Command", "Failure", "WrongValue", "add_options", "main", "resolve"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

log = logging.getLogger(__name__)

LOG_LEVEL = Option(
    name="log_level", default="info", help="how much is logged to stderr", choices=("debug", "info", "warning", "error")
)
SERVER_OPTIONS = (*options(), LOG_LEVEL)
DEMO_OPTIONS = tuple(each for each in SERVER_OPTIONS if each.name in {"ws_host", "ws_port", "tcp_host", "tcp_port"})


class Failure(click.ClickException):
    """What was asked for can't be done: one line on stderr, exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class WrongValue(Failure):
    """A value that can't work, from any source: one line on stderr, exit code 2."""

    exit_code = 2


class Command(click.Command):
    """A command that reports a misspelt option in one line as well, without the usage block."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, but for what is raised."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise WrongValue(error.format_message()) from None


class _Commands(click.Group):
    """The commands. Those for a running broker are loaded when they are looked for: they use this module."""

    def _load(self) -> None:
        if "tail" not in self.commands:
            from pystrands.cli_tools import COMMANDS  # noqa: PLC0415 - see above

            self.commands.update(COMMANDS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name."""
        self._load()
        return super().get_command(ctx, cmd_name)


# ---- where values come from


def read_file(path: str, known: Iterable[Option], source: str = "") -> dict[str, object]:
    """Return a TOML file's values by field name; ``source`` says who named the file, if not the flag.

    Raises WrongValue for a file that can't be read and for keys that are no option's.
    """
    label = _label("--config", source)
    try:
        table = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise WrongValue(f"{label}: can't read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise WrongValue(f"{label}: {path} is not a TOML file: {error}") from None
    keys = {each.key: each.name for each in known}
    values: dict[str, object] = {}
    for key, value in table.items():
        spelt = key.replace("_", "-")
        if spelt not in keys:
            nearest = difflib.get_close_matches(spelt, keys, n=1, cutoff=0)[0]
            raise WrongValue(f"{path}: unknown key {key!r}: the nearest right one is {nearest!r}")
        if keys[spelt] in values:
            raise WrongValue(f"{path}: {spelt!r} is there twice, with - and with _: remove one")
        values[keys[spelt]] = value
    return values


def resolve(
    known: Iterable[Option],
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    file_name: str = "",
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value of each option that was given, and the name of its source: empty for a flag.

    An empty environment variable counts as not given. Raises WrongValue for a value that can't work.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for each in known:
        given = flags.get(each.name)
        source = ""
        if given is None:
            source = next((name for name in (each.env, each.older_env) if name and environ.get(name)), "")
            given = environ.get(source)
        try:
            if given is not None:
                values[each.name] = each.parse(given)
            elif each.name in file:
                source = file_name
                value = file[each.name]
                values[each.name] = each.parse(value) if isinstance(value, str) else each.check(value)
            else:
                continue
        except ConfigError as error:
            raise WrongValue(f"{_label(each.flag, source)}: {error.problem}") from None
        sources[each.name] = source
    return values, sources


def _label(flag: str, source: str) -> str:
    return f"{flag} (from {source})" if source else flag


def _config(values: Mapping[str, Any], sources: Mapping[str, str]) -> BrokerConfig:
    try:
        return BrokerConfig(**values)
    except ConfigError as error:
        flag = "--" + error.option.replace("_", "-")
        raise WrongValue(f"{_label(flag, sources.get(error.option, ''))}: {error.problem}") from None


def add_options(known: Iterable[Option]) -> Callable[[_Function], _Function]:
    """Give a command these options; their values come as the text that was given, or None: see :func:`resolve`."""

    def decorate(function: _Function) -> _Function:
        for each in reversed(list(known)):
            text = f"{each.help[0].upper()}{each.help[1:]}.  [{each.default_text}]"
            function = click.option(each.flag, each.name, metavar=each.metavar, help=text)(function)
        return function

    return decorate


# ---- the commands


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pystrands", prog_name="pystrands")
def main() -> None:
    """PyStrands: WebSockets that stay open while your Python code comes and goes."""


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
    file: Mapping[str, object] = {}
    path = config if config is not None else os.environ.get("PYSTRANDS_CONFIG", "")
    if path or config is not None:
        file = read_file(path, SERVER_OPTIONS, "" if config is not None else "PYSTRANDS_CONFIG")
    values, sources = resolve(SERVER_OPTIONS, flags, os.environ, file, path)
    level = str(values.pop(LOG_LEVEL.name, LOG_LEVEL.default))
    broker_config = _config(values, sources)
    raise_file_limit()

    from pystrands.broker.server import Broker  # noqa: PLC0415 - picows and uvloop are not needed for --help

    def lines(broker: "Broker") -> list[str]:
        return [
            f"WebSocket clients: ws://{_address(broker_config.ws_host, broker.ws_port)}",
            f"backends: {_address(broker_config.tcp_host, broker.tcp_port)}",
        ]

    _run(broker_config, Broker(broker_config), lines, log_level=level, long_lived=True)


@main.command(cls=Command)
@add_options(DEMO_OPTIONS)
def demo(**flags: str | None) -> None:
    """Run a chat to try out: the broker, a backend and a web page, in one process."""
    config = _config(*resolve(DEMO_OPTIONS, flags, os.environ, {}))
    raise_file_limit()

    from pystrands.demo import serve  # noqa: PLC0415 - as for the broker

    def lines(broker: "Broker") -> list[str]:
        host = "127.0.0.1" if config.ws_host in {"0.0.0.0", "::", ""} else config.ws_host  # noqa: S104 - compared only
        return [f"Open http://{_address(host, broker.ws_port)}/ in two tabs", "Ctrl+C ends the demo"]

    _run(config, serve(config), lines, log_level="warning")


# ---- the process


def _run(
    config: BrokerConfig,
    serving: "AbstractAsyncContextManager[Broker]",
    lines: "Callable[[Broker], list[str]]",
    *,
    log_level: str,
    long_lived: bool = False,
) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_signal(config, serving, lines, log_level, long_lived=long_lived))


async def _until_signal(
    config: BrokerConfig,
    serving: "AbstractAsyncContextManager[Broker]",
    lines: "Callable[[Broker], list[str]]",
    log_level: str,
    *,
    long_lived: bool,
) -> None:
    stop = _stop_event()
    async with AsyncExitStack() as stack:
        try:
            broker = await stack.enter_async_context(serving)
        except OSError as error:
            raise why_not_started(config, error) from None
        _log_to_stderr(log_level)  # from here on: a start that fails says so in one line, without a log around it
        if long_lived:
            # What exists now lives as long as the process: collections need not look at it again, and are
            # rare, since a full one over many connections stops everything for a while.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
        for line in lines(broker):
            click.echo(line)
        await stop.wait()
        log.info("Stopping; a second signal ends the process at once")


def _stop_event() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; the second signal ends the process in the system's own way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, on_signal)
    return stop


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


def why_not_started(config: BrokerConfig, error: OSError) -> Failure:
    """Return what to tell when the broker could not listen: which address it is, and what to change.

    ``error`` alone does not say which of the two addresses it was, so each is tried again.
    """
    for side, host, port in (("ws", config.ws_host, config.ws_port), ("tcp", config.tcp_host, config.tcp_port)):
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


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
