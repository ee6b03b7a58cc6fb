"""Compiles what runs for every message with mypyc, while a wheel is built: ``pip install .``.

Where that can't be done the wheel has the same source, interpreted, and a warning says what is missing. The variable
``PYSTRANDS_COMPILE`` decides otherwise: with 1 a build that can't compile fails, with 0 none is compiled. An editable
install is never compiled, and the compiler works on a copy: compiled modules beside their source would hide every later
change of it.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CHOICE = "PYSTRANDS_COMPILE"
LINES = 40  # of what the compiler said, when it failed
# Most calls of what is compiled go to each other and to Python's library. Without a look into a table for each, an echo
# takes 4 % less of the broker's own code.
FLAGS = ("-fno-plt", "-fno-semantic-interposition")
# How a compiled coroutine that is cancelled tells what it awaits, in mypyc's runtime library, and how it should: Python
# 3.12 deprecates the former, and where warnings are errors, as in many tests, that warning ends the coroutine.
THROW = ("PyObject_CallFunctionObjArgs(_m, type, value, traceback, NULL)", "PyObject_CallOneArg(_m, value)")


class CannotCompileError(Exception):
    """Its text says why, and what to do."""


class CompileHook(BuildHookInterface):
    """The hook ``custom`` of the wheel; its options: ``modules``, paths below ``src``, and ``tools``, which compile."""

    def dependencies(self) -> list[str]:
        """Return what a build needs to be installed: nothing where it won't compile."""
        if os.environ.get(CHOICE) == "0":
            return []
        try:
            check_compiler()
        except CannotCompileError:
            return []
        # mypy takes the types of what the modules import from what is installed.
        return [*self.config["tools"], *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to the wheel. Ends the build where it must compile and can't."""
        self.folder: TemporaryDirectory[str] | None = None
        choice = os.environ.get(CHOICE, "")
        if choice not in {"", "0", "1"}:
            self.app.abort(f"{CHOICE} is {choice!r}: 1 is for a build that must compile, 0 for one that must not")
        if version == "editable" or choice == "0":
            return
        try:
            check_compiler()
            self.app.display_info("Compiling PyStrands with mypyc, half a minute or so")
            compiled = self._compile()
        except CannotCompileError as error:
            if choice == "1":
                self.app.abort(f"PyStrands can't be compiled, as {CHOICE}=1 wants it.\n{error}")
            self.app.display_warning(
                f"WARNING: PyStrands is not compiled: it works, and takes more CPU for each message.\n{error}\n"
                f"Then install PyStrands again. With {CHOICE}=0 nothing is compiled, and nothing said."
            )
            return
        build_data["force_include"].update(compiled)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - its signature
        """Throw the copy away."""
        if self.folder:
            self.folder.cleanup()

    def _compile(self) -> dict[str, str]:
        """Compile a copy of ``src``. Returns where each compiled module is, and its path in the wheel."""
        self.folder = TemporaryDirectory(prefix="pystrands-build-", ignore_cleanup_errors=True)
        source = Path(self.folder.name, "src")
        shutil.copytree(Path(self.root, "src"), source, ignore=shutil.ignore_patterns("__pycache__"))
        flags = " ".join((*flags_taken(), os.environ.get("CFLAGS", "")))
        options = {"MYPYC_OPT_LEVEL": os.environ.get("MYPYC_OPT_LEVEL", "3"), "MYPYC_DEBUG_LEVEL": "0", "CFLAGS": flags}
        if mend_runtime(self.folder.name):
            options["CFLAGS"] += f" -I{shlex.quote(self.folder.name)}"  # it comes before mypyc's own
        failed, said = run(sys.executable, "-m", "mypyc", *self.config["modules"], cwd=source, **options)
        if failed:
            self.folder.cleanup()
            raise CannotCompileError(f"mypyc failed; please tell the authors of PyStrands what it said:\n{said}")
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        compiled = [*source.glob(f"*{suffix}"), *source.glob(f"pystrands/**/*{suffix}")]
        return {str(path): path.relative_to(source).as_posix() for path in compiled}


def flags_taken() -> tuple[str, ...]:
    """Return FLAGS where the compiler knows them."""
    try:
        check_compiler(*FLAGS)
    except CannotCompileError:
        return ()
    return FLAGS


def check_compiler(*flags: str) -> None:
    """Raise CannotCompileError where no module of this Python can be compiled, with these flags."""
    if sys.implementation.name != "cpython":
        raise CannotCompileError(f"Compiling needs CPython, and this is {sys.implementation.name}.")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "")
    if not compiler:
        return  # Windows, where setuptools knows how to look for one
    with TemporaryDirectory(prefix="pystrands-build-") as folder:
        Path(folder, "probe.c").write_text("#include <Python.h>\n", "utf-8")
        include = {f"-I{sysconfig.get_path(each)}" for each in ("include", "platinclude")}
        failed, said = run(*compiler, *flags, *include, "-c", "probe.c", cwd=folder)
    if failed:
        missing = "a C compiler that works: install one (on Debian: apt-get install gcc libc6-dev), or name yours in CC"
        if re.search(r"fatal error: '?Python\.h", said):
            missing = "the headers of Python: install them (on Debian: apt-get install python3-dev)"
        raise CannotCompileError(f"Compiling needs {missing}. '{shlex.join(compiler)}' said:\n{said}")


def mend_runtime(folder: str) -> bool:
    """Put into ``folder`` what has THROW in mypyc's runtime library, corrected. Returns whether there is one."""
    spec = importlib.util.find_spec("mypyc")
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place, "lib-rt", "misc_ops.c")
        code = file.read_text("utf-8") if file.is_file() else ""
        if code.count(THROW[0]) == 1:
            Path(folder, file.name).write_text(code.replace(*THROW), "utf-8")
            return True
    return False


def run(*command: str, cwd: str | Path, **environment: str) -> tuple[bool, str]:
    """Run a program of the build. Returns whether it failed, and the last lines of what it said."""
    try:
        done = subprocess.run(  # noqa: S603 - what pyproject.toml and the user have chosen
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        return True, f"{command[0]}: {error.strerror}"
    return done.returncode != 0, "\n".join(done.stdout.splitlines()[-LINES:]) or "nothing"
