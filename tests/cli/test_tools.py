"""``pystrands send``, ``tail`` and ``status``: real processes against real brokers with real WebSocket clients."""

import asyncio
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from pystrands import AsyncPyStrandsClient, __version__
from pystrands.cli.main import main
from pystrands.cli.status_table import Picture
from pystrands.cli.status_text import PlainPicture, duration, rates
from pystrands.cli.tools import TOOL_OPTIONS, watched_line
from pystrands.errors import MalformedLine
from pystrands.protocol import messages, wire
from pystrands.protocol.messages import WatchedParams
from pystrands.testing import backend, until
from pystrands.testing import broker as running_broker
from pystrands.tools import Sent, Tool, ToolError
from tests.e2e.support import connect
from tests.inside import parts_of

pytestmark = pytest.mark.usefixtures("clean_environment")

POSIX = os.name == "posix"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def interruptible():
    """Have processes begin with SIGINT as it is on a terminal: who runs tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Rooms(AsyncPyStrandsClient):
    """Lets everybody in, under the name in the query."""

    async def on_connection_request(self, request):
        request.context.client_id = request.query["name"][0]
        request.context.room_id = request.url.strip("/")
        return True

    async def on_message(self, message, context):
        if message == "echo":
            await self.send_room_message(context.room_id, "echoed")


@asynccontextmanager
async def process(*args, stdout=asyncio.subprocess.PIPE, **env):
    """A command in a process of its own, which is gone in the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pystrands", *args,
        stdin=asyncio.subprocess.PIPE, stdout=stdout, stderr=asyncio.subprocess.PIPE, env={**os.environ, **env},
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def run(broker, *args, stdin=b"", **env):
    """Run a command to its end, in a thread of this process; its exit code, stdout and stderr."""
    env["PYSTRANDS_TCP_PORT"] = str(broker.tcp_port)
    done = await asyncio.to_thread(CliRunner(env=env).invoke, main, args, stdin)
    return done.exit_code, done.stdout, done.stderr


async def run_process(broker, *args, stdin=b"", **env):
    """Do the same in a process of its own, with arguments and streams as the system gives them."""
    async with process(*args, PYSTRANDS_TCP_PORT=str(broker.tcp_port), **env) as child:
        out, err = await child.communicate(stdin)
        return child.returncode, out.decode(), err.decode()


async def refusal(broker, *args, **options):
    """The one line on stderr of a command that fails with 1."""
    code, out, err = await run(broker, *args, **options)
    assert (code, out) == (1, ""), err
    (line,) = err.splitlines()
    return line


@asynccontextmanager
async def tailing(broker, *args):
    """A ``tail`` that watches already."""
    async with process("tail", *args, "--tcp-port", str(broker.tcp_port)) as child:
        assert (await child.stderr.readline()).startswith(b"Watching ")
        yield child


async def interrupted(child):
    """End a process as Ctrl+C does; its exit code and what is on stderr."""
    child.send_signal(signal.SIGINT)
    _, err = await child.communicate()
    return child.returncode, err.decode()


def in_process(*args):
    return CliRunner().invoke(main, args)


# ---- send


async def test_send_reaches_a_room_a_client_or_everyone():
    async with (
        running_broker() as broker, backend(broker, Rooms),
        connect(broker, "/lobby?name=anna") as anna,
        connect(broker, "/lobby?name=ben") as ben,
        connect(broker, "/other?name=cleo") as cleo,
    ):  # fmt: skip
        assert await run(broker, "send", "--room", "lobby", "to the room") == (0, f"Sent to 2 clients{os.linesep}", "")
        assert await anna.recv() == await ben.recv() == "to the room"
        assert (await run(broker, "send", "--client", "ben", "psst \N{GRINNING FACE}"))[1].startswith(
            "Sent to 1 client"
        )
        assert await ben.recv() == "psst \N{GRINNING FACE}"
        assert (await run_process(broker, "send", "--all", "--require-match", "--", "-5"))[0] == 0
        assert await anna.recv() == await ben.recv() == await cleo.recv() == "-5"
        assert broker.backend_count == 1


