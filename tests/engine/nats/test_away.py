"""What is asked, and claimed, while a broker is away from NATS though it lives."""

import pytest

from pystrands.engine.publication import Audience, Publication
from tests.engine.nats.simulation import Clock, SimNats, brokers


@pytest.fixture
def nats():
    return SimNats(Clock())


def restart(nats, late):
    """Lose all connections; one broker is back later than the others."""
    for transport in nats.transports:
        transport.cut()
    for transport in nats.transports:
        if transport is not late.transport:
            nats.clock.after(0.05, transport.connect)


def test_cluster_rule_11_nobody_has_a_client_only_where_nobody_is_away(nats):
    a, b, _ = brokers(nats, "a", "b", "c")
    b.admit("client")
    nats.clock.run(2.5)
    answers = []
    restart(nats, late=b)
    nats.clock.run(0.5)
    a.cluster.command("client", b"do", 5.0, lambda *answer: answers.append(("command", *answer)))
    a.publish(Publication(Audience.CLIENT, "client", "hello", confirm=True))
    a.cluster.confirm(5.0, lambda *answer: answers.append(("confirm", *answer)))
    a.cluster.command("nobody", b"do", 5.0, lambda *answer: answers.append(("nobody", *answer)))
    nats.clock.run(0.5)
    assert answers == [], "one is away, and might have it"
    b.transport.connect()
    nats.clock.run(2.0)
    assert sorted(answers) == [
        ("command", b"do of b", ""),
        ("confirm", (1, 1), True),
        ("nobody", None, ""),
    ]
    assert (b.commands, b.messages()) == ([("client", b"do")], ["hello"])


def test_cluster_rule_11_who_is_silent_may_be_away_already(nats):
    a, b = brokers(nats, "a", "b")
    b.admit("client")
    nats.clock.run(2.5)
    answers = []
    b.transport.cut()
    nats.clock.run(1.6)
    a.cluster.command("client", b"do", 5.0, lambda *answer: answers.append(answer))
    nats.clock.run(1.0)
    assert answers == []
    b.transport.connect()
    nats.clock.run(2.0)
    assert answers == [(b"do of b", "")]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("servers", [1, 2])
def test_cluster_rule_11_who_changes_servers_alone_has_its_clients_still(servers, seed):
    nats = SimNats(Clock(), servers, seed=seed)
    a, b, _ = brokers(nats, "a", "b", "c", moves=True)
    b.admit("client")
    nats.clock.run(3.0)
    answers = []
    b.transport.flap()
    for _ in range(10):
        nats.clock.run(nats.random.uniform(0.0, 0.05))
        a.cluster.command("client", b"do", 5.0, lambda *answer: answers.append(answer))
        a.publish(Publication(Audience.CLIENT, "client", "hello", confirm=True))
        a.cluster.confirm(5.0, lambda *answer: answers.append(answer))
        a.cluster.command("nobody", b"do", 5.0, lambda *answer: answers.append(answer))
    nats.clock.run(2.0)
    assert [answers.count(each) for each in ((b"do of b", ""), ((1, 1), True), (None, ""))] == [10, 10, 10]
    assert (b.commands, b.messages()) == ([("client", b"do")] * 10, ["hello"] * 10)


def test_cluster_rule_11_with_nobody_away_the_answer_comes_at_once(nats):
    a, b, _ = brokers(nats, "a", "b", "c")
    nats.clock.run(2.5)
    answers, calls = [], []
    a.transport.sent.clear()
    b.transport.sent.clear()
    for number in range(100):
        a.cluster.command(f"nobody {number}", b"do", 5.0, lambda *answer: answers.append(answer))
    nats.clock.run(0.01)
    assert answers == [(None, "")] * 100
    calls = [payload for subject, payload in a.transport.sent if subject == a.core.subjects.everyone]
    assert len(calls) < 10 and len(b.transport.sent) < 10, "for many at once all are asked once"


def test_cluster_rule_11_who_ends_meanwhile_is_not_waited_for(nats):
    a, b, c = brokers(nats, "a", "b", "c")
    nats.clock.run(2.5)
    answers = []
    c.kill()
    nats.clock.run(1.0)
    a.cluster.command("nobody", b"do", 20.0, lambda *answer: answers.append(answer))
    nats.clock.run(2.0)
    assert answers == []
    b.stop()
    nats.clock.run(5.0)
    assert answers == [(None, "")]


def test_cluster_rule_11_who_never_comes_back_is_waited_for_until_the_time_is_over(nats):
    a, b = brokers(nats, "a", "b")
    nats.clock.run(2.5)
    answers = []
    b.transport.cut()
    nats.clock.run(1.6)
    a.cluster.command("client", b"do", 2.0, lambda *answer: answers.append(answer))
    nats.clock.run(2.2)
    assert answers == [(None, "the broker that has the client has not answered within 2 s")]
    nats.clock.run(5.0)  # now it is dead
    a.cluster.command("client", b"do", 2.0, lambda *answer: answers.append(answer))
    nats.clock.run(0.2)
    assert answers[1:] == [(None, "")]


@pytest.mark.parametrize("late", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_cluster_rule_14_claims_that_a_server_swallowed_before_it_was_given_up_are_repeated(nats, seconds, first, late):
    a, b = brokers(nats, "a", "b")
    b.admit("client")
    nats.clock.run(5.0)
    for broker in (a, b):  # the server hangs
        broker.transport.connection.out.send = broker.transport.connection.incoming.send = lambda *_: None
    a.admit("client")
    nats.clock.run(seconds)
    for broker in (a, b):
        broker.transport.cut()
    nats.clock.run(0.1)
    assert "client" in a.clients & b.clients
    one, other = (a, b) if first == "a" else (b, a)
    one.transport.connect()
    nats.clock.run(late)
    other.transport.connect()
    nats.clock.run(6.0)
    assert ("client" in a.clients, "client" in b.clients) == (True, False)


def test_cluster_rule_14_who_comes_back_hears_of_claims_when_it_has_subscribed_to_its_clients(nats):
    a, b = brokers(nats, "a", "b")
    clients = [f"client {number}" for number in range(2000)]  # more than it subscribes to in one turn
    for client in clients:
        b.admit(client)
    nats.clock.run(5.0)
    b.transport.cut()
    nats.clock.run(0.5)
    for client in clients[::100]:
        a.admit(client)
    nats.clock.run(2.5)
    b.transport.connect()
    nats.clock.run(6.0)
    assert not a.clients & b.clients
    assert len(b.clients) == len(clients) - len(clients[::100])
