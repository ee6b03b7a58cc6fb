"""Frames, offers and ids: what is written is read, and nothing that can't be read does harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.protocol.v1.envelope import (
    MAX_HEADER,
    BadFrameError,
    client_header,
    is_control,
    join,
    json_text,
    server_header,
    split,
    welcome_of,
)
from pystrands.protocol.v1.offer import (
    SUBPROTOCOL,
    Offer,
    Resume,
    SessionIds,
    name_of,
    offered,
    parse_offer,
    without_secrets,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FRAMES = st.one_of(TEXT, st.binary(), TEXT.map(lambda text: "{" + text), st.binary().map(lambda data: b"{" + data))


@given(st.one_of(TEXT, st.binary(), st.none()), TEXT)
def test_a_body_comes_as_it_was_sent(body, room):
    header, came = split(join(json_text({"k": 1, "r": room}), body))
    assert came == body
    assert client_header(header).r == room


@given(FRAMES)
def test_anything_is_read_or_refused(frame):
    try:
        header, _ = split(frame)
    except BadFrameError:
        return
    for read in (client_header, server_header, welcome_of):
        try:
            read(header)
        except BadFrameError:
            continue


@pytest.mark.parametrize(
    "header",
    [
        '{"k":-1}',
        '{"k":1.5}',
        '{"k":true}',
        '{"k":9007199254740992}',
        '{"k":99999999999999999999999}',
        '{"k":"1"}',
        '{"re":-1}',
        '{"seen":-2}',
        '{"r":1}',
        "{",
        "{}}",
        "[]",
        "{" * 5000,
    ],
)
def test_a_header_with_what_can_not_be_is_refused(header):
    with pytest.raises(BadFrameError):
        client_header(header)


def test_what_is_not_known_is_ignored():
    assert client_header('{"k":1,"new":{"a":[1]}}').k == 1
    assert server_header('{"n":1,"t":"later","new":1}').n == 1


def test_a_header_is_bounded():
    assert split("{" + " " * (MAX_HEADER - 1))[1] is None
    for frame in ("{" + " " * MAX_HEADER, b"{" + b" " * (MAX_HEADER + 1) + b"}\nx"):
        with pytest.raises(BadFrameError):
            split(frame)


def test_heartbeats_and_acknowledgements_count_for_no_limit():
    assert is_control("{}")
    assert is_control('{"seen":12}')
    for frame in ('{"k":1}\nx', b"{}", "{}\nmessage", '{"seen":1' + " " * 100 + "}\nlong"):
        assert not is_control(frame)


@given(st.one_of(st.none(), TEXT), st.one_of(st.none(), st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 52))))
def test_an_offer_is_read_as_it_was_made(token, numbers):
    resume = None if numbers is None else Resume(SessionIds("b", b"key").make(7), *numbers)
    subprotocols = offered(token, resume)
    assert parse_offer(subprotocols) == Offer(token, resume)
    assert without_secrets(subprotocols) == [SUBPROTOCOL]


@given(st.lists(st.one_of(TEXT, TEXT.map(lambda text: f"resume.{text}"), TEXT.map(lambda text: f"token.{text}"))))
def test_any_offer_is_read(subprotocols):
    assert isinstance(parse_offer([*subprotocols, SUBPROTOCOL]), Offer)


def test_who_does_not_speak_it_has_no_offer():
    assert parse_offer(["chat", "token.YQ"]) is None


def test_an_id_is_its_brokers_alone_and_can_not_be_made_by_others():
    ids = SessionIds("b1", b"key")
    session = ids.make(12)
    assert ids.number(session) == 12
    assert name_of(session) == "b1-12"
    forged = [session.replace("12", "13"), session[:-1], session + "A", "b1-12", "b1-12~", "", "~", "b2-12~x", "b1-é~ü"]
    assert [ids.number(each) for each in forged] == [None] * len(forged)
    assert SessionIds("b1", b"other").number(session) is None
