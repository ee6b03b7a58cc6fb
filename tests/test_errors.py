"""Exceptions go where values go: through pickle, as between processes, and copy."""

import copy
import pickle

import pytest

from pystrands import errors, testing
from pystrands.headers import Headers
from pystrands.tools import ToolError

WITH_MORE = [
    errors.ConfigError("port", "must be a whole number"),
    errors.MalformedLine("it is none", seq=7),
    testing.Rejected(403, Headers({"x-a": ["1"]}), b"no\xff"),
    testing.Closed(4001, "enough"),
]
JUST_TEXT = [
    kind("what happened, and what to do")
    for kind in (ToolError, *(getattr(errors, name) for name in errors.__all__))
    if kind not in map(type, WITH_MORE)
]


def test_all_are_tried():
    kinds = {type(each) for each in (*WITH_MORE, *JUST_TEXT)}
    own = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BaseException)}
    assert own <= kinds


@pytest.mark.parametrize("error", [*WITH_MORE, *JUST_TEXT], ids=lambda error: type(error).__name__)
def test_they_survive_pickling_and_copying_with_all_attributes(error):
    error.add_note("a note")
    error.more = {"of": "the program's"}
    again = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for each in (*again, copy.copy(error), copy.deepcopy(error)):
        assert type(each) is type(error)
        assert (str(each), each.args, vars(each)) == (str(error), error.args, vars(error))


def test_those_that_derive_from_them_do_too():
    class Own(errors.Refused):
        pass

    globals()["Own"] = Own
    Own.__qualname__ = "Own"
    assert str(pickle.loads(pickle.dumps(Own("why")))) == "why"
