"""A forked child has its parent's objects and descriptors, but not its threads: it begins without any connection.

What was open stays the parent's. The child lets go of the descriptors alone, so that the broker notices when the parent
is gone: neither are connections shut down, nor is anything changed in the epoll that the two share.
"""

import contextlib
import os
import socket
import weakref
from typing import Any, Protocol

__all__ = ["Forgetful", "closed_in_children", "forgets_in_children"]


class Forgetful(Protocol):
    """Who has a connection."""

    def forget(self) -> object:
        """Begin anew: this is a forked child. Return what must not be destroyed here."""


_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()
_forgetful: dict[int, "weakref.ref[Forgetful]"] = {}  # by identity: what users derive may have no hash
_kept: list[object] = []
"""The parent's event loops: what is destroyed is taken out of the epoll that parent and child share."""


def closed_in_children(sock: socket.socket) -> None:
    """Have forked children close this socket, as long as it is open."""
    _sockets.add(sock)


def forgets_in_children(client: Forgetful) -> None:
    """Have forked children call ``client.forget()``."""
    key, drop = id(client), _forgetful.pop

    def gone(_: Any) -> None:
        drop(key, None)

    _forgetful[key] = weakref.ref(client, gone)


def _in_child() -> None:
    _close(_sockets)
    for reference in list(_forgetful.values()):
        client = reference()
        if client is not None:
            _kept.append(client.forget())


def _close(sockets: "weakref.WeakSet[socket.socket]") -> None:
    numbers = [number for number in (sock.fileno() for sock in list(sockets)) if number >= 0]
    if not numbers:
        return
    with contextlib.suppress(OSError):
        # Another file takes the number's place: if it became free, who believes to have a connection there would one
        # day close what the child has opened meanwhile.
        null = os.open(os.devnull, os.O_RDWR)
        for number in numbers:
            os.dup2(null, number, inheritable=False)
        os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
