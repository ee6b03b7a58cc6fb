import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.context import check_json
from pystrands.protocol.limits import (
    MAX_DEPTH,
    MAX_ID,
    Limits,
    context_limit,
    depth_problem,
    id_problem,
    is_deep,
    pruned,
)
from pystrands.protocol.messages import line_limit


@given(st.text(max_size=600))
def test_ids_are_measured_in_utf8(value):
    assert (id_problem("room_id", value) == "") == (len(value.encode()) <= MAX_ID)


def test_what_is_wrong_with_an_id_is_told():
    assert id_problem("room_id", "é" * 300) == "the room_id has 600 bytes in UTF-8, and may have 512"
    assert id_problem("room_id", "x" * MAX_ID) == id_problem("room_id", "é" * 256) == ""


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [1, 5, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 500])
def test_both_ends_agree_on_how_deep_metadata_may_be(levels):
    value = nested(levels)
    is_fine = levels <= MAX_DEPTH
    assert (depth_problem(value) == "") == is_fine
    assert (depth_problem({"a": [1, "x", *value]}) == "") == (levels <= MAX_DEPTH - 1)
    assert is_deep(json.dumps(value).encode()) != is_fine
    assert (pruned(value) == value) == is_fine
    assert depth_problem(pruned({"a": value})) == ""
    with contextlib.nullcontext() if is_fine else pytest.raises(TypeError, match="deeper than 100 levels"):
        check_json(value)


def test_many_brackets_are_not_deep():
    assert not is_deep(json.dumps([[]] * 500).encode())
    assert not is_deep(json.dumps("[" * 500).encode())
    assert depth_problem(5) == depth_problem([]) == depth_problem({}) == ""


def test_what_is_too_deep_becomes_null_and_nothing_else_changes():
    value = {"fine": [1, {"a": "x"}], "deep": nested(MAX_DEPTH)}
    cut = pruned(value)
    assert cut["fine"] == value["fine"]
    assert json.dumps(cut["deep"]) == "[" * (MAX_DEPTH - 1) + "null" + "]" * (MAX_DEPTH - 1)


def test_a_context_fits_a_line_however_small_messages_are():
    most = 6 * 2 * MAX_ID + 6 * 4096 + 1000  # a reason or a text beside it
    for size in (1, 1000, 1 << 20, 1 << 30):
        assert context_limit(size) + most < line_limit(size)


def test_a_context_that_is_too_big_is_told_with_what_to_do():
    limits = Limits(max_context=1000)
    assert limits.context_problem(1000) == ""
    assert "have it leave rooms" in limits.context_problem(1001)
