"""The command: where values come from, what a wrong one says, and how the process begins and ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import pystrands
from pystrands.broker.config import BrokerConfig, options
from pystrands.broker.option import Option
from pystrands.build import BUILD
from pystrands.cli import main as module
from pystrands.cli.main import (
    DEMO_OPTIONS,
    SERVER_OPTIONS,
    Failure,
    WrongValue,
    main,
    read_file,
    resolve,
    start_problem,
)
from pystrands.cli.options import Command, add_options, is_service_link, service_links
from pystrands.cli.signals import Hangups
from tests.certificates import Authority

pytestmark = pytest.mark.usefixtures("clean_environment")

POSIX = os.name == "posix"


def run(*args, **env):
    """Run the command in this process; only for what ends before the broker begins."""
    return CliRunner(env=env).invoke(main, args)


def refusal(*args, **env):
    """The one line on stderr of a command that is refused for a value."""
    result = run("server", *args, **env)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    return line


# ---- real processes


@contextmanager
def process(*args, **env):
    """A command in a process of its own, which is gone in the end."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pystrands", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def end(child, number=signal.SIGTERM):
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    return child.returncode, errors


def listening(child):
    """Wait for the two lines that say where a server listens; its ports."""
    first, second = child.stdout.readline(), child.stdout.readline()
    clients = re.fullmatch(r"WebSocket clients: wss?://127\.0\.0\.1:(\d+)\n", first)
    backends = re.fullmatch(r"backends: 127\.0\.0\.1:(\d+)\n", second)
    assert clients, (first, child.stderr.read() if not first else "")
    assert backends, second
    return int(clients[1]), int(backends[1])


# ---- help