async def test_send_reads_stdin_and_sends_bytes():
    async with running_broker() as broker, backend(broker, Rooms), connect(broker, "/lobby?name=anna") as anna:
        for stdin, args, received in [
            (b"a line\n", [], "a line"),
            (b"two\r\nlines\r\n", [], "two\r\nlines"),
            (b"", [], ""),
            (b"\xff\x00\n", ["--binary"], b"\xff\x00\n"),
        ]:
            execute = run_process if args else run
            assert (await execute(broker, "send", "--room", "lobby", *args, "-", stdin=stdin))[0] == 0
            assert await anna.recv() == received
        assert (await run(broker, "send", "--room", "lobby", "--binary", "text"))[0] == 0
        assert await anna.recv() == b"text"
        assert "--binary" in await refusal(broker, "send", "--all", "-", stdin=b"\xff")


async def test_send_tells_that_there_is_nobody():
    async with running_broker() as broker:
        assert (await run(broker, "send", "--room", "/empty", "x"))[:2] == (
            0, f"Sent to 0 clients: nobody is in room '/empty'{os.linesep}"
        )  # fmt: skip
        assert await refusal(broker, "send", "--require-match", "--room", "empty", "x") == (
            "Error: nobody is in room 'empty'; where the backend names no rooms they are paths, such as '/empty'"
        )
        assert "'anna'" in await refusal(broker, "send", "--require-match", "--client", "anna", "x")
        assert "no client" in await refusal(broker, "send", "--require-match", "--all", "x")


async def test_send_refuses_what_the_broker_would_not_take():
    async with running_broker(max_message_size=1000) as broker:
        assert "takes 1000" in await refusal(broker, "send", "--all", "x" * 1001)
        assert "takes 1000" in await refusal(broker, "send", "--all", "-", stdin=b"x" * 5000)
        assert "too long" in await refusal(broker, "send", "--room", "r" * 100_000, "x")
        assert (await run(broker, "send", "--all", "x" * 1000))[0] == 0


@pytest.mark.skipif(not POSIX, reason="arguments are bytes on POSIX only")
async def test_send_refuses_what_is_no_text():
    async with running_broker() as broker:
        assert "not valid Unicode" in await refusal(broker, "send", "--all", os.fsdecode(b"\xff"))
        assert (await run_process(broker, "send", "--all", "--binary", os.fsdecode(b"\xff")))[0] == 0


