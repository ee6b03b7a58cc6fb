"""Backends in processes of their own, which can die."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pystrands.client.threads import loop_runs_here
from pystrands.testing.backends import Arrival, HasBackends
from pystrands.testing.brokers import LocalBroker
from pystrands.testing.waiting import until, until_sync

__all__ = ["BackendProcess", "backend_process"]

HOST: Final = "127.0.0.1"
_TAIL: Final = 4000


class BackendProcess:
    """A program with a backend; made by :func:`backend_process`, which says how it is started and ended.

    ``broker``: whose backend it is. ``command``: the program and its arguments. ``env``: variables beside those of this
    process. ``timeout`` (seconds): for its start.
    """

    def __init__(self, broker: HasBackends, command: Sequence[str], env: Mapping[str, str], timeout: float) -> None:
        self._broker = broker
        self._command = list(command)
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYSTRANDS_HOST": HOST} | dict(env)
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    # --- from start to end ---

    def __enter__(self) -> Self:
        """Start it, and block until the broker has its backend."""
        if isinstance(self._broker, LocalBroker) and loop_runs_here():
            raise RuntimeError("the broker runs on this thread, which must not block: use async with")
        arrived = self._start()
        try:
            until_sync(lambda: arrived() or self.returncode is not None, self._timeout)
            self._check_started()
        except BaseException as error:
            self._give_up(error)
            raise
        return self

    async def __aenter__(self) -> Self:
        """Start it, and wait until the broker has its backend."""
        arrived = self._start()
        try:
            await until(lambda: arrived() or self.returncode is not None, self._timeout)
            self._check_started()
        except BaseException as error:
            self._give_up(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it, if it still runs, and show what it wrote."""
        self._end()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it, if it still runs, and show what it wrote."""
        self._end()

    def _start(self) -> Arrival:
        arrived = Arrival(self._broker)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end
        self._process = subprocess.Popen(  # noqa: S603 - the test says what to run
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._env | {"PYSTRANDS_TCP_PORT": str(self._broker.tcp_port)},
        )
        return arrived

    def _check_started(self) -> None:
        if self.returncode is not None:
            raise AssertionError(f"it ended with exit code {self.returncode} before it had connected")

    def _give_up(self, error: BaseException) -> None:
        error.add_note(f"{' '.join(self._command)} wrote:\n{self.output[-_TAIL:]}")
        self._end(show=False)

    def _end(self, *, show: bool = True) -> None:
        if self._is_over:
            return
        self.kill()
        if show:
            sys.stderr.write(self.output)
        self._is_over = True
        self._output.close()

    # --- what it is like ---

    @property
    def _child(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the process has not been started; use it in a with statement")
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, None while it runs; minus a signal's number where that ended it."""
        return self._child.poll()

    @property
    def output(self) -> str:
        """What it has written until now, to stdout and stderr."""
        size = os.fstat(self._output.fileno()).st_size
        # By position: the process writes through the same file, whose position is its own.
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    # --- what happens to it ---

    def kill(self) -> None:
        """End it with SIGKILL, as a crash or the kernel would, and block until it is gone; it does not get to clean up.

        Does nothing when it has ended. The other methods do nothing then, either.
        """
        self._child.kill()
        self._child.wait()

    def terminate(self) -> None:
        """Ask it to end, with SIGTERM."""
        self._child.terminate()

    def stop(self) -> None:
        """Halt it with SIGSTOP: its connections stay, and it does nothing until :meth:`cont`. Not on Windows.

        Blocks until it has stopped.
        """
        self._child.send_signal(signal.SIGSTOP)
        if self.returncode is None:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def cont(self) -> None:
        """Let it go on after :meth:`stop`."""
        self._child.send_signal(signal.SIGCONT)

    def wait(self, timeout: float = 10.0) -> int:
        """Block until it has ended; return its exit code. AssertionError after ``timeout`` seconds.

        In async code: ``await asyncio.to_thread(process.wait)``.
        """
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process did not end within {timeout:g} s") from None


def backend_process(
    broker: HasBackends,
    program: str | Path | Sequence[str],
    *args: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> BackendProcess:
    """Run a program with a backend, which can be killed: ``with testing.backend_process(broker, "chat.py") as chat:``.

    ``broker``: any broker of this package, or a :class:`LinkProxy`. ``program``: the path of a Python program, run by
    this Python, or a whole command; ``args`` come after it. It finds the broker's address in the environment, as
    ``PYSTRANDS_HOST`` and ``PYSTRANDS_TCP_PORT``; ``env`` adds more. The block begins when the broker has its backend,
    and at its end the process is killed; AssertionError, with what it wrote, when it ends before, or has not connected
    within ``timeout`` seconds. Where the broker runs on the test's own event loop, use ``async with``.
    """
    command = [sys.executable, str(program)] if isinstance(program, str | Path) else list(program)
    return BackendProcess(broker, [*command, *args], env or {}, timeout)
