"""A client with links to several brokers, each of which has its own clients (CLUSTER rules 1, 2, 15 to 17).

The brokers know nothing of each other: what they tell of each other is what a test has them tell.
"""

import asyncio
import contextlib
import socket
import sys

import pytest

from pystrands import AsyncPyStrandsClient, LinkInfo, NotConnected, Refused, testing
from pystrands.engine.cluster import Peer
from pystrands.testing import until
from tests.client.fake_broker import FakeBroker, line, soon
from tests.inside import core_of, limited, parts_of, servers_of

QUICK = {"gone": 0.05}
"""A broker that nobody knows is gone a moment after its link."""


class Noting(AsyncPyStrandsClient):
    """Notes what its handlers are called with, and answers each message at its client's broker."""

    def __init__(self, *args, **options):
        super().__init__(*args, **({"reconnect_delay": 0.02, "max_reconnect_delay": 0.05} | options))
        limited(self, **QUICK)
        self.calls = []

    def of(self, name):
        return [args[0] if len(args) == 1 else args for called, *args in self.calls if called == name]

    async def on_new_connection(self, context):
        self.calls.append(("on_new_connection", context.room_id))

    async def on_message(self, message, context):
        self.calls.append(("on_message", context.room_id, message))
        await self.send_private_message(context.client_id, f"you said {message}")

    async def on_disconnect(self, context):
        self.calls.append(("on_disconnect", context.room_id))

    async def on_client_released(self, context):
        self.calls.append(("on_client_released", context.room_id))

    async def on_error(self, error, context):
        self.calls.append(("on_error", error))


def at(*brokers):
    return [f"127.0.0.1:{broker.tcp_port}" for broker in brokers]


def peer(broker, *, is_draining=False):
    return Peer(broker.broker_id, f"127.0.0.1:{broker.tcp_port}", is_draining)


def tell(broker, *others):
    """Have a broker tell its backends that these are the others."""
    parts_of(broker).lifecycle.peers_changed([each if isinstance(each, Peer) else peer(each) for each in others])


def link_to(client, broker):
    (link,) = [link for link in client.links if link.broker_id == broker.broker_id]
    return link


def home_of(client):
    (home,) = [link for link in client.links if link.is_home]
    return home


def connections_of(client):
    return list(core_of(client).lifetime.brokers.roster.connections)


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def red(stack):
    return await stack.enter_async_context(testing.broker())


@pytest.fixture
async def blue(stack):
    return await stack.enter_async_context(testing.broker())


async def connected(stack, client, *brokers):
    assert await client.connect()
    stack.push_async_callback(client.disconnect)
    await linked(client, *brokers)
    return client


async def linked(client, *brokers):
    """Wait until the client has a link to each of these, and to nobody else."""
    ids = sorted(broker.broker_id for broker in brokers)
    await until(lambda: sorted(link.broker_id for link in client.links if link.connected) == ids)
    await until(lambda: len(client.links) == len(brokers))


async def at_home(stack, home, other, *, via=None, other_via=None, **seconds):
    """Return a client of both, with its home at the first; each may be reached through a proxy only."""
    tell(home, Peer(other.broker_id, *at(other_via or other)))
    tell(other, Peer(home.broker_id, *at(via or home)))
    return await connected(stack, limited(Noting(at(via or home)), **(QUICK | seconds)), home, other)


async def client_at(stack, broker, room):
    return await stack.enter_async_context(testing.connect(broker, room))


# -- rules 1 and 2: what goes where


async def test_cluster_rule_01_each_event_is_answered_on_the_link_of_its_broker(stack, red, blue):
    client = await connected(stack, Noting(at(red, blue)), red, blue)
    for room, broker in (("/red", red), ("/blue", blue)):
        ws = await client_at(stack, broker, room)
        await ws.send("hello")
        await ws.expect("you said hello")
    assert client.of("on_message") == [["/red", "hello"], ["/blue", "hello"]]


