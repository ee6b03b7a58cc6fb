"""The options of the clients: their one definition, from which constructors, attributes, checks and docs are."""

import math
import os
from collections.abc import Mapping, Sequence
from ssl import SSLContext
from types import UnionType
from typing import Annotated, Any, Final, get_type_hints

from pystrands.errors import ConfigError
from pystrands.protocol.address import has_more, host_and_port

__all__ = ["TOKEN_VARIABLE", "Options", "ThreadOptions", "definition", "options_of", "options_table", "set_options"]

TOKEN_VARIABLE: Final = "PYSTRANDS_TOKEN"  # noqa: S105 - its name
"""The environment's name of the token of a client that is given none."""


class Options:
    """What a client can be told, each with its type, meaning and default. A new option begins here.

    The clients derive from this, as these are attributes of theirs. Their constructors spell them out, for people and
    type checkers to see; a test holds them to this.
    """

    host: Annotated[
        str | Sequence[str],
        "the broker's address for backends; of several brokers a list, in which each may have a port: "
        '`["red:8081", "blue:8082"]`, or a name that stands for all of them',
    ] = "localhost"
    port: Annotated[int, "its port"] = 8081
    auto_reconnect: Annotated[bool, "connect again when the link is lost"] = True
    reconnect_delay: Annotated[float, "seconds before the first new attempt"] = 1.0
    max_reconnect_delay: Annotated[float, "the longest delay"] = 30.0
    reconnect_backoff: Annotated[float, "each delay is so many times the one before"] = 2.0
    max_concurrency: Annotated[int, "how many handlers run at once (not `PyStrandsClient`)"] = 1000
    handler_timeout: Annotated[
        float | None,
        "seconds after which a handler is cancelled, which counts as its failure; a thread can't be cancelled: it is "
        "left to itself",
    ] = None
    send_only: Annotated[
        bool,
        "for programs that only send, such as cron jobs: the broker gives them no clients, and calls no callback but "
        "`on_error`. Needs a broker of protocol 2",
    ] = False
    name: Annotated[str | None, "names this backend in the broker's log and in `pystrands status`"] = None
    token: Annotated[
        str | None,
        "what the broker wants of its backends (`--backend-token`). `None`: that in the environment, "
        "`PYSTRANDS_TOKEN`, if there is one. Never logged, and sent only to a broker that has said `hello`",
    ] = None
    ssl: Annotated[SSLContext | bool | None, "connect with TLS; `True` for the default context"] = None


class ThreadOptions(Options):
    """The options of a client that calls plain functions on threads."""

    max_workers: Annotated[int, "how many worker threads there are (not `AsyncPyStrandsClient`)"] = 32


def definition(kind: type[Options]) -> dict[str, tuple[Any, Any, str]]:
    """Return the type, the default and the meaning of each option that a class has, by its name."""
    found: dict[str, tuple[Any, Any, str]] = {}
    for part in (Options, ThreadOptions):
        if issubclass(kind, part):
            for name, hint in get_type_hints(part, include_extras=True).items():
                found[name] = (hint.__origin__, getattr(part, name), hint.__metadata__[0])
    return found


_NAMES: Final = tuple(definition(Options))
_THREAD_NAMES: Final = tuple(definition(ThreadOptions))


def _names_of(client: Options) -> tuple[str, ...]:
    """Return the names of its options: to others, users' classes may give any meaning."""
    return _THREAD_NAMES if isinstance(client, ThreadOptions) else _NAMES


def set_options(client: Options, given: Mapping[str, Any]) -> None:
    """Set a client's attributes to the arguments of its constructor. Raises ConfigError on a value that can't work."""
    for name in _names_of(client):
        setattr(client, name, given[name])
    options_of(client)