@pytest.mark.parametrize(
    "args",
    [
        ["send", "text"],
        ["send", "--room", "r", "--all", "text"],
        ["send", "--room", "r", "--client", "c", "text"],
        ["send", "--room", "r"],
        ["send", "--all", "text", "--tcp-port", "0"],
        ["send", "--all", "text", "--tcp-hots", "x"],
        ["tail"],
        ["tail", "--room", "r", "--all"],
        ["status", "--interval", "0"],
    ],
)
def test_what_can_not_work_is_one_line(args):
    result = in_process(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")


def test_help():
    for name in ("send", "tail", "status"):
        assert name in in_process("-h").stdout
        text = " ".join(in_process(name, "-h").stdout.split())
        assert all(not each.default_text or f"[{each.default_text}]" in text for each in TOOL_OPTIONS), text


# ---- what is not there, or is no broker


@pytest.mark.parametrize("args", [["send", "--all", "x"], ["tail", "--all"], ["status"], ["status", "--json"]])
def test_no_broker(args):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    result = in_process(*args, "--tcp-port", str(port))
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: no broker at 127.0.0.1:{port}: ")


HELLO = wire.hello(messages.HelloParams(heartbeat=0.0))


ROW = {"name": "one", "clients": 1, "in_flight": None, "protocol": 1, "leaving": False, "linked": True}
REPORT = {
    "version": "2", "uptime": 10.0, "clients": 3000, "rooms": 1, "queue": {"messages": 1, "bytes": 2},
    "counters": {"messages_received": 1000}, "backends": [],
}  # fmt: skip


@contextmanager
def impostor(*answers, close=True):
    """Something that listens and writes; its port. Then it closes (after the answer to a hello), or waits."""

    def serve():
        connection, _ = server.accept()
        with closing(connection):
            for answer in answers:
                connection.sendall(answer)
            if close and HELLO in answers:
                connection.recv(4096)
            while not close and connection.recv(4096):
                pass

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


@pytest.mark.parametrize(
    "answers",
    [[], [b"HTTP/1.1 400 Bad Request\r\n\r\n"], [wire.HEARTBEAT], [b'{"action":"new","params":{}}\n'], [b"[]\n"]],
)
def test_what_is_no_broker_is_told_from_one(answers):
    with impostor(*answers) as port, pytest.raises(ToolError, match=f"127.0.0.1:{port} is no PyStrands broker"):
        Tool("127.0.0.1", port)


def test_silence_is_told_from_a_broker():
    with (
        impostor(close=False) as port,
        pytest.raises(ToolError, match="is no PyStrands broker"),
    ):
        Tool("127.0.0.1", port, timeout=0.1)


def test_a_broker_that_does_not_answer_or_goes_away():
    with impostor(HELLO, close=False) as port, Tool("127.0.0.1", port, timeout=0.1) as tool:
        with pytest.raises(ToolError, match="does not answer"):
            tool.send_to_all("x")
        tool.close()
    with impostor(HELLO, b"rubbish\n", close=False) as port, Tool("127.0.0.1", port) as tool:
        with pytest.raises(ToolError, match="does not speak"):
            tool.status()
        tool.close()
    with impostor(HELLO) as port, Tool("127.0.0.1", port) as tool, pytest.raises(ToolError, match="closed"):
        next(tool.watched())


def test_what_is_watched_while_a_request_waits_is_not_lost():
    lines = [wire.watched("joined", 1.0, "r", "anna"), wire.result("1", REPORT)]
    with impostor(HELLO, *lines, close=False) as port, Tool("127.0.0.1", port) as tool:
        assert tool.status() == REPORT
        assert next(tool.watched()) == WatchedParams("joined", 1.0, "r", "anna")
        tool.close()


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: None} for name in REPORT),
        {"version": 2}, {"uptime": -1}, {"clients": 10**400}, {"rooms": 1.5}, {"queue": {"messages": 1}}, {"queue": []},
        {"counters": {"a": "1"}}, {"counters": {"a": 10**400}}, {"backends": [1]}, {"backends": [{}]},
        {"backends": [ROW | {"name": None}]}, {"backends": [ROW | {"in_flight": "3"}]},
    ],
)  # fmt: skip
def test_a_report_that_is_none_is_one_line(wrong):
    with impostor(HELLO, wire.result("1", REPORT | wrong), close=False) as port:
        result = in_process("status", "--once", "--tcp-port", str(port))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: what listens at 127.0.0.1:{port} does not speak as a broker does\n"


def test_an_answer_to_send_that_is_none_is_one_line():
    with impostor(HELLO, wire.result("1", {"matched": "3", "skipped": 2}), close=False) as port:
        result = in_process("send", "--all", "x", "--tcp-port", str(port))
    assert (result.exit_code, result.stderr[:12]) == (1, "Error: what ")


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_in_a_report_steers_the_terminal(plain, monkeypatch):
    forged = "\x1b[2J\nPyStrands 2\u2028\x9b31m\r"
    report = REPORT | {"version": forged, "counters": {forged: 1}, "backends": [ROW | {"name": forged}]}
    if plain:
        monkeypatch.setitem(sys.modules, "rich.console", None)
        monkeypatch.delitem(sys.modules, "pystrands.cli.status_table", raising=False)
    with impostor(HELLO, wire.result("1", report), close=False) as port:
        result = in_process("status", "--once", "--tcp-port", str(port))
    assert result.exit_code == 0
    assert result.stdout.count("PyStrands 2") >= 2
    assert all(line.isprintable() for line in result.stdout.split("\n"))
    assert not any(line.startswith("PyStrands 2") for line in result.stdout.split("\n"))


async def test_names_and_tokens_that_are_no_text_are_one_line():
    wrong = os.fsdecode(b"\xff")
    async with running_broker() as broker:
        assert "not valid Unicode" in await refusal(broker, "tail", "--room", wrong)
        assert "not valid Unicode" in await refusal(broker, "status", "--backend-token", wrong)
        assert "not valid Unicode" in await refusal(broker, "status", PYSTRANDS_TOKEN=wrong)


