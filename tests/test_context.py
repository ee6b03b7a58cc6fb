import json
import math
from datetime import UTC, datetime, timedelta, timezone
from http.cookies import SimpleCookie
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands import ConnectionRequestContext, Context
from pystrands.context import check_json
from pystrands.headers import Headers
from tests.protocol.test_messages import values


def test_context_round_trip():
    context = Context("c", "r", {"user": {"id": 7}})
    assert context.to_json() == {"client_id": "c", "room_id": "r", "metadata": {"user": {"id": 7}}}
    assert Context.from_json(json.loads(json.dumps(context.to_json()))) == context
    assert Context.from_json({"client_id": "c", "more": 1}) == Context("c")


def test_context_defaults_and_freedom():
    one, two = Context(), Context()
    one.metadata["x"] = 1
    assert two.metadata == {}
    one.team = "set by a handler"  # type: ignore[attr-defined]
    assert one.team == "set by a handler"  # type: ignore[attr-defined]


def test_context_of_wrong_types():
    with pytest.raises(TypeError, match="not a context"):
        Context.from_json({"client_id": 7})


@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        ([], {}),
        (["sessionid=8f"], {"sessionid": "8f"}),
        (['prefs={"theme":"dark"}; sessionid=8f'], {"prefs": '{"theme":"dark"}', "sessionid": "8f"}),
        (["sessionid=8f; cart=[1,2]"], {"sessionid": "8f", "cart": "[1,2]"}),
        (["a:b[c]=1; sessionid=8f"], {"a:b[c]": "1", "sessionid": "8f"}),
        (["lang=it, de; sessionid=8f"], {"lang": "it, de", "sessionid": "8f"}),
        (["flag; sessionid=8f; =nameless"], {"sessionid": "8f"}),
        (["näme=ü; sessionid=8f"], {"näme": "ü", "sessionid": "8f"}),
        (["a=1;b=2;;  c = 3 ;\td=4\t"], {"a": "1", "b": "2", "c": "3", "d": "4"}),
        (["a=1; a=2"], {"a": "1"}),
        (["a=1", "b=2; a=3"], {"a": "1", "b": "2"}),
        (["token=YWJj=="], {"token": "YWJj=="}),
        (['q="a b"; e="say \\"hi\\"\\073"; half="a; empty=; one="'], {
            "q": "a b", "e": 'say "hi";', "half": '"a', "empty": "", "one": '"',
        }),
        (["x=%20; A=1; a=2"], {"x": "%20", "A": "1", "a": "2"}),
        (["Path=/; expires=never; s=8f"], {"Path": "/", "expires": "never", "s": "8f"}),
    ],
)  # fmt: skip
def test_cookies_as_browsers_write_them(lines, cookies):
    request = ConnectionRequestContext(headers={"cookie": lines} if lines else {})
    assert request.cookies == cookies


COOKIE_TEXT = st.text(st.characters(exclude_characters=";"), max_size=20)


@given(st.lists(COOKIE_TEXT), st.lists(COOKIE_TEXT))
def test_no_cookie_hides_another(before, after):
    before = [each for each in before if each.partition("=")[0].strip(" \t") != "sessionid"]
    assert (
        ConnectionRequestContext(headers={"Cookie": ["; ".join([*before, "sessionid=8f", *after])]}).cookies[
            "sessionid"
        ]
        == "8f"
    )


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])))
def test_cookies_of_the_standard_library_come_back(value):
    made = SimpleCookie()
    made["name"] = value
    assert (
        ConnectionRequestContext(headers={"Cookie": [f"name={made['name'].coded_value}"]}).cookies["name"]
        == value.strip(" \t")
        or value != value.strip()
    )


def test_request_defaults():
    request = ConnectionRequestContext(url="/room/7", headers={"x-token": ["s"]}, remote_addr="1.2.3.4:5")
    assert UUID(request.context.client_id).version == 4
    assert request.context.room_id == "/room/7"
    assert request.accepted is True
    assert request.headers["X-Token"] == ["s"]
    assert request.query == {}
    assert "/room/7" in repr(request)
    assert ConnectionRequestContext().context.client_id != request.context.client_id


def test_the_query_is_apart_from_the_path():
    for request in (
        ConnectionRequestContext(url="/r?token=a%20b&x=&token=c"),
        ConnectionRequestContext(url="/r", query_string="token=a%20b&x=&token=c"),
    ):
        assert request.url == request.context.room_id == "/r"
        assert request.query == {"token": ["a b", "c"], "x": [""]}


def test_request_round_trip():
    request = ConnectionRequestContext({"A": ["1"]}, "/r", "ip:1", Context("c", "x", [1]), False, query_string="q=1")
    again = ConnectionRequestContext.from_json(json.loads(json.dumps(request.to_json())))
    assert again.to_json() == request.to_json()
    assert isinstance(again.headers, Headers)
    assert ConnectionRequestContext.from_json({}).to_json() | {"context": {}} == (
        ConnectionRequestContext().to_json() | {"context": {}}
    )
    request.accept("p", {"X": "1"}, 7)
    assert ConnectionRequestContext.from_json(json.loads(json.dumps(request.to_json()))).to_json() == request.to_json()
    request.reject(401, "who?")
    assert ConnectionRequestContext.from_json(json.loads(json.dumps(request.to_json()))).to_json() == request.to_json()


