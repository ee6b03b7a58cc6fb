"""Clients of `pystrands.v1` at a real broker with a real backend; the names are those of the promises."""

import asyncio
import json
import time

import pytest

from pystrands import AsyncPyStrandsClient, testing

from .session_client import SessionClient
from .support import connect


class Recorder(AsyncPyStrandsClient):
    """Notes all events."""

    def __init__(self, **options):
        super().__init__(**options)
        self.events = []
        self.contexts = []

    def note(self, what, context):
        self.events.append(what)
        self.contexts.append(context)

    async def on_new_connection(self, context):
        self.note("new", context)

    async def on_message(self, message, context):
        self.note(message, context)

    async def on_disconnect(self, context):
        self.note("gone", context)

    async def on_client_suspended(self, context):
        self.note("suspended", context)

    async def on_client_resumed(self, context):
        self.note("resumed", context)


async def test_a_client_loses_nothing_over_a_cut():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            assert await client.done(client.send("one")) == ""
            await backend.send_room_message("/room", "a")
            await backend.send_private_message(client.name, "b")
            await testing.until(lambda: client.messages == ["a", "b"])
            client.hold()
            client.cut()
            await testing.until(lambda: "suspended" in backend.events)
            await backend.send_room_message("/room", "c")
            await backend.send_private_message(client.name, b"d")
            await backend.broadcast_message("e")
            two = client.send("two")
            client.release()
            await testing.until(lambda: client.messages == ["a", "b", "c", b"d", "e"])
            assert await client.done(two) == ""
            assert client.resumed[0].resumed
            assert client.resumed[0].replayed == 3
            assert client.resumed[0].gaps == []
            await backend.send_room_message("/room", "f")
            await testing.until(lambda: client.messages[-1] == "f")
        await testing.until(lambda: "gone" in backend.events)
    assert backend.events == ["new", "one", "suspended", "resumed", "two", "gone"]


# --- promises ---


def session_of(client):
    return client.core.session


async def away(client, backend):
    """Have a client lose its connection, and be away."""
    await client.connection.ping()
    client.hold()
    client.cut()
    await testing.until(lambda: backend.events[-1] == "suspended")


async def raw(broker, *subprotocols, path="/room", **options):
    """Connect, and take the welcome."""
    client = await testing.connect(broker, path, subprotocols=["pystrands.v1", *subprotocols], **options)
    return client, await client.receive_json()


async def test_promise_03_who_is_left_out_stays_so_while_away():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client, SessionClient(broker) as other:
            name = client.name
            await away(client, backend)
            await backend.send_room_message("/room", "not for it", exclude=[name])
            await backend.broadcast_message("nor this", exclude=[name])
            await backend.send_room_message("/room", "for it", exclude=[other.name])
            client.release()
            await testing.until(lambda: client.resumed)
            assert client.messages == ["for it"]
            assert other.messages == ["not for it", "nor this"]


async def test_promise_04_what_was_sent_before_joining_or_by_those_left_is_not_replayed():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client, testing.connect(broker, "/other"):
            name = client.name
            await away(client, backend)
            await backend.send_room_message("/other", "before")
            await backend.join_room(name, "/other")
            await backend.send_room_message("/other", "after")
            await backend.send_room_message("/room", "left")
            await backend.leave_room(name, "/room")
            client.release()
            await testing.until(lambda: client.resumed)
            assert client.messages == ["after"]
            assert list(client.core.rooms) == ["/other"]


async def test_promise_04_moves_come_in_order_with_messages():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            name = client.name
            await backend.join_room(name, "b")
            await backend.send_room_message("b", "x")
            await backend.leave_room(name, "b")
            await testing.until(lambda: len(client.moves) == 2)
            heads = [str(frame).partition("\n")[0] for frame in client.frames if '"r":"b"' in str(frame)]
            assert [head.partition(",")[2] for head in heads] == [
                '"t":"joined","r":"b"}',
                '"r":"b"}',
                '"t":"left","r":"b","why":"removed"}',
            ]


async def test_promise_05_gaps_are_told_where_history_was_too_short():
    async with testing.broker(history_bytes=2000) as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            await away(client, backend)
            for number in range(50):
                await backend.send_room_message("/room", f"{number}")
            await backend.send_private_message(client.name, "private")
            client.release()
            await testing.until(lambda: client.resumed)
            assert client.resumed[0].gaps == ["/room"]
            assert client.messages[-2:] == ["49", "private"]


