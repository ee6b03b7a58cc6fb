"""The headers of frames as classes; :mod:`.envelope` has what reads them."""

from msgspec import Struct, field

__all__ = ["ClientHeader", "Failure", "HistoryHeader", "ServerHeader", "Welcome"]


class Failure(Struct, gc=False):
    """Why nothing came of a message: ``code`` for programs, ``message`` for people."""

    code: str = ""
    message: str = ""


class ClientHeader(Struct, gc=False):
    """What a client says of a frame.

    ``k``: the number of what wants to be handled once. ``t``: what it is, where it is no message. ``q``: whether it
    wants a reply. ``re``: the number of what it answers, and ``err`` why there is no answer. ``id``: what a message was
    called in a session that is lost. ``seen``: the last number that has arrived; -1 where it is not said. ``v``: that a
    message is volatile; or which version of a room's presence is known. ``before``, ``after``, ``limit``: which
    messages of a room's history it wants to read; ``id`` is then repeated in the answer.
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
    before: int = 0
    after: tuple[str, int] | None = None
    limit: int = 0


class ServerHeader(Struct, gc=False):
    """What the broker says of a frame. ``n`` is None for what is volatile, ``v`` the version of a room's presence.

    ``e``: the name of a signal, and ``sender`` who sends it. ``h``: how many older messages who has joined may read.
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
    h: int = 0


class HistoryHeader(Struct):
    """What stands before messages of a room's history: their numbers, their sizes in bytes, which of them are binary.

    ``complete``: whether nothing is missing that was asked for; ``more``: whether there is more of it to be asked for.
    """

    id: str
    r: str
    ns: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    bins: list[int] = field(default_factory=list)
    complete: bool = False
    more: bool = False
    err: Failure | None = None


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
