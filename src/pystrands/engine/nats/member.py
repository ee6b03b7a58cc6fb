"""What is known of another broker. Pure."""

import math
from collections import deque
from typing import Final, final

from pystrands.engine.nats.subscriptions import Subscription

__all__ = ["WAITING_BYTES", "Member", "Waiting"]

WAITING_BYTES: Final = 250
"""What a message that waits takes beside its content."""


@final
class Waiting:
    """A message that waits for others of its sender; or the end of an answer, without envelope."""

    __slots__ = ("denied", "envelope", "first", "is_extra", "published", "seq", "subscription")

    def __init__(self, seq: int, envelope: bytes, subscription: Subscription | None) -> None:
        self.seq = seq
        self.envelope = envelope
        self.subscription = subscription
        """By which it came; None for one that came late, in an answer."""
        self.published = math.inf
        """When, at the latest: not known of one that comes at once."""
        self.first = 0
        """Those before this one are known to be lost."""
        self.denied = 0
        """How many answers have not had what is missing before it."""
        self.is_extra = False
        """Whether it is one that was missing on its subject: it tells nothing of other subjects."""


@final
class Member:
    """Another broker, as it was heard last, and how far its messages have come here."""

    __slots__ = (
        "address",
        "after",
        "asked",
        "away_since",
        "backward",
        "base",
        "beat",
        "beat_byte",
        "broker_id",
        "chains",
        "epoch",
        "greeted",
        "has_missed_beats",
        "heard",
        "is_alive",
        "is_answered",
        "is_behind",
        "is_double",
        "is_draining",
        "is_listening",
        "is_met",
        "newest_epoch",
        "number",
        "promised",
        "queue",
        "queue_bytes",
        "safe",
        "seen",
        "seq",
        "subject",
        "to_ask",
    )

    def __init__(self, broker_id: str, number: int, subject: bytes, now: float) -> None:
        self.broker_id = broker_id
        self.number = number
        self.subject = subject
        self.address = ""
        self.is_draining = False
        self.is_double = False
        """Whether it was told that it has our address."""
        self.away_since = -1.0
        """When it was heard last before it was away; negative where it knows all that was said since."""
        self.is_listening = False
        """Whether what is for its clients reaches it, as it has said since we are connected."""
        self.is_alive = True
        self.heard = now
        self.greeted = -1.0
        """When it was last asked to say hello."""
        self.epoch = self.newest_epoch = -1
        """Of its connection to NATS: the last, and the greatest that was heard. What comes with a smaller one than that
        has hung in a server."""
        self.beat = 0
        self.beat_byte = 0
        """What stands for its last heartbeat in heads of its messages: with another one some are lost before it."""
        self.seq = 0
        """The number of its last message, as far as we know."""
        self.promised = 0
        """The number of our last message when we met it: it gets those after that."""
        # How far its messages have come.
        self.is_met = False
        """Whether it has promised us its messages, from one on."""
        self.base = 0
        """The last one before that."""
        self.seen = 0
        """The last one that passed us: those before it that were for us have come, or are asked for in ``chains``."""
        self.safe = 0
        """What ``seen`` was at its last heartbeat."""
        self.backward = 0
        """How many of its heartbeats in a row told a lower number than ``safe``."""
        self.has_missed_beats = False
        """Whether we wait for the last numbers on subjects, since those after ``safe`` may not all have come."""
        self.is_behind = True
        """Whether we have to ask it for all after ``after``, and take nothing else meanwhile."""
        self.after = 0
        self.asked = -1.0
        """When that was asked; negative while it was not."""
        self.is_answered = False
        """Whether a part of the answer is being taken; the next one is asked for after that."""
        self.queue: deque[Waiting] = deque()
        """What waits for messages before it."""
        self.queue_bytes = 0
        self.chains: dict[bytes, float] = {}
        """Subjects on which messages are missing, each with the time when they were asked for."""
        self.to_ask: list[bytes] = []
        """Those of them to be asked for at the end of this turn."""
