"""On whose behalf code runs: whether within a handler, of which runner, and of which queue's event."""

import contextvars
from typing import Final

from pystrands.client.handlers.queue import CallQueue

__all__ = ["NotBegun", "current_runner", "handled_by", "in_handler", "served", "served_queue"]

handled_by: Final[contextvars.ContextVar[int]] = contextvars.ContextVar("pystrands_runner", default=0)
"""The number of the runner."""
served: Final[contextvars.ContextVar[CallQueue | None]] = contextvars.ContextVar("pystrands_queue", default=None)
"""The queue, where the runner's dispatcher has several."""


class NotBegun(Exception):  # noqa: N818 - what happened; it never leaves the library
    """A handler was to begin somewhere else, and the lease was over when its turn came there."""


def in_handler() -> bool:
    """Whether this code was called by a handler, directly or on its behalf."""
    return handled_by.get() != 0


def current_runner() -> int:
    """Return the number of the runner on whose handler's behalf this code runs, or 0."""
    return handled_by.get()


def served_queue() -> CallQueue | None:
    """Return the queue whose event this code handles, on whatever thread; also in tasks that its handler began.

    None outside of handlers, and where the dispatcher had one queue only when the handler began.
    """
    return served.get()
