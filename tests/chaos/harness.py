"""Real processes, what is done to them, and clients that keep count.

Everything waits with a bound, and ends the processes it began by their own pids.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from pystrands import testing
from pystrands.testing import LinkProxy, until
from pystrands.tools import Tool

HOST = "127.0.0.1"
PROGRAM = Path(__file__).with_name("backend_process.py")
_LISTENING = re.compile(r"^(WebSocket clients|backends): (?:ws://)?127\.0\.0\.1:(\d+)", re.MULTILINE)


def environment(**more):
    """Without what would tell a broker or a backend otherwise; a killed process would leave half a coverage file."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYSTRAND", "COVERAGE", "COV_"))
    } | more


class Child:
    """A process with its output in a file."""

    def __init__(self, command, output, **env):
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment(**env)
            )
        self.output = output
        self.is_stopped = False

    @property
    def runs(self):
        return self.process.poll() is None

    def text(self):
        return self.output.read_text(errors="replace")

    def signal(self, number):
        if self.runs:
            self.process.send_signal(number)

    def stop(self):
        self.signal(signal.SIGSTOP)
        self.is_stopped = True

    def cont(self):
        self.signal(signal.SIGCONT)
        self.is_stopped = False

    def kill(self):
        self.process.kill()
        self.process.wait()

    async def ended(self, timeout=15):
        """Wait for its end; return its exit code."""
        await until(lambda: not self.runs, timeout)
        return self.process.returncode


class BrokerProcess(Child):
    """``pystrands server``; ports of 0 are replaced by those that it got."""

    def __init__(self, output, *, ws_port=0, tcp_port=0, **options):
        options |= {"ws_port": ws_port, "tcp_port": tcp_port}
        flags = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()
        ]
        super().__init__([sys.executable, "-m", "pystrands", "server", *flags], output)
        self.ws_port = ws_port
        self.tcp_port = tcp_port
        self._tool = None

    async def listening(self):
        await until(lambda: len(dict(_LISTENING.findall(self.text()))) == 2 or not self.runs, 20)
        ports = dict(_LISTENING.findall(self.text()))
        assert ports, self.text()
        self.ws_port, self.tcp_port = int(ports["WebSocket clients"]), int(ports["backends"])

    def ws_url(self, path="/"):
        return f"ws://{HOST}:{self.ws_port}{path}"

    @property
    def backend_count(self):
        return sum(backend["linked"] for backend in self.status()["backends"])

    def status(self):
        """What it says of itself; it answers in far less than the time limit, or else it is ill."""
        if self._tool is None:
            self._tool = Tool(HOST, self.tcp_port, timeout=5)
        return self._tool.status()

    def backend(self, label):
        """Its entry about a backend; an empty one when there is none."""
        return next((each for each in self.status()["backends"] if f"'{label}'" in each["name"]), {})

    def close(self):
        if self._tool is not None:
            self._tool.close()
        self.kill()


