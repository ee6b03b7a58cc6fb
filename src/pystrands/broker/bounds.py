"""Times and numbers that no option says."""

from dataclasses import dataclass
from typing import Final

__all__ = ["BOUNDS", "Bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Users have the defaults; tests, which can't wait for so long, or fill so much, have others. Times are seconds."""

    without_link: float = 1.0
    """That a backend without link keeps a question to itself, before another one is asked (LINK rule 20)."""
    mute: float = 1.0
    """The same of one that has never said anything, and may be none."""
    others: float = 7.0
    """For other brokers to answer: fewer than callers wait for this one, and more than it takes to find one dead."""
    others_asked: int = 10_000
    """Questions to other brokers that may wait for their answers."""
    silent: float = 1.0
    """After which a connection that has sent nothing may have to go: what an honest client sends comes at once."""
    tls_handshakes: int = 1000
    """Those of clients in flight, at most: each takes about 50 KB."""
    link_tls_handshake: float = 5.0
    """For the TLS handshake of a backend."""
    watched_rooms: int = 1000
    """That one tool may watch."""
    presence_grace: float = 15.0
    """For which a client that is away, or was at a broker that is gone, is present (promise 27)."""
    presence_renewal: float = 10.0
    """After which other brokers are told again in which rooms somebody wants to know who is present."""
    present: int = 1000
    """Clients of one broker that may be present in one room: each of its members gets all of them."""


BOUNDS: Final = Bounds()
"""Those of users."""
