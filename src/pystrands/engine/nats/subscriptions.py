"""What this broker wants to hear: subjects, each while somebody here is interested, and for some seconds longer.

Pure: the time is an argument.
"""

from typing import Final, final

from pystrands.engine.nats.transport import Transport

__all__ = ["LINGER", "SLICE", "Subscription", "Subscriptions"]

LINGER: Final = 5.0
"""Seconds that a subscription stays when nobody is interested any more: rooms and clients come back."""
SLICE: Final = 500
"""Subscriptions that are made again in one turn of the loop, after NATS was away."""
SUBSCRIPTION_BYTES: Final = 500
"""What one takes."""
_CLEAN: Final = 5000
_END: Final = 2000


@final
class Subscription:
    """One subject, and the last number that each other broker's messages had there.

    ``since``: when somebody here became interested. Older messages are none of theirs.
    """

    __slots__ = ("is_wanted", "last", "others", "sender", "sid", "since", "subject")

    def __init__(self, subject: bytes, since: float) -> None:
        self.subject = subject
        self.since = since
        self.sid = 0
        self.is_wanted = True
        self.sender = -1
        """The broker whose messages came first, by its number; there is mostly no other."""
        self.last = 0
        self.others: dict[int, int] | None = None
        """The last numbers of the others."""

    def last_of(self, sender: int) -> int:
        """Return the last number that a broker's messages had; -1 where none has come."""
        if sender == self.sender:
            return self.last
        return -1 if self.others is None else self.others.get(sender, -1)

    def set_last(self, sender: int, seq: int) -> None:
        """Set that number."""
        if sender == self.sender:
            self.last = seq
        elif self.sender < 0:
            self.sender = sender
            self.last = seq
        else:
            if self.others is None:
                self.others = {}
            self.others[sender] = seq

    def forget(self, sender: int) -> None:
        """Forget a broker, which is gone for good."""
        if sender == self.sender:
            self.sender = -1
        elif self.others is not None:
            self.others.pop(sender, None)


@final
class Subscriptions:
    """All of them, by their subjects and by NATS's numbers."""

    def __init__(self, transport: Transport) -> None:
        self.by_sid: dict[int, Subscription] = {}
        self._transport = transport
        self._by_subject: dict[bytes, Subscription] = {}
        self._unwanted: dict[bytes, float] = {}  # until when they stay, the next one first
        self._gone: list[int] = []  # brokers that are to be forgotten
        self._cleaning: list[int] = []  # those that are being forgotten
        self._to_clean: list[Subscription] = []  # by these
        self._missing: list[Subscription] = []  # to be made again, the next one last

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_subject)

    @property
    def held_bytes(self) -> int:
        """How many bytes they take."""
        return len(self._by_subject) * SUBSCRIPTION_BYTES

    def find(self, subject: bytes) -> Subscription | None:
        """Return the one to a subject, if there is one that somebody is interested in."""
        subscription = self._by_subject.get(subject)
        return subscription if subscription is not None and subscription.is_wanted else None

    def any(self, subject: bytes) -> Subscription | None:
        """Return the one to a subject, whether anybody is interested or not."""
        return self._by_subject.get(subject)

    def forget(self, sender: int) -> None:
        """Forget a broker, which is gone for good: a part of it at each :meth:`expire`."""
        self._gone.append(sender)

    def lower(self, sender: int, seq: int) -> None:
        """Have no number of a broker's be above that one."""
        for subscription in self._by_subject.values():
            if subscription.last_of(sender) > seq:
                subscription.set_last(sender, seq)

    def _forget_some(self) -> None:
        if not self._to_clean:
            if not self._gone:
                return
            self._cleaning, self._gone = self._gone, []
            self._to_clean = list(self._by_subject.values())
        for subscription in self._to_clean[-_CLEAN:]:
            for sender in self._cleaning:
                subscription.forget(sender)
        del self._to_clean[-_CLEAN:]

    def want(self, subject: bytes, now: float) -> None:
        """Take note that somebody is interested in a subject."""
        subscription = self._by_subject.get(subject)
        if subscription is None:
            subscription = self._by_subject[subject] = Subscription(subject, now)
            self._make(subscription)
        elif not subscription.is_wanted:
            subscription.is_wanted = True
            subscription.since = now
            del self._unwanted[subject]

    def unwant(self, subject: bytes, now: float, linger: float = LINGER) -> None:
        """Take note that nobody is interested in it any more; it ends ``linger`` seconds later."""
        subscription = self._by_subject.get(subject)
        if subscription is not None and subscription.is_wanted:
            subscription.is_wanted = False
            if linger:
                self._unwanted[subject] = now + linger
            else:
                self._end(subject)

    def _make(self, subscription: Subscription) -> None:
        if self._transport.is_up:
            subscription.sid = self._transport.subscribe(subscription.subject)
            self.by_sid[subscription.sid] = subscription

    def expire(self, now: float) -> None:
        """End those in which nobody has been interested for some seconds; to be called again and again."""
        self._forget_some()
        over: list[bytes] = []
        for subject, until in self._unwanted.items():
            if until > now or len(over) == _END:
                break
            over.append(subject)
        for subject in over:
            del self._unwanted[subject]
            self._end(subject)

    def _end(self, subject: bytes) -> None:
        subscription = self._by_subject.pop(subject)
        if self.by_sid.pop(subscription.sid, None) is not None:
            self._transport.unsubscribe(subscription.sid)

    # --- NATS comes and goes ---

    def on_disconnected(self) -> None:
        """Take note that there is no subscription any more, whoever is interested."""
        self.by_sid.clear()

    def on_connected(self) -> None:
        """Begin to make them again."""
        self.by_sid.clear()
        self._missing = list(self._by_subject.values())

    def make_now(self, subject: bytes) -> None:
        """Make one of them, which there is, before the others."""
        self._make(self._by_subject[subject])

    def make_some(self) -> bool:
        """Make some of them again; return whether there are more to be made."""
        count = SLICE
        missing = self._missing
        while missing and count:
            subscription = missing.pop()
            if self._by_subject.get(subscription.subject) is subscription and subscription.sid not in self.by_sid:
                self._make(subscription)
                count -= 1
        return bool(missing)
