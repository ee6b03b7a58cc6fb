"""Methods of a BackendCore, called from wherever: on its event loop, on another one, or on a thread without one."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pystrands.client.core import BackendCore
from pystrands.client.threads import Bridge, Gone, loop_runs_here

__all__ = ["Anywhere"]


class Anywhere:
    """Has a result, where the caller may block, or what has to be awaited, where an event loop runs."""

    def __init__(self, core: BackendCore) -> None:
        self._core = core
        self.bridge: Bridge | None = None
        """From other threads to the core's loop; None while the app does not run."""

    def send(self, line: bytes, to: str, timeout: float | None) -> Any:
        """Hand a line to the link, as :meth:`BackendCore.send` and :meth:`Bridge.send` do."""
        if loop_runs_here():
            return self.do(self._core.send, line, to, timeout, gone=self._core.outage.unsent)
        bridge = self.bridge
        return self._core.outage.unsent() if bridge is None else bridge.send(line, to, timeout)

    def do(
        self,
        method: Callable[..., Coroutine[Any, Any, Any]],
        *arguments: Any,
        gone: Callable[[], Any] | None = None,
    ) -> Any:
        """Call a method of the BackendCore.

        From a thread or another loop it is ``gone()`` when the app does not run; by default NotConnected is raised.
        """
        gone = gone or self._not_connected
        bridge, lifetime = self.bridge, self._core.lifetime
        if loop_runs_here():
            if bridge is None or lifetime is None or lifetime.loop is asyncio.get_running_loop():
                return method(*arguments)
            return _elsewhere(bridge, method, arguments, gone)
        if bridge is None:
            return gone()
        try:
            return bridge.call(method, *arguments)
        except Gone:
            return gone()

    def _not_connected(self) -> Any:
        raise self._core.outage.unasked()


async def _elsewhere(
    bridge: Bridge,
    method: Callable[..., Coroutine[Any, Any, Any]],
    arguments: tuple[Any, ...],
    gone: Callable[[], Any],
) -> Any:
    try:
        return await asyncio.wrap_future(bridge.start(method, *arguments))
    except Gone:
        return gone()
