"""The compiled package: `make test-compiled` runs the tests on it, and this says that it is what they ran on."""

import importlib
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HOOK = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
MODULES = HOOK["modules"]
COMPILED = os.environ.get("PYSTRANDS_COMPILED") == "1"


@pytest.mark.parametrize("path", MODULES)
def test_a_module_is_compiled_when_asked_for_and_else_interpreted(path):
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert module.__file__ is not None
    assert (not module.__file__.endswith(".py")) == COMPILED
    assert (ROOT / "src" / path).is_file()


def test_an_install_without_the_variable_is_interpreted():
    assert HOOK["enable-by-default"] is False