async def test_promise_08_who_is_too_slow_is_closed_and_resumes():
    async with testing.broker(
        client_buffer=100_000, max_message_size=100_000, slow_client_policy="drop", slow_client_time=0.5
    ) as broker:
        async with testing.backend(broker, Recorder) as backend, testing.connect(broker, "/room") as other:
            async with SessionClient(broker) as client:
                client.connection.stop_reading()
                for number in range(400):
                    await backend.send_room_message("/room", f"{number:04}" * 5000, confirm=number % 20 == 19)
                    while other.pending:
                        await other.receive()
                    if broker.counters["clients_suspended"]:
                        break
                assert broker.counters["slow_consumer_closed"] == 1
                client.cut()
                await backend.send_room_message("/room", "last")
                await testing.until(lambda: client.messages and client.messages[-1] == "last")
                assert client.resumed[0].resumed


async def test_promise_09_what_was_missed_comes_in_parts():
    async with testing.broker(client_buffer=65_536, max_message_size=65_536) as broker:
        async with testing.backend(broker, Recorder) as backend, SessionClient(broker) as client:
            await away(client, backend)
            for number in range(60):
                await backend.send_room_message("/room", f"{number:02}" * 5000)
            await backend.send_private_message(client.name, "private")
            client.release()
            await testing.until(lambda: client.core.state == "open" or client.resumed)
            await backend.send_room_message("/room", "live")
            await testing.until(lambda: client.messages and client.messages[-1] == "live")
            assert [message[:2] for message in client.messages] == [f"{n:02}" for n in range(60)] + ["pr", "li"]
            assert client.resumed[0].replayed >= 61
            assert not client.resumed[0].gaps


async def test_promise_10_a_gap_closes_and_a_repeat_is_dropped():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        client, _ = await raw(broker)
        await client.send('{"k":1}\none')
        await client.send('{"k":1}\none')
        await client.send('{"k":2}\ntwo')
        await client.expect_json({"done": 2})
        await client.send('{"k":4}\nfour')
        await client.expect_close(4400)
        assert backend.events[:3] == ["new", "one", "two"]


async def test_promise_11_and_24_what_is_dropped_is_told():
    async with testing.broker(queue_size=0) as broker:
        async with testing.backend(broker, Recorder) as backend:
            async with SessionClient(broker) as client:
                assert await client.done(client.send("x", room="/elsewhere")) == "not_in_room"
                assert await client.done(client.send("y", room="/room")) == ""
                assert await client.done(client.send("z", kind="join", room="/b")) == "refused"
                assert backend.events == ["new", "y"]
                assert backend.contexts[-1].room_id == "/room"
                await backend.disconnect()
                assert await client.done(client.send("w")) == "no_backend"


async def test_promise_12_a_message_is_called_the_same_whenever_it_comes():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            await client.done(client.send("one"))
            name = session_of(client).partition("~")[0]
            assert backend.contexts[-1].message_id == f"{name}-1"
            assert not backend.contexts[-1].redelivered
        lost, greeting = await raw(broker)
        assert not greeting["resumed"]
        await lost.send('{"k":1,"id":"old-7"}\nagain')
        await testing.until(lambda: backend.events[-1] == "again")
        assert backend.contexts[-1].message_id == "old-7"
        assert backend.contexts[-1].redelivered


async def test_promise_12_a_message_waits_for_a_backend_over_a_cut():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as first:
        async with SessionClient(broker) as client:
            await first.disconnect()
            ident = client.send("one")
            await client.connection.ping()
            client.cut()
            async with testing.backend(broker, Recorder) as backend:
                assert await client.done(ident) == ""
                await testing.until(lambda: client.resumed)
                assert backend.events.count("one") == 1


async def test_promise_13_leaving_is_done_once_and_in_order():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            client.send("one", room="/room")
            left = client.send(None, kind="leave", room="/room")
            three = client.send("three", room="/room")
            assert await client.done(left) == ""
            assert await client.done(three) == "not_in_room"
            assert [move.room for move in client.moves] == ["/room"]
            await backend.join_room(client.name, "/room")
            await client.connection.ping()
            client.cut()
            await testing.until(lambda: client.resumed)
            assert list(client.core.rooms) == ["/room"]  # it is not left again
            assert backend.events[:2] == ["new", "one"]


async def test_promise_16_who_has_said_nothing_does_not_come_back():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        client, greeting = await raw(broker)
        client.abort()
        await testing.until(lambda: backend.events == ["new", "gone"])
        _, again = await raw(broker, f"resume.{greeting['session']}.1.{greeting['n']}")
        assert not again["resumed"]


