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