class Backend:
    """One backend after the other under one name, each behind the same proxy; ``kinds`` is what was done to it."""

    def __init__(self, name, broker, directory):
        self.name = name
        self.broker = broker
        self.directory = directory
        self.proxy = LinkProxy(broker)
        self.generation = 0
        self.child = None
        self.records = []
        self.exits = {}
        self.is_calm = True
        """Whether nothing is being done to it."""

    @property
    def label(self):
        return f"{self.name}.{self.generation}"

    def start(self):
        self.generation += 1
        record = Record(self.label, self.directory / f"{self.label}.jsonl")
        self.records.append(record)
        self.child = Child(
            [sys.executable, str(PROGRAM)],
            self.directory / f"{self.label}.log",
            PYSTRANDS_TCP_PORT=str(self.proxy.tcp_port),
            CHAOS_LABEL=self.label,
            CHAOS_RECORD=str(record.path),
            PYTHONUNBUFFERED="1",
        )

    async def linked(self, timeout=20):
        """Wait until the broker has this very process, with a link, and it is not leaving."""
        end = time.monotonic() + timeout
        while True:
            assert self.child.runs, f"{self.label} has ended:\n{self.child.text()[-4000:]}"
            entry = self.broker.backend(self.label)
            if entry.get("linked") and not entry["leaving"] and entry["protocol"] == 2:
                return
            assert time.monotonic() < end, (
                f"{self.label} has no link: {self.broker.status()}\n{self.child.text()[-4000:]}"
            )
            await asyncio.sleep(0.02)

    async def restarted(self):
        self.start()
        await self.linked()

    def killed(self):
        self.child.kill()
        self.exits[self.label] = "killed"

    async def left(self, timeout=20):
        """SIGTERM, and wait for its end."""
        self.child.signal(signal.SIGTERM)
        code = await self.child.ended(timeout)
        # Without a link at that moment it can't say so, and what it was about to send is lost with it.
        self.exits[self.label] = "left" if f"'{self.label}' has left" in self.broker.text() else "cut off"
        assert code == 0, f"{self.label} ended with {code}:\n{self.child.text()[-4000:]}"

    def close(self):
        if self.child is not None and self.child.runs:
            self.child.kill()


class Record:
    """What one backend process has written down; :meth:`read` takes in what is new."""

    def __init__(self, label, path):
        self.label = label
        self.path = path
        self.lines = []
        self._position = 0

    def read(self):
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            self.lines.append(json.loads(line) | {"by": self.label})


class Sender:
    """A client that sends ``{"n": 0}``, ``{"n": 1}``, ... until it is told to stop; ``key`` is of this connection."""

    keys = itertools.count(1)

    def __init__(self, client_id):
        self.client_id = client_id
        self.key = f"k{next(self.keys)}"
        self.client = None
        self.sent = 0
        self.replies = []
        self.closed_by_broker = None

    async def connect(self, broker, room="room"):
        self.client = await testing.connect(broker, f"/{room}?id={self.client_id}&key={self.key}", timeout=30)

    async def send(self):
        await self.client.send(json.dumps({"n": self.sent}), timeout=60)
        self.sent += 1

    async def run(self, rate, rng, is_over):
        """Send at about ``rate`` messages a second until ``is_over()``."""
        while not is_over():
            await self.send()
            self.take()
            await asyncio.sleep(rng.uniform(0.5, 1.5) / rate)

    def take(self):
        """Take in the replies that are there."""
        inbox = self.client._connection.inbox
        while inbox:
            self.replies.append(json.loads(inbox.popleft()))
        if self.client.closed is not None and self.closed_by_broker is None:
            self.closed_by_broker = self.client.closed

    def unanswered(self):
        """The numbers of messages to which no reply has come."""
        self.take()
        return set(range(self.sent)) - {reply["n"] for reply in self.replies if reply["key"] == self.key}

    async def answered(self, timeout):
        await until(lambda: not self.unanswered(), timeout)

    async def ended(self, timeout):
        """Wait until it is closed; return what ended it."""
        await until(lambda: self.client.closed, timeout)
        return self.client.closed

    async def close(self):
        self.take()
        await self.client.close(timeout=30)
        self.replies.extend(json.loads(message) for message in self.client.pending)


