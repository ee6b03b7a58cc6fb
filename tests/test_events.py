"""Events as types."""

import json
from dataclasses import dataclass
from typing import Literal

import msgspec
import pytest
from pydantic import BaseModel

from pystrands import EventError, Events
from pystrands.events import as_json
from tests.kinds import EVENTS, Author, Say, Typing


def test_a_message_is_the_event_that_its_type_says():
    said = Say("hello", Author("ada"))
    assert EVENTS.decode(as_json(said)) == said
    assert EVENTS.decode(as_json(said).encode()) == said
    assert EVENTS.decode(as_json(Typing(user="ada"))) == Typing(user="ada")
    assert EVENTS.kinds == (Say, Typing)


@pytest.mark.parametrize(
    "message",
    ["", "hello", "[]", "7", "{}", '{"type":7}', '{"type":"other"}', b"\xff", "[" * 100_000, '{"type":"say"'],
)
def test_what_is_no_event_says_so(message):
    assert EVENTS.type_of(message) is None
    with pytest.raises(EventError, match="no event that is known"):
        EVENTS.decode(message)


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"say"}',
        '{"type":"say","text":7,"author":{"name":"x"}}',
        json.dumps({"type": "say", "text": "x" * 101, "author": {"name": "x"}}),
        '{"type":"typing"}',
        '{"type":"typing","user":""}',
        '{"type":"say","text":' + "[" * 100_000,
    ],
)
def test_an_event_that_is_not_as_its_kind_wants_it_says_so(message):
    with pytest.raises(EventError, match=r"the message is no (event|'say'|'typing')"):
        EVENTS.decode(message)


def test_json_is_made_of_all_that_has_json():
    @dataclass
    class Point:
        x: int

    class Text(str):
        __slots__ = ()

    assert as_json([Author("ada"), Typing(user="x"), Point(1), {"a": None}, Text("t")]) == (
        '[{"name":"ada","age":null},{"type":"typing","user":"x","since":null},{"x":1},{"a":null},"t"]'
    )
    with pytest.raises(TypeError):
        as_json(object())


class Other(msgspec.Struct, tag="say"):
    """Has the type of another."""


class Untagged(msgspec.Struct):
    """Can't be told from others."""


class Numbered(msgspec.Struct, tag=7):
    """Has a tag that is no str."""


class Kinds(msgspec.Struct, tag="kinds", tag_field="kind"):
    """Has its tag in another member."""


class Model(BaseModel):
    """Can't be told from others."""


class Two(BaseModel):
    """Has two types."""

    type: Literal["a", "b"]


@pytest.mark.parametrize("kind", [Untagged, Numbered, Kinds, Model, Two])
def test_a_kind_can_be_told_from_others(kind):
    with pytest.raises(TypeError, match="that tells it from others"):
        Events(kind)


@pytest.mark.parametrize("kind", [str, 7, None, dict])
def test_what_is_no_kind_is_refused(kind):
    with pytest.raises(TypeError, match="a msgspec Struct or a pydantic model"):
        Events(kind)


def test_no_two_kinds_have_one_type():
    with pytest.raises(ValueError, match="Other and Say have the same type, 'say'"):
        Events(Say, Other)
