"""Requests parsed and responses rendered, without sockets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystrands.broker.admission.upgrade import check_upgrade
from pystrands.broker.net.http import (
    BadRequestError,
    HeadTooLargeError,
    HttpResponse,
    NotHttpError,
    Request,
    canonical_name,
    parse_request,
    read_request,
)
from tests.broker.ws.support import upgrade

pytestmark = pytest.mark.interpreted


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (b"x-token", "X-Token"),
        (b"X-TOKEN", "X-Token"),
        (b"sec-WebSocket-key", "Sec-Websocket-Key"),
        (b"etag", "Etag"),
        (b"a--b-", "A--B-"),
        (b"x_y-1z", "X_y-1z"),
    ],
)
def test_names_are_written_as_go_does(name, canonical):
    assert canonical_name(name) == canonical


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_the_parser_raises_one_kind_of_error(data):
    for head in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n", upgrade()[:-2] + data + b"\r\n\r\n"):
        try:
            request = parse_request(head)
        except BadRequestError:
            continue
        assert isinstance(request, Request)
        check_upgrade(request)
        assert request.path is not None


@given(st.lists(st.integers(1, 60), max_size=8))
def test_a_request_is_the_same_in_whatever_parts_it_comes(sizes):
    whole = b"\r\n" + upgrade("/room?x=1")
    buffer, found = bytearray(), []
    for size in [*sizes, len(whole)]:
        part, whole = whole[:size], whole[size:]
        if (request := read_request(buffer, part, 1000)) is not None:
            found.append(request)
    assert [(request.path, request.query_string) for request in found] == [("/room", "x=1")]
    assert found[0].size == len(upgrade("/room?x=1"))
    assert not buffer


def test_what_comes_behind_a_request_stays():
    buffer = bytearray()
    assert read_request(buffer, upgrade() + b"early", 1000) is not None
    assert buffer == b"early"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nX: " + b"x" * 100, b"GET / HTTP/1.1\r\nX: " + b"x" * 100 + b"\r\n\r\n"]
)
def test_a_head_has_a_limit(data):
    with pytest.raises(HeadTooLargeError) as caught:
        read_request(bytearray(), data, 100)
    assert caught.value.status == 431


def test_the_first_byte_of_another_protocol_is_told():
    with pytest.raises(NotHttpError) as caught:
        read_request(bytearray(), b"{", 100)
    assert (caught.value.first, caught.value.status) == (ord("{"), 400)


@pytest.mark.parametrize("value", ["a\r\nInjected: 1", "a\nb", "\x00", "\u20ac"])
def test_header_values_cannot_end_their_line(value):
    assert b"X:" not in HttpResponse(403, b"", headers=[("X", value)]).render()