def test_help_names_every_option_with_its_default():
    result = run("server", "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for option in SERVER_OPTIONS:
        assert option.flag in text
        assert not option.default_text or f"[{option.default_text}]" in text
    assert "--config FILE" in text


def test_the_version():
    assert run("--version").stdout == f"pystrands, version {pystrands.__version__}, {BUILD}\n"


def test_the_group_lists_its_commands():
    text = run("-h").stdout
    assert "server" in text
    assert "demo" in text


def test_the_demo_takes_the_addresses():
    addresses = ["--ws-host", "--ws-port", "--tcp-host", "--tcp-port"]
    assert [option.flag for option in DEMO_OPTIONS] == [*addresses, "--allow-insecure-backends"]
    assert run("demo", "--help").exit_code == 0


# ---- precedence


def test_a_flag_wins_over_the_environment_and_that_over_the_file():
    env = {"PYSTRANDS_WS_PORT": "2", "PYSTRANDS_TCP_PORT": "2", "PYSTRANDS_CLIENT_BUFFER": ""}
    file = {"ws_port": 3, "tcp_port": 3, "queue_size": 3, "client_buffer": "8 MiB", "hold_time": 3}
    values, sources = resolve(options(), {"ws_port": "1", "tcp_port": None}, env, file, "broker.toml")
    assert values == {"ws_port": 1, "tcp_port": 2, "queue_size": 3, "client_buffer": 8 << 20, "hold_time": 3.0}
    assert sources == {
        "ws_port": "",
        "tcp_port": "PYSTRANDS_TCP_PORT",
        "queue_size": "broker.toml",
        "client_buffer": "broker.toml",
        "hold_time": "broker.toml",
    }


def test_the_older_names_are_understood_and_the_new_ones_win():
    older = {"PYSTRAND_WS_PORT": "1", "PYSTRAND_TCP_PORT": "2", "PYSTRAND_QUEUE_SIZE": "3"}
    assert resolve(options(), {}, older, {})[0] == {"ws_port": 1, "tcp_port": 2, "queue_size": 3}
    both = {**older, "PYSTRANDS_WS_PORT": "9", "PYSTRANDS_TCP_PORT": ""}
    assert resolve(options(), {}, both, {})[0] == {"ws_port": 9, "tcp_port": 2, "queue_size": 3}
    assert "(from PYSTRAND_QUEUE_SIZE)" in refusal(PYSTRAND_QUEUE_SIZE="x")


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_option_can_come_from_everywhere(option, tmp_path):
    text = option.default_text or "one"
    expected = option.parse(text)
    assert resolve(options(), {option.name: text}, {}, {})[0] == {option.name: expected}
    assert resolve(options(), {}, {option.env: text}, {})[0] == {option.name: expected}
    path = tmp_path / "broker.toml"
    for key in (option.key, option.name):
        path.write_text(f"{key} = {json.dumps(expected)}\n")
        assert resolve(options(), {}, {}, read_file(str(path), options()))[0] == {option.name: expected}


def test_a_switch_is_its_flag_alone_and_a_list_repeats_its_flag():
    known = (
        Option(name="loud", default=False, help="x"),
        Option(name="names", default=(), help="x", text="text"),
        Option(name="ws_port", default=1, help="x", minimum=0, maximum=9),
    )

    @click.command(cls=Command)
    @add_options(known)
    def command(**flags):
        click.echo(json.dumps(resolve(known, flags, {"PYSTRANDS_NAMES": "e, f"}, {})[0]))

    def given(*args):
        return json.loads(CliRunner().invoke(command, args).stdout)

    assert given() == {"names": ["e", "f"]}
    assert given("--loud", "--ws-port", "3") == {"loud": True, "names": ["e", "f"], "ws_port": 3}
    assert given("--names", "a", "--names", "b,c") == {"names": ["a", "b", "c"]}


# ---- wrong values


def test_a_wrong_flag():
    line = refusal("--ws-port", "99999")
    assert line == "Error: --ws-port: 99999 is not a whole number from 0 to 65535"


@pytest.mark.parametrize(
    "args",
    [
        ("--queue-policy", "drop-newest"),
        ("--hold-time", "soon"),
        ("--max-message-size", "0"),
        ("--ws-host", ""),
        ("--tcp-host", "a..b"),
        ("--log-level", "loud"),
        ("--tcp-port", "7\n8"),
        ("--tcp-port", "8080"),
        ("--client-buffer", "1 KiB"),
    ],
)
def test_wrong_flags_are_named(args):
    assert refusal(*args).startswith(f"Error: {args[0]}: ")


def test_a_wrong_variable_is_named_with_its_option():
    line = refusal(PYSTRANDS_WS_PORT="http")
    assert line == "Error: --ws-port (from PYSTRANDS_WS_PORT): 'http' is not a whole number from 0 to 65535"
    assert refusal(PYSTRANDS_LOG_LEVEL="loud").startswith("Error: --log-level (from PYSTRANDS_LOG_LEVEL): ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ws-port = 99999", "--ws-port (from {}): 99999 is not a whole number from 0 to 65535"),
        ("ws_port = true", "--ws-port (from {}): True is not a whole number from 0 to 65535"),
        ("hold-time = []", "--hold-time (from {}): [] is not a number of seconds from 0 to 86400"),
        ("queue-bytes = '1 TB'", "--queue-bytes (from {}): '1 TB' is not a whole number of bytes from 1 to 1 GiB"),
        ("ws-prt = 1", "{}: unknown key 'ws-prt': the nearest right one is 'ws-port'"),
        ("[broker]\nws-port = 1", "{}: unknown key 'broker': the nearest right one is "),
        ("ws-port = 1\nws_port = 2", "{}: 'ws-port' is there twice, with - and with _: remove one"),
        ("ws-port", "--config: {} is not a TOML file: "),
        ("ws-host = '\xff'", "--config: {} is not a TOML file: "),
    ],
)
def test_a_wrong_file(tmp_path, text, message):
    path = tmp_path / "broker.toml"
    path.write_text(text, "latin-1")
    assert refusal("--config", str(path)).startswith("Error: " + message.format(path))


