"""What tests see of the inside of clients and brokers; nothing else reaches into what these have for themselves."""

from typing import Any

from pystrands.client.connection.time_limits import TimeLimits


def core_of(client: Any) -> Any:
    """Return the Core of a client of any kind; of a PyStrandsClient that of its thread."""
    inside = vars(client)
    for name in ("_AsyncPyStrandsClient__core", "_PyStrands__core"):
        if name in inside:
            return inside[name]
    return running_of(client).core


def running_of(client: Any) -> Any:
    """Return the thread of a PyStrandsClient, with its event loop, or None."""
    return vars(client)["_PyStrandsClient__runs"].running


def bridge_of(app: Any) -> Any:
    """Return what leads from threads to the event loop of a PyStrands, or None."""
    return vars(app)["_PyStrands__calls"].bridge


def limited(client: Any, **limits: Any) -> Any:
    """Return a client that waits for so long from its next connect() on: see TimeLimits."""
    inside = vars(client)
    whose = inside["_PyStrandsClient__runs"] if "_PyStrandsClient__runs" in inside else core_of(client)
    whose.limits = TimeLimits(**limits)
    return client


def parts_of(broker: Any) -> Any:
    """Return the parts of a broker that is started."""
    return broker._parts


def authenticator_of(broker: Any) -> Any:
    """Return what decides who may be a backend of a broker."""
    return broker._authenticator


def budget_of(broker: Any) -> Any:
    """Return the bound on what a broker holds."""
    return broker._budget


def servers_of(broker: Any) -> Any:
    """Return what a broker listens with: for clients, for backends."""
    return broker._servers
