from datetime import UTC, datetime
from uuid import uuid4

import pytest

from pystrands import BinaryNotSupported, Context, MessageTooBig
from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.client.connection.ownership import Ownership
from pystrands.client.handlers.calls import HandlerCall, answer, call_for, is_undecided, unoffered_subprotocol
from pystrands.client.requests import check_message
from pystrands.context import ConnectionRequestContext
from pystrands.protocol.messages import COMMANDS, EVENTS
from tests.client.fake_broker import context, line, message, request


def event(raw):
    return EVENTS.decode(raw)


def test_every_event_has_its_call():
    peer = BrokerInfo()
    expected = {
        message("x"): ("on_message", ("x", Context("c1", "r1"))),
        line("new_connection", {"context": context()}): ("on_new_connection", (Context("c1", "r1"),)),
        line("disconnected", {"context": context()}): ("on_disconnect", (Context("c1", "r1"),)),
        line("error", {"error": "e", "context": context()}): ("on_error", ("e", Context("c1", "r1"))),
    }
    for raw, (name, args) in expected.items():
        call = call_for(event(raw), peer)
        assert call is not None
        assert (call.name, call.args, call.lane) == (name, args, "c1")
    assert call_for(event(line("heartbeat")), peer) is None


def test_a_request_has_no_lane():
    call = call_for(event(request("q7", query_string="a=1")), BrokerInfo())
    assert call is not None
    assert (call.name, call.lane, call.request_id) == ("on_connection_request", None, "q7")
    assert call.request is not None
    assert call.request.query == {"a": ["1"]}
    assert call.request.headers["x-token"] == ["secret"]


@pytest.mark.parametrize(
    "metadata", [{"accepted": True}, {"accepted": 1, "client_id": 2, "room_id": 3, "metadata": 4, "more": 5}, [], None]
)
def test_only_the_original_nesting_is_unwrapped(metadata):
    raw = line("new_connection", {"context": {"client_id": "c", "room_id": "r", "metadata": metadata}})
    call = call_for(event(raw), BrokerInfo())
    assert call is not None
    assert call.context.metadata == metadata


class FalseLike:
    """As numpy's: falsy, and not False."""

    def __bool__(self):
        return False


class TrueLike:
    """As numpy's, too."""


def make_call(request):
    call = HandlerCall("on_connection_request", (request,), request.context, None)
    call.request, call.request_id = request, "q"
    return call


@pytest.mark.parametrize(
    ("result", "accepted", "decision"),
    [
        (True, False, True),
        (False, True, False),
        (None, True, True),
        (None, False, False),
        (0, True, False),
        (0.0, True, False),
        ("", True, False),
        ([], True, False),
        (FalseLike(), True, False),
        (None, FalseLike(), False),
        (None, "", False),
        (None, None, False),
    ],
)
def test_true_lets_in_and_what_is_falsy_rejects(result, accepted, decision):
    asked = ConnectionRequestContext(accepted=accepted)
    assert COMMANDS.decode(answer(make_call(asked), result)).params.accepted is decision


async def allowed():
    return False


def yielding():
    yield False


async def yielding_async():
    yield False


@pytest.mark.parametrize("where", ["returned", "left request.accepted as"])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (allowed, r"coroutine \(allowed\), .* write await"),
        (yielding, r"generator \(yielding\), .* yield"),
        (yielding_async, r"async_generator \(yielding_async\), .* yield"),
        (lambda: 1, "int, .* True lets a client in"),
        (lambda: "no", "str"),
        (lambda: allowed, r"function \(allowed\)"),
        (TrueLike, "TrueLike"),
    ],
)
def test_what_decides_nothing_rejects_with_an_error(make, told, where):
    asked = ConnectionRequestContext()
    result = make() if where == "returned" else None
    if result is None:
        asked.accepted = make()
    with pytest.raises(TypeError, match=f"^on_connection_request {where} a value of type {told}"):
        answer(make_call(asked), result)


def test_a_result_without_a_truth_rejects():
    class Array:
        def __bool__(self):
            raise ValueError("ambiguous")

    with pytest.raises(ValueError, match="ambiguous"):
        answer(make_call(ConnectionRequestContext()), Array())


def set_room(request):
    request.context.room_id = "r"


def set_metadata(request):
    request.context.metadata["user"] = 7


@pytest.mark.parametrize(
    "touch",
    [
        ConnectionRequestContext.accept,
        ConnectionRequestContext.reject,
        set_room,
        set_metadata,
        lambda request: setattr(request, "accepted", True),
        lambda request: setattr(request, "context", Context("c", "/")),
        lambda request: setattr(request.context, "client_id", "c"),
        lambda request: setattr(request, "subprotocol", "chat"),
        lambda request: setattr(request, "expires_at", 7),
        lambda request: request.response_headers.update({"X-A": "1"}),
    ],
)
def test_a_request_is_undecided_while_nothing_of_it_was_touched(touch):
    call = make_call(ConnectionRequestContext())
    assert is_undecided(call, None)
    assert not is_undecided(call, True)
    touch(call.request)
    assert not is_undecided(call, None)