async def test_cluster_rule_01_so_are_all_kinds_of_sends_and_questions_tasks_and_threads(stack, red, blue):
    class Asking(Noting):
        goes_on = False

        async def on_message(self, message, context):
            if message == "task":
                self.task = asyncio.create_task(self.later(context.room_id))
                return
            await self.send_room_message(context.room_id, "to the room")
            await self.broadcast_message("to all")
            confirmed = await self.send_room_message(context.room_id, "confirmed", confirm=True)
            members = [each.client_id for each in await self.room_members(context.room_id)]
            assert (confirmed.matched, members) == (1, [context.client_id])
            assert await self.join_room(context.client_id, "other")
            await asyncio.to_thread(lambda: None)
            await self.send_room_message("other", "joined")

        async def later(self, room_id):
            await until(lambda: self.goes_on)
            await self.send_room_message(room_id, "from a task")

    client = Asking(at(red, blue))
    await connected(stack, client, red, blue)
    for room, broker in (("/red", red), ("/blue", blue)):
        client.goes_on = False
        ws = await client_at(stack, broker, room)
        await ws.send("hello")
        for expected in ("to the room", "to all", "confirmed", "joined"):
            await ws.expect(expected)
        await ws.send("task")
        await until(lambda: hasattr(client, "task"))
        client.goes_on = True
        await ws.expect("from a task")
        del client.task
    assert client.of("on_error") == []


async def test_cluster_rule_02_what_is_sent_outside_of_handlers_goes_home_in_order(stack, red, blue):
    client = await at_home(stack, red, blue)
    assert home_of(client) == link_to(client, red)
    ada, bob = await client_at(stack, red, "/room"), await client_at(stack, blue, "/room")
    for number in range(50):
        assert await client.send_room_message("/room", str(number))
    for number in range(50):
        await ada.expect(str(number))
    await bob.expect_nothing(0.05)


async def test_cluster_rule_02_the_home_link_moves_when_its_broker_drains_and_not_back(stack, red, blue):
    client = await at_home(stack, red, blue)
    bob = await client_at(stack, blue, "/room")
    parts_of(red).lifecycle.drains()
    await until(lambda: home_of(client).broker_id == blue.broker_id)
    assert link_to(client, red).is_draining
    assert link_to(client, red).connected
    assert await client.send_room_message("/room", "hello")
    await bob.expect("hello")
    assert home_of(client).broker_id == blue.broker_id


async def test_cluster_rule_02_the_home_link_stays_while_its_broker_is_the_only_one(stack, red):
    tell(red)
    client = await connected(stack, Noting(at(red)), red)
    ada = await client_at(stack, red, "/room")
    parts_of(red).lifecycle.drains()
    await until(lambda: home_of(client).is_draining)
    assert await client.send_room_message("/room", "hello")
    await ada.expect("hello")


async def test_cluster_rule_02_messages_wait_for_a_home_link_that_comes_back_soon(stack, red, blue):
    with testing.LinkProxy(red) as proxy:
        client = await at_home(stack, red, blue, via=proxy)
        ada, bob = await client_at(stack, red, "/room"), await client_at(stack, blue, "/room")
        proxy.refuse()
        proxy.cut()
        await until(lambda: not link_to(client, red).connected)
        assert client.connected
        assert await client.send_room_message("/room", "kept")
        asking = asyncio.create_task(client.room_members("/room"))
        await asyncio.sleep(0.05)
        assert not asking.done()
        proxy.accept()
        await ada.expect("kept")
        assert len(await soon(asking)) == 1
        assert home_of(client).broker_id == red.broker_id
        await bob.expect_nothing(0.02)
        await client.disconnect()


async def test_cluster_rule_02_the_home_link_moves_when_it_has_been_lost_for_a_while(stack, red, blue):
    with testing.LinkProxy(red) as proxy:
        client = await at_home(stack, red, blue, via=proxy, home_link=0.1)
        bob = await client_at(stack, blue, "/room")
        proxy.refuse()
        proxy.cut()
        await until(lambda: not link_to(client, red).connected)
        assert len(await soon(client.room_members("/room"))) == 1  # it has waited for that
        assert home_of(client).broker_id == blue.broker_id
        assert await client.send_room_message("/room", "hello")
        await bob.expect("hello")
        proxy.accept()
        await linked(client, red, blue)
        assert home_of(client).broker_id == blue.broker_id
        await client.disconnect()


async def test_cluster_rule_02_a_question_without_any_link_is_not_waited_for(stack, red, blue):
    async with contextlib.AsyncExitStack() as proxies:
        one, other = [await proxies.enter_async_context(testing.LinkProxy(each)) for each in (red, blue)]
        client = await at_home(stack, red, blue, via=one, other_via=other)
        one.refuse()
        one.cut()
        await until(lambda: not link_to(client, red).connected)
        asking = asyncio.create_task(client.room_members("/room"))
        await asyncio.sleep(0)
        other.refuse()
        other.cut()
        with pytest.raises(NotConnected):
            await soon(asking)
        await client.disconnect(0)


