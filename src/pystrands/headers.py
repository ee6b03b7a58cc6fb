"""HTTP headers: a mapping whose names ignore case, and what a field may be (RFC 9110, section 5.5)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

__all__ = ["Headers", "field_problem"]

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# What the answer to a WebSocket's request says itself; another word on these would contradict it.
_OURS: Final = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "transfer-encoding",
        "upgrade",
    }
)


class Headers(dict[str, list[str]]):
    """HTTP headers: canonical names (``X-Token``) to the list of their values. Names ignore case in every operation.

    Made of ``headers``, a mapping or pairs of names and values; where names are the same but for case, their values are
    joined. A ``str`` in place of a list is one value.
    """

    __slots__ = ()

    def __init__(
        self, headers: "Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]] | None" = None
    ) -> None:
        super().__init__()
        for name, values in _pairs(headers or ()):
            self.setdefault(name, []).extend((values,) if isinstance(values, str) else values)

    @staticmethod
    def canonical(name: str) -> str:
        """Return ``name`` with a capital at the start and after each hyphen, the rest in lower case."""
        return "-".join(part.capitalize() for part in name.split("-"))

    def __getitem__(self, name: str) -> list[str]:
        return super().__getitem__(self.canonical(name))

    def __setitem__(self, name: str, values: list[str]) -> None:
        super().__setitem__(self.canonical(name), values)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(self.canonical(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(self.canonical(name))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        if isinstance(other, Headers):
            return super().__eq__(other)
        theirs = {self.canonical(name) if isinstance(name, str) else name: values for name, values in other.items()}
        return len(theirs) == len(other) and super().__eq__(theirs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as of any dict

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        joined = self.copy()
        joined.update(other)
        return joined

    def __ror__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        joined = Headers()
        joined.update(other)
        joined.update(self)
        return joined

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]  # a dict's takes the same
        self.update(other)
        return self

    def get(self, name: str, default: Any = None) -> Any:
        """Return the values of ``name``, a list, or ``default`` where there are none."""
        return super().get(self.canonical(name), default)

    def setdefault(self, name: str, default: list[str] | None = None) -> list[str]:
        """Return the values of ``name``, after setting them to ``default`` where there are none."""
        return super().setdefault(self.canonical(name), [] if default is None else default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove ``name`` and return its values, or ``default``. Raises KeyError without one."""
        return super().pop(self.canonical(name), *default)

    def update(self, other: Any = (), /, **named: list[str]) -> None:
        """Set the values of each name in a mapping or in pairs, and of each argument, in place of those there are.

        ``other``: a mapping, or pairs of names and values. ``named``: the same, with names that Python takes.
        """
        for name, values in (*_pairs(other), *named.items()):
            self[name] = values

    def copy(self) -> "Headers":
        """Return others with the same lists of values."""
        copied = Headers()
        copied.update(self)
        return copied


def _pairs(headers: Any) -> Iterable[tuple[str, Any]]:
    return ((name, headers[name]) for name in headers.keys()) if hasattr(headers, "keys") else headers  # noqa: SIM118


def field_problem(name: str, value: str) -> str:
    """Return why nobody may add a header field to our answer, in words that fit after its name, or an empty text."""
    if not _NAME.fullmatch(name):
        return "is no name of a header"
    if name.lower() in _OURS:
        return "is not for others to set"
    if not _VALUE.fullmatch(value):
        return "has a value with a line break, or with another character that a header can't hold"
    return ""
