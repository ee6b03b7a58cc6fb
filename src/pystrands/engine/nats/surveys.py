"""Questions to all other brokers. Pure: the time is an argument."""

from collections.abc import Callable, Iterable
from typing import Final, final

from pystrands.engine.cluster import Node, Surveyed
from pystrands.engine.nats.member import Member
from pystrands.engine.nats.parts import PartsIn, parts_of
from pystrands.engine.nats.talk import Part, Question
from pystrands.engine.nats.voice import Voice

__all__ = ["Surveys"]

_BESIDE: Final = 300


@final
class _Waiting:
    """Somebody who has asked, and until when it waits."""

    __slots__ = ("deadline", "surveyed")

    def __init__(self, surveyed: Surveyed, deadline: float) -> None:
        self.surveyed = surveyed
        self.deadline = deadline


@final
class _Survey:
    """A question that is on its way, and what was answered so far."""

    __slots__ = ("answers", "coming", "later", "number", "open", "question", "waiting")

    def __init__(self, number: int, question: bytes, members: Iterable[Member]) -> None:
        self.number = number
        self.question = question
        self.open = {member.number: member.broker_id for member in members}
        self.coming: dict[int, PartsIn] = {}
        self.answers: list[tuple[str, bytes]] = []
        self.waiting: list[_Waiting] = []
        self.later: list[_Waiting] = []
        """Who has asked the same since: an answer may be older than that, so all are asked again, once for them."""


@final
class Surveys:
    """Both sides of it. ``members``: who lives."""

    def __init__(self, voice: Voice, node: Callable[[], Node | None], members: dict[int, Member]) -> None:
        self._voice = voice
        self._node = node
        self._members = members
        self._surveys: dict[int, _Survey] = {}
        self._by_question: dict[bytes, _Survey] = {}
        self._unsent: list[_Survey] = []
        self._number = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        return sum(
            len(survey.question)
            + _BESIDE * (1 + len(survey.waiting) + len(survey.later))
            + sum(len(answer) for _, answer in survey.answers)
            + sum(parts.bytes for parts in survey.coming.values())
            for survey in self._surveys.values()
        )

    # --- who asks ---

    def ask(self, question: bytes, timeout: float, surveyed: Surveyed, now: float) -> bool:
        """Ask all; return whether that is to be sent at the end of this turn. Equal questions of a turn are one."""
        if not self._members:
            surveyed((), ())
            return False
        if not self._voice.transport.is_up or not self._voice.fits(len(question)):
            surveyed((), [member.broker_id for member in self._members.values()])
            return False
        waiting = _Waiting(surveyed, now + timeout)
        survey = self._by_question.get(question)
        if survey is None:
            self._begin(question, [waiting])
            return True
        (survey.waiting if survey in self._unsent else survey.later).append(waiting)
        return False

    def _begin(self, question: bytes, waiting: list[_Waiting]) -> None:
        self._number += 1
        survey = _Survey(self._number, question, self._members.values())
        survey.waiting = waiting
        self._surveys[survey.number] = self._by_question[question] = survey
        self._unsent.append(survey)

    def send(self) -> None:
        """Send the questions of this turn."""
        unsent, self._unsent = self._unsent, []
        for survey in unsent:
            self._voice.call(Question(survey.number, survey.question))

    def on_part(self, sender: int, part: Part) -> bool:
        """Take a part of an answer; return whether there are questions to be sent."""
        survey = self._surveys.get(part.number)
        if survey is None or sender not in survey.open:
            return False
        parts = survey.coming.get(sender)
        if parts is None:
            parts = survey.coming[sender] = PartsIn()
        whole = parts.add(part.index, part.is_last, part.content)
        if whole is None:
            return False
        del survey.coming[sender]
        survey.answers.append((survey.open.pop(sender), whole))
        return self._end_if_whole(survey)

    def on_dead(self, sender: int) -> bool:
        """Wait no more for a broker; return whether there are questions to be sent."""
        is_more = False
        for survey in list(self._surveys.values()):
            if survey.open.pop(sender, "") or sender in survey.coming:
                survey.coming.pop(sender, None)
                is_more |= self._end_if_whole(survey)
        return is_more

    def _end_if_whole(self, survey: _Survey) -> bool:
        if survey.open:
            return False
        return self._end(survey)

    def _end(self, survey: _Survey) -> bool:
        del self._surveys[survey.number]
        del self._by_question[survey.question]
        missing = list(survey.open.values())
        is_more = bool(survey.later) and bool(self._members)
        if is_more:
            self._begin(survey.question, survey.later)
        else:
            for waiting in survey.later:
                waiting.surveyed((), ())
        for waiting in survey.waiting:
            waiting.surveyed(survey.answers, missing)
        return is_more

    def on_connected(self) -> None:
        """Ask again what was not answered: it may be lost."""
        for survey in self._surveys.values():
            if survey not in self._unsent:
                self._voice.call(Question(survey.number, survey.question))

    def tick(self, now: float) -> bool:
        """End what was not answered in time; return whether there are questions to be sent."""
        is_more = False
        for survey in list(self._surveys.values()):
            late = [waiting for waiting in survey.waiting if now >= waiting.deadline]
            later = [waiting for waiting in survey.later if now >= waiting.deadline]
            missing = list(survey.open.values())
            if later:
                survey.later = [waiting for waiting in survey.later if now < waiting.deadline]
            if late:
                survey.waiting = [waiting for waiting in survey.waiting if now < waiting.deadline]
                if not survey.waiting:
                    is_more |= self._end(survey)
            for waiting in late:
                waiting.surveyed(list(survey.answers), missing)
            for waiting in later:  # nobody was asked for these
                waiting.surveyed((), [member.broker_id for member in self._members.values()])
        return is_more

    # --- who is asked ---

    def on_question(self, asker: bytes, question: Question) -> None:
        """Answer another broker, now or later."""
        node = self._node()
        if node is None:
            return
        number = question.number

        def reply(answer: bytes) -> None:
            for index, is_last, content in parts_of(answer, self._voice.part_bytes()):
                self._voice.say(asker, Part(number, index, is_last, content))

        node.on_question(question.question, reply)
