"""A message, a question, a command, a claim: from one broker to another."""

import pytest

from tests.engine.nats.simulation import Clock, SimNats, brokers


@pytest.fixture
def nats():
    return SimNats(Clock())


def test_a_room_message_crosses_and_comes_as_it_was(nats):
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(0.1)
    assert a.send("lobby", "hello") == (0, 0)
    a.send("lobby", b"\x00\xff", exclude=("x", "ÿ"), key="k")
    nats.clock.run(0.1)
    text, binary = b.delivered
    assert (text.address, text.message, text.exclude, text.key, text.confirm) == ("lobby", "hello", (), None, False)
    assert (binary.message, binary.exclude, binary.key) == (b"\x00\xff", ("x", "ÿ"), "k")
    assert not a.delivered


def test_an_outage_of_nats_loses_nothing(nats):
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(0.1)
    a.send("lobby", "0")
    nats.down()  # what was on its way is lost
    a.send("lobby", "1")
    nats.clock.run(30)
    assert a.peers == ["b"]
    a.send("lobby", "2")
    nats.up()
    nats.clock.run(2)
    a.send("lobby", "3")
    nats.clock.run(0.1)
    assert b.messages() == ["0", "1", "2", "3"]


def test_questions_commands_confirmations_and_claims(nats):
    a, b = brokers(nats, "a", "b")
    b.admit("ann")
    b.join("lobby")
    nats.clock.run(3)
    found = []
    a.cluster.survey(b"who", 5, lambda *result: found.append(result))
    a.cluster.command("ann", b"do", 5, lambda *result: found.append(result))
    a.cluster.command("nobody", b"do", 5, lambda *result: found.append(result))
    nats.clock.run(0.1)
    assert sorted(found, key=str) == sorted([([("b", b"who of b")], []), (b"do of b", ""), (None, "")], key=str)
    found.clear()
    a.send("lobby", "hello", confirm=True)
    a.cluster.confirm(5, lambda *result: found.append(result))
    a.send_private("ann", "hello", confirm=True)
    a.cluster.confirm(5, lambda *result: found.append(result))
    a.send_private("nobody", "hello", confirm=True)
    a.cluster.confirm(5, lambda *result: found.append(result))
    nats.clock.run(0.1)
    assert sorted(found) == [((0, 0), True), ((1, 1), True), ((1, 1), True)]
    a.admit("ann")
    nats.clock.run(0.1)
    assert (a.clients, b.clients) == ({"ann"}, set())
