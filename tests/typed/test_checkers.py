"""Programs as users write them, read by mypy --strict and by pyright: both tell of mistakes, and of nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient
from tests.client import test_specification
from tests.docs.blocks import OTHERS, PAGES, README, ROOT, all_blocks, blocks

HERE = Path(__file__).parent
OTHER_PACKAGES = ("django", "fastapi", "flask", "jwt", "pytest", "uvicorn")
"""Of these pyright reads the types. For mypy they are Any: else it would take three times as long."""

# Programs in docs are short, and annotate nothing (with FastAPI the parameters that it reads): so what --strict says of
# functions without annotations is off for them. Their bodies are checked all the same. uses.py and mistakes.py are
# annotated, and get all of --strict.
UNANNOTATED = """
disallow_untyped_defs = false
disallow_incomplete_defs = false
disallow_untyped_calls = false
disallow_untyped_decorators = false
"""


def programs():
    """Return the text of each program by the name of its module, at the lines where its page has it."""
    found = {}
    for block in all_blocks("python", "py"):
        if block.kind == "program":
            found[f"{block.path.stem.replace('-', '_')}_{block.name.replace('-', '_')}"] = (
                "\n" * block.line + block.code
            )
    # README's second block goes on with the class of the first.
    found["readme"] = "\n\n".join(block.code for block in blocks(README, "python"))
    for page in PAGES:
        if page.name in OTHERS:
            found |= dict(
                re.findall(r"<!-- file: (\w+)\.py -->\n```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
            )
    for path in (ROOT / "examples").glob("*.py"):
        found[f"example_{path.stem}"] = path.read_text("utf-8")
    found["specification_chat"] = test_specification.CHAT
    found["specification_fastapi"] = test_specification.FASTAPI
    assert {"getting_started_echo", "chat", "test_faults", "example_echo"} <= found.keys()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for name, code in programs().items():
        (folder / f"{name}.py").write_text(code, "utf-8")
    for name in ("uses", "mistakes"):
        (folder / f"{name}.py").write_text((HERE / f"{name}.py").read_text("utf-8"), "utf-8")
    return folder


@pytest.mark.parametrize("client", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
def test_every_public_method_is_used(client):
    code = (HERE / "uses.py").read_text("utf-8")
    for name in dir(client):
        assert name.startswith("_") or re.search(rf"\.{name}\b", code), name


def check(folder, *command):
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_mypy(folder):
    config = f"""
        [mypy]
        strict = true
        mypy_path = {ROOT / "src"}
        follow_imports = silent
        [mypy-{",".join(programs())}]
        {UNANNOTATED}
        [mypy-{",".join(f"{name}.*" for name in OTHER_PACKAGES)}]
        follow_imports = skip
        ignore_missing_imports = true
    """
    (folder / "mypy.ini").write_text("\n".join(line.strip() for line in config.splitlines()), "utf-8")
    check(folder, sys.executable, "-m", "mypy", "--config-file", "mypy.ini", ".")


@pytest.mark.timeout(300)
def test_pyright(folder):
    config = {
        "typeCheckingMode": "standard",
        "extraPaths": [str(ROOT / "src")],
        "enableTypeIgnoreComments": False,  # those are mypy's
        "include": ["*.py"],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config), "utf-8")
    check(folder, sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable)
