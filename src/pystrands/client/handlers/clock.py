"""The time that leases are counted by."""

import functools
import time
from collections.abc import Callable
from typing import Final

__all__ = ["clock"]

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
clock: Final[Callable[[], float]] = time.monotonic if _CLOCK is None else functools.partial(time.clock_gettime, _CLOCK)
"""Steady time in seconds, which goes on while the machine sleeps: time.monotonic() does not, on Linux and macOS."""
