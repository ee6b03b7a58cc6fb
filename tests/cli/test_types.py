"""`pystrands types`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pystrands.cli.main import main

WRITTEN = (Path(__file__).parent.parent / "kinds.ts").read_text("utf-8")


def run(*args):
    return CliRunner().invoke(main, ["types", *args])


@pytest.mark.parametrize("name", ["EVENTS", "UNION", "LIST"])
def test_it_writes_types(name):
    result = run(f"tests.kinds:{name}")
    assert result.exit_code == 0
    assert result.output == WRITTEN.replace("tests.kinds:EVENTS", f"tests.kinds:{name}")


@pytest.mark.parametrize("name", ["app", "Say", "app.events"])
def test_an_app_has_events_and_a_kind_is_one(name):
    assert "export type Event = Say;" in run(f"tests.kinds:{name}").output


def test_check_says_whether_a_file_is_up_to_date(tmp_path):
    file = tmp_path / "events.ts"
    file.write_text(WRITTEN, "utf-8")
    good = run("tests.kinds:EVENTS", "--check", str(file))
    assert (good.exit_code, good.output) == (0, "")
    file.write_text(WRITTEN + " ", "utf-8")
    bad = run("tests.kinds:EVENTS", "--check", str(file))
    assert bad.exit_code == 1
    assert f"is not what tests.kinds:EVENTS has now: pystrands types tests.kinds:EVENTS > {file}" in bad.output


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("tests.kinds", "names no events: it is MODULE:NAME"),
        (":x", "names no events"),
        ("no_such_module:x", "can't be imported"),
        ("tests.kinds:none", "has no 'none'"),
        ("tests.kinds:NOTHING", "a msgspec Struct or a pydantic model"),
        ("tests.kinds:Author", "needs a tag"),
    ],
)
def test_what_has_no_events_is_told_in_one_line(target, problem):
    result = run(target)
    assert result.exit_code == 1
    assert problem in result.output
    assert len(result.output.splitlines()) == 1


def test_a_module_that_fails_is_told_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("failing_events.py").write_text("1 / 0\n", "utf-8")
    result = run("failing_events:x")
    assert result.exit_code == 1
    assert "the module 'failing_events' failed with ZeroDivisionError" in result.output


def test_a_file_that_is_not_there_is_told_of(tmp_path):
    result = run("tests.kinds:EVENTS", "--check", str(tmp_path / "none.ts"))
    assert result.exit_code == 1
    assert "can't be read" in result.output
