"""The headers of frames as classes; :mod:`.envelope` has what reads them."""

from msgspec import Struct, field

__all__ = ["ClientHeader", "Failure", "ServerHeader", "Welcome"]


class Failure(Struct, gc=False):
    """Why nothing came of a message: ``code`` for programs, ``message`` for people."""

    code: str = ""
    message: str = ""


class ClientHeader(Struct, gc=False):
    """What a client says of a frame.

    ``k``: the number of what wants to be handled once. ``t``: what it is, where it is no message. ``q``: whether it
    wants a reply. ``re``: the number of what it answers, and ``err`` why there is no answer. ``id``: what a message was
    called in a session that is lost. ``seen``: the last number that has arrived; -1 where it is not said.
    ``v``: that a message is volatile; or which version of a room's presence is known.
    """

    k: int = 0
    r: str | None = None
    t: str = ""
    q: int = 0
    v: int = 0
    re: int = 0
    id: str = ""
    e: str = ""
    seen: int = -1
    err: Failure | None = None


class ServerHeader(Struct, gc=False):
    """What the broker says of a frame. ``n`` is None for what is volatile, ``v`` the version of a room's presence.

    ``e``: the name of a signal, and ``sender`` who sends it.
    """

    n: int | None = None
    r: str | None = None
    b: int = 0
    re: int = 0
    err: Failure | None = None
    q: int = 0
    t: str = ""
    done: int = -1
    why: str = ""
    id: str = ""
    expires: float | None = None
    retry: tuple[float, float] | None = None
    v: int = 0
    e: str = ""
    sender: str = field(default="", name="from")


class Welcome(Struct):
    """The first frame of the broker's on each connection.

    ``received`` and ``done`` are the client's numbers: all up to them has arrived, has been finished. ``n``: the
    broker's number then. ``ping``: seconds after which the broker says something, if it heard nothing; ``window``:
    those for which it waits for a client that is gone; ``max``: bytes of a message; ``expires``: seconds since 1970.
    """

    session: str
    client: str
    resumed: bool
    n: int
    epoch: str
    received: int = 0
    done: int = 0
    rooms: tuple[str, ...] = ()
    ping: float = 25.0
    window: float = 120.0
    max: int = 1_048_576
    expires: float | None = None
