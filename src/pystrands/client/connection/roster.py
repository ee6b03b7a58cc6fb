"""The connections of a client to its brokers, and what their brokers tell of each other."""

from pystrands.client.connection.addresses import BrokerAddress
from pystrands.client.connection.broker_connection import BrokerConnection

__all__ = ["Roster"]


class Roster:
    """Answers questions about all connections; who comes and goes is decided elsewhere."""

    def __init__(self) -> None:
        self.connections: list[BrokerConnection] = []
        """In the order in which they were made."""

    @property
    def is_up(self) -> bool:
        """Whether there is a link."""
        return any(each.is_up for each in self.connections)

    def of(self, broker_id: str, but: BrokerConnection | None = None) -> BrokerConnection | None:
        """Return the connection of a broker, or the one that is to lead to it; leave one out."""
        for each in self.connections:
            if each is not but and broker_id in (each.broker_id, each.expected):
                return each
        return None

    def has(self, address: BrokerAddress) -> bool:
        """Whether one of them may lead to this address."""
        return any(each.addresses.has(address) for each in self.connections)

    def is_told(self, broker_id: str) -> bool:
        """Whether a broker to which there is a link says that one lives."""
        return any(peer.broker_id == broker_id for each in self.connections for peer in each.peers or ())

    def others_told(self, connection: BrokerConnection) -> list[BrokerConnection]:
        """Return the other connections, those with a link, whose brokers tell which brokers there are."""
        return [each for each in self.connections if each is not connection and each.is_up and each.peers is not None]

    def is_leaving(self, connection: BrokerConnection) -> bool:
        """Whether a broker is about to end, or the others know it no more: it hangs, or is cut off from them."""
        if connection.is_draining:
            return True
        is_known = not connection.broker_id or self.is_told(connection.broker_id)
        return not is_known and bool(self.others_told(connection))
