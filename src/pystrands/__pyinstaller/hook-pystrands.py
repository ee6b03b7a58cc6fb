"""Tells PyInstaller what a frozen program needs of this package: what compiled modules import can't be seen in them.

Their source lies beside them, and says it; that of the compiled packages that they use does not. mypyc keeps the code
of all of them in one module beside the package, whose name is a hash. What pages are given lies beside modules.
"""

import ast
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import files
from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

PACKAGE = Path(__file__).parent.parent


def compiled() -> Iterator[Path]:
    """Give the source of each compiled module."""
    for source in PACKAGE.rglob("*.py"):
        if any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES):
            yield source


def imported(source: Path) -> Iterator[str]:
    """Give what a module imports, wherever it does: all of the package's imports are absolute."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def shared() -> Iterator[str]:
    """Give the names of the modules that hold the compiled code."""
    for path in files("pystrands") or ():
        name = path.name.partition(".")[0]
        if name.endswith("__mypyc"):
            yield name


datas = collect_data_files("pystrands", includes=["**/*.js", "**/*.html"])
sources = list(compiled())
names = {".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts) for source in sources}
hiddenimports = sorted(
    names.union(shared(), *map(imported, sources), collect_submodules("aiofastnet"), collect_submodules("picows"))
)
