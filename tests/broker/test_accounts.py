"""Who is charged with what, by a broker with real clients and a backend that finishes nothing."""

from pystrands import testing
from pystrands.broker.events.queue import EVENT_COST
from tests.e2e.raw_backend import RawBackend
from tests.inside import budget_of, parts_of


def accounts(broker):
    """Return the accounts by the client's id, the sum of the others', and what is nobody's."""
    made, nobodys = budget_of(broker)._accounts()
    of_clients = {
        account.give_up.args[0].client_id: account
        for account in made
        if getattr(account.give_up, "func", None) == parts_of(broker).router.give_up
    }
    others = sum(account.own for account in made if account not in of_clients.values())
    return of_clients, others, nobodys


async def test_rule_29_a_client_is_charged_with_what_it_sent_wherever_that_is():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws, idle = await raw.admit("ann"), await raw.admit("bob")
        raw.acknowledge()
        await ws.send("x" * 300_000)
        await raw.hear("new_message")
        of_clients, others, _ = accounts(broker)
        ann, bob = of_clients["ann"], of_clients["bob"]
        assert ann.fixed >= 600_000 + EVENT_COST, "the event, and the line until it is acknowledged"
        assert others == 0, "it is not the backend's"
        assert bob.own < 1000
        raw.acknowledge()
        await ws.send("y" * 100_000)  # which waits for credit
        await testing.until(lambda: broker.queued_messages == 1)
        ann = accounts(broker)[0]["ann"]
        assert 300_000 + EVENT_COST <= ann.fixed < 310_000
        assert 100_000 + EVENT_COST <= ann.own - ann.fixed < 250_000, "the event, and the buffer that has grown"
        ann.give_up()
        assert (await ws.expect_close()).code == 1013
        assert broker.counters["budget_dropped"] == 1
        ann = accounts(broker)[0]["ann"]
        assert 300_000 + EVENT_COST <= ann.fixed <= ann.own < 310_000, "what the backend has stays"
        await idle.close()


async def test_rule_29_a_backend_is_charged_with_what_it_causes_itself_and_is_ended_for_that():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        raw.acknowledge()
        for _ in range(100):
            raw.say("broadcast", {"message": "x", "confirm": True}, request_id="r" * 100)
        raw.raw(b'{"action":"broadcast","params":{"message":"' + b"x" * 100_000)
        await testing.until(lambda: accounts(broker)[1] > 110_000)
        (session,) = parts_of(broker).sessions.sessions
        parts_of(broker).lifecycle.give_up(session)
        assert accounts(broker)[1] == 0
        assert not list(parts_of(broker).sessions.sessions)
        assert broker.client_count == 1
        ws.abort()


async def test_what_is_told_at_a_look_is_no_less_than_the_accounts():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        clients = [await raw.admit(str(number)) for number in range(5)]
        for ws in clients:
            for _ in range(40):
                await ws.send("x" * 5000)
        await testing.until(lambda: broker.queued_messages == 5)
        budget_of(broker).look()
        made, nobodys = budget_of(broker)._accounts()
        exact = nobodys + sum(account.own + sum(map(len, account.frames)) for account in made)
        assert budget_of(broker).total >= 0.9 * exact > 5 * 32 * 5000
        for ws in clients:
            ws.abort()
