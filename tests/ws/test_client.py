"""The WebSocket client for Python at a real broker and backend, through a network that fails."""

import asyncio
import gc
import math
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from pystrands import AsyncPyStrandsClient, NotSupported, RequestFailed, testing, ws
from tests.sdk.proxy import Proxy


class Backend(AsyncPyStrandsClient):
    """Notes what comes; some messages have meanings."""

    def __init__(self, **options):
        super().__init__(**options)
        self.events = []
        self.tokens = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_connection_request(self, request):
        self.tokens.append(request.token)
        return request.reject(401) if request.token == "old" else True

    async def on_new_connection(self, context):
        self.client_id = context.client_id
        self.events.append("new")

    async def on_message(self, message, context):
        await self.gate.wait()
        self.events.append(message)
        if message == "echo":
            await self.send_private_message(context.client_id, message)

    async def on_request(self, message, context):
        if message == "unknown":
            raise RequestFailed("not_found", "no such thing")
        return {"asked": message, "room": context.room_id}

    async def on_join_request(self, request):
        if request.room_id == "closed":
            return request.reject("not for you")
        return request.accept(history=10, signals=True)

    async def on_disconnect(self, context):
        self.events.append("gone")

    async def on_client_suspended(self, context):
        self.events.append("suspended")


@pytest.fixture
async def world():
    """A broker with a backend, and a proxy before it."""
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend, Proxy(broker.ws_port) as proxy:
        yield backend, proxy, f"ws://127.0.0.1:{proxy.port}/room"


async def test_messages_there_and_back(world):
    backend, _, url = world
    before = datetime.now(UTC)
    async with asyncio.timeout(10), ws.connect(url, headers={"X-Device": "7"}) as client:
        assert (client.state, client.rooms) == ("open", frozenset({"/room"}))
        assert client.id == backend.client_id
        await client.send("one")
        await client.send(b"\x00")
        await client.send({"a": "ü"})
        await client.send("to the room", room="/room")
        await client.send("now or never", volatile=True)
        await testing.until(lambda: "now or never" in backend.events)
        assert backend.events == ["new", "one", b"\x00", '{"a":"ü"}', "to the room", "now or never"]

        await backend.send_room_message("/room", "text")
        await backend.send_private_message(client.id, b'{"b": 1}')
        await backend.broadcast_message("all", volatile=True)
        first, second, third = [await client.receive() for _ in range(3)]
    assert (first.data, first.text, first.bytes, first.room) == ("text", "text", b"text", "/room")
    assert (second.data, second.text, second.json(), second.room) == (b'{"b": 1}', '{"b": 1}', {"b": 1}, None)
    assert (third.data, third.room) == ("all", None)
    for message in (first, second, third):
        assert timedelta(0) <= message.time - before + timedelta(milliseconds=1) < timedelta(seconds=10)
    assert repr(first) == "Message('text', room='/room')"
    assert client.state == "closed"
    await testing.until(lambda: backend.events[-1] == "gone")


async def test_nothing_is_lost_over_a_cut_and_a_network_that_was_not_there(world):
    backend, proxy, url = world
    events = []
    async with (
        asyncio.timeout(20),
        ws.connect(url, first_delay=0.05, most_delay=0.05, on_event=events.append) as client,
    ):
        await client.send("one")
        proxy.is_open = False
        proxy.cut()
        await testing.until(lambda: backend.events[-1] == "suspended")
        sending = asyncio.create_task(client.send("two"))
        await backend.send_room_message("/room", "a")
        await backend.send_private_message(client.id, "b")
        await testing.until(lambda: client.state == "waiting")
        proxy.is_open = True
        await sending
        assert [(await client.receive()).text for _ in range(2)] == ["a", "b"]
    assert [event for event in backend.events if event not in ("suspended", "gone")] == ["new", "one", "two"]
    assert [event for event in events if isinstance(event, ws.Resumed)] == [ws.Resumed(True, 2, [])]
    assert [each for each in events if isinstance(each, ws.StateChanged)][-1] == ws.StateChanged("closed", 1000)


async def test_a_thousand_messages_each_way_over_twenty_cuts(world):
    backend, proxy, url = world
    async with asyncio.timeout(30), ws.connect(url, first_delay=0.02, most_delay=0.02) as client:

        async def cut():
            for _ in range(20):
                await asyncio.sleep(0.02)
                proxy.cut()

        async def publish():
            for number in range(1000):
                await backend.send_room_message("/room", str(number))
                if number % 10 == 0:
                    await asyncio.sleep(0)

        came, *_ = await asyncio.gather(
            asyncio.wait_for(_take(client, 1000), 25),
            cut(),
            publish(),
            *(client.send(str(number)) for number in range(1000)),
        )
    assert came == list(range(1000))
    assert [int(event) for event in backend.events if event.isdigit()] == list(range(1000))