async def test_promise_17_who_says_bye_or_closes_in_order_is_gone_at_once():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        client, _ = await raw(broker)
        await client.send('{"seen":1}')
        await client.close(1000)
        await testing.until(lambda: backend.events == ["new", "gone"])
        client, _ = await raw(broker)
        await client.send('{"t":"bye"}')
        client.abort()
        await testing.until(lambda: backend.events == ["new", "gone"] * 2)


async def test_promise_17_who_goes_away_may_come_back():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        client, greeting = await raw(broker)
        await client.send('{"seen":1}')
        await client.close(1001)
        await testing.until(lambda: backend.events == ["new", "suspended"])
        client, again = await raw(broker, f"resume.{greeting['session']}.1.{greeting['n']}")
        assert again["resumed"]
        await client.expect_json({"t": "live"})


async def test_promise_18_the_window_ends_a_session_once():
    async with testing.broker(client_resume_window=0.2) as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            await client.done(client.send("one"))
            await away(client, backend)
            await testing.until(lambda: backend.events[-1] == "gone")
            assert backend.contexts[-1].close_code == 1006
            assert broker.client_count == 0
            two = client.send("two")
            client.release()
            assert await client.done(two) == ""
            assert client.resumed == [(False, 0, [None, "/room"])]
            await client.connection.ping()
    assert backend.events == ["new", "one", "suspended", "gone", "new", "two"]


