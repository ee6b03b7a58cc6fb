"""The commands for a broker that runs: ``send``, ``tail`` and ``status``."""

import contextlib
import dataclasses
import errno
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from pystrands.broker.backends.authenticator import read_tokens
from pystrands.broker.config import options
from pystrands.broker.option import Option
from pystrands.cli.options import Command, Failure, WrongValue, add_options, label, resolve, service_links, tell
from pystrands.cli.status_text import PlainClusterPicture, PlainPicture
from pystrands.client.options import TOKEN_VARIABLE
from pystrands.errors import ConfigError, MalformedLine, PyStrandsError
from pystrands.protocol import messages
from pystrands.protocol.messages import WatchedParams
from pystrands.protocol.printable import printable
from pystrands.tools import Sent, Tool
from pystrands.watching import Watching

if TYPE_CHECKING:
    from pystrands.cli.status_table import Picture

__all__ = ["COMMANDS", "TOOL_OPTIONS", "watched_line"]

_SHOWN: Final = 120
"""Characters of a message that ``tail`` shows; of a binary one, bytes."""
_HELP: Final = {
    "tcp_host": "address where the broker listens for backends",
    "tcp_port": "port where the broker listens for backends",
    "backend_token": "token of the broker, as backends have it; of several the first",
    "backend_token_file": "file with that token",
    "backend_tls_cert": "certificate to show the broker, for one with --backend-tls-ca",
    "backend_tls_key": "its key, where that is not in the same file",
    "backend_tls_ca": "certificates in PEM, one of which must have signed the broker's; else those of the system",
}
_TLS: Final = Option(name="backend_tls", default=False, help="speak TLS; so it does when it is given any certificate")
TOOL_OPTIONS: Final = (
    *(
        dataclasses.replace(each, help=_HELP[each.name], minimum=1 if each.name == "tcp_port" else None)
        for each in options()
        if each.name in _HELP
    ),
    _TLS,
)


@contextlib.contextmanager
def _link(flags: Mapping[str, str | None]) -> Iterator[Tool]:
    """Yield a link to the broker that flags and environment name; whatever goes wrong there is one line."""
    values, sources = resolve(TOOL_OPTIONS, flags, os.environ, {})
    if links := service_links(TOOL_OPTIONS, os.environ):
        with contextlib.suppress(OSError):
            click.echo(links, err=True)
    values = {**{each.name: each.default for each in TOOL_OPTIONS}, **values}
    try:
        token, tls = _token(values), _tls(values)
    except ConfigError as error:
        flag = "--" + error.option.replace("_", "-")
        raise WrongValue(f"{label(flag, sources.get(error.option, ''))}: {error.problem}") from None
    try:
        with Tool(values["tcp_host"], values["tcp_port"], token=token, ssl=tls) as tool:
            yield tool
    except PyStrandsError as error:
        raise Failure(str(error)) from None


def _token(values: Mapping[str, Any]) -> str:
    """Return the token: what is given to the command, or else what backends have in the environment."""
    path = values["backend_token_file"]
    tokens = (*values["backend_token"], *(read_tokens(path) if path else ()))
    return tokens[0] if tokens else os.environ.get(TOKEN_VARIABLE, "").strip()


