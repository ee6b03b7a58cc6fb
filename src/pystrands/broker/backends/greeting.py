"""What the broker tells backends of itself and of the cluster: at first in its hello, then whenever that changes."""

from collections.abc import Sequence

from pystrands.engine.cluster import Peer
from pystrands.protocol import wire
from pystrands.protocol.messages import HelloParams, PeerParams, PeersParams

__all__ = ["Greeting"]


class Greeting:
    """Keeps the lines as they are now. Without a cluster nothing changes, and there is no line but the hello."""

    __slots__ = ("_params", "hello", "peers")

    def __init__(self, params: HelloParams) -> None:
        self._params = params
        self.hello = wire.hello(params)
        """The first line of every link."""
        self.peers = b""
        """What has changed since the hello that older links have heard; empty while nothing has."""

    def set_address(self, address: str) -> bool:
        """Backends reach this broker there: ``host:port``. Return whether that is news."""
        if address == self._params.address:
            return False
        self._params.address = address
        self._encode()
        return True

    def set_peers(self, peers: Sequence[Peer]) -> bool:
        """These are the other brokers now. Return whether that is news."""
        told = [PeerParams(each.broker_id, each.address, each.is_draining) for each in peers]
        if told == self._params.peers:
            return False
        self._params.peers = told
        self._encode()
        return True

    def set_draining(self) -> bool:
        """This broker is about to end. Return whether that is to be told: only in a cluster."""
        if self._params.draining or self._params.peers is None:
            return False
        self._params.draining = True
        self._encode()
        return True

    def _encode(self) -> None:
        params = self._params
        self.hello = wire.hello(params)
        self.peers = wire.peers(PeersParams(params.address, params.draining, params.peers or []))