def test_a_file_that_is_not_there(tmp_path):
    path = str(tmp_path / "none.toml")
    assert refusal("--config", path) == f"Error: --config: can't read {path}: No such file or directory"
    assert refusal(PYSTRANDS_CONFIG=path).startswith(f"Error: --config (from PYSTRANDS_CONFIG): can't read {path}")
    assert refusal("--config", str(tmp_path)).startswith("Error: --config: can't read")
    assert refusal("--config", "").startswith("Error: --config: can't read")


def test_values_that_do_not_go_together_name_the_source():
    line = refusal(PYSTRANDS_TCP_PORT="9000", PYSTRANDS_WS_PORT="9000")
    assert line.startswith("Error: --tcp-port (from PYSTRANDS_TCP_PORT): 9000 is the port for WebSocket clients too")


@pytest.mark.parametrize("args", [("--ws-prt", "1"), ("--ws-port",), ("extra",)])
def test_what_is_misspelt_takes_one_line_too(args):
    assert refusal(*args).startswith("Error: ")


def test_a_wrong_value_for_the_demo():
    result = run("demo", "--ws-port", "x")
    assert result.exit_code == 2
    assert result.stderr == "Error: --ws-port: 'x' is not a whole number from 0 to 65535\n"


# ---- addresses that can't be had


def test_a_host_that_is_none():
    for host in ("no.such.host.invalid", "192.0.2.1", "1.2.3.4.5"):
        failure = start_problem(BrokerConfig(ws_host=host, ws_port=0), OSError("?"))
        assert isinstance(failure, WrongValue)
        assert failure.message == f"--ws-host: {host!r} is not an address of this machine"


def test_any_other_reason_is_told_as_it_is(monkeypatch):
    failure = start_problem(BrokerConfig(ws_port=0, tcp_port=0), OSError("no more of it"))
    assert (failure.message, failure.exit_code) == ("can't listen: no more of it", 1)
    monkeypatch.setattr(module, "_bind_problem", lambda _host, _port: PermissionError(13, "Permission denied"))
    failure = start_problem(BrokerConfig(ws_port=80), OSError("?"))
    assert failure.message == "can't listen on 127.0.0.1:80: Permission denied; choose another --ws-port"
    assert failure.exit_code == 1
    assert "[::1]:80" in start_problem(BrokerConfig(ws_host="::1", ws_port=80), OSError("?")).message


def test_a_message_is_always_one_line():
    assert Failure("one\ntwo").message == "one two"


@pytest.mark.parametrize(
    ("command", "side"), [("server", "ws"), ("server", "tcp"), ("server", "admin"), ("demo", "ws"), ("demo", "tcp")]
)
def test_a_port_that_is_taken(command, side):
    others = [arg for other in ("ws", "tcp") if other != side for arg in (f"--{other}-port", "0")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(command, f"--{side}-port", str(port), *others)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: 127.0.0.1:{port} is in use by another program: end it, or choose another --{side}-port\n"
    )


def test_a_port_that_is_taken_ends_the_process_with_1():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process("server", "--ws-port", "0", "--tcp-port", str(port)) as child:
            output, errors = child.communicate(timeout=30)
    assert (child.returncode, output) == (1, "")
    assert errors == (f"Error: 127.0.0.1:{port} is in use by another program: end it, or choose another --tcp-port\n")


def test_a_host_that_is_none_ends_the_process_with_2():
    with process(
        "server", "--allow-insecure-backends", "--tcp-host", "192.0.2.1", "--ws-port", "0", "--tcp-port", "0"
    ) as child:
        output, errors = child.communicate(timeout=30)
    assert (child.returncode, output) == (2, "")
    assert errors == "Error: --tcp-host: '192.0.2.1' is not an address of this machine\n"


