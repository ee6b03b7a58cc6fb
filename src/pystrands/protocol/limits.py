"""How much a client's context may hold: its ids, its rooms, its metadata. Checked where each of them enters.

What is within these fits a line to every backend, and every backend can decode it. No I/O.
"""

from typing import Any, Final

import msgspec

__all__ = [
    "MAX_DEPTH",
    "MAX_ID",
    "MAX_REASON",
    "Limits",
    "context_limit",
    "depth_problem",
    "id_problem",
    "is_deep",
    "pruned",
]

MAX_ID: Final = 512
"""Bytes, in UTF-8, that a ``client_id`` or a ``room_id`` may have."""
MAX_REASON: Final = 4096
"""Characters of a backend's reason for a refusal that its client gets to see."""
MAX_DEPTH: Final = 100
"""How deep objects and lists may be nested in metadata: far below what decoders give up at."""
_BESIDE: Final = 32_768
"""Bytes that a context may have beyond the largest message: for the rooms, where messages are small."""


def context_limit(max_message_size: int) -> int:
    """Return how many bytes a context may have as JSON: with it, every event but a message fits into a line."""
    return max_message_size + _BESIDE


class Limits:
    """What the broker's options allow one client: so many rooms, and a context of so many bytes as JSON."""

    __slots__ = ("max_context", "max_rooms")

    def __init__(self, max_rooms: int = 1000, max_context: int = context_limit(1 << 20)) -> None:
        self.max_rooms = max_rooms
        self.max_context = max_context

    def context_problem(self, size: int) -> str:
        """Return what is wrong with a context of that many bytes, in words for people; an empty text if nothing is."""
        if size <= self.max_context:
            return ""
        return (
            f"the client's ids, rooms and metadata would have {size} bytes as JSON, and may have {self.max_context}: "
            "put less into metadata, have it leave rooms, or raise the broker's --max-message-size"
        )


def id_problem(name: str, value: str) -> str:
    """Return what is wrong with the length of an id, in words for people; an empty text if nothing is."""
    if len(value) * 4 <= MAX_ID:
        return ""
    size = len(value.encode(errors="surrogatepass"))
    return f"the {name} has {size} bytes in UTF-8, and may have {MAX_ID}" if size > MAX_ID else ""


def is_deep(metadata: bytes) -> bool:
    """Whether JSON, which can be decoded, is nested too deep."""
    could_be = metadata.count(b"[") + metadata.count(b"{") > MAX_DEPTH
    return could_be and depth_problem(msgspec.json.decode(metadata)) != ""


def pruned(value: Any, levels: int = MAX_DEPTH) -> Any:
    """Return a JSON value with null for what is nested too deep."""
    if isinstance(value, dict):
        return {key: pruned(inner, levels - 1) for key, inner in value.items()} if levels else None
    if isinstance(value, list):
        return [pruned(inner, levels - 1) for inner in value] if levels else None
    return value


def depth_problem(value: Any) -> str:
    """Return whether a JSON value is nested too deep, in words for people; an empty text if it is not."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return ""
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return f"the metadata is nested deeper than {MAX_DEPTH} levels"
