"""The backend's side of a link session: commands out, events in, through any number of links. No I/O and no clock."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from pystrands.protocol import wire
from pystrands.protocol.link import LinkSession, Receipt, ranges

__all__ = ["BackendSession"]

MAX_LINES: Final = 4096
MAX_BYTES: Final = 4 * 1024 * 1024

_TO_ONE: Final = b'{"action":"message_to_connection"'
_TO_MANY: Final = tuple(b'{"action":"%b"' % action for action in (b"message_to_room", b"message_to_user", b"broadcast"))
_SENDS: Final = (_TO_ONE, *_TO_MANY)
_OF_THE_SESSION: Final = tuple(
    b'{"action":"%b"' % action for action in (b"response", b"done", b"released", b"leave", b"bye")
)
"""Lines that speak of what the broker said in the same session, and mean nothing, or something else, in another one."""
_LEAVING: Final = tuple(b'{"action":"%b"' % action for action in (b"leave", b"bye"))


class BackendSession:
    """A session with one broker process, and what is to be sent to whatever broker comes.

    While the link is up, commands are numbered and written; while it is down they are kept *unwritten*, up to
    ``max_lines`` lines and ``max_bytes`` bytes, together with those that were written and not received (LINK rule 11).
    """

    __slots__ = (
        "_unwritten",
        "_unwritten_bytes",
        "done",
        "ended",
        "is_leaving",
        "is_up",
        "max_bytes",
        "max_lines",
        "session",
    )

    def __init__(self, session_id: str, *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self.session = LinkSession(session_id)
        self.max_lines = max_lines
        self.max_bytes = max_bytes
        self.is_up = False
        """Whether the stream goes on: between the welcome and the loss of the link."""
        self._unwritten: deque[bytes] = deque()
        self._unwritten_bytes = 0
        self.is_leaving = False
        self.ended = False
        """Whether the last command was taken."""
        self.done: list[int] = []
        """Finished events that the broker does not know of. Each stream has a list of its own: its events keep it."""

    # --- commands ---

    @property
    def has_room(self) -> bool:
        """Whether the window takes another command."""
        session = self.session
        return (
            session.kept + len(self._unwritten) < self.max_lines
            and session.kept_bytes + self._unwritten_bytes < self.max_bytes
        )

    def put(self, line: bytes) -> bytes:
        """Take a command; return what to write now, which is nothing while the link is down, and after the end."""
        if self.is_up:
            return self.session.number(line)
        if not self.ended:
            self._unwritten.append(line)
            self._unwritten_bytes += len(line)
        return b""

    # --- the end ---

    def leave(self) -> bytes:
        """Want no more events, in this session and in one that replaces it. Return what to write now."""
        self.is_leaving = True
        return self.put(wire.LEAVE)

    def end(self) -> bytes:
        """Say bye, in the same way, and take no more commands. Return what to write now."""
        if self.ended:
            return b""
        data = b""
        if self.done:  # without a link, too: they go before the bye
            data = self.put(wire.done(ranges(self.done)))
            self.done.clear()
        data += self.put(wire.BYE)
        self.ended = True
        self.is_up = False
        return data

    @property
    def is_delivered(self) -> bool:
        """Whether the broker has all lines."""
        return not self.session.kept and not self._unwritten

    @property
    def is_owing(self) -> bool:
        """Whether the broker may miss lines that say more than that this backend leaves, or finished events."""
        return bool(self.done) or not all(line.startswith(_LEAVING) for line in (*self._written(), *self._unwritten))

    @property
    def undelivered(self) -> int:
        """How many messages the broker may not have got."""
        return _sends(self._written()) + _sends(self._unwritten)

    # --- events ---

    def accept(self, seq: int) -> Receipt:
        """Count a numbered line that arrived, and tell what to do with it."""
        return self.session.accept(seq)

    def finished(self, seq: int) -> None:
        """The handler of that event is done; all its commands were put before this."""
        self.done.append(seq)

    def collect_done(self) -> bytes:
        """Return the line that tells which events are finished, or nothing. It follows their handlers' commands."""
        if not self.done or not self.is_up:
            return b""
        line = self.session.number(wire.done(ranges(self.done)))
        self.done.clear()
        return line

    # --- links ---

    def lost(self) -> None:
        """The link is gone; what was written and not acknowledged is kept."""
        self.is_up = False

    def resumed(self, received: int) -> list[bytes] | None:
        """The broker has the session, and ``received`` so many of its lines; return what to write.

        None when that can't be: the link is to be closed.
        """
        lines = self.session.resume(received)
        if lines is None:
            return None
        return lines + self._begin()

    def replaced(self, session_id: str, received: int | None) -> tuple[list[bytes], int]:
        """The broker process is the same, the session is not any more (LINK rule 18). Return what to write, and losses.

        ``received``: the last line of the old session that the broker carried out; None when it does not know, and then
        what was written is lost. Losses are counted in messages.
        """
        old = self.session
        kept = old.resume(received) if received is not None else None
        lost = 0
        again: deque[bytes] = deque()
        if kept is None:
            lost = _sends(self._written())
        else:
            again.extend(map(_without_number, kept))
        again.extend(self._unwritten)
        self._keep_unwritten(line for line in again if not line.startswith(_OF_THE_SESSION))
        self._renew(session_id)
        return self._begin(), lost

    def new_broker(self, session_id: str) -> int:
        """The broker process is a new one: its clients are gone (LINK rules 22, 23). Return how many messages are lost.

        Lost are those that were written, and those to single clients. The rest goes out with :meth:`started`.
        """
        lost = _sends(self._written()) + sum(line.startswith(_TO_ONE) for line in self._unwritten)
        self._keep_unwritten(line for line in self._unwritten if line.startswith(_TO_MANY))
        self._renew(session_id)
        self.is_up = False
        return lost

    def take_unwritten(self) -> tuple[list[bytes], int]:
        """Return the messages to many that wait to be written, which are another session's from now on.

        And how many messages are lost with this one: those to single clients, which were its broker's.
        """
        lines = [line for line in self._unwritten if line.startswith(_TO_MANY)]
        lost = sum(line.startswith(_TO_ONE) for line in self._unwritten)
        self._keep_unwritten(())
        return lines, lost

    def started(self, longest: int = 0) -> tuple[list[bytes], int]:
        """The broker has taken the session as a new one. Return what to write, and how many messages are lost.

        Lost are lines of more than ``longest`` bytes, which another broker took and this one would not (LINK rule 5).
        """
        lost = 0
        if longest and (too_long := [line for line in self._unwritten if len(line) > longest]):
            lost = _sends(too_long)
            self._keep_unwritten([line for line in self._unwritten if len(line) <= longest])
        return self._begin(), lost

    def _renew(self, session_id: str) -> None:
        self.session = LinkSession(session_id)
        self.done = []
        leave, bye = [wire.LEAVE] * self.is_leaving, [wire.BYE] * self.ended
        self._keep_unwritten([*leave, *self._unwritten, *bye])

    def _begin(self) -> list[bytes]:
        self.is_up = not self.ended
        lines = [self.session.number(line) for line in self._unwritten]
        self._keep_unwritten(())
        return lines

    def _written(self) -> list[bytes]:
        """Return what was written and not acknowledged."""
        return list(map(_without_number, self.session.resume(self.session.acknowledged) or ()))

    def _keep_unwritten(self, lines: Iterable[bytes]) -> None:
        self._unwritten = deque(lines)
        self._unwritten_bytes = sum(map(len, self._unwritten))


def _without_number(line: bytes) -> bytes:
    return line[: line.rindex(b',"seq":')] + b"}\n"


def _sends(lines: Iterable[bytes]) -> int:
    return sum(line.startswith(_SENDS) for line in lines)
