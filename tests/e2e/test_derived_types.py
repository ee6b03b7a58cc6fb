"""What is a str, a number or bytes by inheritance is sendable wherever those are, and arrives as those."""

import asyncio
import enum
import json
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, MessageError, PyStrandsClient, testing
from pystrands.client import requests
from pystrands.headers import Headers
from pystrands.protocol import wire
from pystrands.testing import backend


class Safe(str):  # noqa: SLOT000
    """As template engines have it: whatever is done with one gives another one, escaped."""

    def __str__(self):
        return self

    def __add__(self, other):
        return Safe(f"escaped {str.__add__(self, other)}")

    def __radd__(self, other):
        return Safe(f"escaped {other}")

    def __format__(self, spec):
        return "formatted"


class Real(float):
    """As numpy.float64."""

    def __repr__(self):
        return f"Real({float(self)!r})"


class Whole(int):
    __str__ = __repr__ = None  # type: ignore[assignment]


class Colour(enum.StrEnum):
    RED = "red"


class Old(str, enum.Enum):  # noqa: UP042 - as programs have it that began before 3.11
    BLUE = "blue"


class Level(enum.IntEnum):
    HIGH = 3


class Mapped(dict[Any, Any]):
    pass


class Listed(list[Any]):
    pass


METADATA = Mapped(
    {
        Safe("name"): Safe("Ada"),
        Colour.RED: [Real(1.5), Whole(7)],
        "more": Listed([Level.HIGH, Old.BLUE, (1, None, True)]),
    }
)
PLAIN = {"name": "Ada", "red": [1.5, 7], "more": [3, "blue", [1, None, True]]}


def types_in(value):
    if isinstance(value, dict):
        return {type(value)}.union(*map(types_in, value), *map(types_in, value.values()))
    if isinstance(value, list):
        return {type(value)}.union(*map(types_in, value))
    return {type(value)}


class Lets(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        if request.url == "/no":
            return request.reject(HTTPStatus.PAYMENT_REQUIRED, Safe("pay"))
        request.context.client_id, request.context.room_id = Safe("ada"), Safe("lobby")
        request.context.metadata = METADATA
        return request.accept(headers={Safe("X-Colour"): Colour.RED}, expires_at=Real(4e9))


@pytest.mark.parametrize("kind", [AsyncPyStrandsClient, PyStrandsClient])
@pytest.mark.parametrize("message", [Safe("<p>hi</p>"), Colour.RED, Old.BLUE])
async def test_texts(kind, message):
    text = str.__str__(message)
    async with testing.broker() as broker, backend(broker, Lets):
        sender = kind("127.0.0.1", broker.tcp_port, send_only=True, name=Safe("sender"))

        async def call(name, *args, **options):
            if kind is AsyncPyStrandsClient:
                return await getattr(sender, name)(*args, **options)
            return await asyncio.to_thread(partial(getattr(sender, name), *args, **options))

        assert await call("connect")
        async with testing.connect(broker) as ws:
            for options in ({}, {"confirm": True}, {"key": Safe("k")}, {"volatile": True}):
                assert await call("send_room_message", Safe("lobby"), message, **options)
                assert await call("send_private_message", Safe("ada"), message, **options)
                assert await call("broadcast_message", message, **options)
                assert await call("broadcast_message", message, exclude=Safe("ada"), **options)
                assert await call("send_room_message", "lobby", message, exclude=[Safe("ada")], **options)
                for _ in range(3):
                    await ws.expect(text)
            assert await call("join_room", Safe("ada"), message)
            (member,) = await call("room_members", message)
            assert member.rooms == ("lobby", text)
            assert await call("leave_room", Safe("ada"), message)
            assert await call("disconnect_client", Safe("ada"), Whole(4001), message)
            with pytest.raises(testing.Closed) as closed:
                await ws.receive()
            assert (closed.value.code, closed.value.reason) == (4001, text)
        await call("disconnect")


async def test_metadata_answers_and_headers():
    async with testing.broker() as broker, backend(broker, Lets) as lets:
        async with testing.connect(broker) as ws:
            assert ws.headers["X-Colour"] == ["red"]
            (member,) = await lets.room_members("lobby")
            assert (member.client_id, member.metadata) == ("ada", PLAIN)
            assert await lets.update_metadata(Safe("ada"), {Safe("name"): Old.BLUE, "inner": METADATA})
            (member,) = await lets.room_members("lobby")
            assert member.metadata == PLAIN | {"name": "blue", "inner": PLAIN}
        with pytest.raises(testing.Rejected) as rejected:
            await testing.connect(broker, "/no")
        assert (rejected.value.status, rejected.value.body) == (402, b"pay\n")


@pytest.mark.parametrize(
    "value",
    [
        bytearray(b"ba"),
        memoryview(b"mv"),
        memoryview(b"abcdef")[::2],
        memoryview(bytearray(8)).cast("I"),
        type("Own", (bytes,), {})(b"own"),
    ],
)
async def test_bytes(value):
    async with testing.broker() as broker, backend(broker, Lets) as lets, testing.connect(broker) as ws:
        for options in ({}, {"confirm": True}, {"key": "k"}):
            assert await lets.send_room_message("lobby", value, **options)
            assert await lets.send_private_message("ada", value, **options)
            assert await lets.broadcast_message(value, **options)
            for _ in range(3):
                await ws.expect(bytes(value))


def test_nothing_derived_is_left_of_them():
    for make in (
        lambda: requests.to_room(Safe("r")),
        lambda: requests.to_client(Safe("c")),
        lambda: requests.volatile_key(True, Safe("k")),
        lambda: requests.check_message(Safe("m"), None),
    ):
        assert type(make()) is str
    assert (requests.to_room(Safe("r")), requests.to_client(Safe("c"))) == ("rr", "cc")
    line = requests.update_metadata("c", METADATA, None)("q")
    assert json.loads(line)["params"]["metadata"] == PLAIN
    assert types_in(json.loads(line)["params"]["metadata"]) <= {dict, list, str, int, float, bool, type(None)}
    assert json.loads(wire.response("q", True, Safe("c"), Safe("r"), {"a": Real(2.5)}))["params"]["metadata"] == {
        "a": 2.5
    }
    assert Headers({"X": ["1"]})


def test_what_is_no_text_and_what_is_too_big_is_still_refused():
    with pytest.raises(MessageError):
        requests.room_message("r", Safe("\ud800"), None)
    for value in (1 << 64, -(1 << 63) - 1, Real("inf"), b"x", {Level.HIGH: 1}):
        with pytest.raises(TypeError):
            requests.update_metadata("c", {"a": value}, None)
    for wrong in (None, 7, b"r", Level.HIGH):
        with pytest.raises(TypeError, match="must be a str"):
            requests.room_message(wrong, "x", None)
        with pytest.raises(TypeError, match="str"):  # compiled code says it in words of its own
            requests.to_room(wrong)  # type: ignore[arg-type]
