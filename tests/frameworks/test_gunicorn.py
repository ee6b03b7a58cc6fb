"""PyStrandsClient in gunicorn's workers: made where its users make it, in the module of the application."""

import pytest

from pystrands import testing
from tests.frameworks.support import fetch, free_port, serving

APPLICATION = """\
import os

from pystrands import NotSupported, PyStrandsClient


class Backend(PyStrandsClient):
    def on_message(self, message, context):
        self.send_room_message(context.room_id, f"{message} from {os.getpid()}")


backend = Backend("localhost", int(os.environ["BROKER"]))
if "EARLY" in os.environ:
    backend.connect()


def application(environ, start_response):
    try:
        answer = f"{backend.connected} "
        if backend.connect():
            answer += str(backend.send_room_message("/lobby", f"news from {os.getpid()}", confirm=True).matched)
    except NotSupported as error:
        answer = str(error)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
"""


@pytest.fixture(scope="module")
def broker():
    with testing.broker_thread() as broker:
        yield broker


@pytest.fixture
def gunicorn(broker, tmp_path):
    (tmp_path / "shop.py").write_text(APPLICATION, "utf-8")

    def start(*args, **env):
        port = free_port()
        command = ("gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket", *args, "shop:application")
        return serving(command, tmp_path, port, BROKER=str(broker.tcp_port), **env)

    return start


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_a_worker_is_a_backend(gunicorn, broker, worker):
    with gunicorn("--worker-class", worker) as server, testing.connect_sync(broker, "/lobby") as client:
        assert fetch(server.port) == "True 1"
        news = str(client.receive())
        assert news.startswith("news from ")
        client.send("hello")
        client.expect(news.replace("news", "hello"))
        assert server.stop() == 0
    assert "Traceback" not in server.output()


def test_workers_that_were_forked_off_a_connected_process_are_backends_of_their_own(gunicorn, broker):
    with gunicorn("--preload", "--workers", "2", EARLY="1") as server:
        assert broker.backend_count == 2  # the master's, and that of the worker which has answered
        with testing.connect_sync(broker, "/lobby") as client:
            assert fetch(server.port) in ("False 1", "True 1")
            sender = int(str(client.receive()).rpartition(" ")[2])
            assert sender != server.process.pid
            client.send("hello")
            client.receive()
        assert server.stop() == 0
    assert "SIGSEGV" not in server.output()
    assert "Traceback" not in server.output()


def test_where_workers_have_no_threads_they_hear_it_and_go_on(gunicorn):
    with gunicorn("--worker-class", "gevent") as server:
        for _ in range(3):
            assert "gthread" in fetch(server.port)
        assert server.stop() == 0