async def test_promise_18_the_connection_may_flap():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            idents = []
            await client.connection.ping()
            for number in range(20):
                idents.append(client.send(str(number)))
                client.cut()
                await backend.send_room_message("/room", str(number))
                await testing.until(lambda: client.core.state == "open")
            for ident in idents:
                assert await client.done(ident) == ""
            await testing.until(lambda: len(client.messages) == 20)
            assert client.messages == [str(number) for number in range(20)]
        await testing.until(lambda: backend.events[-1] == "gone")
    told = [event for event in backend.events if event in ("suspended", "resumed")]
    assert told == ["suspended", "resumed"] * (len(told) // 2)
    assert [event for event in backend.events if event.isdigit()] == [str(number) for number in range(20)]
    assert backend.events.count("new") == backend.events.count("gone") == 1


async def test_promise_19_who_is_away_counts_as_a_member():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client, testing.connect(broker, "/room") as plain:
            await away(client, backend)
            matched = await backend.send_room_message("/room", "x", confirm=True)
            assert (matched.matched, matched.skipped) == (2, 0)
            matched = await backend.send_private_message(client.name, "y", confirm=True)
            assert (matched.matched, matched.skipped) == (1, 0)
            matched = await backend.send_room_message("/room", "z", exclude=["nobody"], confirm=True)
            assert (matched.matched, matched.skipped) == (2, 0)
            members = {member.client_id: member.suspended for member in await backend.room_members("/room")}
            assert members[client.name] is True
            assert sorted(members.values()) == [False, True]
            client.release()
            await testing.until(lambda: client.messages == ["x", "y", "z"])
            assert not any(member.suspended for member in await backend.room_members("/room"))
            await plain.expect("x")


async def test_promise_20_and_the_failures_an_end_while_away_is_told_to_who_comes_back():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            await away(client, backend)
            await backend.update_metadata(client.name, {"a": 1})
            await backend.disconnect_client(client.name, code=4123, reason="out")
            await testing.until(lambda: backend.events[-1] == "gone")
            assert backend.contexts[-1].metadata == {"a": 1}
            client.release()
            await testing.until(lambda: client.core.state == "closed")
            assert client.states[-1][:3] == ("closed", 4123, "out")


class Named(Recorder):
    """Lets all in as ada, or as whoever their token says."""

    async def on_connection_request(self, request):
        self.requests = [*getattr(self, "requests", ()), request]
        if request.token == "bad":
            return request.reject(401, "who?")
        request.context.client_id = request.token or "ada"
        return True


async def test_promise_21_another_one_with_its_id_ends_a_session_for_good():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with SessionClient(broker) as old, SessionClient(broker) as new:
            await testing.until(lambda: old.core.state == "closed")
            assert old.states[-1].code == 4409
            assert await new.done(new.send("x")) == ""
            await away(new, backend)
            async with testing.connect(broker, "/room") as plain:
                await plain.send("y")
                await testing.until(lambda: backend.events[-1] == "y")
                new.release()
                await testing.until(lambda: new.core.state == "closed")
                assert new.states[-1].code == 4409


async def test_promise_22_secrets_are_no_headers_and_the_token_is_the_requests():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with SessionClient(broker, token="bob") as client:
            assert client.name == "bob"
            assert backend.requests[0].token == "bob"
            assert backend.requests[0].headers["Sec-WebSocket-Protocol"] == ["pystrands.v1"]
            assert client.connection.subprotocol == "pystrands.v1"
        async with testing.connect(broker, "/room", subprotocols=["chat", "token.YQ"]):
            assert backend.requests[1].token is None
            assert backend.requests[1].headers["Sec-WebSocket-Protocol"] == ["chat, token.YQ"]


async def test_promise_22_a_page_of_another_origin_can_not_resume():
    async with testing.broker() as broker, testing.backend(broker, Recorder):
        client, greeting = await raw(broker)
        await client.send('{"seen":1}')
        offer = f"resume.{greeting['session']}.1.{greeting['n']}"
        with pytest.raises(testing.Rejected) as refused:
            await raw(broker, offer, headers={"Origin": "https://evil.example"})
        assert refused.value.status == 403


async def test_refusals_of_backends_are_close_codes():
    async with testing.broker() as broker, testing.backend(broker, Named):
        async with SessionClient(broker, token="bad") as client:
            assert client.core.state == "closed"
            assert client.states[-1][:3] == ("closed", 4401, "who?")


async def test_a_half_open_connection_is_replaced_and_what_it_says_ignored():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        old, greeting = await raw(broker)
        await old.send('{"k":1}\none')
        await old.expect_json({"done": 1})
        new, again = await raw(broker, f"resume.{greeting['session']}.1.{greeting['n']}")
        assert (again["resumed"], again["received"], again["done"]) == (True, 1, 1)
        await new.send('{"k":2}\ntwo')
        await testing.until(lambda: "two" in backend.events)
        assert old.closed or await old.expect_close()
        assert "gone" not in backend.events


async def test_a_dial_that_comes_too_late_is_refused():
    async with testing.broker() as broker, testing.backend(broker, Recorder):
        client, greeting = await raw(broker)
        await client.send('{"seen":1}')
        session, n = greeting["session"], greeting["n"]
        new, _ = await raw(broker, f"resume.{session}.2.{n}")
        late = await testing.connect(broker, "/room", subprotocols=["pystrands.v1", f"resume.{session}.1.{n}"])
        await late.expect_close(4408)
        await new.send('{"k":1}\nx')
        await new.expect_json({"t": "live"})
        await new.expect_json({"done": 1})


async def test_a_session_that_was_not_made_here_begins_anew():
    async with testing.broker() as broker, testing.backend(broker, Recorder):
        for resume in ("resume.x-1~y.1.2", "resume.", "resume.a.b.c", f"resume.{broker.broker_id[:8]}-1~AAAA.1.1"):
            _, greeting = await raw(broker, resume)
            assert not greeting["resumed"]


class Timed(Recorder):
    """Lets clients in for a moment, and again."""

    lifetime = 0.3

    async def on_connection_request(self, request):
        self.resumes = [*getattr(self, "resumes", ()), request.resumes]
        request.context.client_id = "ada"
        return request.accept(expires_at=time.time() + self.lifetime)


async def test_who_expired_while_away_goes_on_if_the_backend_lets_it_in_as_the_same():
    async with testing.broker() as broker, testing.backend(broker, Timed) as backend:
        async with SessionClient(broker) as client:
            await client.done(client.send("one"))
            await away(client, backend)
            await backend.send_room_message("/room", "missed")
            await asyncio.sleep(0.4)
            backend.lifetime = 100.0
            client.release()
            await testing.until(lambda: client.messages == ["missed"])
            assert client.resumed[0].resumed
            assert backend.resumes == [None, "ada"]
            assert await client.done(client.send("two")) == ""
            assert backend.events == ["new", "one", "suspended", "resumed", "two"]


async def test_promise_29_heartbeats_are_messages_and_answered():
    async with testing.broker(ping_interval=0.2, idle_timeout=0.5, client_message_rate=1) as broker:
        async with testing.backend(broker, Recorder):
            client, greeting = await raw(broker)
            assert greeting["ping"] == 0.2
            await client.expect("{}", timeout=2)
            await client.send("{}")
            await client.send("{}")
            await client.expect("{}")
            for _ in range(20):
                await client.send('{"seen":1}')
            await client.expect_close(1001)  # of all that nothing was a message


async def test_promise_33_plain_clients_get_every_byte_as_ever():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        plain = await PlainSocket.open(broker)
        async with SessionClient(broker) as client:
            name = client.name
            await backend.send_room_message("/room", "text")
            await backend.send_room_message("/room", b"\x00\xff")
            await backend.send_room_message("/room", "x" * 200, exclude=[name])
            await backend.broadcast_message("all")
            await away(client, backend)
            await backend.send_room_message("/room", "away")
            await backend.send_room_message("/room", "volatile", volatile=True)
            expected = b"\x81\x04text\x82\x02\x00\xff\x81\x7e\x00\xc8" + b"x" * 200
            expected += b"\x81\x03all\x81\x04away\x81\x08volatile"
            assert await plain.reader.readexactly(len(expected)) == expected
        plain.writer.close()


class PlainSocket:
    """A plain WebSocket as bytes."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, broker):
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
        writer.write(
            b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
        )
        return cls(reader, writer)


async def test_compressed_sessions_resume_too():
    async with testing.broker(compression=True, compression_threshold=10) as broker:
        async with testing.backend(broker, Recorder) as backend, testing.connect(broker, "/room") as plain:
            client = await connect(broker, subprotocols=["pystrands.v1"], compression="deflate")
            greeting = json.loads(await client.recv())
            await client.send('{"seen":1}')
            await backend.send_room_message("/room", "a" * 1000)
            await backend.send_private_message(greeting["client"], "b" * 1000)
            assert (await client.recv()).endswith("}\n" + "a" * 1000)
            last = await client.recv()
            assert last.endswith("}\n" + "b" * 1000)
            seen = json.loads(last.partition("\n")[0])["n"]
            client.transport.abort()
            await testing.until(lambda: "suspended" in backend.events)
            await backend.send_room_message("/room", "c" * 1000)
            await backend.send_private_message(greeting["client"], "d" * 1000)
            resume = f"resume.{greeting['session']}.1.{seen}"
            client = await connect(broker, subprotocols=["pystrands.v1", resume], compression="deflate")
            assert json.loads(await client.recv())["resumed"]
            assert (await client.recv()).endswith("}\n" + "c" * 1000)
            assert (await client.recv()).endswith("}\n" + "d" * 1000)
            assert json.loads(await client.recv()) == {"t": "live"}
            await client.close()
            await plain.expect("a" * 1000)
            await plain.expect("c" * 1000)


async def test_frames_that_are_none_close_with_4400():
    async with testing.broker() as broker, testing.backend(broker, Recorder):
        for frame in ("x", "", b"\xff{", "{" * 9000, '{"k":1}', '{"k":"1"}\nx', '{"k":1,"id":"\x00"}\nx', "[]"):
            client, _ = await raw(broker)
            await client.send(frame)
            await client.expect_close(4400)
        client, _ = await raw(broker)
        for frame in ('{"t":"later"}', '{"new":1}\nx', '{"v":1,"r":"/elsewhere"}\nx', '{"seen":99999999999999999}'):
            await client.send(frame)
        await client.send('{"k":1}\nx')
        await client.expect_json({"done": 1})


async def test_volatile_messages_go_both_ways():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            await backend.send_room_message("/room", "a", volatile=True)
            await backend.send_private_message(client.name, "b", volatile=True)
            await testing.until(lambda: client.messages == ["a", "b"])
            assert [each.number for each in client.delivered] == [None, None]
            client.send("up", volatile=True)
            client.send("room", room="/room", volatile=True)
            await testing.until(lambda: backend.events == ["new", "up", "room"])


async def test_a_broker_that_stops_ends_those_who_are_away():
    async with testing.broker() as broker, testing.backend(broker, Recorder) as backend:
        async with SessionClient(broker) as client:
            await away(client, backend)
            async with SessionClient(broker) as other:
                await broker.stop()
                assert backend.events.count("gone") == 2
                assert '{"t":"bye","retry":[0.2,3]}' in other.frames
                assert 0.2 <= other.states[-1].retry_in <= 3


async def test_memory_of_who_is_away_counts_and_is_given_back():
    async with testing.broker(memory_budget=4 * 1024 * 1024) as broker:
        async with testing.backend(broker, Recorder) as backend:
            clients = [await raw(broker) for _ in range(30)]
            for client, _ in clients:
                await client.send('{"seen":1}')
                client.abort()
            await testing.until(lambda: backend.events.count("suspended") == 30)
            for _, greeting in clients:
                for _ in range(4):
                    await backend.send_private_message(greeting["client"], "x" * 60_000)
            await testing.until(lambda: "gone" in backend.events)
            assert broker.counters["clients_gone"] < 30
