"""A machine that has no more threads or descriptors for a moment: the backend works again, or says so."""

import subprocess
import sys
import threading

import pytest

from pystrands import PyStrands, PyStrandsClient, testing


class NoMore:
    """Lets no thread for handlers start while it is on."""

    def __init__(self, monkeypatch):
        self.on = True
        start = threading.Thread.start

        def limited(thread):
            if self.on and thread.name.startswith("pystrands-worker"):
                self.refused.set()
                raise RuntimeError("can't start new thread")
            start(thread)

        self.refused = threading.Event()
        monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.fixture
def no_more(monkeypatch):
    return NoMore(monkeypatch)


def decorated(ran):
    app = PyStrands()
    app.on_connection_request(lambda request: ran.append(request.url) is None)
    app.on_message(lambda message, context: app.send_private_message(context.client_id, message))
    return app


def threaded(ran):
    class Backend(PyStrandsClient):
        def on_connection_request(self, request):
            ran.append(request.url)
            return True

        def on_message(self, message, context):
            self.send_private_message(context.client_id, message)

    return Backend(max_workers=4)


@pytest.mark.parametrize("make", [threaded, decorated])
def test_without_threads_for_a_moment(make, no_more, caplog):
    ran: list[str] = []
    with testing.broker_thread() as broker, testing.backend_thread(broker, make(ran)):
        for number in range(6):  # more than there could be threads
            with pytest.raises(testing.Rejected) as refused:
                testing.connect_sync(broker, f"/meanwhile/{number}")
            assert refused.value.status == 403
        no_more.on = False
        with testing.connect_sync(broker, "/after") as client:
            client.send("hello")
            client.expect("hello")
    assert ran == ["/after"]
    assert len([each for each in caplog.records if "no thread for handlers" in each.getMessage()]) == 1


def test_messages_wait_for_a_thread(no_more):
    ran: list[str] = []
    no_more.on = False
    with testing.broker_thread() as broker, testing.backend_thread(broker, threaded(ran)) as first:
        with testing.connect_sync(broker, "/") as client, testing.backend_thread(broker, threaded(ran)):
            no_more.on = True
            no_more.refused.clear()
            first.disconnect()  # the client is now the other's, which has no thread yet
            for text in ("one", "two"):
                client.send(text)
            assert no_more.refused.wait(10)
            no_more.on = False
            client.expect("one")
            client.expect("two")


def test_with_fewer_threads_than_it_could_have(no_more):
    ran: list[str] = []
    no_more.on = False
    with testing.broker_thread() as broker, testing.backend_thread(broker, threaded(ran)):
        with testing.connect_sync(broker, "/first"):
            no_more.on = True
            for _ in range(3):
                with testing.connect_sync(broker, "/other") as client:
                    client.send("hello")
                    client.expect("hello")


PROGRAM = """
import os
import resource
from pystrands import PyStrandsClient, testing

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
client = PyStrandsClient("127.0.0.1", 1)
for attempt in (client.connect, client.run_forever, client.connect, testing.broker_thread().__enter__):
    try:
        print(attempt())
    except OSError as error:
        print("OSError", error.errno)
for each in held:
    os.close(each)
print(client.connect())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_connect_raises_when_there_are_no_descriptors():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert ran.stdout.splitlines() == [*["OSError 24"] * 4, "False"], ran.stderr
