"""In which order messages come, and what is asked for first: in the simulation, where delays are of every kind."""

import pytest

from tests.engine.nats.simulation import Clock, SimNats, brokers


@pytest.mark.parametrize("servers", [1, 2])
def test_cluster_rule_04_each_brokers_order_holds_and_no_other(servers):
    are_inverted = 0
    for seed in range(30):
        nats = SimNats(Clock(), servers, seed=seed)
        a, b, c, d = members = brokers(nats, "a", "b", "c", "d")
        for broker in members:
            broker.join("lobby")
        nats.clock.run(1)
        for number in range(20):
            a.send("lobby", f"a {number}")
            b.send("lobby", f"b {number}")
            nats.clock.run(nats.random.uniform(0, 0.002))
        nats.clock.run(1)
        for broker in members:
            for sender in "ab":
                heard = [each for each in broker.messages() if each.startswith(sender)]
                assert heard == [f"{sender} {number}" for number in range(20)]
        are_inverted += c.messages() != d.messages() or a.messages() != b.messages()
    assert are_inverted, "else there is an order after all, and the docs may say so"


def test_cluster_rule_05_delivered_at_once_and_alone_nothing_is_published():
    nats = SimNats(Clock())
    (a,) = brokers(nats, "a")
    a.join("lobby")
    nats.clock.run(5)
    before = len(a.transport.sent)
    for number in range(100):
        assert a.send("lobby", str(number)) == (1, 1)
        assert a.messages()[-1] == str(number), "no time has passed"
    assert len(a.transport.sent) == before
    nats.clock.run(10)
    assert len(a.transport.sent) - before <= 11, "heartbeats"
    assert not a.core.publisher.published

    (b,) = brokers(nats, "b")  # who comes later neither gets these nor misses them
    b.join("lobby")
    nats.clock.run(1)
    a.send("lobby", "both")
    nats.clock.run(1)
    assert b.messages() == ["both"]
    assert not b.gaps


@pytest.mark.parametrize("seed", range(20))
def test_cluster_rule_07_who_was_away_gets_what_it_missed_before_what_comes_then(seed):
    nats = SimNats(Clock(), seed=seed)
    a, b, c = brokers(nats, "a", "b", "c")
    for broker in (a, b):
        broker.join("lobby")
    c.join("elsewhere")
    nats.clock.run(1)
    numbers = iter(range(1000))

    def send(count):
        for _ in range(count):
            a.send("lobby", str(next(numbers)))
            a.send("elsewhere", "x")
            nats.clock.run(nats.random.uniform(0, 0.01))

    send(5)
    b.transport.flap()  # it comes back by itself, while the other goes on sending
    send(100)
    b.transport.flap()
    send(100)
    nats.clock.run(5)
    last = next(numbers)
    a.send("lobby", str(last))
    b.transport.flap()  # nothing follows: a heartbeat tells that one is missing
    nats.clock.run(5)
    assert b.messages() == [str(number) for number in range(last + 1)]
    assert b.counters["engine_repairs"] and not b.gaps
    assert set(c.messages()) == {"x"}