def test_send_tells_who_did_not_take_it():
    with impostor(HELLO, wire.result("1", {"matched": 3, "skipped": 2}), close=False) as port:
        result = in_process("send", "--all", "x", "--tcp-port", str(port))
    assert (result.exit_code, result.stdout) == (0, "Sent to 1 of 3 clients: the others read too slowly\n")


def test_an_address_to_listen_on_is_understood_as_one_to_connect_to():
    with impostor(HELLO) as port, Tool("0.0.0.0", port) as tool:
        assert tool.address == f"0.0.0.0:{port}"


async def test_a_refused_request_raises():
    async with running_broker() as broker:

        def watch_too_much():
            with Tool("127.0.0.1", broker.tcp_port) as tool:
                for number in range(1001):
                    tool.watch(str(number))

        with pytest.raises(ToolError, match="watch all of them"):
            await asyncio.to_thread(watch_too_much)


# ---- send, with stdin, stdout and stderr that are not there


@pytest.mark.skipif(not POSIX, reason="a shell closes them")
async def test_what_was_sent_counts_wherever_the_output_goes():
    async with running_broker() as broker, backend(broker, Rooms), connect(broker, "/lobby?name=anna") as anna:
        for number, where in enumerate(
            [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full", "| true", "| head -1"]
        ):
            script = f'set -o pipefail; "$0" -m pystrands send --room lobby "{number} \N{GRINNING FACE}" {where}'
            code, _, err = await shell(script, broker)
            assert code == 0, (where, err)
            assert len(err.splitlines()) <= 1
            assert "Traceback" not in err
            assert await anna.recv() == f"{number} \N{GRINNING FACE}"


async def shell(script, broker, **env):
    """Run a script of bash, whose $0 is this Python; its exit code, stdout and stderr."""
    child = await asyncio.create_subprocess_exec(
        "bash", "-c", script, sys.executable, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYSTRANDS_TCP_PORT": str(broker.tcp_port), **env},
    )  # fmt: skip
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


@pytest.mark.skipif(not POSIX, reason="a shell closes them")
async def test_without_stdin_there_is_nothing_to_send():
    async with running_broker() as broker:
        for where in ("<&-", "0> /dev/null"):
            code, out, err = await shell(f'"$0" -m pystrands send --all - {where}', broker)
            assert (code, out) == (1, "")
            assert re.fullmatch("Error: stdin .*\n", err)


@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}], ids=str)
async def test_names_that_a_terminal_does_not_have_are_no_failure(how):
    async with running_broker() as broker:
        code, out, err = await run_process(broker, "send", "--room", "caf\xe9", "x", **how)
        assert (code, err) == (0, "")
        assert out.startswith("Sent to 0 clients: nobody is in room 'caf")
        code, out, err = await run_process(broker, "send", "--room", "caf\xe9", "--require-match", "x", **how)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        env = {**os.environ, "PYSTRANDS_TCP_PORT": str(broker.tcp_port), **how}
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", ONE_BY_ONE], env=env, capture_output=True, check=True, timeout=50
        )
        assert done.stderr.split() == [b"0", b"0", b"0"], done


