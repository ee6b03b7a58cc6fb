"""Who is present in a room."""

from typing import Any

import msgspec

__all__ = ["Member"]


class Member(msgspec.Struct, frozen=True):
    """Somebody who is present in a room.

    ``user``: who it is; of a client that is nobody's its ``client_id``. ``info``: what ``set_presence`` has said of it
    last, any JSON value. ``connections``: how many clients it has there. ``since``: when the first of them came, in
    seconds since 1970.
    """

    user: str
    info: Any
    connections: int
    since: float
