"""What brokers ask each other, and messages that are special: in the simulation."""

import pytest

from pystrands.engine.nats.envelope import VERSION
from tests.engine.nats.simulation import Clock, SimNats, brokers


@pytest.fixture
def nats():
    return SimNats(Clock())


def ask(nats, broker, question=b"q", timeout=5.0):
    found = []
    broker.cluster.survey(question, timeout, lambda *result: found.append(result))
    return found


def questions(broker):
    return [question for question, _ in broker.questions]


def test_a_message_above_what_nats_takes_goes_in_parts(nats):
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(0.1)
    nats.max_payload = 10_000
    big = "ä" * 40_000
    a.send("lobby", big, exclude=("x",), key="k")
    a.send("lobby", "small")
    nats.clock.run(0.1)
    assert b.messages() == [big, "small"]
    assert (b.delivered[0].exclude, b.delivered[0].key) == (("x",), "k")
    nats.down()
    a.send("lobby", big, confirm=True)
    nats.clock.run(1)
    nats.up()
    nats.clock.run(2)
    assert b.messages() == [big, "small", big]
    assert b.core.receiver.held_bytes < 1000


def test_what_is_too_big_for_another_server_is_told_as_lost(nats):
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(0.1)
    nats.down()
    a.send("lobby", "x" * 20_000)
    a.send("lobby", "small")
    nats.max_payload = 10_000
    nats.up()
    nats.clock.run(3)
    assert b.messages() == ["small"] and b.gaps == [("a", 1)]


def test_another_version_is_counted_and_leaves_no_gap(nats):
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(0.1)
    a.send("lobby", "1")
    nats.clock.run(0.1)
    changed = a.transport.publish

    def publish(subject, payload, reply=b""):
        changed(subject, bytes([VERSION + 1]) + payload[1:], reply)

    a.transport.publish = publish
    a.send("lobby", "2")
    a.transport.publish = changed
    a.send("lobby", "3")
    nats.clock.run(2)
    assert b.messages() == ["1", "3"] and not b.gaps
    assert b.counters["engine_unknown"] == 1


def test_cluster_rule_13_answers_come_in_parts(nats):
    a, b, _ = brokers(nats, "a", "b", "c")
    b.answer = lambda _: b"x" * 2_000_000
    found = ask(nats, a)
    nats.clock.run(0.1)
    ((answers, missing),) = found
    assert {name: len(answer) for name, answer in answers} == {"b": 2_000_000, "c": len(b"q of c")} and not missing
    assert max(len(payload) for _, payload in b.transport.sent) <= 512 * 1024


def test_cluster_rule_13_equal_questions_at_once_are_one_and_later_ones_are_asked_anew(nats):
    a, b = brokers(nats, "a", "b")
    b.holds_answers = True
    first, same = ask(nats, a), ask(nats, a)
    nats.clock.run(0.1)
    assert questions(b) == [b"q"]
    later, also_later, other = ask(nats, a), ask(nats, a), ask(nats, a, b"other")
    nats.clock.run(0.1)
    assert questions(b) == [b"q", b"other"]  # that which is on its way may be answered with what was true before
    b.questions[0][1](b"old")
    nats.clock.run(0.1)
    assert first == same == [([("b", b"old")], [])] and not later
    assert questions(b) == [b"q", b"other", b"q"]
    b.questions[2][1](b"new")
    b.questions[1][1](b"other")
    nats.clock.run(0.1)
    assert later == also_later == [([("b", b"new")], [])] and other == [([("b", b"other")], [])]


def test_cluster_rule_13_who_does_not_answer_in_time_is_named_and_who_dies_is_not_waited_for(nats):
    a, b, c = brokers(nats, "a", "b", "c")
    b.holds_answers = c.holds_answers = True
    found = ask(nats, a, timeout=2.0)
    nats.clock.run(0.5)
    later = ask(nats, a, timeout=1.0)
    c.stop()
    nats.clock.run(0.6)
    assert not found
    nats.clock.run(2)
    assert found == [([], ["b"])] and later == [((), ["b"])]
    assert ask(nats, a, timeout=1.0) == []
    b.kill()
    nats.clock.run(8)
    assert ask(nats, a) == [((), ())]


def test_a_question_that_an_outage_swallowed_is_asked_again(nats):
    a, _ = brokers(nats, "a", "b")
    found = ask(nats, a)
    nats.clock.run(0)
    nats.down()
    nats.clock.run(1)
    nats.up()
    nats.clock.run(2)
    assert found == [([("b", b"q of b")], [])]


def test_cluster_rule_12_a_command_is_done_once_however_often_it_is_sent(nats):
    a, b = brokers(nats, "a", "b")
    b.admit("ann")
    nats.clock.run(3)
    found = []
    a.cluster.command("ann", b"do", 5, lambda *result: found.append(result))
    while not b.commands:
        nats.clock.run(0.0001)
    nats.down()  # with the answer
    nats.clock.run(0.5)
    nats.up()
    nats.clock.run(2)
    assert b.commands == [("ann", b"do")] and found == [(b"do of b", "")]
    assert a.core.commands.held_bytes == 0
    nats.clock.run(61)
    assert b.core.commands.held_bytes == 0