def test_accept_and_reject_set_what_they_are_given_and_the_last_one_counts():
    request = ConnectionRequestContext()
    assert request.reject() is False
    assert (request.accepted, request.status, request.reason) == (False, 403, "")
    assert request.reject(401, "log in") is False
    assert (request.accepted, request.status, request.reason) == (False, 401, "log in")
    request.subprotocol = "chat"
    assert request.accept() is True
    assert (request.accepted, request.status, request.reason) == (True, 403, "")
    assert (request.subprotocol, request.response_headers, request.expires_at) == ("chat", {}, None)
    assert request.accept("other", {"X-A": "1"}, expires_at=12) is True
    assert (request.subprotocol, request.response_headers, request.expires_at) == ("other", {"X-A": "1"}, 12.0)
    assert request.reject(status=503, reason="later") is False
    assert not request.accepted


def test_an_expiry_may_be_a_datetime():
    request = ConnectionRequestContext()
    request.accept(expires_at=datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert request.expires_at == datetime(2029, 12, 31, 23, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"status": 200}, ValueError, "from 400 to 599, not 200"),
        ({"status": 399}, ValueError, "from 400 to 599"),
        ({"status": 600}, ValueError, "from 400 to 599"),
        ({"status": 302}, ValueError, "from 400 to 599"),
        ({"status": True}, TypeError, "not bool"),
        ({"status": "401"}, TypeError, "not str"),
        ({"reason": None}, TypeError, "not NoneType"),
        ({"reason": "x" * 4097}, ValueError, "at most 4096"),
        ({"reason": "\ud800"}, ValueError, "surrogates"),
        ({"headers": [("X", "1")]}, TypeError, "not list"),
        ({"headers": {"X": 1}}, TypeError, "str: int"),
        ({"headers": {"X": ["1"]}}, TypeError, "str: list"),
        ({"headers": {b"X": "1"}}, TypeError, "bytes: str"),
        ({"headers": {"X Y": "1"}}, ValueError, "'X Y' is no name"),
        ({"headers": {"": "1"}}, ValueError, "'' is no name"),
        ({"headers": {"X\r\nY": "1"}}, ValueError, "is no name"),
        ({"headers": {"X": "1\r\nY: 2"}}, ValueError, "'X' has a value with a line break"),
        ({"headers": {"X": "\N{EURO SIGN}"}}, ValueError, "can't hold"),
        ({"headers": {"sec-websocket-accept": "x"}}, ValueError, "not for others to set"),
        ({"headers": {"Connection": "close"}}, ValueError, "not for others to set"),
        ({"expires_at": "tomorrow"}, TypeError, "not str"),
        ({"expires_at": True}, TypeError, "not bool"),
        ({"expires_at": math.nan}, ValueError, "no time: nan"),
        ({"expires_at": math.inf}, ValueError, "no time: inf"),
        ({"expires_at": 10**400}, ValueError, "too big"),
        ({"expires_at": datetime(2030, 1, 1)}, ValueError, "without a time zone"),  # noqa: DTZ001 - that is the point
    ],
)
def test_what_cannot_be_sent_is_refused_and_changes_nothing(arguments, error, told):
    request = ConnectionRequestContext()
    before = request.to_json()
    call = request.reject if {"status", "reason"} & arguments.keys() else request.accept
    with pytest.raises(error, match=told):
        call(**arguments)
    assert request.to_json() == before


def test_metadata_that_contains_itself():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contain itself"):
        check_json(loop)


@given(values)
def test_json_values_pass(value):
    check_json(value)


def test_what_is_shown_of_a_context():
    assert repr(Context("ada", "lobby", {"a": 1})) == "Context(client_id='ada', room_id='lobby', metadata={'a': 1})"
    left = Context("ada", "lobby", close_code=1000, reason="bye", redelivered=True, _rooms=("x",), _event=("b", 7))
    assert repr(left).partition("}, ")[2] == (
        "rooms=('x',), event_id='b-7', redelivered=True, close_code=1000, reason='bye')"
    )


def test_a_user_is_the_same_of_a_request_and_of_its_context():
    request = ConnectionRequestContext()
    request.context.user = "ada"
    assert request.user == "ada"
    request.user = "ben"
    assert request.context.user == "ben"
    assert request.accept(rooms=["a"])
    assert (request.user, request.rooms) == ("ben", ["a"])
    copy = ConnectionRequestContext.from_json(request.to_json())
    assert (copy.user, copy.rooms) == ("ben", ["a"])
    assert Context.from_json(Context(user="ada").to_json()).user == "ada"
    assert "user='ada'" in repr(Context(user="ada"))
    assert "user" not in Context().to_json()
