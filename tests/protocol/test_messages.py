import contextlib
import gc
import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.context import Context
from pystrands.errors import MalformedLine
from pystrands.protocol import messages, wire
from pystrands.protocol.messages import COMMANDS, EVENTS, HelloParams, line_limit, message_content

texts = st.text(st.characters(exclude_categories=["Cs"]))
contents = texts | st.binary()
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


def content_of(params):
    return message_content(params.message, params.binary)


def _raw(metadata: Any) -> bytes:
    return bytes(metadata)


def whole(line):
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line).keys() == {"action", "request_id", "params"}
    return line[:-1]


@given(texts, contents)
def test_room_messages(room_id, message):
    params = COMMANDS.decode(whole(wire.message_to_room(room_id, message))).params
    assert (params.room_id, content_of(params)) == (room_id, message)


@given(texts, contents)
def test_private_messages(client_id, message):
    params = COMMANDS.decode(whole(wire.message_to_connection(client_id, message))).params
    assert (params.conn_id, content_of(params)) == (client_id, message)


@given(contents)
def test_broadcasts(message):
    assert content_of(COMMANDS.decode(whole(wire.broadcast(message))).params) == message


@given(texts, texts, values, contents, texts)
def test_events_about_a_client(client_id, room_id, metadata, message, text):
    context = wire.context_json(client_id, room_id, json.dumps(metadata).encode())
    expected = Context(client_id, room_id, metadata)
    for encode in (wire.new_connection, wire.client_adopted):
        assert EVENTS.decode(whole(encode(context))).params.context == expected
    event = EVENTS.decode(whole(wire.disconnected(context, 1001, text)))
    assert (event.params.context, event.params.code, event.params.reason) == (expected, 1001, text)
    event = EVENTS.decode(whole(wire.new_message(context, message)))
    assert (event.params.context, content_of(event.params)) == (expected, message)
    event = EVENTS.decode(whole(wire.error(context, text)))
    assert (event.params.context, event.params.error) == (expected, text)


@given(texts, texts, texts, st.dictionaries(texts, st.lists(texts)), texts)
def test_connection_requests(request_id, url, query_string, headers, remote_addr):
    event = EVENTS.decode(whole(wire.connection_request(request_id, url, query_string, headers, remote_addr)))
    params = event.params
    assert event.request_id == request_id
    assert (params.url, params.query_string, params.headers, params.remote_addr) == (
        url,
        query_string,
        headers,
        remote_addr,
    )


@given(texts, texts, texts, values)
def test_responses(request_id, client_id, room_id, metadata):
    reply = COMMANDS.decode(whole(wire.response(request_id, True, client_id, room_id, metadata)))
    assert (reply.request_id, reply.params.accepted) == (request_id, True)
    assert (reply.params.client_id, reply.params.room_id) == (client_id, room_id)
    assert json.loads(_raw(reply.params.metadata)) == metadata
    reply = COMMANDS.decode(whole(wire.response(request_id, False)))
    assert (reply.params.accepted, reply.params.client_id, reply.params.room_id) == (False, None, None)
    assert (reply.params.status, reply.params.reason) == (403, "")
    assert (reply.params.headers, reply.params.expires_at) == ({}, None)


@given(texts, st.dictionaries(texts, texts), st.none() | st.floats(0, 1e12), st.integers(400, 599), texts)
def test_what_else_a_response_says(subprotocol, headers, expires_at, status, reason):
    for accepted in (True, False):
        line = wire.response("q", accepted, "c", "r", {}, subprotocol, headers=headers, expires_at=expires_at,
                             status=status, reason=reason)  # fmt: skip
        params = COMMANDS.decode(whole(line)).params
        let_in = (params.subprotocol, params.headers, params.expires_at)
        assert let_in == ((subprotocol, headers, expires_at) if accepted else (None, {}, None))
        assert (params.status, params.reason) == ((403, "") if accepted else (status, reason))


