"""What the commands have in common: where their values come from, and how they say what is wrong."""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from pystrands.broker.option import Option
from pystrands.errors import ConfigError

__all__ = ["Command", "Failure", "WrongValue", "add_options", "label", "read_file", "resolve"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


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

    An empty environment variable counts as not given. Raises WrongValue for a value that can't work.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for each in known:
        flag = flags.get(each.name)
        given = (",".join(flag) or None) if isinstance(flag, tuple) else flag
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
            raise WrongValue(f"{label(each.flag, source)}: {error.problem}") from None
        sources[each.name] = source
    return values, sources


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
