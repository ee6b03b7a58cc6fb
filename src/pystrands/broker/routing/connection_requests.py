"""Clients that want to come in: which backend is asked, for how long, and what they hear."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final
from uuid import uuid4

import msgspec
from msgspec import Raw

from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import Session
from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.counters import Counters
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.net.http import RETRY_AFTER
from pystrands.broker.routing.claimed_ids import TAKEN_AGAIN, ClaimedIds
from pystrands.protocol import wire
from pystrands.protocol.limits import MAX_DEPTH, MAX_ID, MAX_REASON, Limits, id_problem, is_deep, pruned
from pystrands.protocol.messages import NOT_KNOWN, Response, ResponseParams

__all__ = ["ConnectionRequests"]

logger = logging.getLogger(__name__)

_STOPPING: Final = "the server is going down"


class _Question:
    """A client that no backend has decided on yet; ``asked`` are those that may, each with its request id."""

    __slots__ = ("asked", "handshake", "timer", "wants_another", "was_asked")

    def __init__(self, handshake: Handshake, timer: asyncio.TimerHandle) -> None:
        self.handshake = handshake
        self.timer = timer
        self.asked: dict[Session, str] = {}
        self.was_asked = False
        self.wants_another = False
        """Whether those that were asked may be gone, and nobody else was there to ask."""


class ConnectionRequests:
    """Decides on clients, for the WebSocket side. Callbacks only; nothing waits.

    ``hold_time``: seconds that a client waits for a backend to be there (503). ``answer_timeout``: seconds that there
    are for the answer, however many backends are asked (504). ``admit(session, handshake, answer)`` lets a client in.
    ``limits``: what a client may have.
    """

    def __init__(
        self,
        sessions: SessionRegistry,
        ending: EndingStreams,
        admit: Callable[[Session, Handshake, ResponseParams], bool],
        loop: asyncio.AbstractEventLoop,
        *,
        hold_time: float,
        answer_timeout: float,
        counters: Counters,
        limits: Limits,
        claimed_ids: ClaimedIds | None = None,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self._bounds = bounds
        self._limits = limits
        self._claimed_ids = claimed_ids
        self._sessions = sessions
        self._ending = ending
        self._admit = admit
        self._loop = loop
        self._hold_time = hold_time
        self._answer_timeout = answer_timeout
        self._counters = counters
        self._questions: dict[Handshake, _Question] = {}
        self._unasked: dict[Handshake, _Question] = {}  # those that no backend could be asked about yet, oldest first
        self._asked: dict[str, _Question] = {}  # by request id
        self._claiming: dict[Handshake, None] = {}  # those that are as good as in
        self._next_request = 1
        self._stopping = False
        ending.listen(self._not_behind)

    def __len__(self) -> int:
        """How many clients wait for a decision."""
        return len(self._questions) + len(self._claiming)

    def stop(self) -> None:
        """Let nobody in any more."""
        self._stopping = True
        for question in list(self._questions.values()):
            self._refuse(question, 503, _STOPPING, "refused_stopping")
        claiming, self._claiming = self._claiming, {}
        for handshake in claiming:
            self._counters["refused_stopping"] += 1
            handshake.refuse(503, _STOPPING, (RETRY_AFTER,))

    # --- what clients do ---

    def is_ready(self) -> bool:
        """Whether a new client would find a backend."""
        return not self._stopping and self._sessions.choose_owner() is not None

    def connection_request(self, handshake: Handshake) -> None:
        """A client wants to come in: ask a backend, or hold it until there is one."""
        if self._stopping:
            handshake.refuse(503, _STOPPING, (RETRY_AFTER,))
            return
        timer = self._loop.call_later(self._hold_time, self._timed_out, handshake)
        question = self._questions[handshake] = _Question(handshake, timer)
        self._ask(question)

    def connection_gone(self, handshake: Handshake) -> None:
        """The client did not wait for the decision."""
        question = self._questions.get(handshake)
        if question is not None:
            self._forget(question)
        elif handshake in self._claiming:
            del self._claiming[handshake]
        else:
            return
        self._counters["handshakes_abandoned"] += 1

    # --- what sessions do ---

    def available(self) -> None:
        """A backend is there: ask it about those whom nobody was asked about, or only who may be gone."""
        for question in list(self._questions.values()):
            if question.wants_another or not question.asked:
                self._ask(question)

    def unlinked(self, session: Session) -> None:
        """A backend that was asked lost its link: ask another one, unless it is soon back."""
        if session.requests:
            self._loop.call_later(self._bounds.without_link, self._ask_others, session)

    def leaving(self, session: Session) -> None:
        """A backend that was asked may not answer any more: ask another one as well."""
        for question in self._put_to(session):
            self._ask(question)

    def died(self, session: Session) -> None:
        """A backend will not answer: ask another one."""
        questions = self._put_to(session)
        for request_id in session.requests:
            del self._asked[request_id]
        session.requests.clear()
        for question in questions:
            del question.asked[session]
            if not question.asked:
                self._ask(question)

    def on_response(self, session: Session, command: Response) -> None:
        """A backend has decided; the first answer wins, and those about clients that left are ignored."""
        request_id, answer = command.request_id, command.params
        question = self._question(session, request_id)
        if question is None:
            self._counters["responses_unexpected"] += 1
        elif not answer.accepted:
            reason = answer.reason[:MAX_REASON] or "the connection was rejected"
            self._refuse(question, _refusal_status(session, answer.status), reason, "refused_by_backend")
        elif answer.room_id in (None, path := question.handshake.path) and id_problem("room_id", path):
            text = f"the path is a room's name here, of at most {MAX_ID} bytes"
            self._refuse(question, 414, text, "refused_long_path")
        elif self._is_usable(session, request_id, answer, path):
            self._forget(question)
            if self._claimed_ids is None:
                self._admit(session, question.handshake, answer)
            else:
                self._claim(self._claimed_ids, session, question.handshake, answer)

    def _claim(self, claimed_ids: ClaimedIds, session: Session, handshake: Handshake, answer: ResponseParams) -> None:
        """Let a client in once no other broker has one of its id; no time-out of ours ends that."""
        client_id = answer.client_id = answer.client_id or str(uuid4())
        self._claiming[handshake] = None
        claimed = partial(self._claimed, claimed_ids, client_id, session, handshake, answer)
        claimed_ids.claim(client_id, claimed, partial(self._taken, handshake))

    def _taken(self, handshake: Handshake) -> None:
        """Somebody at another broker has come with the same id, a moment later."""
        if handshake in self._claiming:
            del self._claiming[handshake]
            self._counters["refused_taken"] += 1
            handshake.refuse(409, TAKEN_AGAIN)

    def _claimed(
        self, claimed_ids: ClaimedIds, client_id: str, session: Session, handshake: Handshake, answer: ResponseParams
    ) -> None:
        if handshake not in self._claiming:
            claimed_ids.release(client_id)
            return
        del self._claiming[handshake]
        if not self._admit(session, handshake, answer):
            claimed_ids.release(client_id)

    def _is_usable(self, session: Session, request_id: str, answer: ResponseParams, path: str) -> bool:
        """Whether a client can be let in like this. If it can't, it is refused, and its backend is told why."""
        try:
            metadata = _readable(answer.metadata)
        except (*NOT_KNOWN, OverflowError) as error:
            self._counters["lines_malformed"] += 1
            problem = f"the metadata of an answer could not be read, and its client is not let in: {error}"
        else:
            if is_deep(bytes(metadata)):
                metadata = Raw(msgspec.json.encode(pruned(msgspec.json.decode(metadata))))
                _notify(
                    session, f"the metadata of an answer has more than {MAX_DEPTH} levels: what is deeper became null"
                )
            answer.metadata = metadata
            problem = self._problem(answer, path)
        if problem:
            self.could_not_be_read(session, request_id)
            _notify(session, problem)
        return not problem

    def _problem(self, answer: ResponseParams, path: str) -> str:
        """Return what an answer has more of than a client may have, in words for people; empty when there is none."""
        client_id, room_id = answer.client_id or "", path if answer.room_id is None else answer.room_id
        rooms = tuple(dict.fromkeys((room_id, *answer.rooms)))
        problem = id_problem("client_id", client_id) or id_problem("user", answer.user or "")
        for each in rooms:
            problem = problem or id_problem("room_id", each)
        if not problem and len(rooms) > self._limits.max_rooms:
            problem = (
                f"it is to be in {len(rooms)} rooms, and may be in {self._limits.max_rooms} "
                "(the broker's --max-rooms-per-client)"
            )
        if not problem:
            others = None if len(rooms) == 1 else rooms
            size = len(wire.context_json(client_id or " " * 36, room_id, bytes(answer.metadata), others, answer.user))
            problem = self._limits.context_problem(size)
        return problem and f"a client is not let in: {problem}"

    def could_not_be_read(self, session: Session, request_id: str) -> None:
        """A backend has answered what can't be used."""
        if (question := self._question(session, request_id)) is not None:
            self._refuse(question, 502, "the backend's answer can't be used", "refused_bad_answer")

    # --- how ---

    def _not_behind(self) -> None:
        self._loop.call_soon(self.available)

    def _question(self, session: Session, request_id: str) -> _Question | None:
        """Return what that session was asked with that id, and has not answered."""
        return self._asked.get(request_id) if request_id in session.requests else None

    def _put_to(self, session: Session) -> list[_Question]:
        """Return all that a session was asked, and has not answered."""
        return [self._asked[request_id] for request_id in session.requests]

    def _ask(self, question: _Question) -> None:
        """Put the question to the least loaded backend that has not heard it, under a request id of its own."""
        session = None if self._ending.is_behind else self._sessions.choose(question.asked)
        question.wants_another = session is None
        if session is None:
            if not question.asked:
                self._unasked[question.handshake] = question
            return
        self._unasked.pop(question.handshake, None)
        if not question.was_asked:  # one deadline over all backends that get to hear it
            question.was_asked = True
            question.timer.cancel()
            question.timer = self._loop.call_later(self._answer_timeout, self._timed_out, question.handshake)
        request_id = str(self._next_request)
        self._next_request += 1
        question.asked[session] = request_id
        session.was_asked = True
        if session.is_mute and len(question.asked) == 1:
            self._loop.call_later(self._bounds.mute, self._ask_besides_mute, question)
        session.requests[request_id] = None
        self._asked[request_id] = question
        shake = question.handshake
        token = None if shake.offer is None else shake.offer.token
        session.ask(
            wire.connection_request(
                request_id,
                shake.path,
                shake.query_string,
                shake.headers,
                shake.remote_addr,
                token,
                shake.resumes,
            )
        )

    def _ask_others(self, session: Session) -> None:
        if session.link is None:
            for question in self._put_to(session):
                self._ask(question)

    def _ask_besides_mute(self, question: _Question) -> None:
        """Those that were asked are perhaps no backends: ask one that is, or else all that may be; who comes, too."""
        while question.handshake in self._questions and not question.wants_another and _all_mute(question.asked):
            self._ask(question)

    def _forget(self, question: _Question) -> None:
        question.timer.cancel()
        del self._questions[question.handshake]
        self._unasked.pop(question.handshake, None)
        for session, request_id in question.asked.items():
            session.requests.pop(request_id, None)
            self._asked.pop(request_id, None)
        if not self._stopping:
            for handshake in self._unasked:  # this has made room
                self._ask(self._unasked[handshake])
                break

    def _refuse(self, question: _Question, status: int, reason: str, counter: str) -> None:
        self._forget(question)
        self._counters[counter] += 1
        question.handshake.refuse(status, reason, (RETRY_AFTER,) if status == 503 else ())

    def _timed_out(self, handshake: Handshake) -> None:
        question = self._questions[handshake]
        asked = list(question.asked)
        if not asked and self._ending.is_behind:
            text = "the backends are behind with clients that have left; try again soon"
            self._refuse(question, 503, text, "refused_no_backend")
        elif _all_mute(asked):
            self._refuse(question, 503, "no backend is connected; try again soon", "refused_no_backend")
        else:
            self._refuse(question, 504, "the backend did not answer in time", "refused_no_answer")
        for session in asked:
            if not session.unresponsive:
                session.unresponsive = True
                logger.warning(
                    "%s left a connection request unanswered for %g s (--answer-timeout): "
                    "it gets no new clients until it speaks",
                    session.name,
                    self._answer_timeout,
                )


def _all_mute(sessions: Iterable[Session]) -> bool:
    """Tell whether none of them is known to be a backend; so it is when there are none."""
    return all(session.is_mute for session in sessions)


def _refusal_status(session: Session, status: int) -> int:
    if 400 <= status <= 599:
        return status
    logger.warning("%s rejected a client with status %d, which refuses nobody: it got 403", session.name, status)
    return 403


def _notify(session: Session, text: str) -> None:
    """Tell a backend of what is wrong with an answer of its own."""
    logger.warning("%s: %s", session.name, text)
    session.write(wire.error(wire.NOBODY, text))


def _readable(metadata: Raw) -> Raw:
    """Return metadata that every backend can read, since others may get it. Raises what decoding raises.

    JSON sets no bounds to numbers. What is beyond a double becomes the largest one.
    """
    try:
        msgspec.json.decode(metadata)
    except msgspec.ValidationError:
        value = json.loads(bytes(metadata), parse_float=_as_double)
        return Raw(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    return metadata


def _as_double(number: str) -> float:
    return max(-sys.float_info.max, min(float(number), sys.float_info.max))