def test_hello_and_heartbeat():
    params = HelloParams(protocol=1, binary=True, broker_id="b", max_line=7, max_message_size=5, name="n")
    for decoder in (EVENTS, COMMANDS):
        assert decoder.decode(whole(wire.hello(params))).params == params
        assert isinstance(decoder.decode(whole(wire.HEARTBEAT)), messages.Heartbeat)


@given(st.binary())
def test_decoding_raises_nothing_else(line):
    for decoder in (EVENTS, COMMANDS):
        with contextlib.suppress(MalformedLine):
            decoder.decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"action":7}',
        b'{"action":"broadcast"}',
        b'{"action":"broadcast","params":{}}',
        b'{"action":"broadcast","params":{"message":7}}',
        b'{"action":"response","params":{}}',
        b'{"action":"response","request_id":"r","params":{"accepted":true,"headers":{"X":1}}}',
        b'{"action":"response","request_id":"r","params":{"accepted":true,"expires_at":"soon"}}',
        b'{"action":"response","request_id":"r","params":{"accepted":true,"expires_at":1e999}}',
        b'{"action":"response","request_id":"r","params":{"accepted":false,"status":"401"}}',
        b"[" * 100_000,
        b'{"action":"broadcast","params":' + b"[" * 100_000,
    ],
)
def test_malformed_commands(line):
    with pytest.raises(MalformedLine):
        COMMANDS.decode(line)


def test_unknown_actions_and_params_are_ignored():
    assert COMMANDS.decode(b'{"action":"invented","params":{"who":1}}') is None
    assert EVENTS.decode(b'{"action":"broadcast","params":{"message":"x"}}') is None
    known = COMMANDS.decode(b'{"action":"broadcast","new":1,"params":{"message":"x","ttl":3}}')
    assert known.params.message == "x"


def test_what_existing_backends_send():
    reply = COMMANDS.decode(b'{"action":"response","request_id":"r","params":{"accepted":true,"room_id":"x"}}')
    assert reply.params.accepted
    assert _raw(reply.params.metadata) == b"{}"
    assert COMMANDS.decode(b'{"action":"broadcast","request_id":null,"params":{"message":"x"}}').request_id is None


def test_bad_base64():
    assert message_content(b64encode(b"\x00").decode(), True) == b"\x00"
    for bad in ("*", "a", "ü"):
        with pytest.raises(MalformedLine, match="base64"):
            message_content(bad, True)


@pytest.mark.interpreted  # compiled code says it in words of its own
@pytest.mark.parametrize("message", [None, 1, {"a": 1}, ["x"]])
def test_messages_of_other_types(message):
    for encode in (wire.broadcast, lambda m: wire.message_to_room("r", m)):
        with pytest.raises(TypeError, match=r"json\.dumps"):
            encode(message)


@pytest.mark.interpreted
def test_kinds_of_bytes():
    kinds: list[Any] = [bytes, bytearray, memoryview]
    for kind in kinds:
        assert content_of(COMMANDS.decode(wire.broadcast(kind(b"\xff"))).params) == b"\xff"


def test_a_lone_surrogate_is_a_value_error():
    with pytest.raises(ValueError, match="surrogates"):
        wire.broadcast("\ud800")


@given(contents)
def test_the_line_limit_is_enough(message):
    size = len(message.encode() if isinstance(message, str) else message)
    assert len(wire.broadcast(message)) <= line_limit(size)


def test_of_a_message_only_the_context_is_the_garbage_collectors():
    """The rest can't be part of a cycle; a handler may make the context part of one."""
    event = EVENTS.decode(wire.new_message(wire.context_json("a", "/r", b"{}"), "hello"))
    assert not gc.is_tracked(event)
    assert not gc.is_tracked(event.params)
    assert gc.is_tracked(event.params.context)
    for line in (wire.message_to_room("/r", "hello"), wire.message_to_connection("a", "hello")):
        command = COMMANDS.decode(line)
        assert not gc.is_tracked(command)
        assert not gc.is_tracked(command.params)
