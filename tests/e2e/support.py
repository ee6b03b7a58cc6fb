"""What the end-to-end tests share besides pystrands.testing: a client of another make."""

from typing import Any

import websockets.asyncio.client as websockets_client

from pystrands.testing.client import HasClients


def connect(broker: HasClients, path: str = "/room", **options: Any) -> Any:
    """Connect with the websockets library; await it, or use it in ``async with``."""
    return websockets_client.connect(broker.ws_url(path), **({"compression": None, "ping_interval": None} | options))