def _tls(values: Mapping[str, Any]) -> ssl.SSLContext | None:
    cert, key, ca = values["backend_tls_cert"], values["backend_tls_key"], values["backend_tls_ca"]
    if not (values[_TLS.name] or cert or ca):
        return None
    context = ssl.create_default_context()
    try:
        name = "backend_tls_ca"
        if ca:
            context = ssl.create_default_context(cafile=ca)
        name = "backend_tls_cert"
        if cert:
            context.load_cert_chain(cert, key or None, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfigError(name, f"can't use {values[name]}: {getattr(error, 'strerror', None) or error}") from None
    return context


def _clients(count: int) -> str:
    return f"{count} client" if count == 1 else f"{count} clients"


# ---- send


@click.command(cls=Command, epilog="Put -- before a TEXT that begins with a dash.")
@click.option("--room", metavar="ROOM", help="Send to every client in this room.")
@click.option("--client", metavar="ID", help="Send to the client with this client_id.")
@click.option("--all", "everyone", is_flag=True, help="Send to every client.")
@click.option("--binary", is_flag=True, help="Send a binary message: the bytes of TEXT, or of stdin as they are.")
@click.option("--require-match", is_flag=True, help="Fail, with exit code 1, when there is nobody to send to.")
@add_options(TOOL_OPTIONS)
@click.argument("text")
def send(
    text: str,
    room: str | None,
    client: str | None,
    everyone: bool,
    binary: bool,
    require_match: bool,
    **flags: str | None,
) -> None:
    """Send TEXT to clients, from outside of any backend; - stands for what comes on stdin."""
    if (room is not None) + (client is not None) + everyone != 1:
        raise WrongValue("say whom to send to: --room ROOM, --client ID or --all, and only one of them")
    with _link(flags) as tool:
        message = _message(text, binary, tool.hello.max_message_size)
        if room is not None:
            sent, nobody = tool.send_to_room(room, message), f"nobody is in room {room!r}"
            if not room.startswith("/"):
                nobody += f"; where the backend names no rooms they are paths, such as {'/' + room!r}"
        elif client is not None:
            sent, nobody = tool.send_to_client(client, message), f"no client has the client_id {client!r}"
        else:
            sent, nobody = tool.send_to_all(message), "no client is connected"
    if require_match and not sent.matched:
        raise Failure(nobody)
    problem = tell(_sent(sent, nobody))
    if problem is not None and problem.errno != errno.EPIPE:
        with contextlib.suppress(OSError):
            click.echo(f"The message was sent, but stdout can't be written: {problem.strerror}", err=True)


def _message(text: str, binary: bool, max_size: int) -> str | bytes:
    """Return what to send; of stdin not much more is read than the broker takes."""
    if text != "-":
        return os.fsencode(text) if binary else text
    if sys.stdin is None:
        raise Failure("stdin is closed: there is no message to read there")
    try:
        data = sys.stdin.buffer.read(max_size + 2 if max_size else -1)
    except OSError as error:
        raise Failure(f"stdin can't be read: {error.strerror}") from None
    if binary:
        return data
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Failure("stdin is not UTF-8 text: use --binary") from None


def _sent(sent: Sent, nobody: str) -> str:
    known = "" if sent.complete else "; not all brokers have told of theirs"
    if not sent.matched:
        return f"Sent to 0 clients: {nobody}" if sent.complete else f"Sent to 0 clients{known}"
    if not sent.skipped:
        return f"Sent to {_clients(sent.matched)}{known}"
    return f"Sent to {sent.matched - sent.skipped} of {_clients(sent.matched)}: the others read too slowly{known}"


# ---- tail


@click.command(cls=Command)
@click.option("--room", metavar="ROOM", help="Show what flows in this room.")
@click.option("--all", "everything", is_flag=True, help="Show what flows in every room.")
@click.option("--full", is_flag=True, help=f"Show messages in full, not only their first {_SHOWN} characters.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with messages in full.")
@add_options(TOOL_OPTIONS)
def tail(room: str | None, everything: bool, full: bool, as_json: bool, **flags: str | None) -> None:
    """Show what flows in a room, as it happens: messages from and to clients, who joins and who leaves.

    Of several brokers that are one system it shows what flows at all of them.
    """
    if (room is not None) + everything != 1:
        raise WrongValue("say what to watch: --room ROOM or --all, and only one of them")
    with contextlib.suppress(KeyboardInterrupt), _link(flags) as tool:
        watching = Watching(tool, room, _notice)
        what = "every room" if room is None else f"room {room!r}"
        with contextlib.suppress(OSError):
            click.echo(f"Watching {what} at {tool.address}; Ctrl+C ends it", err=True)
        with watching:
            for params in watching:
                click.echo(
                    json.dumps(msgspec.to_builtins(params)) if as_json else watched_line(params, everything, full=full)
                )


def _notice(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def watched_line(params: WatchedParams, with_room: bool, *, full: bool = False) -> str:
    """Return the line that ``tail`` prints. Raises MalformedLine where a binary message or the time is none."""
    try:
        moment = datetime.fromtimestamp(params.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        raise MalformedLine(f"the broker tells of something at {params.time}, which is no time") from None
    if params.kind == "dropped":
        return f"{moment} {params.dropped} lines are missing here: they came faster than they were read"
    kind = {"message_in": "in", "message_out": "out"}.get(params.kind, params.kind)
    room = f"[{printable(params.room_id)}] " if with_room and params.room_id is not None else ""
    line = f"{moment} {printable(kind):<6} {room}{_who(params)}"
    if params.message is None:
        return line
    return f"{line}: {_payload(messages.message_content(params.message, params.binary), full)}"


def _who(params: WatchedParams) -> str:
    client = printable(params.client_id or "")
    if params.clients is None:
        return client
    if params.client_id is not None:
        return client if params.clients else f"{client} (not connected)"
    clients = _clients(params.clients) + (" and others" if params.elsewhere else "")
    if params.user is not None:
        return f"user {printable(params.user)}, {clients}"
    return clients if params.room_id is not None else f"everyone, {clients}"


def _payload(message: str | bytes, full: bool) -> str:
    shown = message if full else message[:_SHOWN]
    rest = len(message) - len(shown)
    if isinstance(shown, bytes):
        return f"<{len(message)} bytes> {shown.hex(' ')}{' ...' if rest else ''}"
    return f"{printable(shown)}... ({rest} more)" if rest else printable(shown)


# ---- status


@click.command(cls=Command)
@click.option("--cluster", is_flag=True, help="Show all brokers of the cluster, in one table.")
@click.option("--once", is_flag=True, help="Print it once and end; so it is when the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="SECONDS",
              help="How often it is looked at.  [1]")  # fmt: skip
@add_options(TOOL_OPTIONS)
def status(cluster: bool, once: bool, as_json: bool, interval: float, **flags: str | None) -> None:
    """Show what a broker has: clients, rooms, backends, its queue, and how much flows."""
    show: Callable[[dict[str, Any]], None] = _print_json
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        tool = stack.enter_context(_link(flags))
        if not as_json:
            once = once or not sys.stdout.isatty()
            picture = _picture(tool.address, cluster=cluster, live=not once)
            stack.enter_context(picture)
            show = picture.show
        ask = tool.status_of_all if cluster else tool.status
        show(ask())
        while not once:
            time.sleep(interval)
            show(ask())


def _print_json(report: dict[str, Any]) -> None:
    click.echo(json.dumps(report))


def _picture(address: str, *, cluster: bool, live: bool) -> "Picture | PlainPicture":
    try:
        from pystrands.cli.status_table import ClusterPicture, Picture  # noqa: PLC0415 - rich is an extra
    except ImportError:
        return PlainClusterPicture(address) if cluster else PlainPicture(address)
    return ClusterPicture(address, live=live) if cluster else Picture(address, live=live)


COMMANDS: Final[tuple[click.Command, ...]] = (send, status, tail)
