"""Processes that begin as copies of this one."""

import os
import signal
from typing import Final

__all__ = ["SIGNALS", "fork"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that say what the whole is to do."""


def fork() -> int:
    """Fork. Return the child's process id; in the child 0, and there :data:`SIGNALS` are blocked until it has handlers.

    The child is in a process group of its own: Ctrl+C in a terminal goes to all of a group, and it is for the parent to
    pass it on. There must be no other thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        os.setpgid(0, 0)
    return pid