# -- rule 15: which brokers there are


async def test_cluster_rule_15_one_address_is_enough(stack, red, blue):
    tell(red, blue)
    client = await connected(stack, Noting("127.0.0.1", red.tcp_port), red, blue)
    assert client.links == (
        LinkInfo(f"127.0.0.1:{red.tcp_port}", red.broker_id, connected=True, is_home=True, is_draining=False),
        LinkInfo(f"127.0.0.1:{blue.tcp_port}", blue.broker_id, connected=True, is_home=False, is_draining=False),
    )
    ws = await client_at(stack, blue, "/blue")
    await ws.send("hello")
    await ws.expect("you said hello")


async def test_cluster_rule_15_a_new_broker_is_linked_to_within_a_second_and_one_that_left_is_forgotten(stack, red):
    tell(red)
    client = await connected(stack, Noting(at(red)), red)
    async with testing.broker() as green:
        tell(red, green)
        async with asyncio.timeout(1):
            await linked(client, red, green)
        tell(red, peer(green, is_draining=True))
        tell(red)
        assert link_to(client, green).connected  # it is about to end, and has not
    await linked(client, red)


async def test_cluster_rule_15_an_address_without_a_host_is_that_of_the_broker_that_tells_it(stack, red, blue):
    tell(red, Peer(blue.broker_id, f":{blue.tcp_port}"), Peer("nobody", ""), Peer("nonsense", "ws://blue"))
    client = await connected(stack, Noting(at(red)), red, blue)
    assert link_to(client, blue).address == f"127.0.0.1:{blue.tcp_port}"


async def test_cluster_rule_15_a_broker_that_can_not_be_reached_is_tried_until_nobody_knows_it(stack, red, caplog):
    async with testing.broker() as green:
        gone = peer(green)
    tell(red, gone)
    client = Noting(at(red))
    assert await client.connect()
    stack.push_async_callback(client.disconnect)
    await until(lambda: len(client.links) == 2)
    assert client.connected
    await until(lambda: "could not connect" in caplog.text)
    tell(red)
    await linked(client, red)
    assert client.calls == []


async def test_cluster_rule_15_a_successor_at_the_same_address_gets_a_link_of_its_own(stack, red):
    """A broker drains, still has its links, and another one listens where it did."""
    tell(red)
    client = await connected(stack, Noting(at(red)), red)
    port = red.tcp_port
    servers_of(red)[1].close()
    async with testing.broker(tcp_port=port) as successor:
        tell(red, successor)
        await linked(client, red, successor)
        ada, bob = await client_at(stack, red, "/old"), await client_at(stack, successor, "/new")
        for ws in (ada, bob):
            await ws.send("hello")
            await ws.expect("you said hello")
        tell(successor)
        await red.stop()
        await linked(client, successor)
        assert client.of("on_disconnect") == ["/old"]
        await bob.send("still there")
        await bob.expect("you said still there")


# -- rule 16: one owner of all links


async def test_cluster_rule_16_two_addresses_of_one_broker_have_one_link_which_knows_both(stack, red):
    with testing.LinkProxy(red) as proxy:
        client = await connected(stack, Noting([*at(red), *at(proxy)]), red)
        await until(lambda: len(client.links) == 1)
        assert red.backend_count == 1
        here = client.links[0].address
        ada = await client_at(stack, red, "/red")
        if here == at(proxy)[0]:
            proxy.refuse()
            proxy.cut()
            await until(lambda: client.links[0].address == at(red)[0])
            await linked(client, red)
        await ada.send("hello")
        await ada.expect("you said hello")
    assert client.of("on_disconnect") == []


async def test_cluster_rule_16_connect_is_true_with_the_first_link_and_the_others_are_tried_on(stack, red):
    async with testing.broker() as green:
        port = green.tcp_port
    client = Noting([f"127.0.0.1:{port}", *at(red)])
    assert await client.connect()
    stack.push_async_callback(client.disconnect)
    assert client.connected
    assert home_of(client).broker_id == red.broker_id
    async with testing.broker(tcp_port=port) as green:
        await linked(client, red, green)


