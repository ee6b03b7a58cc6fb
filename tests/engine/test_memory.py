from pystrands.engine.base import Sink
from pystrands.engine.memory import MemoryEngine
from pystrands.engine.publication import Audience, Publication


class Recorder(Sink):
    def __init__(self):
        self.delivered = []

    def deliver(self, publication):
        self.delivered.append(publication)
        return 3, 2


async def test_what_is_published_is_delivered_as_it_is_while_the_engine_runs():
    sink, engine = Recorder(), MemoryEngine()
    publication = Publication(Audience.ROOM, "r", "hello", ("ann",), "key")
    assert engine.publish(publication) == (0, 0)
    await engine.start(sink)
    assert engine.publish(publication) == (3, 2)
    await engine.stop()
    assert engine.publish(publication) == (0, 0)
    assert len(sink.delivered) == 1 and sink.delivered[0] is publication


def test_a_publication_shows_whom_it_is_for_and_not_what_it_says():
    assert repr(Publication(Audience.CLIENT, "ann", "a secret")) == "<Publication to client 'ann'>"
