"""The promises to clients that come back: each that is cited is on the page, and each on the page has a test."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "internals" / "sessions.md"
_CITED = re.compile(r"\(promise (\d+)\)")


def on_the_page():
    return [int(number) for number in re.findall(r"^### Promise (\d+): ", PAGE.read_text("utf-8"), re.MULTILINE)]


def test_the_promises_are_in_order():
    assert on_the_page() == sorted(set(on_the_page()))


def test_every_promise_that_is_cited_is_on_the_page():
    cited = {
        int(number)
        for folder in ("src", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for number in _CITED.findall(path.read_text("utf-8"))
    }
    assert cited
    assert cited <= set(on_the_page())


def test_every_promise_on_the_page_has_a_test():
    tested = {
        int(number)
        for path in (ROOT / "tests").rglob("test_*.py")
        for numbers in re.findall(
            r"^(?:async )?def test_promise_((?:\d\d_and_)?\d\d)_", path.read_text("utf-8"), re.MULTILINE
        )
        for number in numbers.split("_and_")
    }
    assert tested == set(on_the_page())