async def test_cluster_rule_16_connect_is_false_when_no_broker_is_there_and_leaves_nothing(red, blue):
    hosts = at(red, blue)
    await red.stop()
    await blue.stop()
    client = Noting(hosts)
    assert not await soon(client.connect())
    assert (client.connected, client.links) == (False, ())
    for task in asyncio.all_tasks():
        assert not task.get_name().startswith("pystrands"), task


async def test_cluster_rule_16_run_forever_waits_for_whichever_comes(red, blue):
    hosts, port = at(red, blue), blue.tcp_port
    await red.stop()
    await blue.stop()
    client = Noting(hosts)
    running = asyncio.create_task(client.run_forever())
    async with testing.broker(tcp_port=port):
        await until(lambda: client.connected)
        await client.disconnect()
        await soon(running)


async def test_cluster_rule_16_connected_while_one_link_is_up(stack, red, blue):
    tell(red, blue)
    client = await connected(stack, Noting(at(red, blue)), red, blue)
    await blue.stop()
    await until(lambda: not link_to(client, blue).connected)
    assert client.connected
    await red.stop()
    await until(lambda: not client.connected)


async def test_cluster_rule_16_without_auto_reconnect_the_last_link_ends_it(stack, red, blue):
    client = Noting(at(red, blue), auto_reconnect=False)
    running = asyncio.create_task(client.run_forever())
    await linked(client, red, blue)
    ada = await client_at(stack, red, "/red")
    await ada.send("hello")
    await ada.expect("you said hello")
    (link,) = parts_of(red).lifecycle.links
    link.abort()
    await until(lambda: client.of("on_client_released") == ["/red"])
    await linked(client, blue)
    assert not running.done()
    await blue.stop()
    await soon(running)


async def test_cluster_rule_16_refused_by_one_the_others_go_on(stack, red, caplog):
    picky = await stack.enter_async_context(testing.broker(backend_token=("secret",)))
    client = Noting(at(red, picky), token="wrong")
    running = asyncio.create_task(client.run_forever())
    await linked(client, red)
    assert "the token is wrong" in caplog.text
    tell(red, picky)  # it would refuse again
    await asyncio.sleep(0.05)
    assert len(client.links) == 1
    await client.disconnect()
    await soon(running)


async def test_cluster_rule_16_one_that_has_refused_is_tried_again_later(stack, red, tmp_path, caplog):
    tokens = tmp_path / "tokens"
    tokens.write_text("other\n")
    tokens.chmod(0o600)
    picky = await stack.enter_async_context(testing.broker(backend_token_file=str(tokens)))
    tell(red, picky)
    client = limited(Noting(at(red), token="new"), refused=0.2, **QUICK)
    assert await client.connect()
    stack.push_async_callback(client.disconnect)
    await until(lambda: "refuses this backend" in caplog.text)
    tokens.write_text("other\nnew\n")
    picky.reload()
    await linked(client, red, picky)


async def test_cluster_rule_16_refused_by_all_it_is_raised(stack):
    picky = await stack.enter_async_context(testing.broker(backend_token=("secret",)))
    other = await stack.enter_async_context(testing.broker(backend_token=("secret",)))
    with pytest.raises(Refused, match="the token is wrong"):
        await soon(Noting(at(other, picky), token="wrong").run_forever())
    assert not await soon(Noting(at(other, picky), token="wrong").connect())


async def test_cluster_rule_16_disconnect_lets_all_handlers_finish_and_all_brokers_get_what_they_send(stack, red, blue):
    class Slow(Noting):
        def __init__(self, *args):
            super().__init__(*args)
            self.goes_on = asyncio.Event()

        async def on_message(self, message, context):
            self.calls.append(("on_message", context.room_id, message))
            await self.goes_on.wait()
            for number in range(100):
                await self.send_private_message(context.client_id, str(number))

    client = Slow(at(red, blue))
    await connected(stack, client, red, blue)
    clients = [await client_at(stack, broker, "/room") for broker in (red, blue)]
    for ws in clients:
        await ws.send("hello")
    await until(lambda: len(client.of("on_message")) == 2)
    ending = asyncio.create_task(client.disconnect())
    await until(lambda: not client.connected)
    client.goes_on.set()
    await soon(ending)
    for ws in clients:
        for number in range(100):
            await ws.expect(str(number))
    assert (red.backend_count, blue.backend_count, client.links) == (0, 0, ())


