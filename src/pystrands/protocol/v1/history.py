"""What may be read of the messages that a room has kept; the broker's side. Pure."""

import sys
from typing import Final, NamedTuple

from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.rings import Entry, Ring

__all__ = ["PAGE_BYTES", "PAGE_MESSAGES", "Page", "allowed_from", "answer", "newer", "older"]

PAGE_MESSAGES: Final = 200
"""Messages of one answer at most: its header has the numbers of all."""
PAGE_BYTES: Final = 256 * 1024
"""Their bytes; a single message may be longer."""


class Page(NamedTuple):
    """A part of a history, the oldest message first.

    ``complete``: whether it goes back to the first that may be read, or, of what is newer than a number, whether
    nothing is gone. ``more``: whether more of what was asked for is there, before these or behind them.
    """

    entries: list[Entry]
    complete: bool
    more: bool


def allowed_from(ring: Ring, now: int, count: int) -> tuple[int, int]:
    """Return the number behind which the last messages are, ``count`` of them at most, and how many these are.

    ``now``, here as in what follows, is in microseconds since 1970.
    """
    kept = ring.history(now)
    count = min(count, len(kept))
    return (kept[-count].number - 1, count) if count else (0, 0)


def older(ring: Ring, now: int, *, allowed: int, before: int, limit: int) -> Page:
    """Return the last messages before a number, or, where that is 0, the newest; only those behind ``allowed``."""
    found = [entry for entry in ring.history(now) if entry.number > allowed and (not before or entry.number < before)]
    wanted = found[len(found) - min(limit, len(found)) :]
    size, count = 0, 0
    for entry in reversed(wanted):
        size += len(entry.frame)
        if count and (size > PAGE_BYTES or count >= PAGE_MESSAGES):
            break
        count += 1
    page = wanted[len(wanted) - count :]
    return Page(page, len(page) == len(found), len(page) < len(wanted))


def newer(ring: Ring, now: int, *, allowed: int, after: int, before: int) -> Page:
    """Return the messages between two numbers; only those behind ``allowed``."""
    kept = ring.history(now)
    found = [entry for entry in kept if entry.number > after and entry.number > allowed and entry.number < before]
    first = kept[0].number if kept else sys.maxsize
    over = [entry.number for entry in ring.entries if entry.number < first and not entry.is_hidden]
    forbidden = [entry.number for entry in kept if after < entry.number <= allowed]
    is_all, size, count = after >= max([ring.floor, *over[-1:]]) and not forbidden, 0, 0
    for entry in found:
        size += len(entry.frame)
        if count and (size > PAGE_BYTES or count >= PAGE_MESSAGES):
            break
        count += 1
    return Page(found[:count], is_all, count < len(found))


def answer(ident: str, room_id: str, messages: list[tuple[int, bool, bytes]], complete: bool, more: bool) -> bytes:
    """Return the frame that tells a client of a part of a history: of each its number, whether it is binary, itself."""
    header = {
        "t": "history",
        "id": ident,
        "r": room_id,
        "ns": [number for number, _, _ in messages],
        "sizes": [len(body) for _, _, body in messages],
        "bins": [index for index, (_, is_binary, _) in enumerate(messages) if is_binary],
        "complete": complete,
        "more": more,
    }
    return json_text(header).encode() + b"\n" + b"".join([body for _, _, body in messages])