ONE_BY_ONE = """
import sys
from pystrands.cli.main import main
for args in (["status", "--once"], ["status", "--once", "--json"], ["--help"]):
    try:
        main(args)
    except SystemExit as end:
        print(end.code, file=sys.stderr, flush=True)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
async def test_output_that_cannot_be_written_is_one_line():
    async with running_broker() as broker:
        for args in ("status --once --json", "status --once", "server --help", "--version"):
            code, _, err = await shell(f'"$0" -m pystrands {args} > /dev/full', broker)
            assert (code, err) == (1, "Error: the output can't be written: No space left on device\n"), args


async def test_tools_tell_of_what_kubernetes_has_set_in_one_line():
    async with running_broker() as broker:
        links = {"PYSTRANDS_TCP_PORT": "tcp://10.96.0.13:8081", "PYSTRANDS_WS_PORT": "tcp://10.96.0.12:8080"}
        async with process("status", "--once", "--json", "--tcp-port", str(broker.tcp_port), **links) as child:
            out, err = await child.communicate()
        assert (child.returncode, json.loads(out)["clients"]) == (0, 0)
        (line,) = err.decode().splitlines()
        assert "PYSTRANDS_TCP_PORT=tcp://10.96.0.13:8081" in line


# ---- tail


async def lines_of(child, count):
    return [(await child.stdout.readline()).decode().rstrip() for _ in range(count)]


@pytest.mark.usefixtures("measured")
async def test_tail_shows_what_flows_in_a_room():
    async with running_broker() as broker, backend(broker, Rooms), tailing(broker, "--room", "lobby") as tail:
        async with connect(broker, "/other?name=cleo") as cleo, connect(broker, "/lobby?name=anna") as anna:
            await cleo.send("elsewhere")
            await anna.send("echo")
            assert await anna.recv() == "echoed"
            await anna.send("x" * 200)
            await anna.send(b"\x00\xff")
            await anna.send("two\nlines \x1b[31m\x9b")
            assert [line.split(" ", 1)[1] for line in await lines_of(tail, 6)] == [
                "joined anna",
                "in     anna: echo",
                "out    1 client: echoed",
                f"in     anna: {'x' * 120}... (80 more)",
                "in     anna: <2 bytes> 00 ff",
                r"in     anna: two\nlines \x1b[31m\x9b",
            ]
        assert (await lines_of(tail, 1))[0].endswith(" left   anna")
        assert broker.backend_count == 1
        assert await interrupted(tail) == (0, "")
        await until(lambda: not parts_of(broker).rooms.taps.watchers)


async def test_tail_of_every_room_for_machines():
    async with running_broker() as broker, backend(broker, Rooms), tailing(broker, "--all", "--json") as tail:
        async with connect(broker, "/lobby?name=anna") as anna:
            await anna.send("x" * 200)
            assert (await run(broker, "send", "--all", "h\xe9\x9b"))[0] == 0
            lines = [json.loads(line) for line in await lines_of(tail, 3)]
            assert all(line.isascii() for line in map(json.dumps, lines))
            assert all(line.pop("time") > 1_000_000_000 for line in lines)
            assert lines == [
                {"kind": "joined", "room_id": "lobby", "client_id": "anna"},
                {"kind": "message_in", "room_id": "lobby", "client_id": "anna", "message": "x" * 200},
                {"kind": "message_out", "message": "h\xe9\x9b", "clients": 1},
            ]
        assert await interrupted(tail) == (0, "")


async def test_tail_ends_with_its_broker():
    async with running_broker() as broker, tailing(broker, "--all", "--full") as tail:
        await broker.stop()
        out, err = await tail.communicate()
        assert (tail.returncode, out) == (1, b"")
        assert err.decode().startswith("Error: the broker at 127.0.0.1:")


@pytest.mark.skipif(not POSIX, reason="pipes end otherwise on Windows")
async def test_tail_ends_quietly_when_nobody_reads_it_any_more():
    read, write = os.pipe()
    async with (
        running_broker() as broker,
        backend(broker, Rooms),
        process("tail", "--all", "--tcp-port", str(broker.tcp_port), stdout=write) as tail,
    ):
        os.close(write)
        assert (await tail.stderr.readline()).startswith(b"Watching ")
        os.close(read)
        async with connect(broker, "/lobby?name=anna"):
            assert await tail.stderr.read() == b""
            assert await tail.wait() == 1


def test_the_lines_of_tail():
    def text(*values, with_room=True, full=False, **more):
        return watched_line(WatchedParams(values[0], 0.5, *values[1:], **more), with_room, full=full).split(" ", 1)[1]

    assert text("joined", "r\n", "an\x1bna") == r"joined [r\n] an\x1bna"
    assert text("message_out", "r", message="m", clients=2) == "out    [r] 2 clients: m"
    assert text("message_out", "r", "anna", "m", clients=1) == "out    [r] anna: m"
    assert text("message_out", None, "anna", "m", clients=0) == "out    anna (not connected): m"
    assert text("message_out", message="m", clients=3) == "out    everyone, 3 clients: m"
    assert (
        text("message_out", user="a\n", message="m", clients=1, elsewhere=True)
        == r"out    user a\n, 1 client and others: m"
    )
    assert text("message_in", "r", "a", "m" * 121) == f"in     [r] a: {'m' * 120}... (1 more)"
    assert text("message_in", "r", "a", "m" * 999, with_room=False, full=True) == f"in     a: {'m' * 999}"
    assert text("message_in", "r", "a", "AAAA" * 50, binary=True).endswith("<150 bytes> " + "00 " * 120 + "...")
    assert text("dropped", dropped=7) == "7 lines are missing here: they came faster than they were read"
    with pytest.raises(MalformedLine):
        text("message_in", "r", "a", "=", binary=True)
    for moment in (1e300, -1e18):
        with pytest.raises(MalformedLine, match="no time"):
            watched_line(WatchedParams("joined", moment), with_room=True)


# ---- status


async def test_status_for_machines():
    async with running_broker() as broker, backend(broker, Rooms, name="chat"), connect(broker, "/lobby?name=anna"):
        await until(lambda: broker.client_count == 1)
        code, out, err = await run(broker, "status", "--once", "--json")
        assert (code, err) == (0, "")
        report = json.loads(out)
        assert (report["clients"], report["rooms"]) == (1, 1)
        assert report["queue"] == {"messages": 0, "bytes": 0}
        assert report["counters"] == {"clients_admitted": 1}
        assert report["uptime"] > 0
        assert report["broker_id"] == broker.broker_id
        (one,) = report["backends"]  # the tool itself is none
        assert (one["clients"], one["leaving"], one["linked"]) == (1, False, True)


async def test_status_as_a_table():
    async with running_broker() as broker:
        code, out, err = await run_process(broker, "status", PYTHONIOENCODING="utf-8")
        assert (code, err) == (0, "")
        assert f"at 127.0.0.1:{broker.tcp_port}, up " in out
        assert "No backend is connected" in out
        async with backend(broker, Rooms), connect(broker, "/lobby?name=anna"):
            _, out, _ = await run_process(broker, "status", "--once", PYTHONIOENCODING="utf-8")
            assert "clients 1   rooms 1   queue 0 messages, 0 bytes" in out
            assert "connected" in out
            assert "clients_admitted" in out
            assert "per second since the start" in out


@pytest.mark.usefixtures("measured")
@pytest.mark.skipif(not POSIX, reason="there are no pseudo-terminals")
async def test_status_is_live_on_a_terminal():
    ours, theirs = os.openpty()
    async with running_broker() as broker, backend(broker, Rooms):
        args = ("status", "--interval", "0.1", "--tcp-port", str(broker.tcp_port))
        async with process(*args, stdout=theirs, TERM="xterm") as child:
            os.close(theirs)
            seen = b""
            while b"per second since the start" not in seen or b"per second\x1b" not in seen:
                seen += await asyncio.to_thread(os.read, ours, 65536)
            drain = asyncio.ensure_future(asyncio.to_thread(drained, ours))
            assert await interrupted(child) == (0, "")
            await drain


def drained(terminal):
    """Read up to the end of a terminal, and close it."""
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # so Linux says that nobody has the other end
        pass
    os.close(terminal)


async def test_status_goes_on_for_machines_until_it_is_interrupted():
    async with running_broker() as broker:
        args = ("status", "--json", "--interval", "0.1", "--tcp-port", str(broker.tcp_port))
        async with process(*args) as child:
            first, second = [json.loads(line) for line in await lines_of(child, 2)]
            assert second["uptime"] > first["uptime"]
            assert await interrupted(child) == (0, "")


async def test_without_rich_the_table_is_plain():
    code = "import sys; sys.modules['rich'] = None; from pystrands.cli.main import main; main()"
    async with running_broker() as broker, backend(broker, Rooms, name="chat"):
        command = [sys.executable, "-c", code, "status", "--tcp-port", str(broker.tcp_port)]
        result = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        assert result.stderr == ""
        rows = [line.split() for line in result.stdout.splitlines()]
        assert rows[0][:4] == ["PyStrands", __version__, "at", f"127.0.0.1:{broker.tcp_port},"]
        assert ["backend", "clients", "in", "flight", "protocol", "state"] in rows
        (one,) = [row for row in rows if row[-1:] == ["connected"]]
        assert one[-5:] == ["'chat'", "0", "0", "2", "connected"]
        result = await asyncio.to_thread(
            subprocess.run, [*command, "--json", "--once"], capture_output=True, text=True, check=True
        )
        assert json.loads(result.stdout)["clients"] == 0


def test_plain_reports_one_below_the_other(capsys):
    with PlainPicture("here") as text:
        text.show(REPORT)
        row = ROW | {"name": "\x1b[2Jone"}
        text.show(REPORT | {"uptime": 12.0, "counters": {"messages_received": 1004}, "backends": [row]})
    shown = """
