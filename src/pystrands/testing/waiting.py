"""Waiting for what gives no event to wait for."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Final

__all__ = ["until", "until_sync"]

_POLL: Final = 0.002


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Wait until ``condition()`` is true, looking every 2 ms.

    ``condition``: a function without parameters; what it raises ends the wait. Raises AssertionError, which says what
    was waited for, after ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(_too_late(condition, timeout))
        await asyncio.sleep(_POLL)


def until_sync(condition: Callable[[], object], timeout: float = 10) -> None:
    """Block until ``condition()`` is true, looking every 2 ms.

    ``condition``: a function without parameters; what it raises ends the wait. Raises AssertionError, which says what
    was waited for, after ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(_too_late(condition, timeout))
        time.sleep(_POLL)


def _too_late(condition: Callable[[], object], timeout: float) -> str:
    try:
        what = inspect.getsource(condition).strip()
    except (OSError, TypeError):
        what = repr(condition)
    return f"still not so after {timeout:g} s: {what}"
