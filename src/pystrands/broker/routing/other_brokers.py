"""What is asked of other brokers for the backends of this one. An answer comes once, now or later."""

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.counters import Counters
from pystrands.broker.routing.client_commands import ClientCommand
from pystrands.broker.routing.client_requests import Answered
from pystrands.broker.routing.confirming import Confirming
from pystrands.broker.routing.questions import (
    BrokerStatus,
    CloseUser,
    KeepRooms,
    KeptRoom,
    KeptRooms,
    Members,
    Present,
    encode,
    read_kept,
    read_members,
    read_present,
    read_result,
)
from pystrands.engine.cluster import Cluster
from pystrands.engine.publication import Delivered
from pystrands.protocol.messages import NOT_KNOWN, DisconnectUser, RequestClient
from pystrands.protocol.v1.presence import Entry, merged, shown_as

__all__ = ["OtherBrokers", "present"]

logger = logging.getLogger(__name__)

_LONGEST_PATIENCE: Final = 3600.0
"""Seconds for the answer of a client, at most."""
_BYTES: Final = 16 * 1024 * 1024
"""Bytes of questions that wait for their answers, with what is known of the answer already."""
_QUESTION_BYTES: Final = 1000
"""What one takes beside that."""
_APART: Final = "the other brokers can't be reached now (NATS is down, or out of reach)"
_TOO_MANY: Final = "too much was asked of other brokers at once: try again"


