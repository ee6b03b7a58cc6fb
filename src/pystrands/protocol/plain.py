"""Values of derived types, such as a template's ``SafeString``, ``numpy.float64``, a ``StrEnum``: what JSON has for it.

Not to be compiled: the methods of ``str``, ``int`` and ``float`` are called by name, since those that a derived type
has instead may return one of its own again.
"""

from typing import Any

__all__ = ["plain", "text"]


def text(value: str) -> str:
    """Return a ``str`` with the same characters, and no derived type."""
    return str.__str__(value)


def plain(value: Any) -> Any:
    """Return the ``str``, ``int`` or ``float`` that a value is by inheritance. Raises TypeError on others."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
