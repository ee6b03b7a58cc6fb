"""Which wheel is built where, by the hook in hatch_build.py, of a package as small as can be.

The compiler of these tests is no compiler: what the real one makes of the package is for `make test-compiled`.
"""

import shutil
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
PROJECT = """\
[project]
name = "small"
version = "1"
requires-python = ">=3.11"
dependencies = ["msgspec"]
[tool.hatch.build]
dev-mode-dirs = ["src"]
[tool.hatch.build.targets.wheel]
packages = ["src/pystrands"]
[tool.hatch.build.targets.wheel.hooks.custom]
tools = ["mypy"]
modules = ["pystrands/one.py", "pystrands/part/two.py"]
"""
# `python -m mypyc` finds this before the real one: it is run in the folder of the sources.
MYPYC = """\
import os, pathlib, sys
print("mypyc is here", flush=True)
if not pathlib.Path("pystrands/works").exists():
    sys.exit("sizes: error: no such thing")
assert os.environ["MYPYC_OPT_LEVEL"] == "3"
flags, added = os.environ["CFLAGS"].split(" -I")
assert "PyObject_CallOneArg(_m, value)" in pathlib.Path(added, "misc_ops.c").read_text()
for path in [*sys.argv[1:], "build/again.py"]:
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    pathlib.Path(path.removesuffix(".py") + {suffix!r}).write_text("compiled " + path)
pathlib.Path("shared__mypyc" + {suffix!r}).write_text("compiled with " + flags)
"""
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
PURE = "small-1-py3-none-any.whl"
NEEDED = ["mypy", "msgspec"]

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.skipif(sys.platform == "win32", reason="the compilers here are shell scripts"),
]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a compiler that works, whether this machine has one or not."""
    monkeypatch.setenv("CC", script(tmp_path / "cc", "exit 0"))
    monkeypatch.setenv("CFLAGS", "-mine")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    root = tmp_path / "project"
    for path, text in {
        "pyproject.toml": PROJECT,
        "src/mypyc.py": MYPYC.format(suffix=SUFFIX),
        "src/pystrands/works": "",
        "src/pystrands/one.py": "",
        "src/pystrands/part/two.py": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    shutil.copy(ROOT / "hatch_build.py", root)
    before = {path.relative_to(root) for path in root.rglob("*")}
    yield root
    made = {"dist", "__pycache__"}  # the latter by who imports hatch_build.py
    after = {path.relative_to(root) for path in root.rglob("*") if path.relative_to(root).parts[0] not in made}
    assert after == before, "nothing is compiled beside the sources"
    assert not list(tmp_path.glob("pystrands-build-*")), "what was needed on the way is gone"


def needed(root):
    return WheelBuilder(str(root)).config.dependencies


def built(root, version="standard"):
    return Path(next(WheelBuilder(str(root)).build(directory=str(root / "dist"), versions=[version])))


def compiled(wheel):
    """The compiled modules in a wheel. What it says of itself must agree with them."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {"pystrands/one.py", "pystrands/part/two.py"} <= set(names), "tracebacks show the source"
        found = {name: archive.read(name).decode() for name in names if name.endswith(SUFFIX)}
        purelib = "Root-Is-Purelib: true" in archive.read("small-1.dist-info/WHEEL").decode()
    assert purelib == (not found) == wheel.name.endswith("-py3-none-any.whl")
    return found


@pytest.mark.parametrize("choice", ["", "1"])
def test_where_there_is_a_compiler_the_wheel_is_compiled_and_only_for_this_python(project, monkeypatch, capfd, choice):
    monkeypatch.setenv("PYSTRANDS_COMPILE", choice)
    assert needed(project) == NEEDED
    wheel = built(project)
    assert compiled(wheel) == {
        f"pystrands/one{SUFFIX}": "compiled pystrands/one.py",
        f"pystrands/part/two{SUFFIX}": "compiled pystrands/part/two.py",
        f"shared__mypyc{SUFFIX}": "compiled with -fno-plt -fno-semantic-interposition -mine",
    }
    assert f"-cp3{sys.version_info.minor}-" in wheel.name
    out, err = capfd.readouterr()
    assert len((out + err).splitlines()) == 1, "quiet"


def test_a_compiler_that_does_not_know_the_flags_is_spared_them(project, tmp_path):
    script(tmp_path / "cc", 'case "$*" in *-fno*) exit 1;; esac')
    assert compiled(built(project))[f"shared__mypyc{SUFFIX}"].split() == ["compiled", "with", "-mine"]


