"""What every client is made with: its options, checked, and the names of its handlers."""

import math
import os
import ssl
from types import UnionType
from typing import Any, Final

import msgspec

from pystrands.errors import ConfigError
from pystrands.protocol.address import has_more

__all__ = ["HANDLERS", "NOT_MADE", "TOKEN_VARIABLE", "BaseClient", "Options", "options_of"]

HANDLERS: Final = {
    "on_connection_request": 1,
    "on_new_connection": 1,
    "on_message": 2,
    "on_disconnect": 1,
    "on_error": 2,
    "on_client_adopted": 1,
    "on_client_released": 1,
}
"""The callbacks of a client, each with the number of its arguments."""


TOKEN_VARIABLE: Final = "PYSTRANDS_TOKEN"  # noqa: S105 - its name
"""The environment's name of the token of a client that is given none."""


class Options(msgspec.Struct, frozen=True):
    """The values of a client's constructor, checked. Raises ConfigError naming the parameter that can't work."""

    host: str
    port: int
    auto_reconnect: bool
    reconnect_delay: float
    max_reconnect_delay: float
    reconnect_backoff: float
    max_concurrency: int
    handler_timeout: float | None
    send_only: bool
    name: str
    token: str
    tls: ssl.SSLContext | bool

    def __repr__(self) -> str:
        """Return what may be logged."""
        return f"<Options for {self.host}:{self.port}>"

    def __post_init__(self) -> None:
        _check_type("host", self.host, str, "a host name or an IP address")
        if not self.host:
            raise ConfigError("host", "must be a host name or an IP address, not empty")
        if has_more(self.host):
            raise ConfigError(
                "host", f"must be a host name or an IP address, without scheme and port, not {self.host!r}"
            )
        check_whole("port", self.port, 1, 65535)
        _check_type("auto_reconnect", self.auto_reconnect, bool, "True or False")
        _check_number("reconnect_delay", self.reconnect_delay, 0, "seconds")
        _check_number("max_reconnect_delay", self.max_reconnect_delay, 0, "seconds")
        _check_number("reconnect_backoff", self.reconnect_backoff, 1, "times the delay before")
        check_whole("max_concurrency", self.max_concurrency, 1)
        if self.handler_timeout is not None:
            _check_number("handler_timeout", self.handler_timeout, 0, "seconds")
        _check_type("send_only", self.send_only, bool, "True or False")
        _check_type("name", self.name, str, "a str or None")
        _check_token(self.token)
        _check_type("ssl", self.tls, ssl.SSLContext | bool, "an ssl.SSLContext, True or None")


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


def check_whole(option: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless ``value`` is an int between ``least`` and ``most``."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(option, f"must be a whole number {span}, not {value!r}")


def _check_number(option: str, value: Any, least: float, unit: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
        return
    raise ConfigError(option, f"must be a number of at least {least} ({unit}), not {value!r}")


class _NotMade:
    """Stands in a client's class for what the constructor makes, and says so where that has not been called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            "super().__init__() was not called: the __init__ of a class that derives from a client has to do that "
            "before the client is used, a dataclass in its __post_init__"
        )


NOT_MADE: Final[Any] = _NotMade()


class BaseClient:
    """The constructor and the attributes that all clients share.

    The attributes may be changed; what they say counts from the next ``connect()``, which checks them again.

    A client's own state has mangled names, so that classes derived from it may have any attributes and methods.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8081,
        auto_reconnect: bool = True,
        reconnect_delay: float = 1.0,
        max_reconnect_delay: float = 30.0,
        reconnect_backoff: float = 2.0,
        *,
        max_concurrency: int = 1000,
        handler_timeout: float | None = None,
        send_only: bool = False,
        name: str | None = None,
        token: str | None = None,
        ssl: ssl.SSLContext | bool | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.auto_reconnect = auto_reconnect
        self.reconnect_delay = reconnect_delay
        self.max_reconnect_delay = max_reconnect_delay
        self.reconnect_backoff = reconnect_backoff
        self.max_concurrency = max_concurrency
        self.handler_timeout = handler_timeout
        self.send_only = send_only
        self.name = name
        self.token = token
        self.ssl = ssl
        options_of(self)


def options_of(client: BaseClient) -> Options:
    """Return what a client's attributes say now. Raises ConfigError on a value that can't work."""
    return Options(
        host=client.host,
        port=client.port,
        auto_reconnect=client.auto_reconnect,
        reconnect_delay=client.reconnect_delay,
        max_reconnect_delay=client.max_reconnect_delay,
        reconnect_backoff=client.reconnect_backoff,
        max_concurrency=client.max_concurrency,
        handler_timeout=client.handler_timeout,
        send_only=client.send_only,
        name="" if client.name is None else client.name,
        token=os.environ.get(TOKEN_VARIABLE, "").strip() if client.token is None else client.token,
        tls=False if client.ssl is None else client.ssl,
    )
