"""The broker's options, once: the command line, environment names, TOML keys and the docs' table are made from here."""

import dataclasses
import functools
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from pystrands.errors import ConfigError

__all__ = ["BrokerConfig", "Option", "options", "options_table"]

Value: TypeAlias = str | int | float
QueuePolicy: TypeAlias = Literal["backpressure", "drop-oldest", "disconnect"]
SlowClientPolicy: TypeAlias = Literal["disconnect", "drop"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
DAY: Final = 86_400.0
_SIZE: Final = re.compile(r"([0-9]+) ?(?:([KMG])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_INTEGER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_SCALE: Final = {"": 1, "K": KIB, "M": MIB, "G": GIB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option as people meet it: on the command line, in the environment, in a file and in the docs."""

    name: str
    default: Value
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    older_env: str = ""

    @property
    def flag(self) -> str:
        """The command line's name: ``--ws-port``."""
        return "--" + self.key

    @property
    def key(self) -> str:
        """The TOML file's name: ``ws-port``. ``ws_port`` is understood as well."""
        return self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment's name: ``PYSTRANDS_WS_PORT``."""
        return "PYSTRANDS_" + self.name.upper()

    @property
    def metavar(self) -> str:
        """What stands for the value in the help text."""
        if self.choices:
            return "[" + "|".join(self.choices) + "]"
        kind = {str: "TEXT", int: "INTEGER", float: "NUMBER"}[type(self.default)]
        return {"bytes": "SIZE", "s": "SECONDS"}.get(self.unit, kind)

    @property
    def default_text(self) -> str:
        """The default as people write it; a text that :meth:`parse` takes."""
        if self.unit == "bytes" and isinstance(self.default, int):
            return self._amount(self.default)
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def parse(self, text: str) -> Value:
        """Return the value that ``text`` stands for. Raises ConfigError."""
        text = text.strip()
        if isinstance(self.default, str):
            return self.check(text.lower() if self.choices else text)
        try:
            if isinstance(self.default, float):
                return self.check(float(text))
            if self.unit == "bytes" and (match := _SIZE.fullmatch(text)):
                return self.check(int(match[1]) * _SCALE[(match[2] or "").upper()])
            if _INTEGER.fullmatch(text):
                return self.check(int(text))
        except ConfigError:
            raise
        except ValueError:  # no float, or more digits than int() reads
            pass
        raise ConfigError(self.name, f"{_shown(text)} is not {self._expected()}")

    def check(self, value: object) -> Value:
        """Return ``value`` in the option's own type when it can work. Raises ConfigError."""
        if isinstance(self.default, float) and type(value) is int and -DAY <= value <= DAY:
            value = float(value)
        if type(value) is not type(self.default):
            raise ConfigError(self.name, f"{_shown(value)} is not {self._expected()}")
        if isinstance(value, str):
            good = value in self.choices if self.choices else _can_be_host(value)
        else:
            good = (
                math.isfinite(value)
                and (self.minimum is None or value >= self.minimum)
                and (self.above is None or value > self.above)
                and (self.maximum is None or value <= self.maximum)
            )
        if not good:
            raise ConfigError(self.name, f"{_shown(value)} is not {self._expected()}")
        return value

    def _expected(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if isinstance(self.default, str):
            return "a host name or an address"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if self.unit:
            kind += {"s": " of seconds"}.get(self.unit, f" of {self.unit}")
        return f"{kind} {self.range_text}" if self.range_text else kind

    @property
    def range_text(self) -> str:
        """The limits in words, or an empty text: ``from 0 to 65535``."""
        low = f"above {self.above:g}" if self.above is not None else ""
        if self.minimum is not None:
            low = f"from {self._amount(self.minimum)}"
        high = f"to {self._amount(self.maximum)}" if self.maximum is not None else ""
        return f"{low}, up {high}" if self.above is not None and high else f"{low} {high}".strip()

    def _amount(self, number: float) -> str:
        if self.unit == "bytes":
            for scale, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
                if number and number % scale == 0:
                    return f"{number / scale:g} {name}"
        return str(int(number)) if number == int(number) else f"{number:g}"


def _can_be_host(text: str) -> bool:
    try:
        return bool(text.encode("idna")) and not re.search(r"\s", text)
    except UnicodeError:  # a label of it is empty or too long, which the resolver would raise as well
        return False


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a number of that length"
    return text if len(text) <= 60 else text[:57] + "..."


def option(default: Value, text: str, **metadata: Any) -> Any:
    """Declare a field of BrokerConfig; ``metadata`` are the fields of :class:`Option`."""
    return field(default=default, metadata={"help": text, **metadata})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What a broker can be told. Sizes are in bytes, times in seconds; a value that can't work raises ConfigError."""

    ws_host: str = option("127.0.0.1", "address that WebSocket clients connect to; 0.0.0.0 for every interface")
    ws_port: int = option(
        8080,
        "port for WebSocket clients; 0 takes any free one",
        minimum=0,
        maximum=65535,
        older_env="PYSTRAND_WS_PORT",
    )
    tcp_host: str = option(
        "127.0.0.1", "address that backends connect to; who reaches it may send to every client, so keep it private"
    )
    tcp_port: int = option(
        8081, "port for backends; 0 takes any free one", minimum=0, maximum=65535, older_env="PYSTRAND_TCP_PORT"
    )
    queue_size: int = option(
        1000,
        "messages that wait while no backend is connected; 0 turns the queue off",
        unit="messages",
        minimum=0,
        maximum=10**9,
        older_env="PYSTRAND_QUEUE_SIZE",
    )
    queue_bytes: int = option(
        16 * MIB, "size of all messages that wait while no backend is connected", unit="bytes", minimum=1, maximum=GIB
    )
    queue_policy: QueuePolicy = option(  # noqa: RUF009 - option() gives a field()
        "backpressure",
        "what happens when the queue is full: stop reading from the clients that send, drop the oldest message,"
        " or disconnect the client that sends",
        choices=get_args(QueuePolicy),
    )
    max_message_size: int = option(
        MIB,
        "largest message, either way; a client that sends more is closed (1009)",
        unit="bytes",
        minimum=1,
        maximum=GIB,
    )
    max_head_size: int = option(
        16 * KIB, "largest HTTP request that opens a WebSocket", unit="bytes", minimum=256, maximum=MIB
    )
    handshake_timeout: float = option(
        10.0, "time for a new connection to send its HTTP request", unit="s", above=0, maximum=DAY
    )
    hold_time: float = option(
        5.0, "time that a new client waits for a backend to be there, then gets a 503", unit="s", minimum=0, maximum=DAY
    )
    answer_timeout: float = option(
        10.0, "time for a backend to accept or reject a client, which then gets a 504", unit="s", above=0, maximum=DAY
    )
    ping_interval: float = option(
        25.0, "time between keep-alive pings to a client; 0 turns them off", unit="s", minimum=0, maximum=DAY
    )
    ping_missed: int = option(
        2, "pings that a client may leave unanswered before it counts as gone", unit="pings", minimum=1, maximum=1000
    )
    client_buffer: int = option(
        4 * MIB, "bytes that may wait for one client that does not read", unit="bytes", minimum=1, maximum=GIB
    )
    slow_client_policy: SlowClientPolicy = option(  # noqa: RUF009 - option() gives a field()
        "disconnect",
        "what happens to a client whose buffer is full: close it (1013), or drop what does not fit",
        choices=get_args(SlowClientPolicy),
    )
    link_buffer: int = option(
        MIB,
        "bytes that may wait for a backend before its clients are read no further",
        unit="bytes",
        minimum=1,
        maximum=GIB,
    )
    memory_budget: int = option(
        GIB,
        "bytes that may wait in all buffers together before those with most are closed; 0: no such limit",
        unit="bytes",
        minimum=0,
        maximum=1024 * GIB,
    )
    close_timeout: float = option(
        5.0, "time for a client to answer a close before it is cut off", unit="s", above=0, maximum=DAY
    )
    drain_time: float = option(
        5.0, "time over which clients are closed when the broker stops", unit="s", minimum=0, maximum=DAY
    )
    resume_window: float = option(
        5.0,
        "time that a backend may be without its link before its clients go to others",
        unit="s",
        minimum=0,
        maximum=DAY,
    )
    heartbeat_interval: float = option(15.0, "time between heartbeats to a backend", unit="s", above=0, maximum=DAY)

    def __post_init__(self) -> None:
        for each in options():
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))
        if self.ws_port and (self.ws_host, self.ws_port) == (self.tcp_host, self.tcp_port):
            raise ConfigError(
                "tcp_port", f"{self.tcp_port} is the port for WebSocket clients too: choose another for one"
            )
        if self.client_buffer < self.max_message_size:
            raise ConfigError(
                "client_buffer",
                f"{self.client_buffer} bytes can't hold one message of the largest size ({self.max_message_size}):"
                " raise client-buffer or lower max-message-size",
            )


@functools.cache
def options() -> tuple[Option, ...]:
    """Return every option of the broker, in the order of the docs."""
    return tuple(
        Option(name=each.name, default=cast("Value", each.default), **each.metadata)
        for each in dataclasses.fields(BrokerConfig)
    )


def options_table() -> str:
    """Return the options as a Markdown table; README has it, and a test compares the two."""
    rows = ["| Option | Default | Meaning |", "|---|---|---|"]
    for each in options():
        meaning = each.help + (f" (`{'`, `'.join(each.choices)}`)" if each.choices else "")
        unit = " s" if each.unit == "s" else ""
        rows.append(f"| `{each.flag}` | `{each.default_text}`{unit} | {meaning} |")
    return "\n".join(rows) + "\n"