# ---- the process


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(number):
    with process("server", "--ws-port", "0", "--tcp-port", "0") as child:
        ws_port, tcp_port = listening(child)
        assert ws_port != tcp_port
        socket.create_connection(("127.0.0.1", tcp_port), timeout=10).close()
        with urllib.request.urlopen(f"http://127.0.0.1:{ws_port}/healthz", timeout=10) as answer:
            assert answer.status == 200
        code, errors = end(child, number)
    assert code == 0, errors
    assert "Traceback" not in errors


def admit(client, backend):
    """Open a WebSocket by hand, and be the backend that lets it in."""
    head = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    client.sendall(head.encode())
    with backend.makefile("r") as lines:
        request = next(line for line in map(json.loads, lines) if line["action"] == "connection_request")
    answer = {"accepted": True, "client_id": "1", "room_id": "r", "metadata": {}}
    line = {"action": "response", "request_id": request["request_id"], "params": answer}
    backend.sendall(json.dumps(line).encode() + b"\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 101 ")


def test_a_second_signal_ends_it_at_once():
    with process("server", "--ws-port", "0", "--tcp-port", "0", "--close-timeout", "3000") as child:
        ws_port, tcp_port = listening(child)
        with (
            socket.create_connection(("127.0.0.1", tcp_port), timeout=30) as backend,
            socket.create_connection(("127.0.0.1", ws_port), timeout=30) as client,
        ):
            backend.sendall(b'{"action": "heartbeat", "request_id": "", "params": {}}\n')
            admit(client, backend)
            child.send_signal(signal.SIGTERM)
            assert client.recv(1)[0] == 0x88, "a close frame, which this client never answers"
            code, _ = end(child, signal.SIGTERM)
    assert code == -signal.SIGTERM


def pid_namespaces_can_be_had():
    try:
        return subprocess.run(["unshare", "-pf", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not pid_namespaces_can_be_had(), reason="only root on Linux can make a process the first one")
def test_a_second_signal_ends_it_at_once_where_it_is_the_first_process_as_in_a_container():
    command = ("unshare", "-pf", "--kill-child", sys.executable, "-m", "pystrands", "server")
    args = ("--ws-port", "0", "--tcp-port", "0", "--close-timeout", "3000")
    with subprocess.Popen([*command, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        try:
            ws_port, tcp_port = listening(parent)
            first = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text("ascii"))
            with (
                socket.create_connection(("127.0.0.1", tcp_port), timeout=30) as backend,
                socket.create_connection(("127.0.0.1", ws_port), timeout=30) as client,
            ):
                backend.sendall(b'{"action": "heartbeat", "request_id": "", "params": {}}\n')
                admit(client, backend)
                os.kill(first, signal.SIGTERM)
                assert client.recv(1)[0] == 0x88, "a close frame, which this client never answers"
                os.kill(first, signal.SIGTERM)
                assert parent.wait(30) == 128 + signal.SIGTERM
        finally:
            parent.kill()


def test_metrics_are_announced_and_there():
    with process("server", "--ws-port", "0", "--tcp-port", "0", "--admin-port", "0") as child:
        listening(child)
        url = re.fullmatch(r"metrics: (http://127\.0\.0\.1:\d+/metrics)\n", child.stdout.readline())
        assert url
        with urllib.request.urlopen(url[1], timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert "\npystrands_clients 0.0\n" in answer.read().decode()
        assert end(child)[0] == 0


def test_metrics_need_their_extra(monkeypatch):
    monkeypatch.setattr("pystrands.broker.config.find_spec", lambda _name: None)
    line = refusal("--admin-port", "9100")
    assert line == "Error: --admin-port: prometheus-client is not installed: pip install prometheus-client"


@pytest.mark.parametrize("side", ["ws", "tcp"])
def test_the_admin_port_is_a_port_of_its_own(side):
    line = refusal("--admin-port", "9100", f"--{side}-port", "9100")
    assert line == f"Error: --admin-port: 9100 is --{side}-port too: choose another for one"


def test_a_log_of_json_is_nothing_but_json_from_beginning_to_end():
    args = ("--ws-port", "0", "--tcp-port", "0", "--admin-port", "0", "--log-format", "json")
    with process("server", *args) as child:
        entries = [json.loads(child.stderr.readline()) for _ in range(4)]
        first, *addresses = (entry["message"] for entry in entries)
        assert first == f"PyStrands {pystrands.__version__}, {BUILD}"
        assert [address.split(": ")[0] for address in addresses] == ["WebSocket clients", "backends", "metrics"]
        port = int(addresses[0].rpartition(":")[2])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate(timeout=30)
    assert (child.returncode, output) == (0, "")
    rest = [json.loads(line) for line in errors.splitlines()]
    assert rest[-1]["message"] == "stopped"
    assert {key for entry in entries + rest for key in entry} == {"time", "level", "logger", "message"}


def test_the_environment_and_a_file_reach_the_process(tmp_path):
    path = tmp_path / "broker.toml"
    path.write_text('ws-port = 0\nlog-level = "debug"\n')
    with process("server", PYSTRANDS_CONFIG=str(path), PYSTRANDS_TCP_PORT="0") as child:
        listening(child)
        assert end(child)[0] == 0


@pytest.mark.skipif(not POSIX, reason="this system has no such limit")
def test_the_limit_of_open_files_is_raised():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, {before[1]})); "
    ask = "from pystrands.cli.main import raise_file_limit as r; r(); r(); "
    ask += "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    done = subprocess.run([sys.executable, "-c", low + ask], check=True, capture_output=True, text=True)
    soft, hard = map(int, done.stdout.split())
    assert soft == hard == before[1]


@pytest.mark.skipif(not POSIX, reason="this system has no such limit")
def test_a_limit_that_cannot_be_raised_is_no_reason_to_fail(monkeypatch, caplog):
    import resource

    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 128))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    module.raise_file_limit()
    assert "stays at 64" in caplog.text


