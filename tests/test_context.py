import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands import ConnectionRequestContext, Context
from pystrands.context import Headers


def test_context_round_trip():
    context = Context("c", "r", {"user": {"id": 7}})
    assert context.to_json() == {"client_id": "c", "room_id": "r", "metadata": {"user": {"id": 7}}}
    assert Context.from_json(json.loads(json.dumps(context.to_json()))) == context
    assert Context.from_json({"client_id": "c", "more": 1}) == Context("c")


def test_context_defaults_and_freedom():
    one, two = Context(), Context()
    one.metadata["x"] = 1
    assert two.metadata == {}
    one.user = "set by a handler"  # type: ignore[attr-defined]
    assert one.user == "set by a handler"  # type: ignore[attr-defined]


def test_context_of_wrong_types():
    with pytest.raises(TypeError, match="not a context"):
        Context.from_json({"client_id": 7})


def test_headers_ignore_case():
    headers = Headers({"x-token": ["a"], "X-TOKEN": ["b"]})
    assert headers == {"X-Token": ["a", "b"]}
    assert headers["x-ToKeN"] == ["a", "b"]
    assert headers.get("X-Token", [None])[0] == "a"
    assert headers.get("Authorization", [""])[0] == ""
    assert headers.get("nothing") is None
    assert "x-token" in headers
    assert 7 not in headers  # type: ignore[comparison-overlap]
    headers["accept"] = ["*"]
    assert headers.setdefault("ACCEPT") == ["*"]
    assert headers.pop("Accept") == ["*"]
    assert headers.pop("accept", None) is None
    del headers["x-token"]
    assert headers == {}
    with pytest.raises(KeyError):
        headers["x-token"]


@given(st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-"), min_size=1))
def test_canonical_names_are_stable(name):
    assert Headers.canonical(Headers.canonical(name)) == Headers.canonical(name)
    assert Headers.canonical(name.lower()) == Headers.canonical(name.upper())


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
    assert ConnectionRequestContext.from_json({}).url == "/"
