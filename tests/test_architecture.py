"""The page about the architecture: its tree is that of the files, what it names is there, its rules are kept."""

import ast
import re
import tomllib

from tests.test_imports import PAGE, ROOT, SOURCE, imported_by, layers, modules, name_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPILED = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"])
CLASSES = {
    node.name: path
    for path in modules().values()
    for node in ast.parse(path.read_text("utf-8")).body
    if isinstance(node, ast.ClassDef)
}


def tree():
    """Return each module that the page's tree has, by its path below src, and whether it is marked as compiled."""
    (text,) = re.findall(r"^<!-- tree -->\n```text\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    folders: list[tuple[int, str]] = []
    found = {}
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        name, mark = re.findall(r"^ *([\w/-]+)(?: +(\*)? |$)", line)[0]
        while folders and folders[-1][0] >= indent:
            folders.pop()
        if name.endswith("/"):
            folders.append((indent, name))
        else:
            found["".join(folder for _, folder in folders) + name + ".py"] = bool(mark)
    return found


def test_the_tree_has_every_module():
    there = {path.relative_to(SOURCE).as_posix() for path in modules().values() if path.read_text("utf-8").strip()}
    assert set(tree()) == there


def test_the_tree_marks_what_is_compiled():
    assert {path for path, is_compiled in tree().items() if is_compiled} == COMPILED


def test_what_the_page_names_is_there():
    text = PAGE.read_text("utf-8")
    source = "\n".join(path.read_text("utf-8") for path in modules().values())
    of_python = {"Final", "Protocol"}
    for name in set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", text)) - of_python:
        assert name in CLASSES or re.search(rf"^{name}\b.* = ", source, re.MULTILINE), name
    names = {name_of(path) for path in modules().values()}
    for name in re.findall(r"`((?:broker|client|protocol|engine|ws|net|routing|admission|ops|cli)/\w+)`", text):
        assert any(each == name or each.endswith(f"/{name}") for each in names), name
    for name in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_tables_of_layers_name_nothing_that_there_is_not():
    names = {name_of(path) for path in modules().values()}
    for table, prefix in (("package", ""), ("broker", "broker/"), ("client", "client/")):
        for entry in layers(table):
            whole = prefix + entry
            found = any(name == whole or (entry[-1] == "/" and name.startswith(whole)) for name in names)
            assert found, f"{PAGE.name} has a row for {whole}, which there is not"


def test_a_compiled_class_has_compiled_bases():
    for compiled in COMPILED:
        path = SOURCE / compiled
        imported = {modules()[name] for name in imported_by(path) if name in modules()}
        for node in ast.parse(path.read_text("utf-8")).body:
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                where = CLASSES.get(ast.unparse(base).split("[")[0].rpartition(".")[2])
                if where in imported:
                    assert where.relative_to(SOURCE).as_posix() in COMPILED, f"{compiled}: {ast.unparse(base)}"


def test_packages_are_empty_or_public():
    full = {
        name
        for name, path in modules().items()
        if path.name == "__init__.py" and ast.parse(path.read_text("utf-8")).body[1:]  # more than a docstring
    }
    assert full == {
        "pystrands",
        *(f"pystrands.{each}" for each in ("client", "testing", "demo", "ws", "__pyinstaller")),
    }
