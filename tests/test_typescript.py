"""Kinds of events as TypeScript; `npm test` in sdk/js compiles what is written here."""

import datetime as dt
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel

from pystrands import Events
from pystrands.typescript import typescript
from tests.kinds import EVENTS

WRITTEN = Path(__file__).parent / "kinds.ts"


def test_kinds_are_written_as_types():
    assert typescript(EVENTS, "pystrands types tests.kinds:EVENTS") == WRITTEN.read_text("utf-8")


class Odd(msgspec.Struct, tag="odd-one", rename={"a": "a-b"}):
    """All that is rare. */"""

    a: int
    when: dt.datetime
    data: bytes
    anything: Any
    pairs: dict[str, int]
    fixed: tuple[int, str]
    many: tuple[int, ...]
    either: int | str | None = None


class Inner(BaseModel):
    """Is in another."""

    x: int


class Outer(BaseModel):
    """Has another."""

    type: Literal["outer"]
    inner: Inner | None = None


def test_what_is_rare_is_written():
    text = typescript(Events(Odd, Outer), "x")
    assert "/** All that is rare. * / */" in text
    for line in (
        'type: "odd-one";',
        '"a-b": number;',
        "when: string;",
        "data: string;",
        "anything: unknown;",
        "pairs: Record<string, number>;",
        "fixed: [number, string];",
        "many: number[];",
        "inner?: Inner | null;",
        "export type Event = Odd | Outer;",
    ):
        assert line in text, text
    assert "either?: number | string | null;" in text.replace("string | number", "number | string")


def test_no_events_are_never():
    assert typescript(Events(), "x").endswith("export type Event = never;\n")


def test_no_two_types_have_one_name():
    first = msgspec.defstruct("Same", [("x", int)], tag="a")
    second = msgspec.defstruct("Same", [("y", int)], tag="b")
    with pytest.raises(ValueError, match="the name Same"):
        typescript(Events(first, second), "x")
    with pytest.raises(ValueError, match="the name Event"):
        typescript(Events(msgspec.defstruct("Event", [], tag="e")), "x")


def test_what_json_schema_can_not_say_is_told():
    strange = msgspec.defstruct("Strange", [("x", complex)], tag="s")
    with pytest.raises(TypeError):
        typescript(Events(strange), "x")