async def test_cluster_rule_16_one_timeout_for_all_whichever_broker_hangs(stack, red, blue):
    with testing.LinkProxy(red) as proxy:
        client = await connected(stack, Noting(at(proxy, blue)), red, blue)
        bob = await client_at(stack, blue, "/blue")
        proxy.pause()
        await client.send_room_message("/red", "into the void")  # so that there is something to wait for
        await bob.send("hello")
        await bob.expect("you said hello")
        async with asyncio.timeout(5):
            await client.disconnect(0.1)
        assert blue.backend_count == 0
        proxy.resume()


async def test_cluster_rule_16_a_cancelled_run_ends_all(red, blue):
    client = Noting(at(red, blue))
    running = asyncio.create_task(client.run_forever())
    await linked(client, red, blue)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)
    await until(lambda: (red.backend_count, blue.backend_count) == (0, 0))


async def test_cluster_rule_16_handlers_of_all_links_share_the_bound(stack, red, blue):
    class Counting(Noting):
        running = most = 0

        async def on_message(self, message, context):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.005)
            self.running -= 1
            self.calls.append(("on_message", message))

    client = await connected(stack, Counting(at(red, blue), max_concurrency=2), red, blue)
    clients = [await client_at(stack, broker, "/room") for broker in (red, blue, red, blue)]
    for ws in clients:
        await ws.send("hello")
    await until(lambda: len(client.of("on_message")) == 4)
    assert client.most == 2


async def test_cluster_rule_16_the_lease_of_one_link_is_no_other_links(stack):
    red, blue = [await stack.enter_async_context(testing.broker(resume_window=0.5)) for _ in range(2)]
    with testing.LinkProxy(red) as proxy:
        client = await connected(stack, Noting(at(proxy, blue)), red, blue)
        ada, bob = await client_at(stack, red, "/red"), await client_at(stack, blue, "/blue")
        await ada.send("hello")
        await ada.expect("you said hello")
        proxy.pause()
        calls = [each.calls for each in connections_of(client)]
        await until(lambda: calls[0].lease_is_over)
        for number in range(5):
            await bob.send(str(number))
            await bob.expect(f"you said {number}")
        proxy.resume()
        await ada.send("again")
        await ada.expect("you said again")
        await client.disconnect()


# -- rule 17: a broker is gone


async def test_cluster_rule_17_each_client_of_a_broker_that_is_gone_is_told_as_disconnected_once(stack, red):
    class Talking(Noting):
        async def on_disconnect(self, context):
            await super().on_disconnect(context)
            await self.send_room_message("/red", f"{context.room_id} is gone")

    green = testing.LocalBroker()
    await green.start()
    stack.push_async_callback(green.stop)
    with testing.LinkProxy(green) as proxy:
        tell(red, Peer(green.broker_id, at(proxy)[0]))
        client = await connected(stack, Talking(at(red)), red, green)
        ada, bob = await client_at(stack, red, "/red"), await client_at(stack, green, "/green")
        cyd = await client_at(stack, green, "/green2")
        for ws in (ada, bob, cyd):
            await ws.send("hello")
            await ws.expect("you said hello")
        proxy.refuse()
        proxy.cut()
        await until(lambda: not link_to(client, green).connected)
        await asyncio.sleep(0.1)
        assert client.of("on_disconnect") == []  # a link that is lost means nothing of the kind
        tell(red)
        await linked(client, red)
        heard = {await ada.receive(), await ada.receive()}
        assert heard == {"/green is gone", "/green2 is gone"}
        assert sorted(client.of("on_disconnect")) == ["/green", "/green2"]
        await ada.send("still there")
        await ada.expect("you said still there")


async def test_cluster_rule_17_links_that_are_lost_at_once_say_nothing_whatever_was_told(stack, red, blue):
    """As when this process was paused: all brokers have been silent, and what they told before may be old."""
    client = await at_home(stack, red, blue, gone=0)
    clients = [await client_at(stack, broker, "/room") for broker in (red, blue)]
    for ws in clients:
        await ws.send("hello")
        await ws.expect("you said hello")
    tell(red)
    tell(blue)
    connections = connections_of(client)
    await until(lambda: [each.peers for each in connections] == [[], []])
    for each in connections:
        each.link.abort()
        core_of(client).lifetime.brokers.changed(each)
    await linked(client, red, blue)
    for ws in clients:
        await ws.send("again")
        await ws.expect("you said again")
    assert client.of("on_disconnect") == []


