"""A message on its way to clients, through whatever carries it between brokers."""

from enum import Enum
from typing import final

from mypy_extensions import mypyc_attr

__all__ = ["Audience", "Delivered", "Publication"]


Delivered = tuple[int, int]
"""How many clients a message was for, and how many of them took it; the others were too slow."""


class Audience(Enum):
    """Whom a message is for; each but EVERYONE has an address."""

    ROOM = "room"
    """The clients in the room that the address names."""
    CLIENT = "client"
    """The client whose ``client_id`` is the address."""
    USER = "user"
    """The clients of the user whom the address names."""
    EVERYONE = "everyone"
    """All clients of all brokers; the address is empty."""


@mypyc_attr(acyclic=True, free_list_len=1)  # there is one at a time, which refers to nothing that refers to it
@final
class Publication:
    """One message, and whom it is for. Made once for each command, and not changed after that.

    ``exclude``: the ``client_id`` of each who does not get it. ``key`` is None for an ordinary message. With another
    one it is volatile: a client that is not up to date misses it, or, where the key is not empty, gets the newest one
    of that key. ``confirm``: whether somebody wants to know what became of it, at whichever broker. ``is_hidden``:
    it is not for the room's history.
    """

    __slots__ = ("address", "audience", "confirm", "exclude", "is_hidden", "key", "message")

    def __init__(
        self,
        audience: Audience,
        address: str,
        message: str | bytes,
        exclude: tuple[str, ...] = (),
        key: str | None = None,
        confirm: bool = False,
        is_hidden: bool = False,
    ) -> None:
        self.audience = audience
        self.address = address
        self.message = message
        self.exclude = exclude
        self.key = key
        self.confirm = confirm
        self.is_hidden = is_hidden

    def __repr__(self) -> str:
        return f"<Publication to {self.audience.value} {self.address!r}>"
