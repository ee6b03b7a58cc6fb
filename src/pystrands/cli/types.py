"""``pystrands types``: events of a program as TypeScript."""

import importlib
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from pystrands.cli.options import Command, Failure
from pystrands.events import Events
from pystrands.typescript import typescript

__all__ = ["write_types"]


@click.command("types", cls=Command, short_help="Write the events of a program as TypeScript.")
@click.argument("target", metavar="MODULE:NAME")
@click.option("--check", metavar="FILE", help="Write nothing; fail unless this file has what would be written.")
def write_types(target: str, check: str | None) -> None:
    """Write the events of a program as TypeScript.

    MODULE:NAME is what has them, such as chat:EVENTS: an Events, an app with @app.on(...), a union of types, a list of
    them, or one of them. The module is imported, from this folder as well.
    """
    events = _events(target)
    try:
        text = typescript(events, f"pystrands types {target}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise Failure(f"{target} can't be written as TypeScript: {error}") from None
    if check is None:
        click.echo(text, nl=False)
        return
    try:
        found = Path(check).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise Failure(f"{check} can't be read: {error}") from None
    if found != text:
        raise Failure(f"{check} is not what {target} has now: pystrands types {target} > {check}")


def _events(target: str) -> Events:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise Failure(f"{target!r} names no events: it is MODULE:NAME, such as chat:EVENTS")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise Failure(f"the module {module_name!r} can't be imported: {error}") from None
    except Exception as error:  # noqa: BLE001 - it is the user's program
        raise Failure(f"the module {module_name!r} failed with {type(error).__name__}: {error}") from None
    for part in name.split("."):
        if not hasattr(value, part):
            raise Failure(f"the module {module_name!r} has no {name!r}")
        value = getattr(value, part)
    try:
        return _as_events(value)
    except (TypeError, ValueError) as error:
        raise Failure(f"{target} has no events: {error}") from None


def _as_events(value: Any) -> Events:
    """Return what has events as such. Raises TypeError or ValueError on what has none."""
    if isinstance(value, Events):
        return value
    events = getattr(value, "events", None)
    if isinstance(events, Events):
        return events
    if isinstance(value, types.UnionType) or typing.get_origin(value) is typing.Union:
        return Events(*typing.get_args(value))
    if isinstance(value, Iterable) and not isinstance(value, type | str | bytes):
        return Events(*value)
    return Events(value)