async def test_cluster_rule_17_a_broker_that_hangs_is_not_gone(stack, red, blue):
    """Where it was a port answers, and nobody says anything."""
    with testing.LinkProxy(red) as proxy:
        client = await at_home(stack, red, blue, via=proxy, connect=0.05, hello=0.05)
        ada = await client_at(stack, red, "/red")
        await ada.send("hello")
        await ada.expect("you said hello")
        proxy.pause()
        connections_of(client)[0].link.abort()
        tell(blue)
        await until(lambda: home_of(client).broker_id == blue.broker_id)
        await asyncio.sleep(0.3)
        assert client.of("on_disconnect") == []
        proxy.resume()
        await linked(client, red, blue)
        await ada.send("again")
        await ada.expect("you said again")
        assert client.of("on_disconnect") == []
        await client.disconnect()


async def test_cluster_rule_17_what_waits_for_a_broker_that_is_gone_is_sent_home_or_told(stack, red):
    async with testing.broker() as green:
        with testing.LinkProxy(green) as proxy:
            tell(green, red)
            tell(red, Peer(green.broker_id, at(proxy)[0]))
            client = await connected(stack, limited(Noting(at(proxy)), home_link=30, **QUICK), red, green)
            await until(lambda: home_of(client).broker_id == green.broker_id)
            ada = await client_at(stack, red, "/room")
            proxy.refuse()
            proxy.cut()
            await until(lambda: not link_to(client, green).connected)
            assert await client.send_room_message("/room", "kept")
            assert await client.send_private_message("somebody", "lost")
            tell(red)
            await until(lambda: home_of(client).broker_id == red.broker_id)
            assert await client.send_room_message("/room", "later")
            assert {await ada.receive(), await ada.receive()} == {"kept", "later"}
            (error,) = client.of("on_error")
            assert "1 messages were lost" in error
            await client.disconnect()


async def test_cluster_rule_17_handlers_that_run_finish_and_send_over_the_home_link(stack, red):
    class Slow(Noting):
        def __init__(self, *args):
            super().__init__(*args)
            self.goes_on = asyncio.Event()

        async def on_message(self, message, context):
            self.calls.append(("on_message", message))
            await self.goes_on.wait()
            self.calls.append(("sent", await self.send_room_message("/red", message)))

    client = Slow(at(red))
    async with testing.broker() as green:
        with testing.LinkProxy(green) as proxy:
            tell(red, Peer(green.broker_id, at(proxy)[0]))
            await connected(stack, client, red, green)
            ada, bob = await client_at(stack, red, "/red"), await client_at(stack, green, "/green")
            await bob.send("hello")
            await until(lambda: client.of("on_message") == ["hello"])
            proxy.refuse()
            proxy.cut()
            tell(red)
            await linked(client, red)
            client.goes_on.set()
            await ada.expect("hello")
            await until(lambda: client.of("on_disconnect") == ["/green"])
            assert client.of("sent") == [True]


async def test_cluster_rule_17_another_broker_at_its_address_has_taken_its_place(stack, red, blue):
    with testing.LinkProxy(red) as proxy:
        client = await at_home(stack, red, blue, via=proxy)
        ada = await client_at(stack, red, "/red")
        await ada.send("hello")
        await ada.expect("you said hello")
        # The address is not red's any more; blue, which has a link, says that red lives, and then that it does not.
        proxy._relay._target = blue.tcp_port
        proxy.cut()
        await until(lambda: not link_to(client, red).connected)
        await asyncio.sleep(0.1)
        assert client.of("on_disconnect") == []
        tell(blue)
        await until(lambda: client.of("on_disconnect") == ["/red"])
        await linked(client, blue)
        assert blue.backend_count == 1


async def test_cluster_rule_17_a_lone_broker_that_is_replaced_takes_its_clients_with_it(stack, red):
    """LINK rule 22, where others are there that tell nothing."""
    green = testing.LocalBroker()
    await green.start()
    port = green.tcp_port
    client = await connected(stack, Noting(at(red, green)), red, green)
    bob = await client_at(stack, green, "/green")
    await bob.send("hello")
    await bob.expect("you said hello")
    links = list(connections_of(client)[1]._links)
    for link in links:  # it hears no more of this broker, which ends meanwhile
        link.stop_receiving()
    await green.stop()
    async with testing.broker(tcp_port=port) as successor:
        await until(lambda: client.of("on_disconnect") == ["/green"])
        await linked(client, red, successor)
        await client.disconnect()
    assert client.of("on_disconnect") == ["/green"]


