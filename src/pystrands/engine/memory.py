"""The engine of a single broker: what is published is delivered at once."""

from pystrands.engine.base import Delivered, Engine, Sink
from pystrands.engine.publication import Publication

__all__ = ["MemoryEngine"]


class MemoryEngine(Engine):
    """Hands each message straight to the broker that published it."""

    def __init__(self) -> None:
        self._sink: Sink | None = None

    async def start(self, sink: Sink) -> None:
        """Deliver to ``sink`` from now on."""
        self._sink = sink

    async def stop(self) -> None:
        """Deliver nothing any more."""
        self._sink = None

    def subscribe(self, room_id: str) -> None:
        """Nothing to do: there is no other broker to tell."""

    def unsubscribe(self, room_id: str) -> None:
        """Nothing to do: there is no other broker to tell."""

    def publish(self, publication: Publication) -> Delivered:
        """Deliver now."""
        return (0, 0) if self._sink is None else self._sink.deliver(publication)
