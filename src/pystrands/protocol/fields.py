"""HTTP header fields that others may add to the answer to a WebSocket's request (RFC 9110, section 5.5)."""

import re
from typing import Final

__all__ = ["field_problem"]

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# What the handshake says itself; another word on these would contradict it.
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


def field_problem(name: str, value: str) -> str:
    """Return what is wrong with a header field in words that fit after its name, or an empty text."""
    if not _NAME.fullmatch(name):
        return "is no name of a header"
    if name.lower() in _OURS:
        return "is not for others to set"
    if not _VALUE.fullmatch(value):
        return "has a value with a line break, or with another character that a header can't hold"
    return ""
