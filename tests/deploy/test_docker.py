"""The Dockerfile, part by part, without Docker: what it copies, how it installs, what it runs, how it checks health."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pystrands.broker.config import options
from pystrands.cli.main import LOG_FORMAT, LOG_LEVEL
from tests.docs.blocks import ROOT

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
LINES = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
INSTRUCTIONS = [tuple(line.split(" ", 1)) for line in LINES if line.strip()]
BUILD = next(number for number, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM" and number)
STAGES = [INSTRUCTIONS[:BUILD], INSTRUCTIONS[BUILD:]]


def the(name):
    (rest,) = [rest for each, rest in STAGES[-1] if each == name]
    return rest


def environment(stage):
    return dict(part.split("=", 1) for name, rest in stage if name == "ENV" for part in shlex.split(rest))


ENV = environment(STAGES[-1])


def copied():
    return [path for name, rest in STAGES[0] if name == "COPY" for path in rest.split()[:-1]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What the image has of PyStrands itself, by the Dockerfile's own command from the files that it copies."""
    context = tmp_path_factory.mktemp("context")
    for name in copied():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)
    _, run = [rest for name, rest in STAGES[0] if name == "RUN"]
    make, install = (shlex.split(part) for part in run.split("&&"))
    assert make == ["python", "-m", "venv", "--without-pip", "/opt/pystrands"]
    assert install[:6] == ["python", "-m", "pip", "--python", "/opt/pystrands", "install"]
    target = tmp_path_factory.mktemp("opt")
    # Its dependencies are here already, and a test needs no network.
    here = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "install", *here, f"--target={target}", *install[6:]]
    # Compiling takes half a minute; `make test-compiled` has what it makes.
    subprocess.run(command, cwd=context, check=True, timeout=50, env={**os.environ, "PYSTRANDS_COMPILE": "0"})
    return target


def test_what_is_copied_is_there_and_all_that_is_let_in():
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied())
    for name in copied():
        assert (ROOT / name).exists()


def test_it_is_compiled_or_not_made():
    assert environment(STAGES[0])["PYSTRANDS_COMPILE"] == "1"
    first = next(rest for name, rest in STAGES[0] if name == "RUN")
    assert {"gcc", "libc6-dev"} < set(first.split())  # this Python's own headers are in its image


def test_it_is_small_and_not_root():
    assert [name for name, _ in INSTRUCTIONS].count("FROM") == 2
    assert all(re.match(r"python:3\.\d+-slim\b", stage[0][1]) for stage in STAGES)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", the("USER"))
    assert not [name for name, _ in STAGES[-1] if name == "RUN"]


def test_its_environment_is_understood():
    known = {each.env for each in (*options(), LOG_LEVEL, LOG_FORMAT)}
    for each in options():
        if each.env in ENV:
            each.parse(ENV[each.env])
    assert {name for name in ENV if name.startswith("PYSTRANDS_")} <= known
    ports = {str(each.default) for each in options() if each.name in {"ws_port", "tcp_port"}}
    assert set(the("EXPOSE").split()) == ports | {ENV["PYSTRANDS_ADMIN_PORT"]}


def test_what_it_runs_serves_and_its_health_check_tells(installed):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYSTRANDS_")}
    env |= {name: value for name, value in ENV.items() if name != "PATH"}
    env |= {name: "127.0.0.1" for name in ENV if name.endswith("_HOST")}
    env |= {"PYTHONPATH": str(installed), "PYSTRANDS_ADMIN_PORT": "0"}
    command = [*json.loads(the("ENTRYPOINT")), *json.loads(the("CMD"))]
    program = installed / "bin" / command[0]
    arguments = [*command[1:], "--ws-port", "0", "--tcp-port", "0"]
    with subprocess.Popen(
        [sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True, env=env, cwd=Path("/")
    ) as process:
        try:
            port = re.search(r":(\d+)/metrics", [process.stdout.readline() for _ in range(3)][-1])
            assert port
            check = env | {"PYSTRANDS_ADMIN_PORT": port[1]}
            assert health(check) == 0
            link = {"PYSTRANDS_ADMIN_PORT": "tcp://10.96.0.13:9100", "PYSTRANDS_WS_PORT": port[1]}
            assert health(env | link) == 0, "the other port tells it, too"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert health(check) == 1
        finally:
            process.kill()


def health(env):
    command = json.loads(the("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, env=env, check=False, timeout=30)
    return done.returncode