def test_it_works_without_what_windows_does_not_have(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    module.raise_file_limit()
    assert module._loop_factory() is None


SERVED = """
import asyncio, gc, os, signal, sys
from contextlib import nullcontext
if sys.argv[1] == "asyncio":
    sys.modules["uvloop"] = None
from pystrands.cli import main as module
from pystrands.broker.config import BrokerConfig

def stop_soon(_broker):
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)

module._run(BrokerConfig(), nullcontext(), stop_soon, long_lived=True)
print(*gc.get_threshold())
"""


@pytest.mark.skipif(not POSIX, reason="there is no uvloop")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_full_collections_are_put_off_only_where_clients_leave_nothing_to_collect(loop):
    usual = subprocess.check_output([sys.executable, "-c", "import gc; print(*gc.get_threshold())"], text=True)
    served = subprocess.check_output([sys.executable, "-c", SERVED, loop], text=True, timeout=30)
    assert (served == usual) is (loop == "asyncio")


@pytest.mark.usefixtures("measured")
def test_the_demo_runs():
    with process("demo", "--ws-port", "0", "--tcp-port", "0") as child:
        first = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+/) in two tabs\n", child.stdout.readline())
        assert first
        with urllib.request.urlopen(first[1], timeout=10) as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert "<title>PyStrands chat</title>" in answer.read().decode()
        code, errors = end(child, signal.SIGINT)
    assert code == 0, errors
    assert "Traceback" not in errors


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", *(["::", "::1", "[::1]"] if has_ipv6() else [])])
def test_the_url_that_the_demo_tells_answers(host):
    with process("demo", "--ws-host", host, "--ws-port", "0", "--tcp-port", "0") as child:
        url = re.findall(r"Open (\S+) in two tabs\n", child.stdout.readline())[0]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert "<title>PyStrands chat</title>" in answer.read().decode()
        assert end(child)[0] == 0


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_port_that_one_family_has_is_taken_for_every_interface():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("server", "--ws-host", "::", "--ws-port", str(port), "--tcp-port", "0")
    assert result.exit_code == 1
    assert result.stderr == (f"Error: [::]:{port} is in use by another program: end it, or choose another --ws-port\n")