@pytest.mark.parametrize(
    ("offered", "chosen", "told"),
    [
        ([], None, ""),
        ([], "chat", "chat"),
        (["chat"], None, ""),
        (["other, chat"], "chat", ""),
        (["other", "chat"], "chat", ""),
        (["other, chats"], "chat", "chat"),
        (["Chat"], "chat", "chat"),
    ],
)
def test_a_subprotocol_that_was_not_offered(offered, chosen, told):
    asked = ConnectionRequestContext(headers={"sec-websocket-protocol": offered} if offered else {})
    asked.subprotocol = chosen
    assert unoffered_subprotocol(make_call(asked)) == told


REJECT = "reject"
ACCEPT = "accept"


@pytest.mark.parametrize(
    ("calls", "result", "status"),
    [
        ([REJECT], None, 401),
        ([REJECT], False, 401),
        ([REJECT], True, None),
        ([ACCEPT], None, None),
        ([ACCEPT], True, None),
        ([ACCEPT], False, 403),
        ([REJECT, ACCEPT], None, None),
        ([REJECT, ACCEPT], False, 403),
        ([ACCEPT, REJECT], None, 401),
        ([], False, 403),
    ],
)
def test_what_wins(calls, result, status):
    asked = ConnectionRequestContext()
    for call in calls:
        if call == REJECT:
            asked.reject(401, "log in")
        else:
            asked.accept("chat", {"X-A": "1"}, 7)
    params = COMMANDS.decode(answer(make_call(asked), result)).params
    assert params.accepted is (status is None)
    if status is None:
        sent = (params.subprotocol, params.headers, params.expires_at)
        assert sent == (("chat", {"X-A": "1"}, 7.0) if ACCEPT in calls else (None, {}, None))
    else:
        assert (params.status, params.reason) == (status, "log in" if status == 401 else "")


@pytest.mark.parametrize(
    ("field", "value", "result"),
    [
        ("status", 200, False),
        ("status", "x", False),
        ("reason", 7, False),
        ("response_headers", {"Upgrade": "h2c"}, True),
        ("response_headers", None, True),
        ("expires_at", "soon", True),
        ("expires_at", float("nan"), True),
    ],
)
def test_what_was_set_without_accept_and_reject_is_checked_as_well(field, value, result):
    asked = ConnectionRequestContext()
    setattr(asked, field, value)
    with pytest.raises((TypeError, ValueError)):
        answer(make_call(asked), result)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("client_id", 7, "client_id as int"),
        ("room_id", None, "room_id as NoneType"),
        ("metadata", object(), "a object into request.context.metadata"),
        ("metadata", {"a": [datetime.now(UTC)]}, r"a datetime into request.context.metadata\['a'\]\[0\]"),
        ("metadata", {"id": uuid4()}, r"a UUID into request.context.metadata\['id'\]"),
        ("metadata", {1: 2}, "a key of type int"),
        ("metadata", float("nan"), "no such number"),
        ("metadata", "\ud800", "JSON can't hold"),
    ],
)
def test_contexts_that_cannot_be_sent(field, value, told):
    asked = ConnectionRequestContext()
    setattr(asked.context, field, value)
    with pytest.raises(TypeError, match=told):
        answer(make_call(asked), True)
    assert not COMMANDS.decode(answer(make_call(asked), False)).params.accepted


def test_sizes_are_those_of_utf_8():
    peer = BrokerInfo()
    peer.binary, peer.max_message_size = True, 10
    for fits in ("x" * 10, "ü" * 5, b"x" * 10, "€€€"):
        check_message(fits, peer)
    for too_big in ("x" * 11, "ü" * 6, b"x" * 11, "€€€€"):
        with pytest.raises(MessageTooBig, match=r"1[12] bytes and the broker takes 10"):
            check_message(too_big, peer)
    check_message("x" * 10**6, BrokerInfo())
    check_message(b"x", None)
    with pytest.raises(BinaryNotSupported):
        check_message(b"", BrokerInfo())
    check_message("\ud800" * 10, peer)  # left to the encoder


def test_ownership():
    owned = Ownership()

    def see(raw):
        owned.on_event(event(raw), raw)

    assert owned.hello("b1") == []
    for raw in (message("x", "c1"), line("new_connection", {"context": context("c2")}), message("y", "c1")):
        see(raw)
    assert len(owned) == 2
    see(line("disconnected", {"context": context("c2")}))
    see(line("disconnected", {"context": context("c9")}))
    see(request())
    assert owned.hello("b2") == [Context("c1", "r1")]
    assert owned.hello("b3") == []
    see(message("x", "c1"))
    assert owned.hello("b3") == []
    assert owned.hello("b4") == []


@pytest.mark.parametrize("length", [1, 100_000])
def test_ownership_knows_clients_as_their_last_event_showed_them(length):
    owned = Ownership()
    params = {"message": "x" * length, "context": context("c1") | {"metadata": {"a": True}, "rooms": ["r1", "r2"]}}
    for raw in (message("x" * length, "c1"), line("new_message", params)):
        last = event(raw)
        owned.on_event(last, raw)
        last.params.context.metadata["a"] = "changed by a handler"
    assert sum(map(len, owned._lines.values())) < 1000, "no long message is kept"
    (kept,) = owned.release_all()
    assert kept.metadata == {"a": True}
    assert kept.rooms == ("r1", "r2")
    assert len(owned) == 0
