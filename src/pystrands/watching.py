"""What flows at all brokers of a cluster, for ``pystrands tail``: a link to each, read by a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

from pystrands.protocol.messages import PeerParams, WatchedParams
from pystrands.protocol.printable import printable
from pystrands.tools import Tool, ToolError

__all__ = ["Watching"]

_WAITING: Final = 10_000
"""Lines that wait for who shows them; then links are read no further, and brokers count what is missed."""
_RETRY: Final = 1.0
"""Seconds until a broker that could not be reached is tried again."""


class _Brokers(NamedTuple):
    """All brokers, as one of them tells: addresses by id, its own among them."""

    addresses: dict[str, str]


_Told: TypeAlias = WatchedParams | ToolError | _Brokers


class Watching:
    """Yields what flows in a room, or in all of them, at the broker of ``first`` and at all that it tells of.

    ``notice(text)`` hears of brokers that can't be reached, or are gone, while others are there. When none is left,
    iterating raises ToolError. Use it in a ``with``; ``first`` is the caller's to close.
    """

    def __init__(self, first: Tool, room_id: str | None, notice: Callable[[str], None]) -> None:
        self._first = first
        self._room_id = room_id
        self._notice = notice
        self._told: queue.Queue[tuple[str, _Told]] = queue.Queue(_WAITING)
        self._tools: dict[str, Tool | None] = {}  # by the broker's id; None while its link is not there yet
        self._addresses: dict[str, str] = {}  # of all that should be linked
        self._missing: set[str] = set()  # those of which that was told
        self._next_try = 0.0
        self._is_over = False
        first.watch(room_id)

    def __enter__(self) -> Self:
        """Begin."""
        broker_id = self._first.hello.broker_id
        self._tools[broker_id] = self._first
        self._begin(broker_id, self._first, "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End all links but the first, and iterating within a second; from any thread."""
        self._is_over = True
        for tool in list(self._tools.values()):
            if tool is not None and tool is not self._first:
                tool.close()

    def __iter__(self) -> Iterator[WatchedParams]:
        """Wait for what flows, for as long as there is a broker."""
        while not self._is_over:
            if time.monotonic() >= self._next_try:
                self._link_all()
            try:
                broker_id, told = self._told.get(timeout=_RETRY)
            except queue.Empty:
                continue
            if isinstance(told, WatchedParams):
                yield told
            elif isinstance(told, ToolError):
                self._lost(broker_id, told)
            else:
                self._addresses = told.addresses
                self._link_all()

    def _link_all(self) -> None:
        self._next_try = time.monotonic() + _RETRY
        for broker_id, address in self._addresses.items():
            if address and broker_id not in self._tools:
                self._tools[broker_id] = None
                self._begin(broker_id, None, address)

    def _lost(self, broker_id: str, error: ToolError) -> None:
        """A link is gone, or was not to be had: its broker is tried again while others tell of it."""
        self._tools.pop(broker_id, None)
        if not any(self._tools.values()):
            raise error
        if broker_id not in self._missing:
            self._missing.add(broker_id)
            self._notice(f"{error}; what flows there is not shown while it is away")

    # --- a thread for each link ---

    def _begin(self, broker_id: str, tool: Tool | None, address: str) -> None:
        threading.Thread(
            target=self._read, args=(broker_id, tool, address), name="pystrands-watching", daemon=True
        ).start()

    def _read(self, broker_id: str, tool: Tool | None, address: str) -> None:
        try:
            if tool is not None:
                self._read_from(broker_id, tool)
            else:
                with self._first.to_peer(address) as peer:
                    if peer.hello.broker_id != broker_id:  # that one has a link of its own, as others tell of it
                        gone = f"the broker that was at {printable(address)} is gone, and another one is there"
                        self._put(broker_id, ToolError(gone))
                        return
                    peer.watch(self._room_id)
                    self._tools[broker_id] = peer
                    self._missing.discard(broker_id)
                    if not self._is_over:
                        self._read_from(broker_id, peer)
        except ToolError as error:
            self._put(broker_id, error)

    def _read_from(self, broker_id: str, tool: Tool) -> None:
        def peers_changed(peers: list[PeerParams]) -> None:
            addresses = {broker_id: tool.hello.address} | {each.broker_id: each.address for each in peers}
            self._put(broker_id, _Brokers(addresses))

        tool.peers_changed = peers_changed
        peers_changed(tool.peers)
        for each in tool.watched():
            self._put(broker_id, each)

    def _put(self, broker_id: str, told: _Told) -> None:
        """Hand on what came; wait while too much of it is not shown yet."""
        while not self._is_over:
            try:
                self._told.put((broker_id, told), timeout=_RETRY)
            except queue.Full:
                continue
            return
