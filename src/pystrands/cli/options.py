"""What the commands have in common: where their values come from, and how they say what is wrong."""

import contextlib
import difflib
import errno
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import click

from pystrands.broker.option import Option
from pystrands.errors import ConfigError

__all__ = [
    "Command",
    "Failure",
    "Group",
    "WrongValue",
    "add_options",
    "is_service_link",
    "label",
    "read_file",
    "resolve",
    "service_links",
    "tell",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_CANNOT_WRITE: Final = (errno.ENOSPC, errno.EIO, errno.EBADF)
_SERVICE_LINK: Final = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+", re.ASCII)


class Failure(click.ClickException):
    """What was asked for can't be done: one line on stderr, exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it, where somebody reads it; the exit code tells it anyway."""
        with contextlib.suppress(OSError):
            super().show(file)


class WrongValue(Failure):
    """A value that can't work, from any source: one line on stderr, exit code 2."""

    exit_code = 2


class Group(click.Group):
    """The whole command, at home with any stdin, stdout and stderr: closed, broken, full, or of few characters."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Do as click does, but never with a traceback for what can't be written."""
        _prepare_streams()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE or error.filename is not None:
                raise
            _discard(sys.stdout)
            with contextlib.suppress(OSError):
                click.echo(f"Error: the output can't be written: {error.strerror}", err=True)
            sys.exit(1)
        finally:
            for stream in (sys.stdout, sys.stderr):
                _flush(stream)  # else Python tries at its end, and then the exit code would be 120


def tell(line: str) -> OSError | None:
    """Print a line on stdout about what is done already: when that can't be written it is returned, and no failure."""
    try:
        click.echo(line)
    except OSError as error:
        _discard(sys.stdout)
        return error
    return None


def _prepare_streams() -> None:
    """Make stdout and stderr what can be written to, and let nothing else get the numbers 0 to 2.

    An event loop whose own descriptor has one of those would end the process by SIGABRT.
    """
    if os.name == "posix":
        for number in (0, 1, 2):
            try:
                os.fstat(number)
            except OSError:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # it may not have every character of a name


def _flush(stream: IO[str]) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: IO[str]) -> None:
    """Lead a stream that can't be written to the null device, with all that it still holds."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


class Command(click.Command):
    """A command that reports a misspelt option in one line as well, without the usage block."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, but for what is raised."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise WrongValue(error.format_message()) from None


def read_file(path: str, known: Iterable[Option], source: str = "") -> dict[str, object]:
    """Return a TOML file's values by field name; ``source`` says who named the file, if not the flag.

    Raises WrongValue for a file that can't be read and for keys that are no option's.
    """
    option = label("--config", source)
    try:
        table = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise WrongValue(f"{option}: can't read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise WrongValue(f"{option}: {path} is not a TOML file: {error}") from None
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
    flags: Mapping[str, str | tuple[str, ...] | None],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    file_name: str = "",
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value of each option that was given, and the name of its source: empty for a flag.

    An environment variable counts as not given when it is empty, or is a port's and has one of the values that
    :func:`is_service_link` knows. Raises WrongValue for a value that can't work.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for each in known:
        flag = flags.get(each.name)
        given = (",".join(flag) or None) if isinstance(flag, tuple) else flag
        source = ""
        if given is None:
            source = next(
                (name for name in _names(each) if environ.get(name) and not _is_link(each, environ[name])), ""
            )
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
            raise WrongValue(f"{label(each.flag, source)}: {error.problem}") from None
        sources[each.name] = source
    return values, sources


def _names(option: Option) -> tuple[str, ...]:
    """Return what an option is called in the environment: its name, and the older one if there is one."""
    return (option.env, option.older_env) if option.older_env else (option.env,)


def _is_link(option: Option, value: str) -> bool:
    return option.name.endswith("_port") and is_service_link(value)


def is_service_link(value: str) -> bool:
    """Whether an environment variable's value is one that Kubernetes sets for a Service: ``tcp://10.96.0.12:8080``.

    For a Service of the name ``pystrands-ws`` it sets ``PYSTRANDS_WS_PORT`` so, in every container of its namespace.
    """
    return _SERVICE_LINK.fullmatch(value.strip()) is not None


def service_links(known: Iterable[Option], environ: Mapping[str, str]) -> str:
    """Return the line that tells which variables are such, and skipped; an empty text where none is."""
    names = [name for each in known for name in _names(each) if _is_link(each, environ.get(name, ""))]
    if not names:
        return ""
    values = ", ".join(f"{name}={environ[name].strip()}" for name in names)
    return (
        f"skipped, since Kubernetes has set it for a Service of that name: {values}"
        " (enableServiceLinks: false in the pod's spec ends that)"
    )


def label(flag: str, source: str) -> str:
    """Return how a message names an option: with who gave its value, if not the flag."""
    return f"{flag} (from {source})" if source else flag


def add_options(known: Iterable[Option]) -> Callable[[_Function], _Function]:
    """Give a command these options; their values come as the text that was given, or None: see :func:`resolve`."""

    def decorate(function: _Function) -> _Function:
        for each in reversed(list(known)):
            default = f"  [{each.default_text}]" if each.default_text else ""
            text = f"{each.help[0].upper()}{each.help[1:]}.{default}"
            if each.is_switch:
                declare = click.option(each.flag, each.name, flag_value="true", default=None, help=text)
            else:
                declare = click.option(each.flag, each.name, metavar=each.metavar, multiple=each.is_list, help=text)
            function = declare(function)
        return function

    return decorate
