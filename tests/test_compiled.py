"""The compiled package: `make test-compiled` runs the tests on it, and this says that it is what they ran on."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pystrands.build import BUILD

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODULES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]
COMPILED = os.environ.get("PYSTRANDS_COMPILED") == "1"
EXPECTED = "compiled" if COMPILED else "interpreted"
NOT_COMPILED = ["broker/admission/origins.py", "broker/admission/proxies.py", "broker/net/http.py", "client/signals.py"]
"""The tests of these are marked `interpreted` for no other reason: once is enough."""


@pytest.mark.parametrize("path", MODULES)
def test_a_module_is_compiled_when_asked_for_and_else_interpreted(path):
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert module.__file__ is not None
    assert (not module.__file__.endswith(".py")) == COMPILED
    assert (ROOT / "src" / path).is_file()


@pytest.mark.parametrize("path", NOT_COMPILED)
def test_what_is_tested_interpreted_only_is_not_compiled(path):
    assert f"pystrands/{path}" not in MODULES
    folder, _, name = path.rpartition("/")
    assert "mark.interpreted" in (ROOT / "tests" / folder / f"test_{name}").read_text("utf-8")


def test_the_package_says_which_build_it_is(tmp_path):
    assert BUILD == EXPECTED
    # A process of its own, somewhere else: so do the tests begin theirs.
    command = [sys.executable, "-m", "pystrands", "--version"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"pystrands, version {PROJECT['project']['version']}, {EXPECTED}\n"
