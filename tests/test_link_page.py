"""The rules of the link: each that is cited is on the page, and each on the page has a test."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "internals" / "link.md"
_CITED = re.compile(r"\brules? (\d+(?:(?:,| and| to) \d+)*)\b", re.IGNORECASE)


def numbers(text):
    """Return the numbers of ``14 to 16, 21`` and the like."""
    found = set()
    for part in re.split(r", | and ", text):
        first, _, last = part.partition(" to ")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def on_the_page():
    return [int(number) for number in re.findall(r"^### Rule (\d+): ", PAGE.read_text("utf-8"), re.MULTILINE)]


def test_the_rules_are_numbered_in_order():
    assert on_the_page() == list(range(1, len(on_the_page()) + 1))


def test_every_rule_that_is_cited_is_on_the_page():
    rules = set(on_the_page())
    cited = set()
    for folder in ("src", "tests", "fuzz", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            for text in _CITED.findall(path.read_text("utf-8")):
                assert numbers(text) <= rules, f"{path.relative_to(ROOT)}: rule {text}"
                cited |= numbers(text)
    assert cited


def test_every_rule_on_the_page_has_a_test():
    tested = {
        int(number)
        for path in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"^(?:async )?def test_rule_(\d\d)_", path.read_text("utf-8"), re.MULTILINE)
    }
    assert tested == set(on_the_page())


def test_how_rules_are_cited():
    text = "(LINK rules 14 to 16, 21) as rule 7 says; Rules 6 and 7 of the link"
    assert [numbers(each) for each in _CITED.findall(text)] == [{14, 15, 16, 21}, {7}, {6, 7}]
