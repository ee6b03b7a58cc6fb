"""What brokers say to each other fits into what NATS takes: it ends the connection on which more comes."""

import pytest

from pystrands.engine.publication import Audience
from tests.engine.nats.simulation import Clock, SimNats, brokers

SMALL = 16 * 1024
"""What NATS has to take at least."""


@pytest.mark.parametrize(("max_payload", "rooms"), [(SMALL, 1200), (1 << 18, 4000)])
@pytest.mark.parametrize("servers", [1, 2])
def test_cluster_rule_07_what_went_to_many_rooms_and_is_lost_as_the_last_is_missed_all_the_same(
    max_payload, rooms, servers
):
    """The simulation's NATS takes no more than it says."""
    nats = SimNats(Clock(), servers)
    nats.max_payload = max_payload
    a, b = brokers(nats, "a" * 40, "b" * 40)
    names = [f"{number:064}" for number in range(rooms)]
    for name in names:
        b.join(name)
    nats.clock.run(1)
    for heard in (False, True):  # rooms of which nothing was heard before, and those of which something was
        nats.lossy_route = 1.0
        for name in names:
            a.send(name, f"{heard}")
        nats.clock.run(1.5)
        nats.lossy_route = 0.0
        nats.clock.run(12)
        assert [b.messages(Audience.ROOM, name)[-1:] for name in names[:: rooms // 100]] == [[f"{heard}"]] * 100
    assert len(b.delivered) == 2 * rooms
    assert b.gaps == []


def test_cluster_rule_13_questions_and_confirmations_fit_into_a_small_payload():
    nats = SimNats(Clock())
    nats.max_payload = SMALL
    a, b, c = brokers(nats, "a", "b", "c")
    found = []
    for broker in (b, c):
        broker.answer = lambda question: question * 20_000
        for number in range(1000):
            broker.join(f"{number:064}")
    nats.clock.run(1)
    for number in range(1000):
        a.send(f"{number:064}", "x" * 100, confirm=True)
        a.cluster.confirm(5, lambda *result: found.append(result))
    a.cluster.survey(b"?", 5, lambda answers, missing: found.append((sorted(each for _, each in answers), missing)))
    nats.clock.run(6)
    assert found.count(((2, 2), True)) == 1000
    assert ([b"?" * 20_000] * 2, []) in found
