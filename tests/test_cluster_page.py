"""The rules of several brokers: each on the page has a test, or says that it is not there yet."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "internals" / "cluster.md"
_CITED = re.compile(r"\bCLUSTER rules? (\d+(?:(?:,| and| to) \d+)*)\b")
_NOT_YET = "Not there yet"


def rules():
    """The text of each rule, by its number."""
    parts = re.split(r"^### Rule (\d+): ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_the_rules_are_numbered_in_order():
    assert list(rules()) == list(range(1, 21))


def test_every_rule_that_is_there_has_a_test():
    tested = {
        int(number)
        for path in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"^ *(?:async )?def test_cluster_rule_(\d\d)_", path.read_text("utf-8"), re.MULTILINE)
    }
    assert tested == {number for number, text in rules().items() if _NOT_YET not in text}


def test_every_rule_that_is_cited_is_on_the_page():
    cited = set()
    for folder in ("src", "tests", "bench", "fuzz"):
        for path in (ROOT / folder).rglob("*.py"):
            for text in _CITED.findall(path.read_text("utf-8")):
                cited |= {int(number) for number in re.findall(r"\d+", text)}
    assert cited and cited <= set(rules())
