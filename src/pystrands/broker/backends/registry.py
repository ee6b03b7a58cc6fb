"""All sessions of backends, and who of them gets a new client."""

from collections.abc import Iterable

from pystrands.broker.backends.session import Session

__all__ = ["SessionRegistry"]


class SessionRegistry:
    """The sessions that live, and the choice among them."""

    def __init__(self) -> None:
        self.has_met_protocol_2 = False
        """Whether there ever was a backend that speaks it."""
        self.is_stopping = False
        """Whether nobody is chosen any more."""
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        """How many backends are connected."""
        return sum(session.link is not None and not session.sends_only for session in self._sessions.values())

    @property
    def sessions(self) -> Iterable[Session]:
        """All sessions that live."""
        return self._sessions.values()

    def find(self, session_id: str) -> Session | None:
        """Return the session of that id, if it lives."""
        return self._sessions.get(session_id)

    def add(self, session: Session) -> None:
        """A session lives, as the last to be chosen among equals."""
        self._sessions[session.session_id] = session

    def remove(self, session: Session) -> None:
        """A session is over."""
        del self._sessions[session.session_id]

    def choose(self, besides: Iterable[Session] = ()) -> Session | None:
        """Return the least loaded session that may get a new client, of equals the one that has waited longest.

        What is mute may be a probe, but also a backend of protocol 1, which says nothing before it is asked. So it is
        chosen once, to see; and for a second time, or where backends speak protocol 2, only if there is no other.
        """
        if self.is_stopping:  # who is cut off now tells of its clients itself when it meets the next broker
            return None
        able = [session for session in self._sessions.values() if session.is_available and session not in besides]
        known = [each for each in able if not each.is_mute or not (each.was_asked or self.has_met_protocol_2)]
        chosen = min(known or able, key=lambda session: session.load, default=None)
        if chosen is not None and len(self._sessions) > 1:  # to the end: of equals the next one comes first
            self._sessions[chosen.session_id] = self._sessions.pop(chosen.session_id)
        return chosen

    def choose_owner(self) -> Session | None:
        """Return the one of those that may get a client which is in already, with its messages.

        One that is mute only if there is no other, and none at all where backends speak protocol 2: it may be one of
        theirs that is cut off or paused, or no backend at all, and of what it is sent nobody would ever know that it
        was lost. A question is asked again.
        """
        chosen = self.choose([session for session in self._sessions.values() if session.is_mute])
        return chosen if chosen is not None or self.has_met_protocol_2 else self.choose()

    def may_be_nobody(self, session: Session) -> bool:
        """Whether it may be no backend at all."""
        return session.is_mute and self.has_met_protocol_2
