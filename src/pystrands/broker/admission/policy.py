"""Who may come in as far as the broker's options say so; no backend is asked for any of it."""

import logging
from typing import Final

from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.proxies import TrustedProxies
from pystrands.broker.counters import Counters
from pystrands.broker.net.http import RETRY_AFTER, HttpResponse, Request
from pystrands.broker.net.limits import ConnectionLimits, ConnectionSlot, counted_as, is_milestone
from pystrands.broker.net.peers import PeerAddress

__all__ = ["AdmissionPolicy"]

logger = logging.getLogger(__name__)

_SHOWN: Final = 200
_TOO_MANY: Final = "the server has as many clients as it takes; try again later"
_CROWDED: Final = HttpResponse.text(503, "too many connections are being opened; try again soon", (RETRY_AFTER,))
_FROM_ONE_ADDRESS: Final = HttpResponse.text(429, "there are too many connections from this address", (RETRY_AFTER,))


class AdmissionPolicy:
    """The origins, the proxies and the limits of a broker; each refusal is counted, and logged now and then.

    ``max_handshakes``: connections that may be without a verdict at once. ``max_clients`` and ``max_per_address`` are
    those of :class:`ConnectionLimits`. 0 stands for no limit.
    """

    __slots__ = ("_counters", "_origins", "_proxies", "limits", "max_handshakes")

    def __init__(
        self,
        origins: AllowedOrigins,
        proxies: TrustedProxies | None = None,
        *,
        max_handshakes: int = 0,
        max_clients: int = 0,
        max_per_address: int = 0,
        counters: Counters,
    ) -> None:
        self._origins = origins
        self._proxies = proxies
        self.max_handshakes = max_handshakes
        self.limits = ConnectionLimits(max_clients, max_per_address) if max_clients or max_per_address else None
        self._counters = counters

    def slot(self) -> ConnectionSlot | None:
        """Return what a connection counts with; None where there are no limits."""
        return None if self.limits is None else self.limits.slot()

    def key(self, host: str) -> bytes | str | None:
        """Return what an address counts as in `PendingConnections`; None for a proxy, behind which many are."""
        return None if self.is_proxy(host) else counted_as(host)

    def crowded_out(self, host: str) -> None:
        """Hear that a connection was closed as it came: those of its address had too much of the room already."""
        self._counters["limit_handshakes"] += 1
        self._warn(
            self._counters["limit_handshakes"],
            "connections from %s were closed as they came: it has too many without a TLS handshake already",
            host,
        )

    def is_crowded(self, handshakes: int) -> bool:
        """Tell whether so many without a verdict are as many as there may be."""
        return 0 < self.max_handshakes <= handshakes

    def turn_away(self, host: str, handshakes: int, slot: ConnectionSlot | None) -> HttpResponse | None:
        """Look at a connection that was just opened; return the answer for one that may not stay."""
        if self.is_crowded(handshakes):
            self._counters["limit_handshakes"] += 1
            self._warn(
                self._counters["limit_handshakes"],
                "connections were turned away with 503: %d were being opened already (--max-handshakes)",
                self.max_handshakes,
            )
            return _CROWDED
        # A proxy's connections are its clients', who are known once the request is read.
        if slot is not None and not self.is_proxy(host) and not slot.acquire_from(host):
            self._count_address(host)
            return _FROM_ONE_ADDRESS
        return None

    def client(self, peer: PeerAddress, request: Request) -> PeerAddress:
        """Return the address of who asks, which a trusted proxy may have passed on."""
        return peer if self._proxies is None else self._proxies.client(peer, request.headers)

    def refusal(
        self, request: Request, peer: PeerAddress, client: PeerAddress, slot: ConnectionSlot | None
    ) -> HttpResponse | None:
        """Judge a valid request for a WebSocket. None: it may come in, and counts until its slot is released."""
        proxied = self.is_proxy(peer[0])
        if not self._origins.allow(request.headers, proxied=proxied):
            self._count_origin(request, proxied=proxied)
            return HttpResponse.text(403, "pages of this origin may not connect (--allowed-origins)")
        if slot is None:
            return None
        if proxied and not slot.acquire_from(client[0]):
            self._count_address(client[0])
            return _FROM_ONE_ADDRESS
        if not slot.acquire():
            self._counters["limit_clients"] += 1
            self._warn(
                self._counters["limit_clients"],
                "clients were refused with 503: there are as many as may be (--max-connections)",
            )
            return HttpResponse.text(503, _TOO_MANY, (RETRY_AFTER,))
        return None

    def is_proxy(self, host: str) -> bool:
        """Whether it is a proxy whose word is taken for its clients' addresses."""
        return self._proxies is not None and self._proxies.trust(host)

    def _count_origin(self, request: Request, *, proxied: bool) -> None:
        self._counters["origin_refused"] += 1
        page = ascii(", ".join(request.headers["Origin"]))[:_SHOWN]
        if proxied or self._origins.takes_host(request.headers):
            self._warn(
                self._counters["origin_refused"],
                "a page of origin %s was refused with 403; if it may connect, name it in --allowed-origins",
                page,
            )
        else:
            self._warn(
                self._counters["origin_refused"],
                "a page of origin %s that connected to %s was refused with 403: this broker listens on loopback, which "
                "pages know as localhost; behind a proxy name it in --trusted-proxies, or the pages in "
                "--allowed-origins",
                page,
                ascii(", ".join(request.headers.get("Host", ())))[:_SHOWN],
            )

    def _count_address(self, host: str) -> None:
        self._counters["limit_address"] += 1
        self._warn(
            self._counters["limit_address"],
            "connections from %s were turned away with 429 (--max-connections-per-address)",
            host,
        )

    @staticmethod
    def _warn(count: int, text: str, *args: object) -> None:
        if is_milestone(count):
            logger.warning("%s; %d so far", text % args, count)