def test_without_nats_questions_and_commands_are_answered_at_once(nats):
    a, _ = brokers(nats, "a", "b")
    nats.down()
    found = []
    a.cluster.survey(b"q", 5, lambda *result: found.append(result))
    a.cluster.command("ann", b"do", 5, lambda *result: found.append(result))
    a.send("lobby", "x", confirm=True)
    a.cluster.confirm(5, lambda *result: found.append(result))
    a.admit("ann")
    assert found == [
        ((), ["b"]),
        (None, "other brokers can't be reached: the connection to NATS is lost"),
        ((0, 0), False),
    ]
    assert a.clients == {"ann"}


def test_totals_wait_for_what_was_lost_on_the_way(nats):
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(0.1)
    swallowed = a.transport.publish
    a.transport.publish = lambda *_: None
    a.send("lobby", "lost", confirm=True)
    a.transport.publish = swallowed
    found = []
    a.cluster.confirm(5, lambda *result: found.append(result))
    nats.clock.run(0.1)
    assert found == [((1, 1), True)] and b.messages() == ["lost"]


def test_totals_are_complete_without_who_dies_and_not_without_who_does_not_answer(nats):
    a, b, c = brokers(nats, "a", "b", "c")
    b.join("lobby")
    nats.clock.run(0.1)
    found = []
    c.stop()
    a.send("lobby", "x", confirm=True)
    a.cluster.confirm(5, lambda *result: found.append(result))
    nats.clock.run(0.5)
    assert found == [((1, 1), True)]
    b.kill()
    a.send("lobby", "y", confirm=True)
    a.cluster.confirm(2, lambda *result: found.append(result))
    nats.clock.run(2.5)
    assert found[1:] == [((0, 0), False)]


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_cluster_rule_14_of_claims_at_once_one_is_left(servers, seed):
    nats = SimNats(Clock(), servers, lag=0.05, seed=seed)
    started = brokers(nats, "a", "b", "c")
    for broker in started:
        broker.admit("ann")
    nats.clock.run(4)
    assert sum("ann" in broker.clients for broker in started) == 1
    assert sum(len(broker.core.claims) for broker in started) == 1


@pytest.mark.parametrize("seed", range(5))
def test_cluster_rule_14_claims_of_an_outage_are_repeated_after_it_and_the_newest_stays(nats, seed):
    nats.random.seed(seed)
    a, b = brokers(nats, "a", "b")
    nats.down()
    a.admit("ann")
    nats.clock.run(10)
    b.admit("ann")
    assert "ann" in a.clients and "ann" in b.clients
    nats.clock.run(10)
    nats.up()
    nats.clock.run(4)
    assert ("ann" in a.clients, "ann" in b.clients) == (False, True)


def test_cluster_rule_14_a_client_that_has_been_here_for_long_goes_whatever_the_clocks_say():
    nats = SimNats(Clock())
    (a,) = brokers(nats, "a", wall_offset=3600)
    (b,) = brokers(nats, "b")
    a.admit("ann")
    nats.clock.run(10)
    b.admit("ann")
    nats.clock.run(4)
    assert ("ann" in a.clients, "ann" in b.clients) == (False, True)


@pytest.mark.parametrize("order", ["aba", "acb", "bca", "cba"])
def test_cluster_rule_14_the_newest_stays_at_once_whatever_the_clocks_say(order):
    """A client that comes back to another broker right away, whose clock is behind."""
    nats = SimNats(Clock())
    started = {
        name: brokers(nats, name, wall_offset=offset)[0] for name, offset in (("a", 3600), ("b", -90), ("c", 0.5))
    }
    nats.clock.run(2)
    for name in order:
        started[name].admit("ann")
        nats.clock.run(0.2)
        assert [each.name for each in started.values() if "ann" in each.clients] == [name]
    nats.down()
    for name in order[1:]:
        nats.clock.run(0.5)
        started[name].admit("bob")
    nats.up()
    nats.clock.run(6)
    assert [each.name for each in started.values() if "bob" in each.clients] == [order[-1]]
    assert [each.name for each in started.values() if "ann" in each.clients] == [order[-1]]


@pytest.mark.no_cover
def test_what_is_kept_for_others_is_bounded_and_given_back(nats):
    a, b = brokers(nats, "a", "b", ring_bytes=50_000)
    before = a.cluster.held_bytes
    for number in range(30_000):
        a.send(f"room {number}", "x" * 100)
    assert a.core.publisher.ring_bytes <= 50_000
    assert a.core.publisher.held_bytes < 50_000 + 10_001 * 300
    b.stop()
    nats.clock.run(5)
    a.send("lobby", "x")
    assert a.core.publisher.ring_bytes == 0
    assert before < a.cluster.held_bytes


def test_promise_35_a_client_that_takes_its_time_is_asked_once(nats, monkeypatch):
    """What a broker was told to do, and has not done, is not forgotten, however often the other one asks again."""
    a, b = brokers(nats, "a", "b")
    b.admit("ada")
    nats.clock.run(2.5)
    waiting, found = [], []
    monkeypatch.setattr(b, "on_command", lambda client_id, command, reply: waiting.append(reply))
    a.cluster.command("ada", b"ask", 300.0, lambda *answer: found.append(answer))
    nats.clock.run(200)
    assert len(waiting) == 1
    waiting[0](b"answer")
    nats.clock.run(2)
    assert found == [(b"answer", "")]
    nats.clock.run(100)
    assert b.core.commands.held_bytes == 0
