"""The engine of a single broker: what is published is delivered at once."""

from collections.abc import Collection

from pystrands.engine.base import Audience, Delivered, Engine, Sink

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

    def publish(
        self,
        audience: Audience,
        address: str,
        message: str | bytes,
        exclude: Collection[str] = (),
        key: str | None = None,
    ) -> Delivered:
        """Deliver now."""
        if self._sink is None:
            return 0, 0
        return self._sink.deliver(audience, address, message, exclude, key)
