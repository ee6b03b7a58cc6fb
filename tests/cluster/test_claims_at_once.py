"""Many who come with one client_id, at brokers that are far and near, while servers of NATS hang: one of them stays."""

from types import SimpleNamespace
from typing import Any

import pytest

from pystrands.broker.routing.claimed_ids import ClaimedIds
from tests.engine.nats.simulation import Clock, SimBroker, SimNats


class Coming:
    """One who comes: in, unless somebody at another broker takes the id before, until somebody else comes."""

    client_id = "ann"

    def __init__(self, broker):
        self.broker = broker
        self.is_taken = self.is_gone = False
        broker.claimed.claim(self.client_id, self.come_in, self.give_way)

    def give_way(self):
        self.is_taken = True

    def come_in(self):
        if self.is_taken:
            self.broker.claimed.release(self.client_id)
            return
        older, self.broker.client = self.broker.client, self
        if older is not None:
            older.replaced("by another at this broker")

    def replaced(self, _why):
        if not self.is_gone:
            self.is_gone = True
            if self.broker.client is self:
                self.broker.client = None
            self.broker.claimed.closed(self)
            self.broker.clock.after(self.broker.nats.random.choice((0.0, 0.001, 0.05)), self.broker.claimed.over, self)


class BrokerOfOne(SimBroker):
    """A broker whose clients all have the same id."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.client = None
        rooms: Any = SimpleNamespace(find=lambda _: self.client)
        self.claimed = ClaimedIds(self.cluster, rooms)

    def on_claim(self, client_id, released):
        self.claimed.on_claim(client_id, released)


@pytest.mark.parametrize("fault", [None, "pause", "kill"])
@pytest.mark.parametrize("servers", [1, 2])
def test_cluster_rule_14_of_many_who_come_at_once_one_stays(servers, fault):
    for seed in range(60):
        nats = SimNats(Clock(), servers, seed=seed)
        chance = nats.random
        brokers = []
        for number, name in enumerate("abc"):
            order = [(number + each) % servers for each in range(servers)]
            brokers.append(BrokerOfOne(nats, name, *order, wall_offset=chance.choice((0, 5, -5))))
            nats.clock.run(1)
        if chance.random() < 0.5:
            Coming(brokers[0])
        nats.clock.run(chance.choice((0.5, 4.0)))
        spread = chance.choice((0.0, 0.0003, 0.01, 0.1, 2.0))
        for _ in range(chance.choice((3, 4, 5))):
            nats.clock.after(chance.uniform(0, spread), Coming, chance.choice(brokers))
        nats.clock.run(chance.uniform(0, spread))
        server = chance.choice(nats.servers)
        if fault == "pause":
            server.pause()
            nats.clock.after(chance.choice((0.3, 1.5, 4.0)), server.resume)
        elif fault == "kill":
            server.kill()
            nats.clock.after(chance.choice((0.3, 1.5, 4.0)), server.start)
        nats.clock.run(20)
        assert sum(broker.client is not None for broker in brokers) == 1, f"seed {seed}"
