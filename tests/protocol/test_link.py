"""Streams and sessions, rule by rule; the numbers in the names are those of the link's rules."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pystrands.protocol.link import (
    EVENT_NUMBERS,
    LEAST_WINDOW,
    NUMBER,
    LinkSession,
    Receipt,
    ask_interval,
    is_silent,
    lease_end,
    max_unnumbered,
    ranges,
)


def numbered(session, count=1):
    return [session.number(b'{"action":"x"}\n') for _ in range(count)]


def test_rule_1_every_line_of_a_stream_has_the_next_number():
    session = LinkSession("s")
    line = b'{"action":"a","params":{}}\n'
    lines = [session.number(line), session.number_event(line, 7, False), session.number_event(line, 7, True)]
    assert [json.loads(line) for line in lines] == [
        {"seq": 1, "action": "a", "params": {}},
        {"seq": 2, "event": 7, "action": "a", "params": {}},
        {"seq": 3, "event": 7, "redelivered": True, "action": "a", "params": {}},
    ]
    assert session.kept_bytes == sum(map(len, lines))


def test_rule_2_a_number_seen_before_is_dropped_and_a_gap_closes_the_link():
    session = LinkSession("s")
    assert [session.accept(seq) for seq in (1, 2, 2, 1, 4, 3, 0, -1)] == [
        Receipt.NEW, Receipt.NEW, Receipt.SEEN, Receipt.SEEN, Receipt.GAP, Receipt.NEW, Receipt.GAP, Receipt.GAP
    ]  # fmt: skip


def test_rule_2_an_acknowledgement_is_cumulative_and_frees_the_copies():
    session = LinkSession("s")
    lines = numbered(session, 5)
    assert session.kept_bytes == sum(map(len, lines))
    assert session.acknowledge(3)
    assert (session.kept, session.kept_bytes) == (2, len(lines[3]) + len(lines[4]))
    assert session.acknowledge(2), "an old one that comes late is nothing bad"
    assert session.kept == 2
    assert not session.acknowledge(6), "nobody can have received what was never sent"
    assert session.acknowledge(5)
    assert (session.kept, session.kept_bytes) == (0, 0)


def test_rule_2_what_arrived_is_acknowledged_once():
    session = LinkSession("s")
    assert session.acknowledgement() is None
    session.accept(1)
    session.accept(2)
    assert session.unannounced == 2
    assert session.acknowledgement() == 2
    assert session.acknowledgement() is None
    assert session.unannounced == 0


def test_rule_2_a_resume_begins_with_what_the_peer_has_missed():
    session = LinkSession("s")
    lines = numbered(session, 5)
    session.acknowledge(1)
    assert session.resume(3) == lines[3:]
    assert session.resume(5) == []
    numbered(session)
    assert session.resume(7) is None
    assert session.resume(2) is None, "what was freed can't be sent again"


def test_rule_8_a_link_is_dead_when_two_heartbeats_are_missing():
    assert not is_silent(100, 130, 15)
    assert is_silent(100, 138, 15)


@given(st.lists(st.integers(1, 60)))
def test_rule_3_ranges_say_exactly_what_is_finished(numbers):
    said = [number for first, last in ranges(numbers) for number in range(first, last + 1)]
    assert said == sorted(set(numbers))


@given(st.lists(st.integers(1, 60)))
def test_ranges_are_as_few_as_they_can_be(numbers):
    assert all(last + 1 < first for (_, last), (first, _) in zip(ranges(numbers), ranges(numbers)[1:], strict=False))


class TwoEnds(RuleBasedStateMachine):
    """Two ends of a session, with links that lose what is on the way at any moment.

    The model: what one end sent arrives at the other, each line once, in order; whatever is not there yet comes after
    the next resume.
    """

    def __init__(self):
        super().__init__()
        self.ends = {side: LinkSession("s") for side in "ab"}
        self.sent: dict[str, list[int]] = {"a": [], "b": []}
        self.got: dict[str, list[int]] = {"a": [], "b": []}
        self.wire: dict[str, list[bytes | int]] = {"a": [], "b": []}  # on the way *to* that side
        self.is_up = True
        self.count = 0

    @staticmethod
    def other(side):
        return "b" if side == "a" else "a"

    @rule(side=st.sampled_from("ab"))
    def send(self, side):
        self.count += 1
        line = self.ends[side].number(b'{"value":%d}\n' % self.count)
        self.sent[side].append(self.count)
        if self.is_up:
            self.wire[self.other(side)].append(line)

    @precondition(lambda self: self.is_up)
    @rule(side=st.sampled_from("ab"), count=st.integers(1, 5))
    def arrive(self, side, count):
        for _ in range(min(count, len(self.wire[side]))):
            self.take(side, self.wire[side].pop(0))

    def take(self, side, item):
        end = self.ends[side]
        if isinstance(item, int):
            assert end.acknowledge(item)
            return
        line = json.loads(item)
        receipt = end.accept(line["seq"])
        assert receipt is not Receipt.GAP
        if receipt is Receipt.NEW:
            self.got[side].append(line["value"])

    @precondition(lambda self: self.is_up)
    @rule(side=st.sampled_from("ab"))
    def acknowledge(self, side):
        number = self.ends[side].acknowledgement()
        if number is not None:
            self.wire[self.other(side)].append(number)

    @precondition(lambda self: self.is_up)
    @rule()
    def cut(self):
        self.is_up = False
        self.wire = {"a": [], "b": []}

    @precondition(lambda self: not self.is_up)
    @rule(half_way=st.booleans())
    def resume(self, half_way):
        for side in "ab":
            lines = self.ends[side].resume(self.ends[self.other(side)].received)
            assert lines is not None
            self.wire[self.other(side)] = list(lines)
            if half_way:  # the link breaks before the other direction is resumed
                self.wire = {"a": [], "b": []}
                return
        self.is_up = True

    @invariant()
    def nothing_lost_repeated_or_reordered(self):
        for side in "ab":
            sent, got = self.sent[self.other(side)], self.got[side]
            assert got == sent[: len(got)]

    @invariant()
    def copies_are_kept_only_of_what_is_not_acknowledged(self):
        for side in "ab":
            end = self.ends[side]
            assert end.kept == end.sent - end.acknowledged
            assert end.acknowledged <= self.ends[self.other(side)].received

    def teardown(self):
        if not self.is_up:
            self.resume(half_way=False)
        for side in "ab":
            self.arrive(side, len(self.wire[side]))
            assert self.got[side] == self.sent[self.other(side)]


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_lease_ends_before_the_window_does():
    assert 104 <= lease_end(100, 5) < 105
    assert lease_end(100, LEAST_WINDOW) < 100 + LEAST_WINDOW


@pytest.mark.parametrize("window", [0, LEAST_WINDOW - 0.001])
def test_without_a_window_worth_it_there_is_no_end(window):
    assert lease_end(100, window) == math.inf
    assert ask_interval(15, window) == 15


@given(st.floats(0.01, 1000), st.floats(LEAST_WINDOW, 86400))
def test_the_lease_is_asked_for_several_times_while_it_lasts(heartbeat, window):
    assert ask_interval(heartbeat, window) <= heartbeat
    assert 3 * ask_interval(heartbeat, window) < lease_end(0, window)


def test_rule_5_there_is_room_for_the_longest_numbers():
    longest = (1 << 63) - 1
    session = LinkSession("s")
    session.sent = longest - 2
    assert len(session.number(b'{"a":1}\n')) - len(b'{"a":1}\n') <= NUMBER
    assert len(session.number_event(b'{"a":1}\n', longest, redelivered=True)) - len(b'{"a":1}\n') <= EVENT_NUMBERS
    assert (max_unnumbered(1000, NUMBER), max_unnumbered(10, NUMBER), max_unnumbered(0, NUMBER)) == (968, 1, 0)
