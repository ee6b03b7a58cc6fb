"""Who is there: starting, dying, coming back."""

import pytest

from tests.engine.nats.simulation import Clock, SimBroker, SimNats


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
        sid = nats.servers[0].subscribers(subject).get(a.transport)
        if sid is not None:
            come_back += 1
            a.transport.receive(sid, subject, b"", 0, payload)
    assert come_back >= 5
    a.transport.sent.clear()
    nats.clock.run(0.05)
    assert all(subject != a.core.subjects.broker("a") for subject, _ in a.transport.sent), "it answers itself"
    nats.clock.run(1.0)
    assert (a.peers, a.peer_changes, a.delivered, a.claimed_away) == (["b"], peers, delivered, [])
