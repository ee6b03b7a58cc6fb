"""One option of the broker: its name everywhere, what it takes, and how that is read."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from pystrands.errors import ConfigError
from pystrands.protocol.address import bare, has_more

__all__ = ["DAY", "GIB", "KIB", "MIB", "Option", "Value", "option"]

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
Text: TypeAlias = Literal["host", "file", "text"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
DAY: Final = 86_400.0
_SIZE: Final = re.compile(r"([0-9]+) ?(?:([KMG])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_INTEGER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_SCALE: Final = {"": 1, "K": KIB, "M": MIB, "G": GIB}
_SWITCH: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option as people meet it: on the command line, in the environment, in a file and in the docs.

    The default's type is the option's. A ``bool`` is a switch: its flag alone means true. A ``tuple`` is a list of
    texts: its flag may be repeated, and a text has them with commas between. ``text`` says what a text is: a ``host``,
    a ``file`` or any. ``word`` may be written for the smallest number. What is ``secret`` is never shown.
    """

    name: str
    default: Value
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    text: Text = "host"
    secret: bool = False
    word: str = ""
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
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return isinstance(self.default, bool)

    @property
    def is_list(self) -> bool:
        """Whether it may be given more than once."""
        return isinstance(self.default, tuple)

    @property
    def metavar(self) -> str:
        """What stands for the value in the help text; nothing for a switch."""
        if self.choices:
            return "[" + "|".join(self.choices) + "]"
        if self.is_switch:
            return ""
        if self.text == "file":
            return "FILE"
        kind = {str: "TEXT", tuple: "TEXT", int: "INTEGER", float: "NUMBER"}[type(self.default)]
        return {"bytes": "SIZE", "s": "SECONDS"}.get(self.unit, kind)

    @property
    def kind(self) -> str:
        """What it takes, in words for the docs."""
        if self.text == "file" and isinstance(self.default, str):
            return "a file's path"
        kinds = {str: "text", tuple: "texts", bool: "`true` or `false`", int: "whole number", float: "number"}
        word = f", or `{self.word}`" if self.word else ""
        return f"{kinds[type(self.default)]} {self.range_text}".strip() + word

    @property
    def default_text(self) -> str:
        """The default as people write it; a text that :meth:`parse` takes. Empty where there is none."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        if self.unit == "bytes" and isinstance(self.default, int):
            return self._amount(self.default)
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def parse(self, text: str) -> Value:
        """Return the value that ``text`` stands for. Raises ConfigError."""
        text = text.strip()
        if isinstance(self.default, str):
            return self.check(text.lower() if self.choices else text)
        if self.is_list:
            return self.check(tuple(part.strip() for part in text.split(",") if part.strip()))
        if self.is_switch:
            return self.check(_SWITCH.get(text.lower(), text))
        if self.word and text.lower() == self.word and self.minimum is not None:
            return self.check(int(self.minimum))
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
        raise ConfigError(self.name, f"{self._shown(text)} is not {self._expected()}")

    def check(self, value: object) -> Value:
        """Return ``value`` in the option's own type when it can work. Raises ConfigError."""
        if isinstance(self.default, float) and type(value) is int and -DAY <= value <= DAY:
            value = float(value)
        if isinstance(value, str) and self.text == "host":
            value = bare(value)
        if self.is_list and isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(self.default):
            raise ConfigError(self.name, f"{self._shown(value)} is not {self._expected()}")
        if isinstance(value, tuple):
            good = all(isinstance(each, str) and each and each == each.strip() for each in value)
        elif isinstance(value, str):
            good = value in self.choices if self.choices else self._can_be_text(value)
        else:
            assert isinstance(value, int | float)
            good = isinstance(value, bool) or (
                math.isfinite(value)
                and (self.minimum is None or value >= self.minimum)
                and (self.above is None or value > self.above)
                and (self.maximum is None or value <= self.maximum)
            )
        if not good:
            raise ConfigError(self.name, f"{self._shown(value)} is not {self._expected()}")
        return value

    def _can_be_text(self, text: str) -> bool:
        return _can_be_host(text) if self.text == "host" else "\0" not in text

    def _expected(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.is_switch:
            return "true or false"
        if self.is_list:
            return "a list of texts, such as ['a', 'b']"
        if isinstance(self.default, str):
            host = "a host name or an address, without scheme and port"
            return {"host": host, "file": "a file's path", "text": "a text"}[self.text]
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if self.unit:
            kind += {"s": " of seconds"}.get(self.unit, f" of {self.unit}")
        word = f", or {self.word}" if self.word else ""
        return f"{kind} {self.range_text}".strip() + word

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

    def _shown(self, value: object) -> str:
        if self.secret:
            return "what was given"
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a number of that length"
        return text if len(text) <= 60 else text[:57] + "..."


def _can_be_host(text: str) -> bool:
    try:
        return bool(text.encode("idna")) and not has_more(text)
    except UnicodeError:  # a label of it is empty or too long, which the resolver would raise as well
        return False


def option(default: Value, text: str, /, **metadata: Any) -> Any:
    """Declare a field of a configuration; ``metadata`` are the fields of :class:`Option`."""
    return field(default=default, repr=not metadata.get("secret"), metadata={"help": text, **metadata})