class World:
    """A broker, backends behind proxies, and clients; everything ends with it."""

    def __init__(self, directory, **options):
        self.directory = directory
        self.options = {"log_level": "info", "drain_time": 0.1, "close_timeout": 2} | options
        self.broker = None
        self.backends = []
        self.senders = []
        self._stack = contextlib.AsyncExitStack()
        self._brokers = itertools.count(1)

    async def __aenter__(self):
        try:
            await self.start_broker()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, kind, error, trace):
        if error is not None:
            error.add_note(f"what the processes wrote and recorded is in {self.directory}")
        await self._end()

    async def _end(self):
        for backend in self.backends:
            backend.close()
        if self.broker is not None:
            self.broker.close()
        for sender in self.senders:
            if sender.client is not None:
                sender.client.abort()
        await self._stack.aclose()

    async def start_broker(self):
        """Start a broker; a second one gets the ports of the first."""
        ports = {}
        if self.broker is not None:
            ports = {"ws_port": self.broker.ws_port, "tcp_port": self.broker.tcp_port}
        self.broker = BrokerProcess(self.directory / f"broker.{next(self._brokers)}.log", **ports, **self.options)
        for backend in self.backends:
            backend.broker = self.broker
        await self.broker.listening()

    async def start_backends(self, *names):
        for name in names:
            backend = Backend(name, self.broker, self.directory)
            self._stack.enter_context(backend.proxy)
            self.backends.append(backend)
            backend.start()
        for backend in self.backends:
            await backend.linked()

    async def add(self, client_id, room="room"):
        sender = Sender(client_id)
        await sender.connect(self.broker, room)
        self.senders.append(sender)
        return sender

    async def add_all(self, client_ids, room="room"):
        return list(await asyncio.gather(*(self.add(client_id, room) for client_id in client_ids)))

    def events(self):
        """All records of all processes, in the order of time; those of one process in their own."""
        records = [record for backend in self.backends for record in backend.records]
        for record in records:
            record.read()
        return sorted((line for record in records for line in record.lines), key=lambda line: line["t"])

    async def lost(self, label):
        """Wait until the broker has no session of that process any more."""
        await until(lambda: not self.broker.backend(label), 20)

    def exits(self):
        """How each process ended that has: ``killed``, ``left``, or ``cut off`` when it could not tell the broker."""
        return {label: how for backend in self.backends for label, how in backend.exits.items()}

    async def answered(self, timeout):
        """Wait until each message of each client that is open has a reply."""
        end = time.monotonic() + timeout
        while missing := {sender.key: found for sender in self.senders if (found := sender.unanswered())}:
            assert time.monotonic() < end, (
                f"never answered: {dict(itertools.islice(missing.items(), 5))} and so on, {len(missing)} clients; "
                f"the broker says {self.broker.status()}"
            )
            await asyncio.sleep(0.05)

    async def recorded(self, what, keys, timeout=30):
        """Wait until each of these connections has such a record."""
        end = time.monotonic() + timeout
        while missing := set(keys) - {line["key"] for line in self.events() if line["what"] == what}:
            assert time.monotonic() < end, f"no {what} is recorded of {sorted(missing)}: {self.broker.status()}"
            await asyncio.sleep(0.05)

    async def close_clients(self):
        """Close all clients, and wait until their backends were told."""
        closed_by_broker = {sender.key: sender.closed_by_broker for sender in self.senders if sender.closed_by_broker}
        assert not closed_by_broker
        await asyncio.gather(*(sender.close() for sender in self.senders))
        await self.recorded("gone", [sender.key for sender in self.senders])

    async def leave(self):
        """End all backends and then the broker, in order; return the broker's last status."""
        status = self.broker.status()
        await asyncio.gather(*(backend.left() for backend in self.backends))
        self.broker.signal(signal.SIGTERM)
        assert await self.broker.ended() == 0, self.broker.text()[-4000:]
        return status


