"""The systems that are compared: how each is started, at its fastest documented settings, without compression."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import HERE, compiled, free_ports, process, wait_until_answers

__all__ = ["COMPILED", "SIDES", "SOURCE", "Running", "Side", "cluster", "nats_server", "pystrands"]

PEERS = HERE / "peers"
ROOT = HERE.parent
SOURCE = ROOT / "src"
COMPILED = ROOT / "build" / f"compiled{Path(sys.prefix).name.removeprefix('.venv')}"
"""What ``pip install .`` makes, where the Makefile has it for this environment."""
UVICORN = ["--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio", "--ws-per-message-deflate", "false"]
"""Of the three values of --ws the one that was fastest here, in all cases, for FastAPI and for python-socketio."""


@dataclass(frozen=True)
class Running:
    """A system that accepts clients: its ports, the processes by name, and what is spoken inside the frames."""

    ports: tuple[int, ...]
    processes: dict[str, int]
    dialect: str = "plain"


Starter = Callable[[Path], AbstractContextManager[Running]]


@dataclass(frozen=True)
class Side:
    """One of the systems; ``start`` takes a file for what its processes say."""

    name: str
    label: str
    short: str
    start: Starter
    without: frozenset[str] = field(default_factory=frozenset)
    """Cases that it cannot run."""


def pystrands(
    backend: str = "async",
    protocol: int = 2,
    loop: str = "uvloop",
    python: str = sys.executable,
    src: Path = COMPILED,
    watch: Path | None = None,
    dialect: str = "plain",
) -> Starter:
    """Our broker and one backend, compiled from this source tree or from another folder, which goes on PYTHONPATH.

    ``loop``: what an asynchronous backend runs on, "uvloop" or "asyncio"; ``PyStrandsClient`` chooses uvloop by itself.
    ``watch``: the file of a broker that looks at its own event loop.
    """

    @contextmanager
    def start(log: Path) -> Iterator[Running]:
        _check(src)
        ws, tcp = free_ports(2)
        env = {"PYTHONPATH": str(src)}
        program = ["-m", "pystrands", "server"] if watch is None else [str(PEERS / "broker_watched.py"), str(watch)]
        broker = [python, *program, "--ws-port", str(ws), "--tcp-port", str(tcp)]
        with ExitStack() as stack:
            broker_id = stack.enter_context(process([*broker, "--log-level", "warning"], env, log))
            wait_until_answers(ws, "/healthz")
            command = [python, str(PEERS / f"backend_{backend}.py"), str(tcp), str(protocol), loop]
            backend_id = stack.enter_context(process(command, env, log))
            wait_until_answers(ws, "/readyz")
            yield Running((ws,), {"broker": broker_id, "backend": backend_id}, dialect)

    return start


def cluster(brokers: int, backends: int, src: Path = COMPILED) -> Starter:
    """Return what starts so many brokers on one NATS server, and so many backends, each linked to all brokers."""

    @contextmanager
    def start(log: Path) -> Iterator[Running]:
        _check(src)
        env = {"PYTHONPATH": str(src)}
        pids = {}
        with ExitStack() as stack:
            url, pids["nats"] = stack.enter_context(nats_server(log))
            ports = free_ports(3 * brokers)
            ws_ports, tcp_ports, admin_ports = ports[:brokers], ports[brokers : 2 * brokers], ports[2 * brokers :]
            for number, (ws, tcp, admin) in enumerate(zip(ws_ports, tcp_ports, admin_ports, strict=True), 1):
                command = [sys.executable, "-m", "pystrands", "server", "--ws-port", str(ws), "--tcp-port", str(tcp)]
                command += ["--nats-url", url, "--admin-port", str(admin), "--log-level", "warning"]
                pids[f"broker{number}"] = stack.enter_context(process(command, env, log))
            for ws in ws_ports:
                wait_until_answers(ws, "/healthz")
            for number in range(1, backends + 1):
                command = [
                    sys.executable,
                    str(PEERS / "backend_async.py"),
                    ",".join(map(str, tcp_ports)),
                    "2",
                    "uvloop",
                ]
                pids[f"backend{number}"] = stack.enter_context(process(command, env, log))
            for admin in admin_ports:  # all of them: the first would be given all clients
                wait_until_answers(admin, "/metrics", says=f"\npystrands_backends {backends}.0\n")
            yield Running(tuple(ws_ports), pids)

    return start


@contextmanager
def nats_server(log: Path, config: str = "", port: int = 0) -> Iterator[tuple[str, int]]:
    """Start NATS' server; yield its URL and its process."""
    port = port or free_ports(1)[0]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "nats.conf"
        path.write_text(f'listen: "127.0.0.1:{port}"\n{config}')
        program = Path(sys.executable).parent / "nats-server"
        with process([str(program), "-c", str(path)], {}, log) as pid:
            wait_until_answers(port, None)
            yield f"nats://127.0.0.1:{port}", pid


