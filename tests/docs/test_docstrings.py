"""What a tooltip shows: each public method tells by itself what it does, of its parameters and of its errors."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import pystrands
from pystrands import AsyncPyStrandsClient, ConnectionRequestContext, Context, PyStrands, PyStrandsClient, testing
from pystrands.broker.server import Broker
from pystrands.engine.base import Engine, Sink
from pystrands.engine.cluster import Cluster, Node
from pystrands.headers import Headers

SOURCE = Path(pystrands.__file__).parent
CLIENTS: list[type[Any]] = [AsyncPyStrandsClient, PyStrandsClient, PyStrands]
TESTING: list[Any] = [getattr(testing, name) for name in testing.__all__]
CLASSES: list[type[Any]] = [
    *CLIENTS,
    *(Context, ConnectionRequestContext, Headers, Broker, Engine, Sink, Cluster, Node),
    *filter(inspect.isclass, TESTING),
]


def functions_of(kind):
    """Return the public functions that a class has itself, or inherits from a class of this package, by their names."""
    for name, each in inspect.getmembers(kind, inspect.isfunction):
        if each.__module__.startswith("pystrands") and (name == "__init__" or not name.startswith("_")):
            yield name, each


def told(function):
    """Return its documentation in one line."""
    return " ".join((inspect.getdoc(function) or "").split())


ALL = {f"{kind.__name__}.{name}": each for kind in CLASSES for name, each in functions_of(kind) if name != "__init__"}
ALL |= {each.__name__: each for each in TESTING if inspect.isfunction(each)}
TOLD = ALL | {f"{kind.__name__}.__init__": kind.__init__ for kind in CLIENTS}
MADE_FOR_USERS = {"Client", "SyncClient"}
"""Classes whose objects users get, and don't make."""


@pytest.mark.parametrize("name", ALL)
def test_it_speaks_for_itself(name):
    text = inspect.getdoc(ALL[name])
    assert text
    assert not re.match(r"(Do the same|As |See |The same)", text)
    summary = text.split("\n")[0]
    assert summary.endswith((".", "::", ":", "``."))
    assert not re.fullmatch(r"See \S+\.", text.split(". ")[-1]), "what it refers to is not in the tooltip"


@pytest.mark.parametrize("name", TOLD)
def test_it_tells_of_each_parameter(name):
    text = told(TOLD[name])
    for parameter in inspect.signature(TOLD[name]).parameters:
        assert parameter in {"self", "cls"} or f"``{parameter}``" in text, f"{name} does not tell of {parameter}"


@pytest.mark.parametrize("kind", [each for each in CLASSES if each.__name__ not in MADE_FOR_USERS])
def test_a_class_tells_of_the_parameters_of_its_constructor(kind):
    text = f"{told(kind)} {told(kind.__init__)}"
    for name, parameter in inspect.signature(kind).parameters.items():
        is_told = name.startswith("_") or parameter.kind is parameter.VAR_POSITIONAL or f"``{name}``" in text
        assert is_told, f"{kind} does not tell of {name}"


@pytest.mark.parametrize("name", [name for name in TOLD if "timeout" in inspect.signature(TOLD[name]).parameters])
def test_it_tells_of_units(name):
    assert re.search("``timeout`` \\(seconds\\)|``timeout`` seconds", told(TOLD[name]))


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_constructor_tells_of_the_units_of_its_times(kind):
    text = told(kind.__init__)
    for name in ("reconnect_delay", "max_reconnect_delay", "handler_timeout"):
        assert f"``{name}`` (seconds)" in text


ERRORS = [each for each in vars(pystrands).values() if inspect.isclass(each) and issubclass(each, Exception)]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_says_when_it_is_raised(error):
    assert inspect.getdoc(error).endswith((".", "``."))


def test_none_sends_its_reader_to_another_one_for_what_it_does():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                assert not (ast.get_docstring(node) or "").startswith("Do the same"), f"{path}: {node.name}"
