"""Commands about clients of other brokers: asked again until answered, and done once. Pure."""

from collections.abc import Callable
from typing import Final, final

from pystrands.engine.cluster import Node, Replied
from pystrands.engine.nats.envelope import name_of
from pystrands.engine.nats.parts import PartsIn, parts_of
from pystrands.engine.nats.talk import Command, CommandAnswer
from pystrands.engine.nats.voice import Voice

__all__ = ["UNREACHABLE", "RemoteCommands"]

UNREACHABLE: Final = "other brokers can't be reached: the connection to NATS is lost"
_AGAIN: Final = 1.0
"""Seconds after which a command is sent again."""
_SOON: Final = 0.2
"""Seconds after which it is where a broker is away that may have the client."""
_REMEMBERED: Final = 60.0
"""Seconds for which it is remembered that a command was done, and what came of it."""
_MAX_DONE_BYTES: Final = 4 * 1024 * 1024
_BESIDE: Final = 300


@final
class _Asked:
    """A command that waits for its answer."""

    __slots__ = ("answer", "command", "deadline", "is_sure", "replied", "sent", "subject", "timeout")

    def __init__(self, subject: bytes, command: Command, timeout: float, replied: Replied, now: float) -> None:
        self.subject = subject
        self.command = command
        self.timeout = timeout
        self.deadline = now + timeout
        self.replied = replied
        self.sent = now
        self.is_sure = False
        """Whether it was sent when all who live had said that they are there."""
        self.answer = PartsIn()


@final
class _Done:
    """A command of another broker: what came of it, once that is known."""

    __slots__ = ("answer", "asker", "at")

    def __init__(self, asker: bytes, at: float) -> None:
        self.asker = asker
        self.at = at
        self.answer: bytes | None = None


@final
class RemoteCommands:
    """Both sides of it. ``has`` says whether this broker has a client of an id."""

    def __init__(self, voice: Voice, node: Callable[[], Node | None]) -> None:
        self._voice = voice
        self._node = node
        self._asked: dict[int, _Asked] = {}
        self._asked_bytes = 0
        self._done: dict[tuple[int, int], _Done] = {}
        self._done_bytes = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        return self._asked_bytes + self._done_bytes

    # --- who asks ---

    def ask(self, number: int, client_id: str, command: bytes, timeout: float, replied: Replied, now: float) -> None:
        """Have a command done; ``number`` is its own for as long as this process lives."""
        name = client_id.encode(errors="surrogatepass")
        if not self._voice.fits(len(command) + len(name)):
            replied(None, f"the command has {len(command)} bytes, and NATS takes {self._voice.part_bytes()}")
            return
        asked = _Asked(self._voice.subjects.client(client_id), Command(number, name, command), timeout, replied, now)
        self._asked[number] = asked
        self._asked_bytes += len(command) + _BESIDE
        self._send(number, asked)

    def _send(self, number: int, asked: _Asked) -> None:
        self._voice.say(asked.subject, asked.command, self._voice.mine + b".%d" % number)

    def on_answer(self, answer: CommandAnswer) -> None:
        """Take a part of an answer."""
        asked = self._asked.get(answer.number)
        if asked is not None:
            whole = asked.answer.add(answer.index, answer.is_last, answer.content)
            if whole is not None:
                self._end(answer.number, asked, whole, "")

    def on_nobody(self, number: int) -> bool:
        """Nobody took a command; return whether it is to be known first if all are there."""
        asked = self._asked.get(number)
        if asked is None:
            return False
        if asked.is_sure:
            self._end(number, asked, None, "")
        return not asked.is_sure

    def on_all_here(self, number: int, now: float) -> None:
        """All who live are there: whoever may have been away before has the command now."""
        asked = self._asked.get(number)
        if asked is not None:
            asked.is_sure = True
            asked.sent = now
            self._send(number, asked)

    def on_unknown(self, number: int, now: float) -> None:
        """One who may have that client is away: ask soon again."""
        asked = self._asked.get(number)
        if asked is not None:
            asked.sent = now - _AGAIN + _SOON

    def _end(self, number: int, asked: _Asked, answer: bytes | None, problem: str) -> None:
        del self._asked[number]
        self._asked_bytes -= len(asked.command.command) + _BESIDE
        asked.replied(answer, problem)

    def on_connected(self, now: float) -> None:
        """Send again what has no answer: it may be lost."""
        for number, asked in self._asked.items():
            asked.sent = now
            asked.is_sure = False
            self._send(number, asked)

    def tick(self, now: float) -> None:
        """End what was not answered in time; forget what is long done."""
        for number, asked in list(self._asked.items()):
            if now >= asked.deadline:
                problem = f"the broker that has the client has not answered within {asked.timeout:g} s"
                self._end(number, asked, None, problem if self._voice.transport.is_up else UNREACHABLE)
            elif now - asked.sent >= _AGAIN:
                asked.sent = now
                asked.is_sure = False
                self._send(number, asked)
        for _ in range(len(self._done)):
            key, done = next(iter(self._done.items()))
            if now - done.at < _REMEMBERED and self._done_bytes <= _MAX_DONE_BYTES:
                break
            if done.answer is None:  # a client is asked, and takes its time: it must not be asked again
                done.at = now
                self._done[key] = self._done.pop(key)
            else:
                self._forget(key)

    # --- who is asked ---

    def on_command(self, sender: int, asker: bytes, command: Command, now: float) -> None:
        """Do what another broker wants done; once, however often it asks. Raises Malformed."""
        client_id = name_of(command.client_id)
        key = (sender, command.number)
        done = self._done.get(key)
        if done is not None:
            if done.answer is not None:
                self._answer(command.number, done)
            return
        node = self._node()
        if node is None:
            return
        done = self._done[key] = _Done(asker, now)
        self._done_bytes += _BESIDE
        number, kept = command.number, done

        def reply(answer: bytes) -> None:
            if kept.answer is None:
                kept.answer = answer
                if key in self._done:
                    self._done_bytes += len(answer)
                self._answer(number, kept)

        node.on_command(client_id, command.command, reply)

    def _answer(self, number: int, done: _Done) -> None:
        assert done.answer is not None
        for index, is_last, content in parts_of(done.answer, self._voice.part_bytes()):
            self._voice.say(done.asker, CommandAnswer(number, index, is_last, content))

    def _forget(self, key: tuple[int, int]) -> None:
        done = self._done.pop(key)
        self._done_bytes -= _BESIDE + (0 if done.answer is None else len(done.answer))