class OtherBrokers:
    """Asks them. What waits for their answers is bounded; past that there is an error at once, which is counted."""

    def __init__(self, cluster: Cluster, counters: Counters, bounds: Bounds = BOUNDS) -> None:
        self._cluster = cluster
        self._counters = counters
        self._patience = bounds.others
        self._at_once = bounds.others_asked
        self._waiting = 0
        self.held_bytes = 0
        """About how many bytes are kept for those who wait for answers."""

    @property
    def is_alone(self) -> bool:
        """Whether there is surely no other broker, so that what this one knows is all there is."""
        return self._cluster.is_connected and not self._cluster.peers

    def request(self, command: RequestClient, answered: Answered) -> None:
        """Ask a client that is not here, and wait for its answer."""
        self._about_client(command, min(command.params.timeout, _LONGEST_PATIENCE) + self._patience, answered)

    def about_client(self, command: ClientCommand, answered: Answered) -> None:
        """Have something done with a client that is not here."""
        self._about_client(command, self._patience, answered)

    def _about_client(self, command: ClientCommand | RequestClient, patience: float, answered: Answered) -> None:
        if not self._cluster.is_connected:
            answered({"error": f"no client of this broker has this client_id, and {_APART}"})
            return
        data = encode(msgspec.structs.replace(command, request_id=None, seq=0))
        size = self._begin(len(data), answered)
        if not size:
            return

        def replied(answer: bytes | None, why: str) -> None:
            self._end(size)
            if answer is None:
                answered({"error": why} if why else {"found": False})
                return
            try:
                answered(read_result(answer))
            except NOT_KNOWN:
                answered({"error": "the answer of the client's broker can't be read: has it another version?"})

        self._cluster.command(command.params.client_id, data, patience, replied)

    def members(self, room_id: str, limit: int, here: list[Raw], is_partial: bool, answered: Answered) -> None:
        """Tell who is in a room, ``here`` and elsewhere. ``is_partial``: whether a part is better than nothing.

        ``limit``: bytes that an answer may have; 0 for any number.
        """
        if not self._cluster.is_connected:
            answered({"members": here, "complete": False} if is_partial else {"error": _APART})
            return
        size = self._begin(sum(memoryview(each).nbytes for each in here), answered)
        if not size:
            return

        def surveyed(answers: Sequence[tuple[str, bytes]], silent: Sequence[str]) -> None:
            self._end(size)
            members = list(here)
            for broker_id, data in answers:
                try:
                    part = read_members(data)
                except NOT_KNOWN:
                    answered({"error": f"the answer of the broker {broker_id} can't be read: has it another version?"})
                    return
                if part.error:
                    answered({"error": part.error})
                    return
                members += part.members
            if not silent:
                answered({"members": members})
            elif is_partial:
                answered({"members": members, "complete": False})
            else:
                answered({"error": f"{_silent(silent)}: ask again, or with partial=True for those who are known"})

        self._cluster.survey(encode(Members(room_id, limit)), self._patience, surveyed)

    def disconnect_user(self, command: DisconnectUser, here: int, answered: Answered) -> None:
        """Have all clients of a user closed that are elsewhere; ``here`` are closed."""
        if not self._cluster.is_connected:
            answered({"matched": here, "error": f"{_closed(here)}, and {_APART}"})
            return
        size = self._begin(0, answered)
        if not size:
            return

        def surveyed(answers: Sequence[tuple[str, bytes]], silent: Sequence[str]) -> None:
            self._end(size)
            matched, unread = here, list(silent)
            for broker_id, data in answers:
                try:
                    matched += read_result(data)["matched"]
                except (*NOT_KNOWN, KeyError, TypeError):
                    unread.append(broker_id)
            result: dict[str, Any] = {"matched": matched}
            if unread:
                result["error"] = f"{_closed(matched)}, and {_silent(unread)}: try again"
            answered(result)

        params = command.params
        question = CloseUser(params.user, params.code, params.reason, secrets.token_hex(8))
        self._cluster.survey(encode(question), self._patience, surveyed)

    def present(self, room_id: str, limit: int, here: list[Entry], is_partial: bool, answered: Answered) -> None:
        """Tell who is present in a room, as :meth:`members` does who is in it."""
        if not self._cluster.is_connected:
            answered(present(here, complete=False) if is_partial else {"error": _APART})
            return
        size = self._begin(len(encode(here)), answered)
        if not size:
            return

        def surveyed(answers: Sequence[tuple[str, bytes]], silent: Sequence[str]) -> None:
            self._end(size)
            entries, unread = list(here), list(silent)
            for broker_id, data in answers:
                try:
                    part = read_present(data)
                except NOT_KNOWN:
                    unread.append(broker_id)
                    continue
                if part.error:
                    answered({"error": part.error})
                    return
                entries += part.entries
            if not unread or is_partial:
                answered(present(entries, complete=not unread))
            else:
                answered({"error": f"{_silent(unread)}: ask again, or with partial=True for those who are known"})

        self._cluster.survey(encode(Present(room_id, limit)), self._patience, surveyed)

    def keep_history(self, room: KeptRoom, answered: Answered) -> None:
        """Have the others keep a room's history, or no more."""
        if not self._cluster.is_connected:
            answered({"error": f"this broker does so, and {_APART}"})
            return
        size = self._begin(0, answered)
        if not size:
            return

        def surveyed(answers: Sequence[tuple[str, bytes]], silent: Sequence[str]) -> None:
            self._end(size)
            problem = f"{_silent(silent)}: ask again" if silent else ""
            for broker_id, data in answers:
                try:
                    problem = read_kept(data).error or problem
                except NOT_KNOWN:
                    problem = f"the answer of the broker {broker_id} can't be read: has it another version?"
            answered({"error": problem} if problem else {"found": True})

        self._cluster.survey(encode(KeepRooms([room])), self._patience, surveyed)

    def kept(self, told: Callable[[list[KeptRoom]], None]) -> None:
        """Ask which histories the others keep; ``told`` is called for each that answers."""
        if not self._cluster.is_connected:
            return

        def surveyed(answers: Sequence[tuple[str, bytes]], silent: Sequence[str]) -> None:  # noqa: ARG001 - Surveyed
            for broker_id, data in answers:
                try:
                    told(read_kept(data).rooms)
                except NOT_KNOWN:
                    logger.warning("the broker %s does not tell which histories it keeps", broker_id)

        self._cluster.survey(encode(KeptRooms()), self._patience, surveyed)

    def status(self, here: dict[str, Any], answered: Answered) -> None:
        """Tell what each broker has, this one first; of those that don't answer only their ids."""
        if not self._cluster.is_connected:
            silent = [peer.broker_id for peer in self._cluster.peers]
            answered({"brokers": [here], "silent": silent, "connected": False})
            return
        size = self._begin(0, answered)
        if not size:
            return

        def surveyed(answers: Sequence[tuple[str, bytes]], silent: Sequence[str]) -> None:
            self._end(size)
            brokers, unread = [here], list(silent)
            for broker_id, data in answers:
                try:
                    brokers.append(read_result(data))
                except NOT_KNOWN:
                    unread.append(broker_id)
            answered({"brokers": brokers, "silent": unread, "connected": True})

        self._cluster.survey(encode(BrokerStatus()), self._patience, surveyed)

    def confirm(self, confirming: Confirming) -> None:
        """Ask what became of the publication that was published last."""
        size = self._begin(0, None)
        if not size:
            confirming.elsewhere((0, 0), False)
            return

        def confirmed(delivered: Delivered, complete: bool) -> None:
            self._end(size)
            confirming.elsewhere(delivered, complete)

        self._cluster.confirm(self._patience, confirmed)

    # --- bounds ---

    def _begin(self, size: int, answered: Answered | None) -> int:
        """Count what is about to wait, and return its bytes; 0 where there is no room for it, which is told."""
        size += _QUESTION_BYTES
        if self._waiting and (self._waiting >= self._at_once or self.held_bytes + size > _BYTES):
            self._counters["engine_questions_refused"] += 1
            if answered is not None:
                answered({"error": _TOO_MANY})
            return 0
        self._waiting += 1
        self.held_bytes += size
        return size

    def _end(self, size: int) -> None:
        self._waiting -= 1
        self.held_bytes -= size


def present(entries: Sequence[Entry], *, complete: bool = True) -> dict[str, Any]:
    """Return what a ``result`` says of those who are present; several entries may be one user's."""
    users: dict[str, list[Entry]] = {}
    for entry in entries:
        users.setdefault(entry.user, []).append(entry)
    shown = [shown_as(whole) for some in users.values() if (whole := merged(some)) is not None]
    return {"present": shown} if complete else {"present": shown, "complete": False}


def _closed(count: int) -> str:
    return f"{count} client{'' if count == 1 else 's'} of the user {'was' if count == 1 else 'were'} closed"


def _silent(brokers: Sequence[str]) -> str:
    names = ", ".join(brokers)
    return f"{'a broker has' if len(brokers) == 1 else f'{len(brokers)} brokers have'} not answered in time ({names})"