def _check(src: Path) -> None:
    """End the program, which could measure nothing, where ``src`` has no PyStrands or what is compiled is old."""
    if src == COMPILED:
        ready = COMPILED / ".ready"
        made = ready.stat().st_mtime if ready.exists() else 0.0
        if any(made < each.stat().st_mtime for each in SOURCE.rglob("*.py")):
            target, venv = (os.path.relpath(path, ROOT) for path in (ready, sys.prefix))
            raise SystemExit(f"PyStrands is not compiled, or was before src changed: run make {target} VENV={venv}")
    elif not (src / "pystrands").is_dir():
        raise SystemExit(f"there is no PyStrands in {src}")


def _server(command: Callable[[str], list[str]], dialect: str = "plain", path: str | None = None) -> Starter:
    @contextmanager
    def start(log: Path) -> Iterator[Running]:
        (port,) = free_ports(1)
        with process(command(str(port)), {}, log) as pid:
            wait_until_answers(port, path)
            yield Running((port,), {"server": pid}, dialect)

    return start


def _uvicorn(app: str) -> Callable[[str], list[str]]:
    head = [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        "--app-dir",
        str(PEERS),
        "--log-level",
        "warning",
        "--no-access-log",
        *UVICORN,
    ]
    return lambda port: [*head, "--port", port]


@contextmanager
def _nats(log: Path) -> Iterator[Running]:
    """NATS' own WebSocket listener: clients publish to each other, nobody is in between."""
    _, ws = free_ports(2)  # the first one is the server's own
    config = f'websocket {{ listen: "127.0.0.1:{ws}", no_tls: true, compression: false }}\n'
    with nats_server(log, config) as (_, pid):
        wait_until_answers(ws, None)
        yield Running((ws,), {"server": pid}, "nats")


CLUSTERLESS = frozenset({"echo1000", "broadcast", "idle", "latency"})
"""Cases that tell nothing more of a cluster."""

SIDES = {
    side.name: side
    for side in (
        Side("pystrands", "PyStrands, `AsyncPyStrandsClient`", "PyStrands", pystrands()),
        Side("pystrands-sync", "PyStrands, `PyStrandsClient`", "PyStrands, threads", pystrands("sync")),
        Side(
            "pystrands-interpreted",
            "PyStrands, interpreted, backend on asyncio's loop",
            "PyStrands, interpreted",
            pystrands(loop="asyncio", src=SOURCE),
        ),
        Side("fastapi", "FastAPI on uvicorn", "FastAPI", _server(_uvicorn("fastapi_app:app"), path="/docs")),
        Side(
            "socketio",
            "python-socketio on uvicorn",
            "python-socketio",
            _server(_uvicorn("socketio_app:app"), "socketio"),
        ),
        Side(
            "websockets",
            "websockets",
            "websockets",
            _server(lambda port: [sys.executable, str(PEERS / "websockets_app.py"), port]),
        ),
        Side("nats", "nats-server", "nats-server", _nats, frozenset({"echo", "echo1000", "latency"})),
        Side("c", "a server in C, no backend", "C, no backend", _server(lambda port: [compiled("peer_c"), port])),
        Side(
            "alone", "PyStrands, NATS engine, one broker", "PyStrands, alone in a cluster", cluster(1, 1), CLUSTERLESS
        ),
        Side("cluster", "PyStrands, two brokers, two backends", "PyStrands, two brokers", cluster(2, 2), CLUSTERLESS),
        Side(
            "sessions",
            "PyStrands, clients of `pystrands.v1`",
            "PyStrands, pystrands.v1",
            pystrands(dialect="sessions"),
            CLUSTERLESS - {"idle"},
        ),
        Side("protocol1", "PyStrands, backend on protocol 1", "PyStrands, protocol 1", pystrands(protocol=1)),
    )
}
