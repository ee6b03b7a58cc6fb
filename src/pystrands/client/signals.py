"""SIGTERM and Ctrl+C end, in order, all clients of the process that run until they are ended."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

__all__ = ["end_all", "ended_by_sigterm", "handling_sigterm", "interrupted", "warn_if_the_program_goes_on"]

logger = logging.getLogger(__name__)

STILL_THERE: Final = 5.0
"""Seconds after which a program that SIGTERM should have ended is told of."""

_ends: dict[object, Callable[[], object]] = {}
"""What ends each client that runs, on whatever thread."""
_handlings = 0
"""How many blocks of the main thread want the signal handled."""
_came = False
"""Whether the signal was handled here."""


def end_all() -> None:
    """End all that :func:`ended_by_sigterm` holds. May be called where a signal has interrupted anything."""
    for end in list(_ends.values()):
        end()


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    global _came  # noqa: PLW0603 - a process gets it
    _came = True
    end_all()


def warn_if_the_program_goes_on(loop: asyncio.AbstractEventLoop) -> None:
    """Have a warning logged if SIGTERM has ended the clients, and in a while their event loop still runs."""
    global _came  # noqa: PLW0603 - it is told once
    if _came:
        _came = False
        loop.call_later(STILL_THERE, _warn_still_running, STILL_THERE)


def _warn_still_running(seconds: float) -> None:
    logger.warning(
        "SIGTERM has ended the clients, and the program still runs %g s later: let it end when run_forever() returns, "
        "or give it a handler of its own for SIGTERM; the next SIGTERM ends it at once",
        seconds,
    )


def interrupted(task: "asyncio.Task[Any] | None") -> bool:
    """Whether Ctrl+C has cancelled ``task``, which asyncio.run() was given; that then raises KeyboardInterrupt."""
    handler: Any = signal.getsignal(signal.SIGINT)
    runner = getattr(getattr(handler, "func", None), "__self__", None)
    if not isinstance(runner, asyncio.Runner) or task is None:
        return False
    return getattr(handler, "keywords", {}).get("main_task") is task and getattr(runner, "_interrupt_count", 0) > 0


@contextlib.contextmanager
def ended_by_sigterm(end: Callable[[], object]) -> Iterator[None]:
    """Have SIGTERM call ``end`` meanwhile, where it is handled at all.

    ``end`` is called on the main thread, in the midst of whatever that does: it must neither wait nor take a lock.
    """
    key = object()
    _ends[key] = end
    try:
        yield
    finally:
        _ends.pop(key, None)


@contextlib.contextmanager
def handling_sigterm() -> Iterator[None]:
    """Have SIGTERM handled meanwhile, in the main thread, unless the program has a handler of its own for it.

    One that the program installs meanwhile stays. There is one handler for all clients, as long as any wants it.
    """
    global _handlings  # noqa: PLW0603 - a process has one handler of a signal
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _handlings += 1
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        _handlings -= 1
        if not _handlings:
            _let_go()


def _let_go() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _in_child() -> None:
    # SIGTERM would end clients of the parent's, or nothing, and not the child.
    global _handlings, _came
    _ends.clear()
    _handlings, _came = 0, False
    _let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
