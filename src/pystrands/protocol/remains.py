"""What can be told of a line that can't be decoded: its number, its action, and who waits for the answer to it.

The number matters most. A line whose number nobody takes is missing in the stream: the link would be closed and
resumed, and the line come again, for ever (LINK rule 2).
"""

import re
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["LONGEST_END", "OVERLONG", "SCANNED", "Remains", "remains_of", "what_is_left"]

SCANNED: Final = 64 * 1024
"""Bytes from the start of a line that are scanned, so that it takes some 30 ms at most, whatever they are."""
LONGEST_END: Final = 256
"""Bytes at the end of a line in which its number is looked for."""
OVERLONG: Final = b"\0}\n"
"""Ends what stands for a line that was too long; no JSON does."""

# Each of these keeps what it has matched, and matches wherever it is tried, so that no byte is looked at over and over:
# a string may be without its end, and the last piece of a line without a string.
_STRING: Final = rb'"((?:[^"\\]++|\\.)*+)(?:"|\\?\Z)'
_NEXT_STRING: Final = re.compile(rb'([^"]*+)(?:' + _STRING + rb"(\s*+:\s*+)?)?", re.DOTALL)
_NUMBER: Final = re.compile(rb"(\d{1,18})\s*+[,}]")
_TEXT: Final = re.compile(_STRING, re.DOTALL)
_AT_END: Final = re.compile(
    rb',\s*+"seq"\s*+:\s*+(\d{1,18})\s*+(?:,\s*+"(?:event|redelivered)"\s*+:\s*+\w+\s*+)*+\}\s*+\Z'
)


class Remains(NamedTuple):
    """What a line says of itself beside its params; empty and 0 where that is not to be had."""

    action: str = ""
    request_id: str = ""
    seq: int = 0


class _Envelope(msgspec.Struct):
    action: Any = None
    request_id: Any = None
    seq: Any = 0


_envelope: Final = msgspec.json.Decoder(_Envelope).decode


def remains_of(line: bytes) -> Remains:
    """Return what can be told of ``line``, which may be anything. Never raises; the time is linear in its length."""
    try:  # all but the params may be in order
        found = _envelope(line)
    except (ValueError, RecursionError):
        remains = _scan(line)
    else:
        remains = Remains(_text(found.action), _text(found.request_id), _number(found.seq))
    return remains if remains.seq else remains._replace(seq=_number_at_end(line))


def what_is_left(start: bytes, end: bytes) -> bytes:
    r"""Return what stands for a line that was too long, of which only this is there: a line that can't be decoded.

    The same can be told of it. Empty where that would be of no use.
    """
    action, request_id, seq = _scan(start)
    seq = seq or _number_at_end(end)
    if not (seq or request_id):
        return b""
    names = (msgspec.json.encode(action), msgspec.json.encode(request_id))
    return b'{"action":%b,"request_id":%b,"seq":%d,' % (*names, seq) + OVERLONG


def _number_at_end(line: bytes) -> int:
    found = _AT_END.search(line, max(len(line) - LONGEST_END, 0))
    return int(found[1]) if found else 0


def _text(value: Any) -> str:
    return value if type(value) is str else ""


def _number(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _scan(line: bytes) -> Remains:
    """Look for the members of the outermost object. Of several with one name the last one counts, as for a decoder."""
    remains = Remains()
    if not line.lstrip().startswith(b"{"):
        return remains
    depth = 0
    for found in _NEXT_STRING.finditer(line, 0, min(len(line), SCANNED)):
        before, text, is_name = found.groups()
        depth += before.count(b"{") + before.count(b"[") - before.count(b"}") - before.count(b"]")
        if depth != 1 or is_name is None:
            continue
        if text == b"seq":
            number = _NUMBER.match(line, found.end())
            remains = remains._replace(seq=int(number[1]) if number else 0)
        elif text == b"action":
            remains = remains._replace(action=_string_at(line, found.end()))
        elif text == b"request_id":
            remains = remains._replace(request_id=_string_at(line, found.end()))
    return remains


def _string_at(line: bytes, start: int) -> str:
    text = _TEXT.match(line, start)
    try:
        return "" if text is None else msgspec.json.decode(text[0], type=str)
    except ValueError:
        return ""