# ---- stdin, stdout and stderr that are not there


@pytest.mark.skipif(not POSIX, reason="a shell closes them")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_do_not_abort_the_server(closed):
    port = free_port()
    command = f'exec "$0" -m pystrands server --ws-port {port} --tcp-port 0 --drain-time 0 {closed}'
    with subprocess.Popen(["/bin/sh", "-c", command, sys.executable], stdin=subprocess.DEVNULL) as child:
        try:
            until_healthy(port)
            child.terminate()
            assert child.wait(30) == 0
        finally:
            child.kill()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def until_healthy(port):
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("command", ["server", "demo"])
def test_a_full_disk_or_a_closed_pipe_behind_stdout_does_not_end_the_start(command):
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for stdout, reason in ((full, "No space left on device"), (write, "Broken pipe")):
            port = free_port()
            with subprocess.Popen(
                [sys.executable, "-m", "pystrands", command, "--ws-port", str(port), "--tcp-port", "0"],
                stdout=stdout, stderr=subprocess.PIPE, text=True,
            ) as child:  # fmt: skip
                until_healthy(port)
                code, errors = end(child)
            assert code == 0, errors
            assert "Traceback" not in errors
            assert f":{port}" in errors, "what could not be told there is in the log"
            assert reason in errors
        with subprocess.Popen(
            [sys.executable, "-m", "pystrands", command, "--ws-port", str(port), "--tcp-port", "0"],
            stdout=subprocess.DEVNULL, stderr=full,
        ) as child:  # fmt: skip
            until_healthy(port)
            child.terminate()
            assert child.wait(30) == 0
    finally:
        os.close(write)
        os.close(full)


# ---- SIGHUP


def lines_until(child, text):
    """Read the log until a line has ``text``; that line."""
    for line in child.stderr:
        if text in line:
            return line
    raise AssertionError(f"the log ended without {text!r}")


@pytest.mark.skipif(not POSIX, reason="there is no SIGHUP")
def test_sighup_ends_no_server_that_has_nothing_to_reload_and_says_so():
    with process("server", "--ws-port", "0", "--tcp-port", "0", PYSTRANDS_BACKEND_TOKEN="") as child:
        port = int(re.findall(r":(\d+)", child.stdout.readline())[0])
        for _ in range(2):
            child.send_signal(signal.SIGHUP)
            assert "nothing to read again" in lines_until(child, "again")
        until_healthy(port)
        code, errors = end(child)
    assert code == 0, errors


@pytest.mark.skipif(not POSIX, reason="there is no SIGHUP")
def test_a_demo_ends_in_order_when_its_terminal_is_closed():
    with process("demo", "--ws-port", "0", "--tcp-port", "0") as child:
        child.stdout.readline()
        child.send_signal(signal.SIGHUP)
        assert child.wait(30) == 0


SIGHUP_AT = """
import os, signal, sys
from pystrands.cli import signals
from pystrands.broker.server import Broker
start, stop = Broker.start, Broker.stop

async def start_and_hear(self):
    os.kill(os.getpid(), signal.SIGHUP)
    await start(self)

async def stop_and_hear(self):
    os.kill(os.getpid(), signal.SIGHUP)
    await stop(self)
    os.kill(os.getpid(), signal.SIGHUP)

Broker.start, Broker.stop = start_and_hear, stop_and_hear
from pystrands.cli.main import main
main(sys.argv[1:], standalone_mode=False)
os.kill(os.getpid(), signal.SIGHUP)
print("the end", file=sys.stderr)
"""


