"""The admin port: health, readiness and metrics, for those who run the broker."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pystrands.broker.admission.origins import host_is_local
from pystrands.broker.net.http import HttpResponse, Request
from pystrands.broker.net.http_server import HttpServer, HttpSettings, health, no_remark
from pystrands.broker.net.ports import Ports
from pystrands.protocol.address import is_loopback

__all__ = ["AdminServer"]

_PATIENCE: Final = 10.0
"""Seconds that a connection has to send its request, and then to take the answer."""
_NOT_LOCAL: Final = HttpResponse.text(
    403,
    "the admin port listens on loopback, and tells its metrics to who asks for them as localhost or 127.0.0.1: "
    "let a proxy send such a Host, or choose another --admin-host",
)


class AdminServer(HttpServer):
    """Tells of the broker from :meth:`start` to :meth:`close`.

    ``is_ready()`` is what ``/readyz`` tells, with ``remark()``, which is mostly empty; ``metrics()`` gives ``/metrics``
    its text, of type ``content_type``. What bounds the connections is :class:`HttpServer`'s; none has more than
    ``patience`` seconds for its request, nor for its answer.

    While it listens on loopback, ``/metrics`` is only for who asks for it under a name of loopback: a page in a browser
    on this machine may have a name that leads here (DNS rebinding), and would read the answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_ready: Callable[[], bool],
        metrics: Callable[[], Awaitable[bytes]],
        content_type: str,
        ports: Ports | None = None,
        *,
        remark: Callable[[], str] = no_remark,
        max_connections: int = 64,
        patience: float = _PATIENCE,
    ) -> None:
        settings = HttpSettings(
            loop=loop, purpose="metrics and health checks", ports=ports or Ports(), answer_time=patience
        )
        routes = {"/metrics": self._metrics_page, **health(is_ready, remark)}
        super().__init__(settings, routes, max_connections=max_connections, request_time=patience)
        self._metrics = metrics
        self._content_type = content_type
        self._is_local = False

    async def start(self, host: str, port: int, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen; on these sockets if there are any. Raises OSError when the address can't be had."""
        self._is_local = is_loopback(host)
        await super().start(host, port, sockets)

    async def _metrics_page(self, request: Request) -> HttpResponse:
        # All browsers send a Host, so who sends none may read them.
        if self._is_local and "Host" in request.headers and not host_is_local(request.headers):
            return _NOT_LOCAL
        return HttpResponse(200, await self._metrics(), self._content_type)
