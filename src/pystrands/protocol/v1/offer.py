"""What a client of `pystrands.v1` says in its handshake, and the names of sessions. Pure."""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

__all__ = ["SUBPROTOCOL", "Offer", "Resume", "SessionIds", "name_of", "offered", "parse_offer", "without_secrets"]

SUBPROTOCOL: Final = "pystrands.v1"
_TOKEN: Final = "token."  # noqa: S105 - none, but what is before one
_RESUME: Final = "resume."
_MAX_DIGITS: Final = 16
_MAC_BYTES: Final = 16
_END_OF_NAME: Final = "~"


class Resume(NamedTuple):
    """A session to be gone on with: ``attempt`` counts the dials, ``seen`` is the last number that arrived."""

    session: str
    attempt: int
    seen: int


class Offer(NamedTuple):
    """``token``: what the client shows the backend, None where it shows nothing."""

    token: str | None = None
    resume: Resume | None = None


def parse_offer(subprotocols: Sequence[str]) -> Offer | None:
    """Return what a client offers; None for one that does not speak this subprotocol. What can't be read is ignored."""
    if SUBPROTOCOL not in subprotocols:
        return None
    token: str | None = None
    resume: Resume | None = None
    for each in subprotocols:
        if token is None and each.startswith(_TOKEN):
            token = _token(each[len(_TOKEN) :])
        elif resume is None and each.startswith(_RESUME):
            resume = _resume(each[len(_RESUME) :])
    return Offer(token, resume)


def offered(token: str | None = None, resume: Resume | None = None) -> list[str]:
    """Return the subprotocols that say this: the inverse of :func:`parse_offer`."""
    subprotocols = [SUBPROTOCOL]
    if token is not None:
        subprotocols.append(_TOKEN + urlsafe_b64encode(token.encode()).decode().rstrip("="))
    if resume is not None:
        subprotocols.append(f"{_RESUME}{resume.session}.{resume.attempt}.{resume.seen}")
    return subprotocols


def without_secrets(subprotocols: Sequence[str]) -> list[str]:
    """Return a client's subprotocols without those that let somebody be that client."""
    return [each for each in subprotocols if not each.startswith((_TOKEN, _RESUME))]


def _token(text: str) -> str | None:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (ValueError, binascii.Error):
        return None


def _resume(text: str) -> Resume | None:
    session, attempt, seen = (["", "", "", *text.rsplit(".", 2)])[-3:]
    if not session or not _is_number(attempt) or not _is_number(seen):
        return None
    return Resume(session, int(attempt), int(seen))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def name_of(session: str) -> str:
    """Return the part of a session that is no secret: what its messages are called by."""
    return session.partition(_END_OF_NAME)[0]


class SessionIds:
    """Makes and checks the ids of a broker's sessions: ``broker-number~proof``, of which nothing has to be kept.

    ``broker``: what tells this broker from others. ``key``: random bytes that nobody else knows.
    """

    __slots__ = ("_broker", "_key")

    def __init__(self, broker: str, key: bytes) -> None:
        self._broker = broker
        self._key = key

    def make(self, number: int) -> str:
        """Return the id of a client's session."""
        name = f"{self._broker}-{number}"
        return f"{name}{_END_OF_NAME}{self._proof(name)}"

    def number(self, session: str) -> int | None:
        """Return whose session it is; None where this broker has made no such id."""
        name, _, proof = session.partition(_END_OF_NAME)
        broker, _, number = name.rpartition("-")
        if broker != self._broker or not _is_number(number) or not proof.isascii():
            return None
        return int(number) if hmac.compare_digest(proof, self._proof(name)) else None

    def _proof(self, name: str) -> str:
        digest = hmac.digest(self._key, name.encode(), sha256)[:_MAC_BYTES]
        return urlsafe_b64encode(digest).decode().rstrip("=")