# -- a name that stands for several brokers


@pytest.fixture
def names(monkeypatch):
    """What names stand for, beside those that there are."""
    known: dict[str, list[str]] = {}
    look_up = socket.getaddrinfo

    def getaddrinfo(host, port, type=0, flags=0):  # noqa: A002 - as it is called
        if host not in known:
            return look_up(host, port, type=type, flags=flags)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in known[host]]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    return known


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_cluster_rule_15_a_name_may_stand_for_several_brokers(stack, names):
    red = await stack.enter_async_context(testing.broker(tcp_host="127.0.0.1"))
    blue = await stack.enter_async_context(testing.broker(tcp_host="127.0.0.2", tcp_port=red.tcp_port))
    names["brokers.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]  # the last one is down
    client = await connected(stack, Noting("brokers.test", red.tcp_port), red, blue)
    assert {link.address for link in client.links} == {f"127.0.0.{each}:{red.tcp_port}" for each in (1, 2)}
    for broker in (red, blue):
        ws = await client_at(stack, broker, "/room")
        await ws.send("hello")
        await ws.expect("you said hello")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_cluster_rule_15_so_it_does_when_all_it_stood_for_was_replaced(stack, names):
    red = testing.LocalBroker(tcp_host="127.0.0.1")
    await red.start()
    stack.push_async_callback(red.stop)
    names["brokers.test"] = ["127.0.0.1", "127.0.0.2"]
    client = await connected(stack, Noting("brokers.test", red.tcp_port), red)
    port = red.tcp_port
    names["brokers.test"] = ["127.0.0.3", "127.0.0.4"]
    blue = await stack.enter_async_context(testing.broker(tcp_host="127.0.0.4", tcp_port=port))
    await red.stop()
    await linked(client, blue)


async def test_a_name_with_one_address_stands_for_itself(stack, red, names):
    names["broker.test"] = ["127.0.0.1"]
    client = await connected(stack, Noting("broker.test", red.tcp_port), red)
    assert client.links[0].address == f"broker.test:{red.tcp_port}"


# -- brokers that say less


async def test_cluster_rule_15_who_says_nothing_where_a_broker_is_said_to_be_gets_no_link(stack, red):
    """Alone it might be an original broker; and home, where all that is sent goes nowhere."""
    silent = await stack.enter_async_context(FakeBroker(hello=False))
    tell(red, Peer("somebody", f"127.0.0.1:{silent.port}"))
    client = Noting(at(red))
    limited(client, hello=0.05, connect=0.3, **QUICK)
    assert await client.connect()
    stack.push_async_callback(client.disconnect)
    await until(lambda: len(client.links) == 2)
    (connection,) = [each for each in connections_of(client) if each.expected == "somebody"]
    await until(lambda: connection.supervisor._failures > 1)
    assert [link.connected for link in client.links] == [True, False]


async def test_two_original_brokers_have_a_link_each_and_each_answers_its_own_clients(stack):
    brokers = [await stack.enter_async_context(FakeBroker(hello=False)) for _ in range(2)]
    client = Noting([f"127.0.0.1:{broker.port}" for broker in brokers])
    assert await soon(client.connect())
    stack.push_async_callback(client.disconnect)
    for number, broker in enumerate(brokers):
        link = await broker.link()
        await link.send(line("new_message", {"message": str(number), "context": {"client_id": "ann"}}))
        heard = await link.receive()
        assert heard["params"] == {"conn_id": "ann", "message": f"you said {number}"}
    assert [link.broker_id for link in client.links] == ["", ""]


async def test_a_broker_that_knows_no_cluster_beside_one_that_does(stack, red):
    async with FakeBroker(broker_id="old", protocol=1) as old:
        tell(red)
        client = Noting([*at(red), f"127.0.0.1:{old.port}"])
        assert await client.connect()
        stack.push_async_callback(client.disconnect)
        await until(lambda: [link.connected for link in client.links] == [True, True])
        link = await old.link()
        await link.send(line("new_message", {"message": "hello", "context": {"client_id": "ann"}}))
        assert (await link.receive())["params"]["message"] == "you said hello"
        assert home_of(client).broker_id == red.broker_id
