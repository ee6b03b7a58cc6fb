"""Ids of clients: each is somebody's at one broker only. Pure: the times are arguments."""

from collections import deque
from collections.abc import Callable
from typing import Final, final

from pystrands.engine.cluster import Claimed, Node
from pystrands.engine.nats.envelope import name_of
from pystrands.engine.nats.stamps import Stamps
from pystrands.engine.nats.subscriptions import SLICE, Subscriptions
from pystrands.engine.nats.talk import Claim, ClaimAnswer
from pystrands.engine.nats.voice import Voice

__all__ = ["CLAIM_BYTES", "Claims"]

CLAIM_BYTES: Final = 400
"""What is kept for a client."""
REPEATED_AFTER: Final = 2.0
"""Seconds after which a claim is repeated: two that were made at once may not have seen each other."""
_SETTLED: Final = 3.0
"""Seconds after which a client makes room for a new claim whatever the clocks of the brokers say."""
_TIMEOUT: Final = 5.0
"""Seconds after which nobody waits any longer for a client elsewhere to be gone."""
_OTHERS: Final = 0.25
"""Seconds that one waits for others, when a broker has said that it has not got the client."""


@final
class _Held:
    """An id that this broker has, or is about to have, a client of; so many times."""

    __slots__ = ("at", "count", "stamp")

    def __init__(self) -> None:
        self.count = 0
        self.stamp = 0
        self.at = 0.0


@final
class _Asked:
    """A claim that may be answered. ``claimed`` is None for one that was repeated: nobody waits for that."""

    __slots__ = ("claimed", "client_id", "deadline", "stamp")

    def __init__(self, client_id: str, stamp: int, claimed: Claimed | None, deadline: float) -> None:
        self.client_id = client_id
        self.stamp = stamp
        self.claimed = claimed
        self.deadline = deadline


@final
class Claims:
    """The ids of this broker's clients, and how they are taken from others."""

    def __init__(
        self, voice: Voice, node: Callable[[], Node | None], subscriptions: Subscriptions, stamps: Stamps
    ) -> None:
        self._voice = voice
        self._node = node
        self._subscriptions = subscriptions
        self._stamps = stamps
        self._held: dict[str, _Held] = {}  # that which was claimed last is last
        self._asked: dict[int, _Asked] = {}
        self._to_repeat: deque[tuple[float, str, int]] = deque()

    def __len__(self) -> int:
        """How many ids are held."""
        return len(self._held)

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept."""
        return len(self._held) * CLAIM_BYTES

    # --- who claims ---

    def claim(self, number: int, client_id: str, claimed: Claimed, now: float, is_alone: bool) -> None:
        """Take an id. ``number`` is the claim's own."""
        held = self._held.pop(client_id, None) or _Held()
        self._held[client_id] = held
        held.count += 1
        held.stamp = self._stamps.make()
        held.at = now
        if held.count == 1:
            self._subscriptions.want(self._voice.subjects.client(client_id), now)
        if is_alone or not self._voice.transport.is_up:
            claimed()
            return
        self._asked[number] = _Asked(client_id, held.stamp, claimed, now + _TIMEOUT)
        self._to_repeat.append((now + REPEATED_AFTER, client_id, held.stamp))
        self._send(number, client_id, held.stamp, is_repeated=False)

    def _send(self, number: int, client_id: str, stamp: int, is_repeated: bool) -> None:
        claim = Claim(number, client_id.encode(errors="surrogatepass"), stamp, is_repeated)
        reply = b"" if is_repeated else self._voice.mine + b".%d" % number
        self._voice.say(self._voice.subjects.client(client_id), claim, reply)

    def release(self, client_id: str, now: float) -> None:
        """Give back an id, once for each claim."""
        held = self._held.get(client_id)
        if held is None:
            return
        held.count -= 1
        if held.count == 0:
            del self._held[client_id]
            self._subscriptions.unwant(self._voice.subjects.client(client_id), now, 0.0)

    def on_answer(self, answer: ClaimAnswer, now: float) -> None:
        """Take what another broker says to a claim."""
        asked = self._asked.get(answer.number)
        if asked is None:
            return
        if not answer.is_here:  # somebody else may have it, and not be as quick
            asked.deadline = min(asked.deadline, now + _OTHERS)
            return
        del self._asked[answer.number]
        held = self._held.get(asked.client_id)
        claimed = asked.claimed or _nothing
        node = self._node()
        if answer.is_lost and node is not None and held is not None and held.stamp == asked.stamp:
            node.on_claim(asked.client_id, claimed)
        else:
            claimed()

    def on_nobody(self, number: int) -> None:
        """Nobody else has that id."""
        asked = self._asked.pop(number, None)
        if asked is not None and asked.claimed is not None:
            asked.claimed()

    # --- who is asked ---

    def on_claim(self, sender: int, asker: bytes, claim: Claim, is_late: bool, now: float) -> None:
        """Have the client of that id go, or tell that it stays since it is the newer one. Raises Malformed.

        ``is_late``: a server that hung hands it on, and the sender has another connection by now.
        """
        client_id = name_of(claim.client_id)
        held, node, number = self._held.get(client_id), self._node(), claim.number
        if held is None or node is None:
            self._voice.say(asker, ClaimAnswer(number, is_here=False, is_lost=False))
            return
        is_settled = not (claim.is_repeated or is_late) and now - held.at > _SETTLED
        if not is_settled and (claim.stamp, sender) < (held.stamp, self._voice.number):
            self._voice.say(asker, ClaimAnswer(number, is_here=True, is_lost=True))
            return

        def released() -> None:
            self._voice.say(asker, ClaimAnswer(number, is_here=True, is_lost=False))

        node.on_claim(client_id, released)

    # --- time passes, NATS and brokers come and go ---

    def tick(self, now: float, number: Callable[[], int]) -> None:
        """Repeat what is due, and let in who has waited too long for an answer."""
        late = [each for each, asked in self._asked.items() if now >= asked.deadline]
        for each in late:
            self.on_nobody(each)
        count = SLICE
        while self._to_repeat and count and (self._to_repeat[0][0] <= now):
            _, client_id, stamp = self._to_repeat.popleft()
            held = self._held.get(client_id)
            if held is not None and held.stamp == stamp and self._voice.transport.is_up:
                count -= 1
                self._repeat(number(), client_id, stamp, now)

    def _repeat(self, number: int, client_id: str, stamp: int, now: float) -> None:
        self._asked[number] = _Asked(client_id, stamp, None, now + _TIMEOUT)
        self._send(number, client_id, stamp, is_repeated=True)

    def on_disconnected(self) -> None:
        """Let in who waits for others: they can't be asked any more."""
        for number in list(self._asked):
            self.on_nobody(number)

    def repeat_since(self, since: float, now: float) -> None:
        """Repeat the claims that were made after that time, or shortly before: somebody has not heard them."""
        found = []
        for client_id in reversed(self._held):
            held = self._held[client_id]
            if held.at < since - REPEATED_AFTER:
                break
            found.append((now, client_id, held.stamp))
        self._to_repeat.extendleft(found)


def _nothing() -> None:
    """Nobody waits."""
