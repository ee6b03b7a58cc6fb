"""PyStrandsClient in the tasks of Celery's forked workers, made in their module, connected before the fork or not."""

import contextlib

import pytest

from pystrands import testing
from tests.frameworks.support import PATIENCE, Server

TASKS = """\
import os

from celery import Celery
from pystrands import PyStrandsClient

app = Celery("tasks", broker="filesystem://", backend="file://results")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "polling_interval": 0.02
}
news = PyStrandsClient("localhost", int(os.environ["BROKER"]), send_only=True)
if "EARLY" in os.environ:
    news.connect()


@app.task
def tell(text):
    assert news.connect()
    return news.send_room_message("/news", f"{text} from {os.getpid()}", confirm=True).matched
"""
CALLS = """\
import sys

import tasks

results = [tasks.tell.delay(f"news {number}") for number in range(3)]
print("told", flush=True)
sys.exit(0 if [result.get(timeout=50, interval=0.02) for result in results] == [1, 1, 1] else 1)
"""


WORKER = (
    *("celery", "--app", "tasks", "worker", "--pool", "prefork", "--concurrency", "2"),
    *("--without-gossip", "--without-mingle"),
)
EARLY = [{}, {"EARLY": "1"}]


def await_output(server, text):
    testing.until_sync(lambda: text in server.output() or server.process.poll() is not None, PATIENCE)


@pytest.mark.timeout(120)  # two, on a busy machine
def test_tasks_send_to_clients_whether_it_connects_in_the_worker_or_before_the_fork(tmp_path):
    """Both at once: a worker takes seconds to end."""
    with contextlib.ExitStack() as stack:

        def start(command, folder, env):
            server = Server(command, folder, env)
            stack.callback(server.process.wait)
            stack.callback(server.process.kill)
            return server

        systems = []
        for number, early in enumerate(EARLY):
            broker = stack.enter_context(testing.broker_thread())
            stack.enter_context(testing.backend_thread(broker))
            client = stack.enter_context(testing.connect_sync(broker, "/news"))
            folder = tmp_path / str(number)
            for name in ("queue", "control", "results"):
                (folder / name).mkdir(parents=True)
            (folder / "tasks.py").write_text(TASKS, "utf-8")
            (folder / "calls.py").write_text(CALLS, "utf-8")
            env = {"BROKER": str(broker.tcp_port)}
            calls = start(("calls",), folder, env)
            await_output(calls, "told")  # Celery's queue of files may be read before it is written
            systems.append((start(WORKER, folder, env | early), calls, client))
        for worker, calls, client in systems:
            assert calls.process.wait(PATIENCE) == 0, worker.output()
            senders = {int(str(client.receive()).rpartition(" ")[2]) for _ in range(3)}
            assert worker.process.pid not in senders
        for worker, *_ in systems:
            worker.process.terminate()
        for worker, *_ in systems:
            assert worker.process.wait(PATIENCE) == 0
            assert "SIGSEGV" not in worker.output()
