"""What all clients share: their options as attributes, and the names of their handlers."""

from collections.abc import Mapping
from typing import Any, Final

from pystrands.client.options import Options, set_options

__all__ = ["HANDLERS", "NOT_MADE", "BaseClient"]

HANDLERS: Final = {
    "on_connection_request": 1,
    "on_new_connection": 1,
    "on_message": 2,
    "on_join_request": 1,
    "on_request": 2,
    "on_token": 1,
    "on_disconnect": 1,
    "on_error": 2,
    "on_client_adopted": 1,
    "on_client_released": 1,
    "on_client_suspended": 1,
    "on_client_resumed": 1,
}
"""The callbacks of a client, each with the number of its arguments."""


class _NotMade:
    """Stands in a client's class for what the constructor makes, and says so where that has not been called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            "super().__init__() was not called: the __init__ of a class that derives from a client has to do that "
            "before the client is used, a dataclass in its __post_init__"
        )


NOT_MADE: Final[Any] = _NotMade()


class BaseClient(Options):
    """The attributes that all clients share.

    The attributes may be changed; what they say counts from the next ``connect()``, which checks them again.

    A client's own state has mangled names, so that classes derived from it may have any attributes and methods.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Take the arguments of a constructor by name; others may be among them, as in its ``locals()``."""
        set_options(self, given)
