"""What those who run several brokers see of them: health, status, what flows; over a double of the engine."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner
from rich.console import Console

from pystrands.cli.main import main
from pystrands.cli.status_table import ClusterPicture
from pystrands.cli.status_text import PlainClusterPicture
from pystrands.engine.cluster import Peer
from pystrands.testing import connect, until
from pystrands.testing.brokers import LocalBroker
from pystrands.tools import Tool, ToolError
from pystrands.watching import Watching
from tests.cluster.backends import cluster
from tests.cluster.together import Together, brokers, one_broker
from tests.inside import budget_of, parts_of


async def get(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body.strip()


@asynccontextmanager
async def tool(broker):
    """A link to a broker of this thread, whose methods block: to be called on another one."""
    with await asyncio.to_thread(Tool, port=broker.tcp_port) as one:
        yield one


# ---- health


async def test_cluster_rule_09_apart_from_the_others_a_broker_is_ready_and_degraded():
    async with cluster(admin_port=0) as ((one, _), _two):
        assert await get(one.admin_port, "/readyz") == (200, "ready")
        one.engine.cut()
        for port in (one.admin_port, one.ws_port):
            told = await get(port, "/readyz")
            assert told == (200, "degraded: NATS can't be reached, and with it no other broker")
        samples = (await get(one.admin_port, "/metrics"))[1].splitlines()
        for sample in ("connected 0.0", "peers 1.0", "held_bytes 4711.0", "heartbeat_lag_seconds 0.25"):
            assert f"pystrands_engine_{sample}" in samples
        one.engine.mend()
        assert await get(one.admin_port, "/readyz") == (200, "ready")


async def test_cluster_rule_10_the_admin_port_is_there_while_the_engine_starts_and_no_other():
    engine = Together().engine()
    engine.may_start.clear()
    engine.is_cut = True
    broker = LocalBroker(engine=engine, admin_port=0)
    starting = asyncio.create_task(broker.start())
    await until(lambda: broker._admin is not None and broker._admin._server is not None)
    assert await get(broker.admin_port, "/healthz") == (200, "ok")
    assert await get(broker.admin_port, "/readyz") == (503, "not ready; waiting for NATS")
    engine.is_cut = False
    assert await get(broker.admin_port, "/readyz") == (503, "not ready; waiting for other brokers")
    with pytest.raises(RuntimeError, match="has not been started"):
        broker.ws_port  # noqa: B018 - raises
    engine.may_start.set()
    await starting
    assert broker.ws_port > 0
    assert await get(broker.admin_port, "/readyz") == (503, "not ready")
    await broker.stop()


async def test_a_start_that_waits_for_others_can_be_cancelled():
    engine = Together().engine()
    engine.may_start.clear()
    broker = LocalBroker(engine=engine, admin_port=0)
    starting = asyncio.create_task(broker.start())
    await until(lambda: broker._admin is not None and broker._admin._server is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises((OSError, IndexError)):
        await get(broker.admin_port, "/healthz")


# ---- what is told of this broker


@pytest.mark.parametrize(
    ("options", "local", "host"),
    [
        ({}, "10.0.0.5", "127.0.0.1"),
        ({"tcp_host": "0.0.0.0"}, "10.0.0.5", "10.0.0.5"),
        ({"tcp_host": "0.0.0.0"}, "fd00::5", "[fd00::5]"),
        ({"tcp_host": "0.0.0.0"}, "127.0.0.1", ""),
        ({"tcp_host": "0.0.0.0"}, "", ""),
    ],
)
async def test_cluster_rule_15_what_is_advertised_by_itself(options, local, host):
    together = Together()
    async with brokers(2, together, allow_insecure_backends=True, local_host=local, **options) as (one, two):
        (peer,) = two.engine.peers
        assert (peer.broker_id, peer.address) == (one.broker_id, f"{host}:{one.tcp_port}")
        async with tool(one) as link:
            assert link.hello.address == peer.address
            assert (await asyncio.to_thread(link.status))["cluster"]["address"] == peer.address


async def test_a_broker_that_backends_elsewhere_can_not_reach_says_so(caplog):
    together = Together()
    async with one_broker(together, local_host="127.0.0.1"):
        assert "can't reach this broker" not in caplog.text
    async with one_broker(together, local_host="10.0.0.5"):
        assert "it listens for them on 127.0.0.1 only (--tcp-host)" in caplog.text


async def test_the_memory_budget_counts_what_the_cluster_takes():
    async with cluster(memory_budget=1 << 20) as ((one, _), (two, _)):
        budget_of(one).look()
        assert budget_of(one).total >= 4711
        two.engine.is_mute = True
        before = budget_of(one).total
        parts_of(one).others.members("lobby", 0, [b"x" * 10_000], True, lambda _: None)
        budget_of(one).look()
        assert budget_of(one).total >= before + 10_000


async def test_cluster_rule_15_who_stops_says_so_before_anything_else():
    async with cluster() as ((one, _), (two, _)):
        async with connect(one, "/ann") as ann:
            changes = []
            two.engine.node.on_peers = lambda peers: changes.append((list(peers), ann.closed, one.client_count))
            await one.stop()
            (peer,), closed, clients = changes[0]
            assert (peer.broker_id, peer.is_draining, closed, clients) == (one.broker_id, True, None, 1)
            await until(lambda: changes[-1][0] == [])


# ---- status


async def test_status_of_all_brokers():
    async with cluster(3) as ((one, _), (two, _), (three, _)), connect(two, "/bob"):
        async with tool(one) as link:
            report = await asyncio.to_thread(link.status_of_all)
        assert [each["broker_id"] for each in report["brokers"]] == [one.broker_id, two.broker_id, three.broker_id]
        assert [each["clients"] for each in report["brokers"]] == [0, 1, 0]
        assert (report["silent"], report["connected"]) == ([], True)
        one.engine.cut()
        async with tool(one) as link:
            report = await asyncio.to_thread(link.status_of_all)
        assert [each["broker_id"] for each in report["brokers"]] == [one.broker_id]
        assert (sorted(report["silent"]), report["connected"]) == (sorted([two.broker_id, three.broker_id]), False)


async def run(broker, *args):
    env = {"PYSTRANDS_TCP_PORT": str(broker.tcp_port), "COLUMNS": "150"}
    done = await asyncio.to_thread(CliRunner(env=env).invoke, main, args)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.usefixtures("clean_environment")
async def test_status_of_all_brokers_as_a_table_and_for_machines():
    async with cluster() as ((one, _), (two, _)), connect(two, "/bob"):
        code, out, err = await run(one, "status", "--cluster")
        assert (code, err) == (0, "")
        head, *rows = [line.split() for line in out.splitlines() if line.strip() and "─" not in line]
        assert head == ["2", "brokers,", "clients", "1"]
        assert [row[0] for row in rows[1:]] == [one.broker_id[:8], two.broker_id[:8]]
        assert [row[1] for row in rows[1:]] == [f"127.0.0.1:{each.tcp_port}" for each in (one, two)]
        assert {row[-1] for row in rows[1:]} == {"ready"}
        code, out, err = await run(one, "status", "--cluster", "--json", "--once")
        assert [each["clients"] for each in json.loads(out)["brokers"]] == [0, 1]


async def test_status_of_a_broker_without_cluster_is_a_cluster_of_one():
    async with LocalBroker() as broker:
        async with tool(broker) as link:
            report = await asyncio.to_thread(link.status_of_all)
        assert [each["broker_id"] for each in report["brokers"]] == [broker.broker_id]
        assert "cluster" not in report["brokers"][0]


def report(broker_id, uptime, received, **cluster):
    return {
        "broker_id": broker_id,
        "uptime": uptime,
        "clients": 1000,
        "rooms": 3,
        "backends": [{"linked": True}, {"linked": False}],
        "queue": {"messages": 5, "bytes": 0},
        "counters": {"messages_received": received},
    } | ({"cluster": {"address": "\x1b[31mhost:1", "connected": True, "draining": False} | cluster} if cluster else {})


def test_the_table_of_brokers_says_which_they_are_where_there_is_little_room(capsys):
    with ClusterPicture("here", live=False, console=Console(highlight=False, width=80)) as picture:
        picture.show(
            {"brokers": [report("a" * 32, 10, 100, address="10.20.30.40:8081")], "silent": [], "connected": True}
        )
    out = capsys.readouterr().out
    assert "aaaaaaaa   10.20.30.40:8081" in out and "ready" in out
    assert "…" not in out and "rooms" not in out


@pytest.mark.parametrize("plain", [True, False])
def test_the_table_of_brokers(plain, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    picture = (
        PlainClusterPicture("here")
        if plain
        else ClusterPicture("here", live=False, console=Console(highlight=False, width=150))
    )
    brokers = [report("a" * 32, 10, 100, draining=True), report("b" * 32, 10, 10, connected=False), report("c", 10, 0)]
    with picture:
        picture.show({"brokers": brokers, "silent": ["d\x1b" + "e" * 30], "connected": True})
        picture.show({"brokers": [report("a" * 32, 12, 300, draining=False)], "silent": [], "connected": False})
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["3", "brokers,", "clients", "3,000;", "1", "did", "not", "answer"] in lines
    first = next(line for line in lines if line[:1] == ["aaaaaaaa"])
    assert first[2:] == ["10", "s", "1,000", "3", "1", "5", "10.0", "0.0", "draining"]
    again = [line for line in lines if line[:1] == ["aaaaaaaa"]][1]
    assert again[-3:] == ["100.0", "0.0", "ready"]
    assert [line[-1] for line in lines if line[:1] == ["bbbbbbbb"]] == ["off"]
    assert [line[-1] for line in lines if line[:1] == ["c"]] == ["alone"]
    assert any(line[-1:] == ["silent"] for line in lines)
    assert [
        "1",
        "broker,",
        "clients",
        "1,000;",
        "NATS",
        "can't",
        "be",
        "reached,",
        "and",
        "with",
        "it",
        "no",
        "other",
        "broker",
    ] in lines


# ---- tail


class Tail:
    """What ``pystrands tail`` would show, gathered on a thread."""

    def __init__(self, broker, room_id=None):
        self._port = broker.tcp_port
        self.notices = []
        self.seen = []
        self.problem = ""
        self._thread = threading.Thread(target=self._run, args=(room_id,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._watching.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self, room_id):
        try:
            with Tool(port=self._port) as tool:
                self._watching = Watching(tool, room_id, self.notices.append)
                with self._watching:
                    self.seen.extend(self._watching)
        except ToolError as error:
            self.problem = str(error)

    def shown(self):
        return sorted([(each.kind, each.client_id, each.message, each.clients) for each in self.seen], key=str)


def watchers(broker):
    return len(parts_of(broker).rooms.taps.watchers)


async def test_tail_sees_all_brokers_and_each_message_once():
    async with cluster() as ((one, here), (two, _)):
        with Tail(one) as tail:
            await until(lambda: watchers(one) == watchers(two) == 1)
            async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
                await bob.send("hello")
                await until(lambda: len(tail.seen) == 3)
                await here.send_room_message("lobby", "to the room")
                await here.send_private_message("bob", "to bob")
                await here.send_private_message("nobody", "to nobody")
                await here.broadcast_message("to all")
                await ann.expect("to all", skip=True)
                await until(lambda: len(tail.seen) == 7)
                await bob.expect("to all", skip=True)
            await until(lambda: len(tail.seen) == 9)
            assert tail.shown() == [
                ("joined", "ann", None, None),
                ("joined", "bob", None, None),
                ("left", "ann", None, None),
                ("left", "bob", None, None),
                ("message_in", "bob", "hello", None),
                ("message_out", "bob", "to bob", 1),
                ("message_out", "nobody", "to nobody", 0),
                ("message_out", None, "to all", 1),
                ("message_out", None, "to the room", 1),
            ]
            assert {each.message for each in tail.seen if each.elsewhere} == {"to the room", "to all"}


async def test_tail_goes_on_with_the_brokers_that_there_are():
    together = Together()
    async with one_broker(together) as one:
        with Tail(one, "lobby") as tail:
            await until(lambda: watchers(one) == 1)
            async with one_broker(together) as two, one_broker(together) as three:
                await until(lambda: watchers(two) == watchers(three) == 1)
                await one.stop()
                await until(lambda: tail.notices)
                assert tail.notices[0].endswith("what flows there is not shown while it is away")
                async with one_broker(together) as four:
                    await until(lambda: watchers(four) == 1)
                assert not tail.problem
            await until(lambda: tail.problem)
            assert tail.problem.startswith("the broker at 127.0.0.1")


async def test_tail_of_a_broker_that_has_taken_anothers_place_shows_each_message_once():
    async with cluster() as ((one, _), (two, _)):
        one.engine.node.on_peers([*one.engine.peers, Peer("it was there", f"127.0.0.1:{two.tcp_port}")])
        with Tail(one) as tail:
            await until(lambda: watchers(two) >= 1 and tail.notices)
            async with connect(two, "/bob") as bob:
                await bob.send("hello")
                await until(lambda: ("message_in", "bob", "hello", None) in tail.shown())
            await until(lambda: ("left", "bob", None, None) in tail.shown())
            assert len(tail.seen) == 3
            assert tail.notices[0].startswith(f"the broker that was at 127.0.0.1:{two.tcp_port} is gone, and another")


async def test_tail_of_a_broker_without_cluster_is_as_it_was():
    async with LocalBroker() as broker:
        with Tail(broker) as tail:
            await until(lambda: watchers(broker) == 1)
            await broker.stop()
            await until(lambda: tail.problem)
        assert tail.notices == []