class Chaos:
    """What is done to backends, at random.

    ``beat`` and ``window`` are the broker's heartbeat and resume window, in seconds. *Lethal* is what ends a session.
    A message is dropped after three deliveries that ended in dead sessions (LINK rule 21), which is not to happen here:
    at most two sessions die in one wave, and the next wave begins when all is well again.
    """

    LETHAL = ("kill", "pause_long", "silence_long", "outage_long", "kill_while_leaving", "cut_then_pause")
    OTHERS = ("terminate", "pause_short", "pause_silent", "silence_short", "cut", "cut_often", "half_up", "half_down",
              "outage_short")  # fmt: skip
    SETTLE = 1.0

    def __init__(self, world, seed, *, beat, window):
        self.world = world
        self.random = random.Random(seed)
        self.beat = beat
        self.window = window
        self.done = Counter()
        self._wave = 0  # how many lethal things belong to this wave
        self._lethal = 0  # how many of them go on
        self._quiet_since = 0.0

    async def run(self, seconds, deck):
        """Go on for so long, and until every kind in ``deck`` has happened; then all is well again."""
        end = time.monotonic() + seconds
        cards = []
        first = set(deck)
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end or first:
                if not cards:
                    cards = list(deck)
                    self.random.shuffle(cards)
                kind = next((card for card in cards if self._may(card)), None)
                if kind is not None and (calm := [each for each in self.world.backends if each.is_calm]):
                    cards.remove(kind)
                    first.discard(kind)
                    group.create_task(self._disturb(kind, self.random.choice(calm)))
                await asyncio.sleep(self.random.uniform(0.02, 0.3))

    def _may(self, kind):
        if kind not in self.LETHAL:
            return True
        if self._wave and not self._lethal and time.monotonic() > self._quiet_since + self.SETTLE:
            self._wave = 0
        return self._wave < 2

    async def _disturb(self, kind, backend):
        lethal = kind in self.LETHAL
        backend.is_calm = False
        self._wave += lethal
        self._lethal += lethal
        try:
            await getattr(self, kind)(backend)
            await backend.linked()
            self.done[kind] += 1
        finally:
            backend.is_calm = True
            self._lethal -= lethal
            if lethal:
                self._quiet_since = time.monotonic()

    async def _wait(self, least, most):
        await asyncio.sleep(self.random.uniform(least, most))

    @property
    def _long(self):
        """Enough for silence to be noticed, and for the resume window after it."""
        return 3.6 * self.beat + self.window

    # --- processes ---

    async def kill(self, backend):
        backend.killed()
        await self._wait(0, 1.5 * self.window)
        backend.start()

    async def terminate(self, backend):
        await backend.left()
        await self._wait(0, self.window)
        backend.start()

    async def kill_while_leaving(self, backend):
        backend.child.signal(signal.SIGTERM)
        await self._wait(0, 0.03)
        backend.killed()
        backend.start()

    async def pause_short(self, backend):
        backend.child.stop()
        await self._wait(0.05, 1.5 * self.beat)
        backend.child.cont()

    async def pause_silent(self, backend):
        """So long that the broker ends the link, and not so long that it ends the session."""
        backend.child.stop()
        await asyncio.sleep(3.5 * self.beat + 0.2 * self.window)
        backend.child.cont()

    async def pause_long(self, backend):
        backend.child.stop()
        await self._wait(1.1 * self._long, 1.5 * self._long)
        backend.child.cont()

    async def cut_then_pause(self, backend):
        """It is paused while it connects again."""
        backend.proxy.cut()
        await self._wait(0, 0.06)
        backend.child.stop()
        await self._wait(0.1, 1.5 * self._long)
        backend.child.cont()

    # --- links ---

    async def cut(self, backend):
        backend.proxy.cut()

    async def cut_often(self, backend):
        for _ in range(4):
            backend.proxy.cut()
            await self._wait(0.01, 0.12)

    async def _half(self, backend, direction):
        before = backend.proxy.cuts
        backend.proxy.cut_after(self.random.randrange(600), direction)
        await until(lambda: backend.proxy.cuts > before, 20)

    async def half_up(self, backend):
        await self._half(backend, "to_broker")

    async def half_down(self, backend):
        await self._half(backend, "to_backend")

    async def silence_short(self, backend):
        backend.proxy.pause()
        await self._wait(0.05, 1.5 * self.beat)
        backend.proxy.resume()

    async def silence_long(self, backend):
        backend.proxy.pause()
        await self._wait(1.1 * self._long, 1.5 * self._long)
        backend.proxy.resume()

    async def outage_short(self, backend):
        backend.proxy.refuse()
        backend.proxy.cut()
        await self._wait(0.05, 0.5 * self.window)
        backend.proxy.accept()

    async def outage_long(self, backend):
        backend.proxy.refuse()
        backend.proxy.cut()
        await self._wait(1.2 * self.window, 2 * self.window)
        backend.proxy.accept()
