"""Random schedules of all that may go wrong, and broken brokers and clients that they must find out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystrands.protocol.v1 import actions
from pystrands.protocol.v1.core import ClientCore
from pystrands.protocol.v1.session import Receipt

from .model import PART, ModelBroker, run

KINDS = {
    "cuts": {},
    "overruns": {"ring_messages": 2, "most_private": 2},
    "backends that die": {"backends_die": True},
    "lost sessions": {"loses_sessions": True},
    "all": {"ring_messages": 3, "most_private": 3, "backends_die": True, "loses_sessions": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_nothing_is_lost_doubled_or_out_of_order(options):
    for seed in range(80):
        run(seed, **options)


@settings(max_examples=40)
@given(st.integers(min_value=1000), st.sampled_from(list(KINDS.values())))
def test_nor_is_it_by_other_numbers(seed, options):
    run(seed, **options)


class AcknowledgesOnWrite(ClientCore):
    """Takes what was written for handled."""

    def _flush(self, todo):
        super()._flush(todo)
        todo += [actions.Settle(message.ident) for message in self.outbox.done(1 << 50)]


class ForgetsExclusions(ModelBroker):
    """Sends to who comes back what was not for it."""

    @staticmethod
    def missed(client, position):
        for ring in client.state.joined:
            for entry in ring.entries:
                entry.excluded = None
        return client.state.missed(position, PART)


class IgnoresJoining(ModelBroker):
    """Sends what was in a room before."""

    def take_back(self, client, pipe, resume):
        client.state.joined = dict.fromkeys(client.state.joined, 0)
        super().take_back(client, pipe, resume)


class HearsOldSockets(ModelBroker):
    """Takes what comes of connections that were replaced, and each number as often as it comes."""

    @staticmethod
    def is_current(client, pipe):
        return client is not None

    def end_pipe(self, pipe):
        pass

    @staticmethod
    def receipt(state, k):
        return Receipt.NEW


class ForgetsGaps(ModelBroker):
    """Says nothing of what it has not kept."""

    def take_back(self, client, pipe, resume):
        client.state.private_floor = 0
        for ring in client.state.joined:
            ring.floor = 0
        super().take_back(client, pipe, resume)


class NamesAnew(ClientCore):
    """Sends what a lost session had as if it were new."""

    def _on_welcome(self, welcome, now):
        for message in self.outbox.after(0):
            message.name = "new"
        todo = super()._on_welcome(welcome, now)
        return [_without_id(action) for action in todo]


def _without_id(action):
    if not isinstance(action, actions.Write) or isinstance(action.frame, bytes):
        return action
    return actions.Write(action.frame.replace(',"id":"new"', ""))


class SettlesBeforeTheReplay(ClientCore):
    """Takes what the welcome says is done for handled, before it has heard what was dropped."""

    def _on_welcome(self, welcome, now):
        todo = super()._on_welcome(welcome, now)
        if welcome.resumed:
            self._settle(todo)
        return todo


class AnswersOthers(ClientCore):
    """Answers to whatever session there is."""

    def answer(self, number, body, code="", text=""):
        self._asked.add(number)
        return super().answer(number, body, code, text)


class TakesDoneForAReply(ClientCore):
    """Does not mind where there was no reply."""

    def _settle(self, todo, are_failures_lost=False):
        todo += [actions.Settle(message.ident) for message in self.outbox.done(self._done) if message.ident >= 0]


MUTANTS = {
    "answers others": {"core": AnswersOthers, "loses_sessions": True},
    "takes done for a reply": {"core": TakesDoneForAReply, "ring_messages": 2, "most_private": 2},
    "acknowledges on write": {"core": AcknowledgesOnWrite},
    "forgets exclusions": {"broker": ForgetsExclusions},
    "ignores the number of joining": {"broker": IgnoresJoining},
    "hears old sockets": {"broker": HearsOldSockets},
    "settles before the replay": {"core": SettlesBeforeTheReplay},
    "names anew": {"core": NamesAnew, "loses_sessions": True},
    "forgets gaps": {"broker": ForgetsGaps, "ring_messages": 2, "most_private": 2},
}


@pytest.mark.parametrize("options", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_found(options):
    found = seed = 0
    while found < 3:
        assert seed < 120, f"found {found} times"
        try:
            run(seed, steps=250, **options)
        except AssertionError:
            found += 1
        seed += 1