def test_with_0_nothing_is_compiled_or_needed_and_nothing_said(project, monkeypatch, capfd):
    monkeypatch.setenv("PYSTRANDS_COMPILE", "0")
    assert needed(project) == []
    assert built(project).name == PURE
    assert capfd.readouterr() == ("", "")


def test_an_editable_install_is_never_compiled(project, monkeypatch, capfd):
    monkeypatch.setenv("PYSTRANDS_COMPILE", "1")
    wheel = built(project, "editable")
    assert wheel.name == PURE
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".py", SUFFIX))]
    assert capfd.readouterr() == ("", "")


def test_what_is_packed_as_source_builds_the_same_wheel(project, tmp_path):
    sdist = Path(next(SdistBuilder(str(project)).build(directory=str(project / "dist"), versions=["standard"])))
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert compiled(built(unpacked)) == compiled(built(project))


NO_COMPILER = "a C compiler that works: install one (on Debian: apt-get install gcc libc6-dev), or name yours in CC."


def broken(project, monkeypatch, how):
    """Break one thing; what the message must say."""
    cc = project.parent / "cc"
    if how == "no compiler":
        monkeypatch.setenv("CC", "no-such-cc -pipe")
        return f"Compiling needs {NO_COMPILER} 'no-such-cc -pipe' said:\nno-such-cc: No such file or directory\n"
    if how == "a compiler that fails":
        script(cc, "exit 1")
        return f"Compiling needs {NO_COMPILER} '{cc}' said:\nnothing\n"
    if how == "no headers":
        script(cc, 'echo "probe.c:1:10: fatal error: Python.h: No such file or directory" >&2; exit 1')
        return "Compiling needs the headers of Python: install them (on Debian: apt-get install python3-dev). "
    if how == "another Python":
        monkeypatch.setattr(sys.implementation, "name", "pypy")
        return "Compiling needs CPython, and this is pypy.\n"
    (project / "src/pystrands/works").unlink()
    return (
        "mypyc failed; please tell the authors of PyStrands what it said:\nmypyc is here\nsizes: error: no such thing\n"
    )


BREAKS = ["no compiler", "a compiler that fails", "no headers", "another Python", "mypyc"]


@pytest.mark.parametrize("how", BREAKS)
def test_where_compiling_fails_the_wheel_is_interpreted_and_a_warning_says_why(project, monkeypatch, capfd, how):
    works = how == "mypyc"
    message = broken(project, monkeypatch, how)
    assert needed(project) == (NEEDED if works else []), "nothing is fetched for what can't be done"
    wheel = built(project)
    (project / "src/pystrands/works").touch()
    assert wheel.name == PURE
    assert not compiled(wheel)
    said = "".join(capfd.readouterr())
    assert "WARNING: PyStrands is not compiled: it works, and takes more CPU for each message.\n" + message in said
    assert "Then install PyStrands again. With PYSTRANDS_COMPILE=0 nothing is compiled, and nothing said.\n" in said


@pytest.mark.parametrize("how", BREAKS)
def test_with_1_a_build_that_cant_compile_fails(project, monkeypatch, capfd, how):
    monkeypatch.setenv("PYSTRANDS_COMPILE", "1")
    message = broken(project, monkeypatch, how)
    with pytest.raises(SystemExit) as raised:
        built(project)
    (project / "src/pystrands/works").touch()
    assert raised.value.code == 1
    assert not list((project / "dist").glob("*"))
    assert "PyStrands can't be compiled, as PYSTRANDS_COMPILE=1 wants it.\n" + message in "".join(capfd.readouterr())


def test_another_choice_is_a_mistake(project, monkeypatch, capfd):
    monkeypatch.setenv("PYSTRANDS_COMPILE", "yes")
    with pytest.raises(SystemExit):
        built(project)
    assert "PYSTRANDS_COMPILE is 'yes': 1 is for a build that must compile, 0 for one" in "".join(capfd.readouterr())


def test_the_compiler_of_the_environment_is_really_asked(project, monkeypatch, tmp_path):
    """The probe is a program that needs Python's headers, with the folder in which they are."""
    seen = tmp_path / "seen"
    script(tmp_path / "cc", f'cat probe.c > {seen}; echo "$@" >> {seen}')
    assert needed(project) == NEEDED
    code, arguments = seen.read_text("utf-8").splitlines()
    assert code == "#include <Python.h>"
    assert f"-I{sysconfig.get_path('include')}" in arguments.split()


def test_pystrands_own_project_uses_the_hook(monkeypatch, project):
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tools = tools["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["tools"]
    assert set(tools) < set(needed(ROOT))
    monkeypatch.setenv("PYSTRANDS_COMPILE", "0")
    assert needed(ROOT) == []