async def _take(client, count):
    return [int((await client.receive()).text) for _ in range(count)]


async def test_a_client_that_the_backend_ends_is_closed(world):
    backend, _, url = world
    async with asyncio.timeout(10), ws.connect(url) as client:
        await backend.send_room_message("/room", "last")
        await backend.disconnect_client(client.id, 4321, "enough")
        assert (await client.receive()).text == "last"
        with pytest.raises(ws.Closed, match="closed with 4321: enough") as closed:
            await client.receive()
        assert (closed.value.code, closed.value.reason) == (4321, "enough")
        with pytest.raises(ws.SendError) as refused:
            await client.send("late")
        assert refused.value.code == "closed"
        with pytest.raises(ws.Closed):
            await client.ready()
        client.reconnect()
        await client.ready()
        await client.send("again")
    assert backend.events[-1] in ("again", "gone")


async def test_iterating_ends_with_an_orderly_close_and_raises_on_another(world):
    backend, _, url = world
    for code in (1000, 4000):
        async with asyncio.timeout(10), ws.connect(url) as client:
            await backend.send_room_message("/room", "a")
            await backend.disconnect_client(client.id, code, "")
            came = []

            async def take(client=client, came=came):
                async for message in client:
                    came.append(message.text)

            if code == 1000:
                await take()
            else:
                with pytest.raises(ws.Closed, match="closed with 4000"):
                    await take()
            assert came == ["a"]


async def test_tokens_are_asked_for_and_replaced_once_where_refused(world):
    backend, _, url = world
    tokens = iter(["old", "new"])

    async def token():
        return next(tokens)

    async with asyncio.timeout(10), ws.connect(url, token=token):
        pass
    assert backend.tokens == ["old", "new"]
    async with asyncio.timeout(10), ws.connect(url, token="fixed"):
        pass
    assert backend.tokens[-1] == "fixed"
    with pytest.raises(ws.Closed) as closed:
        await ws.connect(url, token="old")
    assert closed.value.code == 4401


async def test_a_token_that_fails_is_asked_for_again(world):
    _, _, url = world
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    results = iter([RuntimeError("no network"), "token"])

    def token():
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    async with asyncio.timeout(10), ws.connect(url, token=token, first_delay=0.01):
        pass
    assert told == ["no network"]


async def test_sending_can_be_given_up(world):
    backend, proxy, url = world
    async with asyncio.timeout(10), ws.connect(url, first_delay=0.05, most_delay=0.05) as client:
        backend.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.send("on its way")
        proxy.is_open = False
        proxy.cut()
        await testing.until(lambda: client.state == "waiting")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.send("never written")
        backend.gate.set()
        proxy.is_open = True
        await client.send("last")
    assert [each for each in backend.events if each not in ("suspended", "gone")] == ["new", "on its way", "last"]


async def test_what_is_not_handled_raises(world):
    _, proxy, url = world
    async with asyncio.timeout(10), ws.connect(url, queue_messages=2) as client:
        with pytest.raises(ws.SendError) as refused:
            await client.send("x", room="elsewhere")
        assert refused.value.code == "not_in_room"
        again = pickle.loads(pickle.dumps(refused.value))
        assert (again.code, str(again)) == (refused.value.code, str(refused.value))
        proxy.is_open = False
        proxy.cut()
        await testing.until(lambda: client.state != "open")
        sending = [asyncio.create_task(client.send(text)) for text in "abc"]
        with pytest.raises(ws.SendError) as refused:
            await sending[2]
        assert refused.value.code == "queue_full"
    for task in sending[:2]:
        with pytest.raises(ws.SendError) as refused:
            await task
        assert refused.value.code == "closed"


async def test_who_does_not_take_messages_is_not_read_for_and_gets_all_later(world):
    backend, _, url = world
    async with asyncio.timeout(30), ws.connect(url) as client:
        for number in range(3000):
            await backend.send_room_message("/room", f"{number}")
        await testing.until(lambda: len(client._inbox) >= 1000)
        assert await asyncio.wait_for(_take(client, 3000), 20) == list(range(3000))
        await client.send("still there")


async def test_a_client_that_is_not_started_says_so(world):
    _, _, url = world
    client = ws.connect(url)
    assert client.state == "new"
    for doing in (client.send("x"), client.receive(), client.ready()):
        with pytest.raises(RuntimeError, match="not started"):
            await doing
    await client.close()


