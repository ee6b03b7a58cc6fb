"""Connections to brokers by name: looked up on a thread of Python's, and made to whichever address answers first.

Not by the loop itself: uvloop looks names up on threads that a forked child lacks and waits for at its end. And a loop
tries one address after the other, so that a first one which swallows everything costs the whole attempt.
"""

import asyncio
import errno
import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any, Final

from pystrands.client.connection.forking import closed_in_children
from pystrands.client.connection.time_limits import TIME_LIMITS
from pystrands.client.greenlets import no_threads

__all__ = ["Prepare", "connect", "connect_blocking"]

Prepare = Callable[[socket.socket], object]
"""Called with each socket before it connects."""

_BEGUN: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN})

_Address = tuple[Any, ...]
"""One of what getaddrinfo returns."""


def _as_it_is(_: socket.socket) -> None:
    """Prepare nothing."""


async def connect(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    timeout: float,
    prepare: Prepare = _as_it_is,
    found: list[str] | None = None,
    next_after: float = TIME_LIMITS.next_address,
) -> socket.socket:
    """Return a socket that is connected; within ``timeout`` seconds where ``host`` is a name.

    It does not block, and children that are forked close it. ``found``, where given, gets the IP addresses that the
    name stands for, those of the socket's family; nothing where ``host`` is no name. ``next_after``: seconds that one
    of them has before the next is tried beside it. Raises OSError, TimeoutError among them, and UnicodeError for what
    can't be a name; RuntimeError when there is no thread to look a name up.
    """
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
    except socket.gaierror:  # a name
        return await _on_thread(loop, lambda: connect_blocking(host, port, timeout, prepare, found, next_after))
    sock = _new_socket(address, prepare)
    try:
        if sys.platform == "win32":
            await loop.sock_connect(sock, address[4])
        else:
            await _connected(loop, sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_blocking(
    host: str,
    port: int,
    timeout: float,
    prepare: Prepare = _as_it_is,
    found: list[str] | None = None,
    next_after: float = TIME_LIMITS.next_address,
) -> socket.socket:
    """Connect on the calling thread, which blocks; return a socket that does not block. The rest as above."""
    end = time.monotonic() + timeout
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = _in_turn(resolved)
    attempts: dict[socket.socket, _Address] = {}
    errors: list[OSError] = []
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                if addresses:
                    _begin(addresses.popleft(), prepare, selector, attempts, errors)
                elif not attempts:
                    raise OSError(errors[-1].errno, "; ".join(str(each.strerror) for each in errors))
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                for key, _ in selector.select(min(left, next_after) if addresses else left):
                    sock: socket.socket = key.data
                    selector.unregister(sock)
                    address = attempts.pop(sock)
                    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not error:
                        if found is not None:
                            found.extend(dict.fromkeys(str(each[4][0]) for each in resolved if each[0] == sock.family))
                        return sock
                    sock.close()
                    errors.append(_error(error, address))
        finally:
            for each in attempts:
                each.close()


def _begin(
    address: _Address,
    prepare: Prepare,
    selector: selectors.BaseSelector,
    attempts: dict[socket.socket, _Address],
    errors: list[OSError],
) -> None:
    """Begin to connect to one more address."""
    try:
        sock = _new_socket(address, prepare)
    except OSError as error:  # of a family that this machine has not, for example
        errors.append(error)
        return
    error_number = sock.connect_ex(address[4])
    if error_number and error_number not in _BEGUN:
        sock.close()
        errors.append(_error(error_number, address))
        return
    attempts[sock] = address
    selector.register(sock, selectors.EVENT_WRITE, sock)


def _error(number: int, address: _Address) -> OSError:
    return OSError(number, f"{address[4][0]}: {os.strerror(number)}")


def _new_socket(address: _Address, prepare: Prepare) -> socket.socket:
    sock = socket.socket(*address[:3])
    try:
        closed_in_children(sock)
        sock.setblocking(False)
        prepare(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _in_turn(addresses: list[Any]) -> deque[_Address]:
    """Return the addresses so that those of the two families take turns, each in its order."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return deque(each for each in chain.from_iterable(zip_longest(first, others)) if each is not None)


async def _connected(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: _Address) -> None:
    error = sock.connect_ex(address[4])
    if error and error not in _BEGUN:
        raise OSError(error, os.strerror(error))
    if error:
        number = sock.fileno()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(number, _set, writable)
        try:
            await writable
        finally:
            loop.remove_writer(number)
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _on_thread(loop: asyncio.AbstractEventLoop, function: Callable[[], socket.socket]) -> socket.socket:
    """Run ``function`` on a thread that nobody waits for at the program's end. What comes too late is closed.

    Raises OSError where threads are greenlets, which would wait for this loop.
    """
    if problem := no_threads():
        raise OSError(problem)
    result: asyncio.Future[socket.socket] = loop.create_future()

    def run() -> None:
        sock, error = None, None
        try:
            sock = function()
        except Exception as raised:  # noqa: BLE001 - it is for who waits
            error = raised
        try:
            loop.call_soon_threadsafe(_set_outcome, result, sock, error)
        except RuntimeError:  # the loop is closed
            if sock is not None:
                sock.close()

    threading.Thread(target=run, name="pystrands-dial", daemon=True).start()
    try:
        return await result
    except asyncio.CancelledError:
        if result.done() and not result.cancelled() and result.exception() is None:
            result.result().close()
        raise


def _set_outcome(result: asyncio.Future[socket.socket], sock: socket.socket | None, error: Exception | None) -> None:
    if result.done():
        if sock is not None:
            sock.close()
    elif sock is not None:
        result.set_result(sock)
    elif error is not None:
        result.set_exception(error)
