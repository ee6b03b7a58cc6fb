"""What holds for the project as a whole: documents in step with the code, and what is imported when."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import pystrands
from pystrands.broker.config import BrokerConfig, options_table
from pystrands.broker.server import Broker
from pystrands.cli.main import SERVER_OPTIONS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "pystrands"
MODULES = sorted(SOURCE.rglob("*.py"))
IGNORED = {".git", ".venv", "venv", "__pycache__", "build", "dist", "htmlcov", "site", "node_modules"}


def imports(path):
    """Every absolute name that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def found(pattern, text):
    match = re.search(pattern, text, re.DOTALL)
    assert match, pattern
    return match[match.lastindex or 0]


@pytest.mark.parametrize("module", ["asyncio", "socket", "threading", "time", "selectors", "uvloop", "picows"])
def test_the_protocol_is_pure(module):
    for path in (SOURCE / "protocol").rglob("*.py"):
        assert module not in {name.split(".")[0] for name in imports(path)}, path


def test_importing_the_library_does_not_import_the_broker():
    code = (
        "import sys, pystrands;"
        "print(*(name for name in sys.modules if name.startswith(('pystrands.broker', 'picows'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


def test_help_does_not_import_the_broker_that_runs():
    code = (
        "import sys, pystrands.cli.main; print(*(m for m in sys.modules if m in ('picows', 'pystrands.broker.server')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


def test_every_public_name_is_explained():
    for name in pystrands.__all__:
        value = getattr(pystrands, name)
        if not isinstance(value, str):
            assert inspect.getdoc(value), name
            assert value.__doc__, f"{name} has only its base class's docstring"


def test_every_module_says_what_it_is():
    for path in MODULES:
        if path.read_text("utf-8").strip():
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    released = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released[0] == version
    assert pystrands.__version__ == version


def test_every_dependency_has_its_reason_in_the_changelog():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    extras = [dependency for each in project["optional-dependencies"].values() for dependency in each]
    for dependency in project["dependencies"] + extras:
        name = found(r"^[\w-]+", dependency)
        assert f"- `{name}`" in changelog


def test_the_readme_has_every_option_as_it_is():
    readme = (ROOT / "README.md").read_text("utf-8")
    table = found(r"<!-- options:.*?-->\n(.*?)<!-- end of options -->", readme)
    assert table == options_table(), "run: python -c 'from pystrands.broker.config import *; print(options_table())'"


def test_the_readme_names_only_flags_that_there_are():
    flags = {option.flag for option in SERVER_OPTIONS} | {"--config", "--version"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "README.md").read_text("utf-8"))) <= flags


def test_the_readmes_python_is_python():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")


@contextmanager
def backend(*blocks, port):
    """The README's programs, run as one in a process of its own, against a broker on a free port."""
    code = "\n".join(blocks).replace("port=8081", f"port={port}")
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        child.kill()
        child.wait()


async def test_the_readmes_backend_does_what_it_says():
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    definition, run = first.split("asyncio.run(")
    async with Broker(BrokerConfig(ws_port=0, tcp_port=0, hold_time=50)) as broker:
        url = f"ws://127.0.0.1:{broker.ws_port}/lobby"
        with backend(first, port=broker.tcp_port):
            async with connect(url, open_timeout=50) as one, connect(url) as two, connect(url + "2") as elsewhere:
                await one.send("Hello, everybody")
                assert await one.recv() == await two.recv() == "Hello, everybody"
                await elsewhere.send("alone")
                assert await elsewhere.recv() == "alone"
    async with Broker(BrokerConfig(ws_port=0, tcp_port=0, hold_time=50)) as broker:
        url = f"ws://127.0.0.1:{broker.ws_port}/lobby"
        with backend(definition, second, f"asyncio.run({run}".replace("Chat(", "Members("), port=broker.tcp_port):
            async with connect(url + "?token=secret", open_timeout=50) as one:
                await one.send("in")
                assert await one.recv() == "in"
            with pytest.raises(InvalidStatus) as refused:
                await connect(url + "?token=other")
            assert refused.value.response.status_code == 403


def test_constraints_cover_the_dependencies_with_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if not line.startswith("#")}
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.+]*", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tools = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["tools"]
    groups = project["dependency-groups"]
    for need in [*project["project"]["dependencies"], *groups["test"], *groups["release"], *tools]:
        assert found(r"^[\w-]+", need).lower() in pinned, need


def test_no_package_index_is_named():
    # Which index packages come from is the business of the machine that installs them.
    option = re.compile(r"(--(extra-)?index-url|--trusted-host|--find-links|PIP_INDEX)|\b(index-url|find-links)\s*=")
    host = re.compile(r"https?://[^\s/]*(pypi|pythonhosted|artifact|nexus|devpi)[^\s]*", re.IGNORECASE)
    me = Path(__file__).resolve()
    for path in ROOT.rglob("*"):
        folder = set(path.relative_to(ROOT).parts)
        hidden = any(
            part.startswith(".") and part not in {".ci", ".github"} for part in path.relative_to(ROOT).parts[:-1]
        )
        if folder & IGNORED or hidden or not path.is_file() or path.resolve() == me:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        assert not option.search(text), path
        assert not host.search(text), path
