"""Who is there: starting, dying, coming back."""

import pytest

from tests.engine.nats.simulation import Clock, SimBroker, SimNats, brokers


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_cluster_rule_10_brokers_that_start_at_once_are_ready_at_once(count, servers, seed):
    nats = SimNats(Clock(), servers, lag=0.02, seed=seed)
    started = [SimBroker(nats, f"broker {number}", number % servers) for number in range(count)]
    nats.clock.run(1.0)
    assert all(broker.is_ready for broker in started)
    nats.clock.run(1.5)  # a heartbeat later at most everybody knows everybody
    names = [broker.name for broker in started]
    assert [broker.peers for broker in started] == [sorted(set(names) - {name}) for name in names]


def test_what_a_broker_has_said_itself_is_not_heard_when_it_comes_back():
    """A server that hangs has it still, and hands it on to the next one, where our new connection is."""
    nats = SimNats(Clock(), 1, seed=1)
    a, b = SimBroker(nats, "a"), SimBroker(nats, "b")
    nats.clock.run(1.0)
    for broker in (a, b):
        broker.join("room")
    nats.clock.run(0.5)
    a.send("room", "once")
    a.cluster.survey(b"?", 1.0, lambda *_: None)
    a.admit("somebody")
    nats.clock.run(2.0)
    delivered, said, peers = list(a.delivered), list(a.transport.sent), a.peer_changes
    come_back = 0
    for subject, payload in said:
        sid = nats.servers[0].subscribers(subject).get(a.transport.connection)
        if sid is not None:
            come_back += 1
            a.transport.connection.receive(sid, subject, b"", 0, payload)
    assert come_back >= 5
    a.transport.sent.clear()
    nats.clock.run(0.05)
    assert all(subject != a.core.subjects.broker("a") for subject, _ in a.transport.sent), "it answers itself"
    nats.clock.run(1.0)
    assert (a.peers, a.peer_changes, a.delivered, a.claimed_away) == (["b"], peers, delivered, [])


def test_cluster_rule_10_a_newcomer_does_not_wait_for_one_that_was_killed():
    nats = SimNats(Clock())
    a, b = brokers(nats, "a", "b")
    nats.clock.run(3)
    b.kill()
    newcomer = SimBroker(nats, "c")
    nats.clock.run(0.6)  # `a` still believes in the other
    assert a.peers == ["b", "c"]
    assert newcomer.is_ready and newcomer.peers == ["a"]


@pytest.mark.parametrize("seed", range(10))
def test_cluster_rule_10_a_newcomer_after_an_outage_waits_for_those_who_come_back_later(seed):
    nats = SimNats(Clock(), seed=seed)
    a, b = brokers(nats, "a", "b")
    nats.clock.run(3)
    nats.down()
    newcomer = SimBroker(nats, "c")
    nats.clock.run(1)
    for server in nats.servers:
        server.is_up = True
    newcomer.transport.connect()
    nats.clock.run(0.5)
    a.transport.connect()
    nats.clock.run(1.5)
    assert not newcomer.is_ready  # the only one that has come back names another
    b.transport.connect()
    nats.clock.run(0.3)
    assert newcomer.is_ready and newcomer.peers == ["a", "b"]


def test_cluster_rule_15_who_is_silent_for_five_seconds_is_dead_and_who_says_bye_is_gone_at_once():
    nats = SimNats(Clock())
    a, b, c = brokers(nats, "a", "b", "c")
    b.stop()
    nats.clock.run(0.1)
    assert (a.peers, c.peers) == (["c"], ["a"])
    c.kill()
    nats.clock.run(4.5)
    assert a.peers == ["c"]
    nats.clock.run(2)
    assert a.peers == []


def test_cluster_rule_15_two_brokers_at_one_address_are_told_of_once_but_a_successor_is_not(caplog):
    nats = SimNats(Clock())
    _, b, c = brokers(nats, "a", "b", "c")
    assert "same address" not in caplog.text
    b.cluster.drain()
    nats.clock.run(0.1)
    c.cluster.advertise("b:8081")
    nats.clock.run(3)
    assert "same address" not in caplog.text
    c.cluster.advertise("a:8081")
    nats.clock.run(5)
    told = [each.getMessage() for each in caplog.records if "same address" in each.message]
    assert sorted(told) == [
        f"Broker '{other}' has the same address for backends as this one, 'a:8081': they reach one of the two only. "
        "Give each an --advertise of its own"
        for other in ("a", "c")
    ]


def test_cluster_rule_15_nobody_is_dead_while_nats_is_away():
    nats = SimNats(Clock())
    a, b = brokers(nats, "a", "b")
    changes = a.peer_changes
    nats.down()
    nats.clock.run(60)
    assert not a.cluster.is_connected and [peer.broker_id for peer in a.cluster.peers] == ["b"]
    nats.up()
    nats.clock.run(2)
    assert a.cluster.is_connected and a.peer_changes == changes and b.peers == ["a"]


def test_cluster_rule_15_a_broker_that_was_paused_comes_back_and_has_missed_nothing():
    nats = SimNats(Clock())
    a, b = brokers(nats, "a", "b")
    b.join("lobby")
    nats.clock.run(1)
    b.transport.cut()
    b.transport.is_held = True
    nats.clock.run(20)
    assert a.peers == []
    a.send("lobby", "while you were away")
    b.transport.is_held = False
    b.transport.connect()
    nats.clock.run(2)
    assert (a.peers, b.peers, b.messages()) == (["b"], ["a"], ["while you were away"])
