"""The import rule of docs/internals/architecture.md, for every module: no arrow upwards, no circle."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "internals" / "architecture.md"
LEFT: set[tuple[str, str]] = set()
"""Imports that still break the rule. To be emptied, never added to."""


class Import(NamedTuple):
    importer: str
    imported: str


def name_of(path):
    """``broker/net/tls`` for that module of pystrands, ``__init__`` for the package; ``pytest_pystrands`` beside it."""
    return path.relative_to(SOURCE).with_suffix("").as_posix().removeprefix("pystrands/")


@cache
def modules():
    """Return every module's file by the module's dotted name."""
    dotted = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in sorted(dotted.items())}


def imported_by(path):
    """Every absolute name that a module imports, wherever in it, and from modules what they have, by its own name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules() else node.module for name in names)


@cache
def arrows():
    """Return who imports whom, those for types only included."""
    return {
        Import(name_of(path), name_of(modules()[imported]))
        for name, path in modules().items()
        for imported in imported_by(path)
        if imported in modules() and imported != name
    }


@cache
def layers(table):
    """Return the height of each entry of a table of the page; 0 is the lowest row."""
    page = PAGE.read_text("utf-8")
    (text,) = re.findall(rf"^<!-- layers: {table} -->\n(.*?)^<!-- end of layers -->", page, re.MULTILINE | re.DOTALL)
    rows = [re.findall(r"`([\w/]+)`", row.split("|")[1]) for row in text.splitlines()[2:]]
    entries = [entry for row in rows for entry in row]
    assert len(entries) == len(set(entries))
    return {entry: height for height, row in enumerate(reversed(rows)) for entry in row}


def entry_of(module, table):
    """Return the longest entry of a table that a module belongs to: itself, or a folder."""
    found = [entry for entry in layers(table) if module == entry or (entry[-1] == "/" and module.startswith(entry))]
    assert found, f"{module} has no place in the table of {table}: say in {PAGE.name} where it belongs"
    return max(found, key=len)


def is_upwards(arrow):
    """Whether an import goes up, or to the side."""
    importer, imported = arrow
    table = "package"
    for folder in ("broker", "client"):
        if importer.startswith(f"{folder}/") and imported.startswith(f"{folder}/"):
            table = folder
            importer, imported = (name.removeprefix(f"{folder}/") for name in arrow)
    above, below = entry_of(importer, table), entry_of(imported, table)
    return above != below and layers(table)[below] >= layers(table)[above]


def circles(among):
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    to = {}
    for importer, imported in sorted(among):
        to.setdefault(importer, []).append(imported)
    number, lowest, stack, found = {}, {}, [], []

    def visit(module):
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for imported in to.get(module, ()):
            if imported not in number:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], number[imported])
        if lowest[module] == number[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in to:
        if module not in number:
            visit(module)
    return found


def test_no_module_imports_what_is_above_or_beside_it():
    assert sorted(arrow for arrow in arrows() if is_upwards(arrow) and arrow not in LEFT) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(arrows() - LEFT) == []


def test_what_is_left_is_there_and_breaks_the_rule():
    for arrow in LEFT:
        is_there = arrow in arrows()
        assert is_there, f"{arrow} is mended: take it out of LEFT"
        breaks = is_upwards(arrow) or circles((arrows() - LEFT) | {arrow})
        assert breaks, f"{arrow} breaks nothing: take it out of LEFT"


def test_every_module_has_a_place():
    for path in modules().values():
        name = name_of(path)
        folder, _, rest = name.partition("/")
        entry_of(name, "package")
        if rest and folder in ("broker", "client") and name != "broker/__init__":
            entry_of(rest, folder)


def test_every_folder_has_a_row_of_its_own():
    prefixes = {"package": "", "broker": "broker/", "client": "client/"}
    rows = {prefix + entry for table, prefix in prefixes.items() for entry in layers(table)}
    folders = {f"{name_of(path).removesuffix('__init__')}" for path in modules().values() if path.name == "__init__.py"}
    assert folders - {""} - rows == set()


def test_circles_are_found():
    a, b, c, d = "abcd"
    assert circles({Import(a, b), Import(b, c), Import(a, c)}) == []
    assert circles({Import(a, b), Import(b, c), Import(c, b), Import(c, d)}) == [[b, c]]
    assert circles({Import(a, b), Import(b, c), Import(c, a), Import(d, c)}) == [[a, b, c]]