async def test_dials_that_fail_say_why(world, unused_tcp_port):
    events = []
    client = ws.connect(f"ws://127.0.0.1:{unused_tcp_port}/", first_delay=0.01, on_event=events.append)
    client.reconnect()
    await testing.until(lambda: any(getattr(event, "state", "") == "waiting" for event in events))
    await client.close()
    waiting = next(event for event in events if event.state == "waiting")
    assert waiting.code == 1006
    assert waiting.reason.startswith(f"no connection to ws://127.0.0.1:{unused_tcp_port}/")


async def test_a_client_that_is_closed_while_it_dials_is_closed_at_once(world):
    _, proxy, url = world
    proxy.is_swallowing = True
    client = ws.connect(url)
    client.reconnect()
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await client.close()
    assert client.state == "closed"


async def test_nothing_is_left_of_a_client_that_is_closed(world):
    _, _, url = world
    async with asyncio.timeout(10), ws.connect(url) as client:
        await client.send("x")
    gc.collect()
    mine = [task for task in asyncio.all_tasks() if "pystrands/ws/" in task.get_coro().cr_code.co_filename]
    assert mine == []
    assert client._core.deadline == math.inf


async def test_requests_are_answered(world):
    _, proxy, url = world
    async with asyncio.timeout(10), ws.connect(url, first_delay=0.02) as client:
        reply = await client.request("what")
        assert (reply.json(), reply.room) == ({"asked": "what", "room": "/room"}, None)
        with pytest.raises(ws.SendError, match="no such thing") as failed:
            await client.request("unknown")
        assert failed.value.code == "not_found"
        asking = asyncio.create_task(client.request("over a cut"))
        await asyncio.sleep(0)
        proxy.cut()
        assert (await asking).json()["asked"] == "over a cut"


async def test_backends_ask(world):
    backend, _, url = world
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    async def answer(message):
        match message.text:
            case "no":
                raise ws.SendError("busy", "not now")
            case "bug":
                raise ValueError
        return {"asked": message.text}

    async with asyncio.timeout(10), ws.connect(url, on_request=answer) as client:
        assert await backend.request(client.id, "what") == '{"asked":"what"}'
        for question, code in (("no", "busy"), ("bug", "failed")):
            with pytest.raises(RequestFailed) as failed:
                await backend.request(client.id, question)
            assert failed.value.code == code
    async with asyncio.timeout(10), ws.connect(url) as client:
        with pytest.raises(NotSupported, match="answers no requests"):
            await backend.request(client.id, "what")


async def test_rooms_are_joined_and_their_history_is_read(world):
    backend, proxy, url = world
    await backend.keep_history("chat")
    for text in ("a", "b", "c"):
        await backend.send_room_message("chat", text)
    async with asyncio.timeout(10), ws.connect(url, first_delay=0.02) as client:
        older = await client.join("chat", {"as": "ada"}, history=2)
        assert ([(each.text, each.room) for each in older.messages], older.complete) == (
            [("b", "chat"), ("c", "chat")],
            False,
        )
        before = await client.history("chat", before=older.messages[0], limit=10)
        assert ([each.text for each in before.messages], before.complete) == (["a"], True)
        assert client.rooms == frozenset({"/room", "chat"})
        proxy.cut()
        await backend.send_room_message("chat", "d")
        assert (await client.receive()).text == "d"
        await client.send("hello", room="chat")
        with pytest.raises(ws.SendError, match="not for you") as refused:
            await client.join("closed")
        assert refused.value.code == "refused"
        await client.leave("chat")
        assert client.rooms == frozenset({"/room"})
        with pytest.raises(ws.SendError):
            await client.history("chat")


async def test_members_signal_and_see_who_is_present(world):
    backend, _, url = world
    events = []
    async with asyncio.timeout(10), ws.connect(url) as ada, ws.connect(url, on_event=events.append) as bob:
        for client in (ada, bob):
            await client.join("chat")
        bob.watch("chat")
        await backend.set_presence(ada.id, "chat", {"name": "Ada"})
        await testing.until(lambda: any(isinstance(each, ws.PresenceChanged) for each in events))
        ada.signal("chat", "typing", {"on": True})
        await testing.until(lambda: any(isinstance(each, ws.Signal) for each in events))
        (signal,) = (each for each in events if isinstance(each, ws.Signal))
        assert (signal.room, signal.name, signal.sender, signal.body) == ("chat", "typing", ada.id, '{"on":true}')
