"""Kinds of events for tests, also of `pystrands types`."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, Field

from pystrands import Events, PyStrands


class Author(msgspec.Struct):
    """Who said it."""

    name: str
    age: int | None = None


class Say(msgspec.Struct, tag="say"):
    """Somebody says something.

    Everybody in the room hears it.
    """

    text: Annotated[str, msgspec.Meta(description="As it was typed.", max_length=100)]
    author: Author
    tags: list[str] = []
    size: tuple[int, float] = (0, 0.0)
    colour: Literal["red", "green"] = "red"
    extra: dict[str, Any] = {}
    answers: list["Say"] = []


class Typing(BaseModel):
    """Somebody types."""

    type: Literal["typing"] = "typing"
    user: str = Field(min_length=1)
    since: float | None = None


EVENTS = Events(Say, Typing)
UNION = Say | Typing
LIST = [Say, Typing]
NOTHING = 7

app = PyStrands()


@app.on(Say)
def say(event: Say, context: Any) -> None:
    """Handle it."""
