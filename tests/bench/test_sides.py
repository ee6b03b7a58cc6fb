"""PyStrands is what is installed, on uvloop; what it is compared with differs in what its name says, and in no more."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.__main__ import parse, sides_of
from bench.sides import COMPILED, SIDES, SOURCE, pystrands


@pytest.fixture
def started(monkeypatch):
    """Processes that were not started: command and environment of each."""
    found = []

    @contextmanager
    def process(args, env, log):
        found.append((list(map(str, args)), dict(env)))
        yield 1

    monkeypatch.setattr("bench.sides.process", process)
    monkeypatch.setattr("bench.sides.wait_until_answers", lambda *_: None)
    return found


def compiled_at(seconds, tmp_path, monkeypatch):
    """A compiled tree of which that is known: so many seconds later than the newest of the sources."""
    newest = max(each.stat().st_mtime for each in SOURCE.rglob("*.py"))
    monkeypatch.setattr("bench.sides.COMPILED", tmp_path)
    (tmp_path / ".ready").touch()
    os.utime(tmp_path / ".ready", (newest + seconds, newest + seconds))


def chosen(monkeypatch, *options):
    """The sides that the command takes with these options."""
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, options)])
    return sides_of(parse())


def loop_and_tree(side, started):
    """What a side's backend runs on, and whose code it and its broker are."""
    started.clear()
    with side.start(Path(os.devnull)):
        (_, broker), (backend, environment) = started
    assert broker == environment
    return backend[-1], environment["PYTHONPATH"]


@pytest.fixture
def ready(monkeypatch):
    monkeypatch.setattr("bench.sides._check", lambda _: None)


@pytest.mark.usefixtures("ready")
def test_ours_is_compiled_and_on_uvloop(started):
    for name in ("pystrands", "pystrands-sync", "protocol1"):
        assert loop_and_tree(SIDES[name], started) == ("uvloop", str(COMPILED)), name
    assert loop_and_tree(SIDES["pystrands-interpreted"], started) == ("asyncio", str(SOURCE))


@pytest.mark.usefixtures("ready")
def test_another_tree_differs_in_its_code_alone(started, monkeypatch, tmp_path):
    ours, other = chosen(monkeypatch, "--src", tmp_path)
    assert loop_and_tree(ours, started) == ("uvloop", str(COMPILED))
    assert loop_and_tree(other, started) == ("uvloop", str(tmp_path))
    ours, other = chosen(monkeypatch, "--side", "pystrands-interpreted", "--src", tmp_path)
    assert loop_and_tree(ours, started) == ("asyncio", str(SOURCE))
    assert loop_and_tree(other, started) == ("asyncio", str(tmp_path))


def test_what_is_not_compiled_is_not_measured(started, monkeypatch, tmp_path):
    monkeypatch.setattr("bench.sides.COMPILED", tmp_path)
    with (
        pytest.raises(SystemExit, match=r"run make \S+/\.ready VENV="),
        pystrands(src=tmp_path)(tmp_path / "log"),
    ):
        pass
    assert not started


def test_what_was_compiled_before_the_last_change_is_not_measured(started, monkeypatch, tmp_path):
    compiled_at(-1, tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="run make"), pystrands(src=tmp_path)(tmp_path / "log"):
        pass
    compiled_at(1, tmp_path, monkeypatch)
    with pystrands(src=tmp_path)(tmp_path / "log"):
        assert len(started) == 2


def test_a_tree_without_us_is_named(started, tmp_path):
    with (
        pytest.raises(SystemExit, match=f"no PyStrands in {tmp_path}"),
        pystrands(src=tmp_path)(tmp_path / "log"),
    ):
        pass
    assert not started


def test_the_tree_is_the_one_that_make_compiles():
    rule = (SOURCE.parent / "Makefile").read_text()
    assert "COMPILED := build/compiled$(patsubst .venv%,%,$(notdir $(VENV)))" in rule
    assert COMPILED.name == "compiled" + Path(sys.prefix).name.removeprefix(".venv")
