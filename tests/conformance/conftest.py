import pytest

from pystrands import PyStrands, testing
from tests.broker.ws.support import TEXT, frame, upgrade
from tests.conformance.support import Peer

MAX_MESSAGE = 4_194_304


class Echo(PyStrands):
    """A backend that sends every message back to who sent it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.on_message(self.send_back)

    async def send_back(self, message, context):
        await self.send_private_message(context.client_id, message)


@pytest.fixture(scope="package")
def broker():
    """A broker that compresses for who wants it, and an echo behind it."""
    options = {"compression": True, "compression_threshold": 64, "max_message_size": MAX_MESSAGE}
    with testing.broker_thread(**options) as broker, testing.backend_thread(broker, Echo):
        yield broker


@pytest.fixture(scope="package")
def connect(broker):
    def connect(extensions=None):
        peer = Peer(("127.0.0.1", broker.ws_port))
        peer.send(upgrade("/echo", sec_websocket_extensions=extensions))
        peer.answer = peer.head()
        assert peer.answer.startswith(b"HTTP/1.1 101 ")
        return peer

    return connect


@pytest.fixture(scope="package")
def neighbour(connect):
    with connect() as neighbour:
        yield neighbour


@pytest.fixture
def peer(connect, neighbour):
    """A client for one test; in the end another client must have noticed nothing."""
    with connect() as peer:
        yield peer
    neighbour.send(frame(TEXT, "well?"))
    neighbour.gets((TEXT, b"well?"))
