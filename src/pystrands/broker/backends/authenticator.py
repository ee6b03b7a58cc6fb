"""Who may be a backend, and what becomes of those who may not: tokens, and bounds on links that have said nothing."""

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from pystrands.broker.backends.guesses import Guesses
from pystrands.broker.counters import Counters
from pystrands.errors import ConfigError
from pystrands.protocol import messages
from pystrands.protocol.address import origin
from pystrands.protocol.messages import HelloParams
from pystrands.protocol.printable import printable

__all__ = ["FIRST_LINE", "LATE", "TOO_LONG", "LinkAuthenticator", "UnknownLink", "read_tokens"]

logger = logging.getLogger(__name__)

FIRST_LINE: Final = 65536
"""Bytes that are taken from a peer before it has said who it is."""
TOO_LONG: Final = f"the first line is longer than {FIRST_LINE} bytes"
LATE: Final = "this broker only takes backends with a token, and no hello came in time"
MISSING: Final = "this broker only takes backends with a token, and none was given (token=, or PYSTRANDS_TOKEN)"
OLD: Final = "this broker only takes backends with a token, and protocol 1 has none: use PyStrands 2 or newer"
WRONG: Final = "the token is wrong"

_UNDECIDED: Final = 1024
_OF_ONE_ORIGIN: Final = 256
_BURST: Final = 10.0
"""Refusals that are logged at once; after that one a second."""


class UnknownLink(Protocol):
    """A link that has not said who it is."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    def abort(self) -> None:
        """End the connection at once."""
        ...


def read_tokens(path: str) -> tuple[str, ...]:
    """Return the tokens of a file, one a line; empty lines and those that begin with ``#`` are none.

    Raises ConfigError when it can't be read, or has none.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError("backend_token_file", f"can't read {path}: {reason}") from None
    lines = (line.strip() for line in text.splitlines())
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise ConfigError("backend_token_file", f"{path} has no token: write one on a line of its own")
    return tokens


class LinkAuthenticator:
    """Stands between the backends' port and the backends. It lets everybody in until it is given tokens.

    ``clock`` gives the time in seconds. At most ``undecided`` links in all, and ``of_one_origin`` from one address (of
    IPv6 one /64), wait to be decided on: one more has the oldest cut off of the address that has most, so that
    half-open links can't keep backends out.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        counters: Counters,
        undecided: int = _UNDECIDED,
        of_one_origin: int = _OF_ONE_ORIGIN,
    ) -> None:
        self._tokens: list[bytes] = []
        self._clock = clock
        self._counters = counters
        self.most = undecided
        self.most_of_one = of_one_origin
        self._undecided: dict[UnknownLink, str] = {}  # each with its origin, the oldest first
        self._by_origin: dict[str, dict[UnknownLink, None]] = {}
        self._guesses = Guesses()
        self._log = _SparingLog(clock)

    def __len__(self) -> int:
        """How many links wait to be decided on."""
        return len(self._undecided)

    def take(self, tokens: Iterable[str]) -> None:
        """Take these tokens from now on, each of which is enough. Links that are decided on stay."""
        self._tokens = [_digest(token) for token in tokens]

    # --- who waits ---

    def enter(self, link: UnknownLink, address: str) -> None:
        """A link has come from that IP address; perhaps another one has to go for it."""
        place = origin(address)
        self._undecided[link] = place
        same = self._by_origin.setdefault(place, {})
        same[link] = None
        if len(same) > self.most_of_one or len(self._undecided) > self.most:
            if len(same) <= self.most_of_one:  # whoever has most of them, so that a few addresses keep nobody out
                same = max(self._by_origin.values(), key=len)
            oldest = next(iter(same))
            self.leave(oldest)
            self._counters["link_crowded_out"] += 1
            self._log.warning("%s is cut off: too many connections have not said who they are", oldest.name)
            oldest.abort()

    def leave(self, link: UnknownLink) -> None:
        """A link is decided on, or gone. May be called twice."""
        place = self._undecided.pop(link, None)
        if place is not None:
            same = self._by_origin[place]
            del same[link]
            if not same:
                del self._by_origin[place]

    def close(self) -> None:
        """Cut off all that wait."""
        for link in list(self._undecided):
            link.abort()

    # --- who may pass ---

    @property
    def is_open(self) -> bool:
        """Whether everybody may pass, those too who don't say who they are."""
        return not self._tokens

    def hello_problem(self, hello: HelloParams | None) -> str:
        """Return why a peer with this hello, or without any, is no backend for us; an empty text if it may be one."""
        if not self._tokens:
            return ""
        if hello is None:
            return OLD
        if hello.role != messages.TOOL and (hello.protocol < 2 or not hello.session_id):
            return OLD
        if not hello.token:
            return MISSING
        return "" if self._is_right(hello.token) else WRONG

    def _is_right(self, token: str) -> bool:
        given = _digest(token)
        found = False
        for each in self._tokens:  # all of them: how long it takes tells nothing
            found |= hmac.compare_digest(given, each)
        return found

    def refuse(self, link: UnknownLink, address: str, reason: str) -> float:
        """Count and log that a link is refused; return the seconds to wait before it is told so."""
        self._log.warning("%s is refused: %s", link.name, reason)
        if reason is TOO_LONG:
            self._counters["link_first_line_too_long"] += 1
            return 0.0
        self._counters["link_without_token"] += 1
        return self._guesses.wrong(origin(address), self._clock()) if reason is WRONG else 0.0

    def tls_failed(self, link: UnknownLink, error: OSError) -> None:
        """Count and log that the TLS handshake of a link came to nothing."""
        self._counters["link_tls_failed"] += 1
        self._log.warning("%s did not finish the TLS handshake: %s", link.name, printable(str(error)) or "it is gone")


class _SparingLog:
    """Warnings about strangers, who may be many: some at once, then one a second, with how many there were besides."""

    __slots__ = ("_at", "_clock", "_left", "_omitted")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._left = _BURST
        self._omitted = 0

    def warning(self, text: str, *arguments: object) -> None:
        now = self._clock()
        self._left = min(_BURST, self._left + now - self._at)
        self._at = now
        if self._left < 1:
            self._omitted += 1
            return
        self._left -= 1
        if self._omitted:
            text += f" ({self._omitted} more warnings like this were left out)"
            self._omitted = 0
        logger.warning(text, *arguments)


def _digest(token: str) -> bytes:
    """Return what is compared and kept: of equal length for all tokens, and of no use to who reads it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