def options_of(client: Options) -> Options:
    """Return what a client's attributes say now, with the token of the environment where it is given none.

    What is returned does not change when the client does. Raises ConfigError on a value that can't work.
    """
    options = ThreadOptions()
    for name in _names_of(client):
        setattr(options, name, getattr(client, name))
    if isinstance(options.host, list):
        options.host = tuple(options.host)
    if options.token is None:
        options.token = os.environ.get(TOKEN_VARIABLE, "").strip()
    _check(options)
    return options


def options_table() -> str:
    """Return the options as a Markdown table."""
    rows = ["| Parameter | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, (kind, default, meaning) in definition(ThreadOptions).items():
        rows.append(f"| `{name}` | {_shown(kind)} | `{_quoted(default)}` | {meaning} |")
    return "\n".join(rows) + "\n"


def _quoted(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _shown(kind: Any) -> str:
    if not isinstance(kind, UnionType):
        return f"`{kind.__name__}`"
    names: dict[Any, str] = {type(None): "None", bool: "True", SSLContext: "ssl.SSLContext", Sequence[str]: "list[str]"}
    *first, last = [f"`{names.get(each, each.__name__)}`" for each in kind.__args__]
    return f"{', '.join(first)} or {last}"


def _check(options: ThreadOptions) -> None:
    """Raise ConfigError naming the option that can't work."""
    _check_hosts(options.host)
    _check_whole("port", options.port, 1, 65535)
    _check_type("auto_reconnect", options.auto_reconnect, bool, "True or False")
    _check_number("reconnect_delay", options.reconnect_delay, 0, "seconds")
    _check_number("max_reconnect_delay", options.max_reconnect_delay, 0, "seconds")
    _check_number("reconnect_backoff", options.reconnect_backoff, 1, "times the delay before")
    _check_whole("max_workers", options.max_workers, 1)
    _check_whole("max_concurrency", options.max_concurrency, 1)
    if options.handler_timeout is not None:
        _check_number("handler_timeout", options.handler_timeout, 0, "seconds")
    _check_type("send_only", options.send_only, bool, "True or False")
    _check_type("name", options.name, str | None, "a str or None")
    _check_token(options.token)
    _check_type("ssl", options.ssl, SSLContext | bool | None, "an ssl.SSLContext, True or None")


def _check_hosts(hosts: Any) -> None:
    if isinstance(hosts, str):
        _check_host(hosts)
        return
    if not isinstance(hosts, list | tuple):
        raise ConfigError("host", f"must be a host name or an IP address, or a list of them, not {hosts!r}")
    if not hosts:
        raise ConfigError("host", "must be a host name or an IP address, or a list of them, not empty")
    for each in hosts:
        if not isinstance(each, str) or host_and_port(each) is None:
            _check_host(each)


def _check_host(host: Any) -> None:
    _check_type("host", host, str, "a host name or an IP address")
    if not host:
        raise ConfigError("host", "must be a host name or an IP address, not empty")
    if has_more(host):
        raise ConfigError(
            "host",
            f"must be a host name or an IP address, without scheme and port, not {host!r}; "
            f"in a list each may have a port: [{'localhost:8081'!r}]",
        )


def _check_token(token: Any) -> None:
    """Raise ConfigError, which never shows the token."""
    if not isinstance(token, str):
        raise ConfigError("token", f"must be a str or None, not {type(token).__name__}")
    if token != token.strip():
        raise ConfigError("token", "begins or ends with white space, such as the line end of a file: strip() it")
    try:
        token.encode()
    except UnicodeError:
        raise ConfigError("token", "is no Unicode text") from None


def _check_type(option: str, value: Any, expected: type | UnionType, description: str) -> None:
    if not isinstance(value, expected):
        raise ConfigError(option, f"must be {description}, not {value!r}")


def _check_whole(option: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless ``value`` is an int between ``least`` and ``most``."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(option, f"must be a whole number {span}, not {value!r}")


def _check_number(option: str, value: Any, least: float, unit: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
        return
    raise ConfigError(option, f"must be a number of at least {least} ({unit}), not {value!r}")
