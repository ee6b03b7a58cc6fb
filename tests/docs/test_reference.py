"""What docs say of the code: every option, every counter, every public name, every link is there."""

import inspect
import re

import click
import pytest

import pystrands
from pystrands import AsyncPyStrandsClient, ConnectionRequestContext, Context, PyStrands, PyStrandsClient
from pystrands.broker.metrics import COUNTERS
from pystrands.cli.main import main
from tests.docs.blocks import PAGES, README, ROOT, headings
from tests.docs.generate import generated

BROKER = ROOT / "src" / "pystrands" / "broker"
SECURITY = ROOT / "SECURITY.md"


def test_generated_parts_are_as_the_code_is():
    for path, text in generated().items():
        assert path.read_text("utf-8") == text, "run: python -m tests.docs.generate"


def mentioned_in_the_reference():
    """Every word that is set as code."""
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", page))))


def public_names(kind):
    """The methods and attributes of a class, inherited ones and those of its objects too."""
    names = {name for name in dir(kind) if not name.startswith("_")}
    names |= {name for name in vars(kind()) if not name.startswith("_")}
    inherited = {name for base in (dict, str) for name in dir(base)}
    return sorted(names - inherited)


@pytest.mark.parametrize(
    "kind",
    [AsyncPyStrandsClient, PyStrandsClient, PyStrands, Context, ConnectionRequestContext],
    ids=lambda each: each.__name__,
)
def test_every_public_name_is_in_the_reference(kind):
    mentioned = mentioned_in_the_reference()
    assert [name for name in public_names(kind) if name not in mentioned] == []
    parameters = [name for name in inspect.signature(kind).parameters if not name.startswith("_")]
    assert [name for name in parameters if name not in mentioned] == []


def test_every_parameter_of_the_methods_is_in_the_reference():
    mentioned = mentioned_in_the_reference()
    for name in public_names(AsyncPyStrandsClient):
        method = getattr(AsyncPyStrandsClient, name, None)
        if inspect.isfunction(method):
            assert set(inspect.signature(method).parameters) - mentioned <= {"self", "metadata"}, name


def test_every_exported_name_is_in_the_reference():
    mentioned = mentioned_in_the_reference()
    assert set(pystrands.__all__) - mentioned == {"__version__"}


def test_the_reference_names_nothing_that_there_is_not():
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    known = {name for kind in (AsyncPyStrandsClient, PyStrandsClient, PyStrands, ConnectionRequestContext)
             for name in public_names(kind)}  # fmt: skip
    for name in re.findall(r"^\| `(\w+)\(", page, re.MULTILINE):
        assert name in known, name


def counters_in_the_code():
    names = set()
    for path in (*BROKER.rglob("*.py"), *(BROKER.parent / "engine").rglob("*.py")):
        text = path.read_text("utf-8")
        names |= set(re.findall(r"counters\[\"(\w+)\"\]", text))
        names |= set(re.findall(r"counters\[\s*\"(\w+)\"", text))
        for table in re.findall(r"^_?COUNTERS: Final = \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            names |= set(re.findall(r": \"(\w+)\"", table))
        names |= set(re.findall(r"(?:_fail|BadMessageError)\(.*, \"(\w+)\"\)", text))
        if path.name == "connection_requests.py":  # it passes the name on
            names |= set(re.findall(r"_refuse\(.*, \"(\w+)\"\)", text))
    return names


def test_every_counter_has_a_metric_and_an_explanation():
    missing = counters_in_the_code() - set(COUNTERS)
    assert not missing, f"add to COUNTERS in broker/metrics.py, then run python -m tests.docs.generate: {missing}"
    assert not set(COUNTERS) - counters_in_the_code(), "COUNTERS in broker/metrics.py has names that nothing counts"


def test_flags_in_the_text_are_flags_that_there_are():
    context = click.Context(main)
    commands = [main, *(main.get_command(context, name) for name in main.list_commands(context))]
    flags = {flag for command in commands for each in command.params for flag in each.opts}
    flags |= {"--help", "--group"}
    for path in (SECURITY, *PAGES):
        text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for flag in re.findall(r"`(--[a-z][a-z-]+)", text):
            assert flag in flags, f"{path.name}: {flag}"


def test_links_lead_somewhere():
    for path in (README, SECURITY, *PAGES):
        text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            page = (path.parent / name).resolve() if name else path
            assert page.exists(), f"{path.name}: {target}"
            if anchor:
                assert anchor in headings(page), f"{path.name}: {target}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for path in PAGES:
        assert f": {path.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, path.name


def test_pictures_have_words_for_who_cannot_see_them():
    drawing = (ROOT / "docs" / "images" / "how-it-works.svg").read_text("utf-8")
    assert re.search(r"<title id=\"title\">.+</title>", drawing)
    assert re.search(r"<desc id=\"desc\">.+</desc>", drawing)
    assert "prefers-color-scheme: dark" in drawing
    assert not re.search(r"href=|url\(http|<image|<script", drawing.replace('xmlns="http', ""))
    for path in (README, *PAGES):
        for words in re.findall(r"!\[([^]]*)\]\(", path.read_text("utf-8")):
            assert len(words) > 20, path.name
