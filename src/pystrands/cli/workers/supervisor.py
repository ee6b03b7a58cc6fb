"""The parent of workers: starts them, starts those again that die, passes signals on, ends them all in order."""

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from pystrands.broker.net.listening import GivenSockets
from pystrands.cli.options import Failure, WrongValue
from pystrands.cli.workers.forking import SIGNALS, fork
from pystrands.cli.workers.nats import NatsKeeper
from pystrands.cli.workers.place import DRAINING, FAILED, READY, STOP, WorkerPlace

__all__ = ["WorkerSupervisor"]

log = logging.getLogger(__name__)

_DELAYS: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a dead worker has a successor: the first comes at once."""
_LASTED: Final = 10.0
"""A worker that served for so many seconds has not failed to start."""
_NATS_ENDS_WITHIN: Final = 10.0
_MESSAGE: Final = 65_536


@dataclass(slots=True, eq=False)
class _Worker:
    pid: int
    slot: "_Slot"
    channel: socket.socket
    ready_at: float = 0.0
    kill_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Slot:
    """A worker's place, whoever has it now."""

    number: int
    sockets: GivenSockets
    worker: _Worker | None = None
    begin_at: float = 0.0
    failures: int = 0
    vacant_since: float = 0.0
    """When clients began to wait for a successor; 0 while somebody accepts them, or while nobody listens."""

    @property
    def all_sockets(self) -> list[socket.socket]:
        return [*self.sockets.ws, *self.sockets.tcp, *self.sockets.admin]


