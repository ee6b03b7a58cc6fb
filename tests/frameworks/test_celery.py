"""PyStrandsClient in the tasks of Celery's forked workers, made in their module, connected before the fork or not."""

import pytest

from pystrands import testing
from tests.frameworks.support import PATIENCE, Server

TASKS = """\
import os

from celery import Celery
from pystrands import PyStrandsClient

app = Celery("tasks", broker="filesystem://", backend="file://results")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
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

sys.exit(0 if [tasks.tell.delay(f"news {number}").get(timeout=50) for number in range(3)] == [1, 1, 1] else 1)
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks.py").write_text(TASKS, "utf-8")
    (tmp_path / "calls.py").write_text(CALLS, "utf-8")
    return tmp_path


@pytest.mark.parametrize("early", [{}, {"EARLY": "1"}], ids=["connects in the worker", "connected before the fork"])
def test_tasks_send_to_clients(folder, early):
    with (
        testing.broker_thread() as broker,
        testing.backend_thread(broker),
        testing.connect_sync(broker, "/news") as client,
    ):
        env = {"BROKER": str(broker.tcp_port)} | early
        worker = Server(
            ("celery", "--app", "tasks", "worker", "--pool", "prefork", "--concurrency", "2", "--without-gossip"),
            folder, env,
        )  # fmt: skip
        try:
            calls = Server(("calls",), folder, env)
            assert calls.process.wait(PATIENCE) == 0, worker.output()
            senders = {int(str(client.receive()).rpartition(" ")[2]) for _ in range(3)}
            assert worker.process.pid not in senders
            assert worker.stop() == 0
        finally:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
        assert "SIGSEGV" not in worker.output()
