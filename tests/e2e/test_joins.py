"""Rooms that clients of `pystrands.v1` join by themselves; the names are those of the promises."""

import asyncio

import pytest

from pystrands import (
    AsyncPyStrandsClient,
    Context,
    JoinRequestContext,
    PyStrands,
    PyStrandsClient,
    PyStrandsError,
    testing,
)

from .raw_backend import RawBackend
from .session_client import SessionClient
from .test_requests import entered, on_threads, running


class Doorkeeper(AsyncPyStrandsClient):
    """Lets clients into all rooms but closed ones, and notes what comes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.events = []
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_message(self, message, context):
        self.events.append((message, context.room_id))

    async def on_join_request(self, request):
        self.asked.append(request)
        self.events.append(("join", request.room_id))
        await self.gate.wait()
        if request.room_id.startswith("closed"):
            return request.reject("not for you")
        if request.room_id.startswith("broken"):
            raise RuntimeError("on purpose")
        return request.accept()


async def test_a_client_joins_a_room_if_its_backend_lets_it():
    async with testing.broker() as broker, testing.backend(broker, Doorkeeper) as backend:
        async with SessionClient(broker) as client:
            assert await client.done(client.join("chat", "please")) == ""
            request = backend.asked[0]
            assert (request.room_id, request.data, request.context.client_id) == ("chat", "please", client.name)
            assert list(client.core.rooms) == ["/room", "chat"]
            await backend.send_room_message("chat", "hello")
            await testing.until(lambda: client.messages == ["hello"])
            assert await client.done(client.join("closed")) == "refused"
            assert client.reasons[2] == "not for you"
            assert await client.done(client.join("broken", b"\xff")) == "refused"
            assert backend.asked[-1].data == b"\xff"
            assert list(client.core.rooms) == ["/room", "chat"]
            assert await client.done(client.leave("chat")) == ""
            assert list(client.core.rooms) == ["/room"]


class Librarian(Doorkeeper):
    """Keeps the history of what clients join, and lets them read some of it."""

    history = 3
    limit = 5

    async def on_join_request(self, request):
        self.events.append(("join", request.room_id))
        await self.keep_history(request.room_id, limit=self.limit)
        return request.accept(history=self.history)


async def test_a_client_reads_what_was_sent_before_it_joined():
    async with testing.broker() as broker, testing.backend(broker, Librarian) as backend:
        await backend.keep_history("chat", limit=5)
        for number in range(7):
            await backend.send_room_message("chat", f"m{number}")
        await backend.send_room_message("chat", "hidden", history=False)
        await backend.send_room_message("chat", b"\xffm7")
        await backend.send_room_message("chat", "volatile", volatile=True)
        kept = await backend.room_history("chat")
        assert [each.message for each in kept.messages] == ["m3", "m4", "m5", "m6", b"\xffm7"]
        assert kept.complete
        some = await backend.room_history("chat", limit=2, before=kept.messages[3])
        assert [each.message for each in some.messages] == ["m4", "m5"]
        assert not some.complete
        async with SessionClient(broker) as client:
            ident = client.join("chat", history=2)
            assert await client.done(ident) == ""
            found = client.histories[ident]
            assert [body for _, body in found.messages] == ["m6", b"\xffm7"]
            assert not found.complete
            await backend.send_room_message("chat", "live")
            await testing.until(lambda: client.messages == ["live"])
            more = client.history("chat", before=found.messages[0][0], limit=10)
            assert await client.done(more) == ""
            assert [body for _, body in client.histories[more].messages] == ["m5"]
            assert client.histories[more].complete
            assert await client.done(client.history("elsewhere", limit=10)) == "not_in_room"
            assert await client.done(client.history("/room", limit=10)) == ""


# --- promises ---


async def test_promise_13_and_24_what_comes_behind_a_join_waits_until_that_is_decided():
    async with testing.broker() as broker, testing.backend(broker, Doorkeeper) as backend:
        async with SessionClient(broker) as client:
            backend.gate.clear()
            idents = [client.join("chat"), client.send("one", room="chat"), client.join("closed")]
            idents += [client.send("two", room="closed"), client.leave("chat"), client.send("three", room="chat")]
            await testing.until(lambda: backend.events)
            client.cut()  # nothing of it is read again, or twice
            await testing.until(lambda: client.resumed)
            assert backend.events == [("join", "chat")]
            backend.gate.set()
            codes = [await client.done(ident) for ident in idents]
            assert codes == ["", "", "refused", "not_in_room", "", "not_in_room"]
            assert backend.events == [("join", "chat"), ("one", "chat"), ("join", "closed")]


class Silent(AsyncPyStrandsClient):
    """Knows nothing of joins."""


class Vague(AsyncPyStrandsClient):
    async def on_join_request(self, request):
        return "yes" if request.room_id == "a" else None


async def test_promise_23_who_does_not_decide_refuses():
    for backend_class in (Silent, Vague):
        async with testing.broker() as broker, testing.backend(broker, backend_class):
            async with SessionClient(broker) as client:
                assert await client.done(client.join("a")) == "refused"
                assert await client.done(client.join("b")) == "refused"
                assert list(client.core.rooms) == ["/room"]


async def test_promise_23_backends_that_know_no_joins_refuse():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        client = await entered(broker, raw)
        assert await client.done(client.join("a", b"\xff")) == "not_supported"
        client.send("message")
        await raw.hear_message("message")
        await client.__aexit__()


async def test_promise_23_a_join_that_is_done_without_an_answer_is_refused_and_the_first_answer_counts():
    async with testing.broker(resume_window=0.1) as broker, RawBackend(broker, begin=False) as raw:
        await raw.begin(requests=True)
        client = await entered(broker, raw)
        ident = client.join("a", "data")
        event = await raw.hear("join_request")
        params = event["params"]
        assert (params["room_id"], params["message"], params["context"]["client_id"]) == ("a", "data", "ada")
        raw.say("join_response", {"to": event["seq"] + 1, "accepted": True})
        raw.done(event)
        assert await client.done(ident) == "refused"
        ident = client.join("b")
        event = await raw.hear("join_request")
        raw.say("join_response", {"to": event["seq"], "accepted": True})
        raw.say("join_response", {"to": event["seq"], "accepted": False})
        assert await client.done(ident) == ""
        async with testing.backend(broker, Doorkeeper) as backend:  # the other one dies before it has finished
            raw.cut()
            await testing.until(lambda: backend.asked)
            assert backend.asked[0].context.redelivered
            assert await client.done(client.send("x", room="b")) == ""
            assert [str(frame).count('"joined","r":"b"') for frame in client.frames].count(1) == 1
        await client.__aexit__()


async def test_a_client_is_in_no_more_rooms_than_it_may_be():
    async with testing.broker(max_rooms_per_client=2) as broker, testing.backend(broker, Doorkeeper) as backend:
        async with SessionClient(broker) as client:
            assert await client.done(client.join("a")) == ""
            assert await client.done(client.join("b")) == "refused"
            assert "2 rooms" in client.reasons[2]
            assert await client.done(client.join("a")) == ""  # it is asked again for
            assert backend.events == [("join", "a"), ("join", "a")]


async def test_promise_26_a_history_comes_in_parts_before_what_is_newer():
    async with testing.broker() as broker, testing.backend(broker, Librarian) as backend:
        backend.history = backend.limit = 1000
        await backend.keep_history("chat", limit=1000)
        for number in range(450):
            await backend.send_room_message("chat", f"{number}")
        async with SessionClient(broker) as client:
            ident = client.join("chat", history=440)
            await testing.until(lambda: "chat" in client.core.rooms)
            await backend.send_room_message("chat", "live")
            await testing.until(lambda: client.messages == ["live"])
            found = client.histories[ident]
            assert [body for _, body in found.messages] == [f"{number}" for number in range(10, 450)]
            assert not found.complete


async def test_a_lost_session_joins_again_and_catches_up():
    async with testing.broker(client_resume_window=0.3) as broker, testing.backend(broker, Librarian) as backend:
        backend.history = 4
        async with SessionClient(broker) as client:
            await client.done(client.join("chat", "secret"))
            await backend.send_room_message("chat", "before")
            await testing.until(lambda: client.messages == ["before"])
            client.hold()
            client.cut()
            for number in range(4):
                await backend.send_room_message("chat", f"missed {number}")
            await testing.until(lambda: broker.counters["clients_gone"] == 1)
            client.send("late", room="chat")
            client.release()
            await testing.until(lambda: len(client.messages) == 5)
            assert client.messages == ["before", *(f"missed {number}" for number in range(4))]
            assert [each.replayed for each in client.delivered] == [False, True, True, True, True]
            assert client.resumed[-1].gaps == [None, "/room"]
            assert client.gaps == []
            await testing.until(lambda: backend.events[-1] == ("late", "chat"))
            client.hold()
            client.cut()
            for number in range(7):
                await backend.send_room_message("chat", f"too much {number}")
            await testing.until(lambda: broker.counters["clients_gone"] == 2)
            client.release()
            await testing.until(lambda: client.gaps == ["chat"] and len(client.messages) == 9)
            assert client.messages[-1] == "too much 6"


async def test_who_was_put_out_of_a_room_stays_out():
    async with testing.broker(client_resume_window=0.3) as broker, testing.backend(broker, Doorkeeper) as backend:
        async with SessionClient(broker) as client:
            await client.done(client.join("chat"))
            await backend.leave_room(client.name, "chat")
            await testing.until(lambda: list(client.core.rooms) == ["/room"])
            assert client.moves[-1].why == "removed"
            client.hold()
            client.cut()
            await testing.until(lambda: broker.counters["clients_gone"] == 1)
            client.release()
            await testing.until(lambda: client.resumed)
            assert await client.done(client.send("x")) == ""
            assert backend.events.count(("join", "chat")) == 1


async def test_histories_have_bounds():
    async with testing.broker(history_bytes=3000) as broker, testing.backend(broker, Doorkeeper) as backend:
        await backend.keep_history("a")
        await backend.keep_history("b")
        with pytest.raises(PyStrandsError, match="--history-bytes"):
            await backend.keep_history("c")
        await backend.keep_history("a", limit=0)
        await backend.keep_history("c", ttl=0.2)
        assert not (await backend.room_history("a")).complete
        await backend.send_room_message("c", "x")
        assert len((await backend.room_history("c")).messages) == 1
        await asyncio.sleep(0.3)
        assert (await backend.room_history("c")).messages == []
        for wrong in ({"limit": 1001}, {"limit": -1}, {"ttl": 0}, {"ttl": float("inf")}):
            with pytest.raises(ValueError, match="is a number of"):
                await backend.keep_history("a", **wrong)
        with pytest.raises(TypeError):
            await backend.room_history("a", before=5)  # type: ignore[arg-type]


async def test_plain_members_of_a_room_with_history_get_what_they_ever_got():
    async with testing.broker() as broker, testing.backend(broker, Doorkeeper) as backend:
        await backend.keep_history("/room")
        plain = await testing.connect(broker, "/room")
        await testing.until(lambda: broker.counters["clients_admitted"] == 1)
        await backend.send_room_message("/room", "one")
        await plain.expect("one")
        await plain.close()
        await testing.until(lambda: broker.counters["clients_gone"] == 1)
        await backend.send_room_message("/room", "two", confirm=True)
        assert [each.message for each in (await backend.room_history("/room")).messages] == ["one", "two"]


class Threaded(PyStrandsClient):
    def on_join_request(self, request):
        self.keep_history(request.room_id)
        self.send_room_message(request.room_id, "joined", confirm=True)
        found = self.room_history(request.room_id).messages
        return request.accept(history=len(found))


async def test_all_kinds_of_backends_decide_and_read():
    app = PyStrands()

    @app.on_join_request
    async def allow(request):
        await app.keep_history(request.room_id)
        await app.send_room_message(request.room_id, "joined", confirm=True)
        found = await app.room_history(request.room_id)
        return request.accept(history=len(found.messages))

    async with testing.broker() as broker:
        for room, backend in (("a", on_threads(Threaded, broker)), ("b", running(app, broker))):
            async with backend, SessionClient(broker) as client:
                ident = client.join(room, history=9)
                assert await client.done(ident) == ""
                assert [body for _, body in client.histories[ident].messages] == ["joined"]


class Open(AsyncPyStrandsClient):
    async def on_join_request(self, request):
        return request.accept(signals=request.data == "signals")


async def test_a_backend_lets_who_joins_send_signals():
    async with testing.broker() as broker, testing.backend(broker, Open):
        async with SessionClient(broker) as ada, SessionClient(broker) as ben:
            assert await ada.done(ada.join("a", "signals")) == ""
            assert await ben.done(ben.join("a")) == ""
            ben.signal("a", "nobody hears it", "x")
            ada.signal("a", "cursor", "x")
            await testing.until(lambda: ben.signals)
            assert [signal.name for signal in ben.signals] == ["cursor"]
            assert await ben.done(ben.send("end")) == ""
            assert ada.signals == []


@pytest.mark.parametrize("options", [{"history": -1}, {"history": True}, {"signals": 1}])
def test_what_can_not_be_accepted(options):
    request = JoinRequestContext("a", None, Context())
    with pytest.raises((TypeError, ValueError)):
        request.accept(**options)
    with pytest.raises(TypeError):
        request.reject(403)  # type: ignore[arg-type]
    assert not request.accepted
    assert "room_id='a'" in repr(request)