PyStrands 2 at here, up 10 s
clients 3,000   rooms 1   queue 1 messages, 2 bytes

No backend is connected: clients wait.

counter             total   per second since the start
messages_received   1,000                        100.0

PyStrands 2 at here, up 12 s
clients 3,000   rooms 1   queue 1 messages, 2 bytes

backend      clients   in flight   protocol   state
\\x1b[2Jone         1           -          1   connected

counter             total   per second
messages_received   1,004          2.0
"""
    assert capsys.readouterr().out == shown.removeprefix("\n")


def test_the_table_has_every_state_of_a_backend():
    def backend_row(name, **more):
        return {"name": name, "clients": 1, "in_flight": 2, "protocol": 2, "leaving": False, "linked": True} | more

    report = {
        "version": "2", "uptime": 10.0, "clients": 3, "rooms": 1, "queue": {"messages": 1, "bytes": 2},
        "counters": {"messages_received": 100},
        "backends": [
            backend_row("[red]one", in_flight=None, protocol=1),
            backend_row("two", leaving=True),
            backend_row("three", linked=False),
        ],
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    picture = Picture("here", live=False, console=console)
    with picture:
        picture.show(report)
        picture.show(report | {"uptime": 12.0, "counters": {"messages_received": 104, "new": 1}})
    rows = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]  # a StringIO
    assert ["[red]one", "1", "-", "1", "connected"] in rows
    assert ["two", "1", "2", "2", "leaving"] in rows
    assert ["three", "1", "2", "2", "away"] in rows
    assert ["messages_received", "100", "10.0"] in rows
    assert ["messages_received", "104", "2.0"] in rows
    assert ["new", "1", "0.5"] in rows


def test_rates_and_durations():
    assert rates({"uptime": 0.0, "counters": {"a": 1}}, None) == {"a": 0.0}
    assert [duration(seconds) for seconds in (0.9, 61, 3600, 90_000, 86_400 * 400)] == [
        "0 s", "1 min 1 s", "1 h", "1 d 1 h", "400 d"
    ]  # fmt: skip


# ---- all of it against a broker in a process of its own


async def test_against_a_broker_process():
    async with process("server", "--ws-port", "0", "--tcp-port", "0") as server:
        await server.stdout.readline()
        port = int((await server.stdout.readline()).decode().rpartition(":")[2])

        def use():
            with Tool(port=port) as tool:
                assert tool.send_to_room("r", "x") == Sent(0, 0)
                assert tool.send_to_client("c", b"x") == Sent(0, 0)
                assert tool.send_to_all("x") == Sent(0, 0)
                assert tool.status()["backends"] == []

        await asyncio.to_thread(use)
        server.terminate()
        assert await server.wait() == 0


# ---- the page about it


def test_the_page_has_every_command_and_option_and_each_of_its_commands_is_one():
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")
    lines = re.findall(r"^\$ .*?\b(pystrands .*)$", page, re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        name, *arguments = shlex.split(line.partition(" <")[0])[1:]
        main.commands[name].make_context(name, arguments)
    for name, command in main.commands.items():
        assert f"## pystrands {name}\n" in page
        if name != "server":
            flags = {flag for each in command.params if isinstance(each, click.Option) for flag in each.opts}
            assert not [flag for flag in flags if f"`{flag}`" not in page]