@pytest.mark.skipif(not POSIX, reason="there is no SIGHUP")
def test_sighup_while_it_starts_counts_and_while_it_stops_harms_nobody(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("one\n")
    args = ["server", "--ws-port", "0", "--tcp-port", "0", "--backend-token-file", str(tokens)]
    with subprocess.Popen(
        [sys.executable, "-c", SIGHUP_AT, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            listening(child)
            assert lines_until(child, "read again").endswith("read again: --backend-token-file\n")
            code, errors = end(child)
        finally:
            child.kill()
    assert code == 0, errors
    assert "Traceback" not in errors
    assert errors.endswith("the end\n")


@pytest.mark.skipif(not POSIX, reason="there is no SIGHUP")
def test_after_a_start_that_failed_sighup_is_what_it_was():
    before = signal.getsignal(signal.SIGHUP)
    assert run("server", "--ws-port", "x").exit_code == 2
    assert signal.getsignal(signal.SIGHUP) is before
    hangups = Hangups()
    hangups.__enter__()
    assert signal.getsignal(signal.SIGHUP) is not before
    hangups.__exit__(OSError, OSError(), None)
    assert signal.getsignal(signal.SIGHUP) is before


# ---- Kubernetes


LINKS = {
    "PYSTRANDS_WS_PORT": "tcp://10.96.0.12:8080",
    "PYSTRANDS_WS_SERVICE_HOST": "10.96.0.12",
    "PYSTRANDS_WS_SERVICE_PORT": "8080",
    "PYSTRANDS_WS_PORT_8080_TCP": "tcp://10.96.0.12:8080",
    "PYSTRANDS_WS_PORT_8080_TCP_PROTO": "tcp",
    "PYSTRANDS_WS_PORT_8080_TCP_PORT": "8080",
    "PYSTRANDS_WS_PORT_8080_TCP_ADDR": "10.96.0.12",
    "PYSTRANDS_PORT": "tcp://10.96.0.9:8081",
    "PYSTRANDS_SERVICE_HOST": "10.96.0.9",
    "PYSTRANDS_TCP_PORT": "udp://[fd00::7]:8081",
    "PYSTRANDS_ADMIN_PORT": "tcp://10.96.0.13:9100",
    "PYSTRAND_WS_PORT": "tcp://10.96.0.14:8080",
}


def test_what_kubernetes_sets_for_services_is_skipped_and_told():
    assert resolve(options(), {}, LINKS, {"tcp_port": 7}, "broker.toml") == (
        {"tcp_port": 7},
        {"tcp_port": "broker.toml"},
    )
    assert resolve(options(), {}, {**LINKS, "PYSTRAND_WS_PORT": "9"}, {})[0] == {"ws_port": 9}
    line = service_links(SERVER_OPTIONS, LINKS)
    for name in ("PYSTRANDS_WS_PORT", "PYSTRANDS_TCP_PORT", "PYSTRANDS_ADMIN_PORT", "PYSTRAND_WS_PORT"):
        assert f"{name}={LINKS[name]}" in line
    assert "enableServiceLinks: false" in line
    assert "\n" not in line
    assert service_links(SERVER_OPTIONS, {"PYSTRANDS_WS_PORT": "8080"}) == ""


@pytest.mark.parametrize("value", ["tcp://", "tcp://10.96.0.12", "http://10.0.0.1:80", "10.0.0.1:80", "tcp:8080", "x"])
def test_any_other_wrong_port_still_is_an_error(value):
    assert not is_service_link(value)
    assert refusal(PYSTRANDS_WS_PORT=value).startswith("Error: --ws-port (from PYSTRANDS_WS_PORT): ")


def test_only_ports_have_such_values():
    link = LINKS["PYSTRANDS_WS_PORT"]
    assert refusal(PYSTRANDS_QUEUE_SIZE=link).startswith("Error: --queue-size (from PYSTRANDS_QUEUE_SIZE): ")
    assert refusal("--ws-port", link).startswith("Error: --ws-port: ")


def test_a_server_starts_beside_services_of_its_name():
    with process("server", "--ws-port", "0", "--tcp-port", "0", "--log-format", "json", **LINKS) as child:
        entries = [json.loads(child.stderr.readline()) for _ in range(2)]
        assert entries[1]["level"] == "warning"
        assert "PYSTRANDS_ADMIN_PORT=tcp://10.96.0.13:9100" in entries[1]["message"]
        code, errors = end(child)
        assert (code, "nothing reads" in errors) == (0, False)


@pytest.mark.parametrize("command", ["server", "demo"])
def test_a_variable_that_nothing_reads_is_told(command):
    with process(command, "--ws-port", "0", "--tcp-port", "0", PYSTRANDS_WS_PROT="1") as child:
        child.stdout.readline()
        assert "PYSTRANDS_WS_PROT: did you mean PYSTRANDS_WS_PORT?" in (errors := end(child)[1])
        assert errors.count("nothing reads") == 1


# ---- certificates


def serial_number(port, context):
    """Connect, and return what the broker's certificate has as its number."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
            return tls.getpeercert()["serialNumber"]


@pytest.mark.skipif(not POSIX, reason="there is no SIGHUP")
@pytest.mark.parametrize("option", ["tls_cert", "tls_key", "backend_tls_cert", "backend_tls_ca", "backend_token_file"])
def test_a_pipe_in_the_place_of_a_file_does_not_stop_a_server_at_sighup(tmp_path, option):
    files = Authority().write(tmp_path)
    if option.startswith("backend_tls"):
        files = {f"backend_{name}": path for name, path in files.items()}
        files["backend_tls_ca"] = str(tmp_path / "ca.pem")
        (tmp_path / "ca.pem").write_bytes((tmp_path / "cert.pem").read_bytes())
    files["backend_token_file"] = str(tmp_path / "tokens")
    (tmp_path / "tokens").write_text("one")
    flags = [text for name, path in files.items() for text in (f"--{name.replace('_', '-')}", path)]
    with process("server", "--ws-port", "0", "--tcp-port", "0", "--drain-time", "0", *flags) as child:
        child.stdout.readline()
        Path(files[option]).unlink()
        os.mkfifo(files[option])
        for _ in range(2):
            child.send_signal(signal.SIGHUP)
            line = lines_until(child, "SIGHUP: ")
            assert f"--{option.replace('_', '-')}" in line and "is a pipe" in line
        assert end(child)[0] == 0


@pytest.mark.usefixtures("measured")
@pytest.mark.skipif(not POSIX, reason="there is no SIGHUP")
def test_sighup_reads_the_certificate_again_and_a_bad_one_leaves_the_old_one_in_force(tmp_path):
    authority = Authority()
    files = authority.write(tmp_path)
    options = ["--tls-cert", files["tls_cert"], "--tls-key", files["tls_key"]]
    with process("server", "--ws-port", "0", "--tcp-port", "0", "--drain-time", "0", *options) as child:
        line = child.stdout.readline()
        assert line.startswith("WebSocket clients: wss://127.0.0.1:")
        port = int(line.rpartition(":")[2])
        first = serial_number(port, authority.trusting())
        authority.write(tmp_path)
        child.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while (second := serial_number(port, authority.trusting())) == first:
            assert time.monotonic() < deadline
        (tmp_path / "cert.pem").write_text("not a certificate")
        child.send_signal(signal.SIGHUP)
        for line in child.stderr:
            if "SIGHUP: --tls-cert: can't use" in line:
                break
        assert "what was read before stays in force" in line
        assert serial_number(port, authority.trusting()) == second
        assert end(child)[0] == 0


def test_certificates_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    files = Authority().write(tmp_path)
    assert "--tls-key: a private key needs its certificate" in refusal("--tls-key", files["tls_key"])
    ports = ("--ws-port", "0", "--tcp-port", "0")
    assert "--tls-cert: can't read nowhere.pem" in refusal("--tls-cert", "nowhere.pem", *ports)
    line = refusal("--tls-cert", files["tls_cert"], *ports)
    assert f"--tls-cert: can't use {files['tls_cert']}" in line