@dataclass(slots=True, kw_only=True)
class WorkerSupervisor:
    """Runs one worker for each of ``sockets``, until a signal ends all.

    ``on_ready`` is called once, when all serve. ``nats``: the server that is ended last, if there is one of ours.
    ``stop_within``: seconds after which a worker that was told to end is killed. ``patience``: seconds that clients
    wait for a successor; then the others get all that come. It forks: there must be no other
    thread.
    """

    sockets: Sequence[GivenSockets]
    nats: NatsKeeper | None
    on_ready: Callable[[], None]
    stop_within: float
    patience: float = 10.0
    _slots: list[_Slot] = field(default_factory=list, init=False)
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _signals: list[int] = field(default_factory=list, init=False)
    _nats_begin_at: float = field(default=0.0, init=False)
    _nats_kill_at: float = field(default=0.0, init=False)
    _has_started: bool = field(default=False, init=False)
    _is_stopping: bool = field(default=False, init=False)
    _problem: Failure | None = field(default=None, init=False)

    def run(self) -> WorkerPlace | None:
        """Do so. Return None when all have ended; and in each worker, which is a process of its own, its place.

        Raises Failure in the parent when a worker could not start in the first place; then all have ended.
        """
        self._slots = [_Slot(number, sockets) for number, sockets in enumerate(self.sockets, 1)]
        with self._waking() as wake:
            while True:
                place = self._begin_what_is_due()
                if place is not None:
                    return place
                if self._is_stopping and not self._workers and self._nats_is_over():
                    break
                self._wait(wake)
                self._take_signals()
                self._take_messages()
                self._take_ends()
                self._kill_what_hangs()
        if self._problem is not None:
            raise self._problem
        return None

    # ---- waiting

    @contextlib.contextmanager
    def _waking(self) -> Iterator[socket.socket]:
        """Have signals, and the ends of children, wake :meth:`_wait`."""
        mine, others = socket.socketpair()
        mine.setblocking(False)
        others.setblocking(False)

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        before = {number: signal.signal(number, on_signal) for number in (*SIGNALS, signal.SIGCHLD)}
        wakeup = signal.set_wakeup_fd(others.fileno(), warn_on_full_buffer=False)
        try:
            yield mine
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            mine.close()
            others.close()

    def _wait(self, wake: socket.socket) -> None:
        times = [slot.begin_at for slot in self._slots if slot.worker is None and not self._is_stopping]
        times += [slot.vacant_since + self.patience for slot in self._slots if slot.vacant_since]
        times += [worker.kill_at for worker in self._workers.values() if worker.kill_at]
        if self.nats is not None:
            times += [at for at in (self._nats_begin_at, self._nats_kill_at) if at]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            for worker in self._workers.values():
                selector.register(worker.channel, selectors.EVENT_READ)
            if self.nats is not None and self.nats.reports >= 0:
                selector.register(self.nats.reports, selectors.EVENT_READ, self.nats)
            ready = selector.select(timeout)
        with contextlib.suppress(BlockingIOError):
            wake.recv(_MESSAGE)
        for key, _ in ready:
            if key.data is not None:
                key.data.take_reports()

    # ---- beginning

    def _begin_what_is_due(self) -> WorkerPlace | None:
        now = time.monotonic()
        if self.nats is not None and self._nats_begin_at and now >= self._nats_begin_at:
            self._nats_begin_at = 0.0
            self.nats.start()
        for slot in self._slots:
            if slot.worker is None and not self._is_stopping and now >= slot.begin_at:
                place = self._begin_worker(slot)
                if place is not None:
                    return place
        return None

    def _begin_worker(self, slot: _Slot) -> WorkerPlace | None:
        parents, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = fork()
        if not pid:
            parents.close()
            self._leave_to_worker(slot)
            return WorkerPlace(number=slot.number, sockets=slot.sockets, channel=workers)
        workers.close()
        slot.worker = self._workers[pid] = _Worker(pid, slot, parents)
        return None

    def _leave_to_worker(self, slot: _Slot) -> None:
        """Close, in a worker, what belongs to the parent and to other workers."""
        for worker in self._workers.values():
            worker.channel.close()
        for other in self._slots:
            if other is not slot:
                for each in other.all_sockets:
                    each.close()
        if self.nats is not None:
            self.nats.leave_to_worker()

    # ---- what happens

    def _take_messages(self) -> None:
        for worker in list(self._workers.values()):
            self._take_messages_of(worker)
        if not self._has_started and all(slot.worker and slot.worker.ready_at for slot in self._slots):
            self._has_started = True
            self.on_ready()

    def _take_messages_of(self, worker: _Worker) -> None:
        slot = worker.slot
        while True:
            try:
                message = worker.channel.recv(_MESSAGE, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return
            if message == READY:
                worker.ready_at = time.monotonic()
                slot.vacant_since = 0.0
            elif message == DRAINING and slot.worker is worker:
                self._replace(worker)
            elif message.startswith(FAILED):
                self._on_failed_start(slot, *json.loads(message.removeprefix(FAILED)))
            elif not message:
                return

    def _replace(self, worker: _Worker) -> None:
        """Have another worker begin: this one was told to end, though not by this process."""
        now, slot = time.monotonic(), worker.slot
        slot.worker, slot.begin_at = None, now
        worker.kill_at = worker.kill_at or now + self.stop_within
        if not self._is_stopping:
            slot.vacant_since = now
            log.info("worker %d (process %d) ends; another one takes its place", slot.number, worker.pid)

    def _on_failed_start(self, slot: _Slot, problem: str, code: int) -> None:
        if self._has_started:
            log.error("worker %d can't start: %s", slot.number, problem)
        elif self._problem is None:
            self._problem = (WrongValue if code == WrongValue.exit_code else Failure)(problem)

    def _take_ends(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self.nats is not None and pid == self.nats.pid:
                self._on_end_of_nats()
            elif pid in self._workers:
                self._on_end_of_worker(self._workers[pid], os.waitstatus_to_exitcode(status))

    def _on_end_of_nats(self) -> None:
        assert self.nats is not None
        delay = self.nats.on_end()
        if self._nats_kill_at:
            return
        log.error("the NATS server has ended; another one begins")
        self._nats_begin_at = time.monotonic() + delay

    def _on_end_of_worker(self, worker: _Worker, code: int) -> None:
        self._take_messages_of(worker)  # its last
        worker.channel.close()
        del self._workers[worker.pid]
        slot, now = worker.slot, time.monotonic()
        if slot.worker is not worker:
            return
        slot.worker = None
        if self._is_stopping:
            return
        if not self._has_started:
            self._problem = self._problem or Failure(f"worker {slot.number} {_ended(code)} before it served")
            self._stop()
            return
        slot.failures = 1 if worker.ready_at and now - worker.ready_at > _LASTED else slot.failures + 1
        delay = _DELAYS[min(slot.failures, len(_DELAYS)) - 1]
        log.error(
            "worker %d (process %d) %s; another one begins%s",
            slot.number,
            worker.pid,
            _ended(code),
            f" in {delay:g} s" if delay else "",
        )
        slot.begin_at = now + delay
        if worker.ready_at:
            slot.vacant_since = now

    # ---- ending

    def _take_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._signal_all(number)
            elif number in (signal.SIGINT, signal.SIGTERM):
                if self._is_stopping:
                    self._end_at_once(number)
                log.info("Stopping; a second signal ends all workers at once")
                self._stop()

    def _stop(self) -> None:
        """Have all workers end. What listens is theirs alone from now on: with the last of them it is gone."""
        self._is_stopping = True
        end = time.monotonic() + self.stop_within
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                worker.channel.send(STOP, socket.MSG_DONTWAIT)
            worker.kill_at = worker.kill_at or end
        self._signal_all(signal.SIGTERM)
        for slot in self._slots:
            slot.vacant_since = 0.0
            for each in slot.all_sockets:
                each.close()

    def _end_at_once(self, number: int) -> None:
        self._signal_all(signal.SIGKILL)
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == 1:
            os._exit(128 + number)
        os.kill(os.getpid(), number)

    def _signal_all(self, number: int) -> None:
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _kill_what_hangs(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.kill_at and now >= worker.kill_at:
                worker.kill_at = now + self.stop_within
                log.error("worker %d (process %d) does not end, and is killed", worker.slot.number, worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
        for slot in self._slots:
            if slot.vacant_since and now >= slot.vacant_since + self.patience:
                self._leave_to_others(slot)
        if self.nats is not None and self.nats.pid and self._nats_kill_at and now >= self._nats_kill_at:
            self._nats_kill_at = now + _NATS_ENDS_WITHIN
            os.kill(self.nats.pid, signal.SIGKILL)

    def _leave_to_others(self, slot: _Slot) -> None:
        """Have nobody wait any longer for a worker that does not come: nobody listens there until one does."""
        slot.vacant_since = 0.0
        if slot.worker is not None:
            if slot.worker.ready_at:
                return
            # It may be about to listen, on what ends here; the next one begins after that.
            os.kill(slot.worker.pid, signal.SIGKILL)
        for each in slot.all_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RD)

    def _nats_is_over(self) -> bool:
        if self.nats is None or not self.nats.pid:
            return True
        if not self._nats_kill_at:
            self.nats.release()
            self._nats_kill_at = time.monotonic() + _NATS_ENDS_WITHIN
        return False


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
