"""The code in README and docs; comments before it say: ``<!-- program: name -->`` or ``<!-- fragment -->``."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = ROOT / "README.md"
OTHERS = {"testing.md"}
"""Pages whose programs are run by tests of their own."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>program|fragment)(?:: (?P<name>[\w-]+))? -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block. ``kind``: program, fragment, or nothing where no comment says."""

    path: Path
    line: int
    language: str
    code: str
    kind: str
    name: str

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.path.name}:{self.line}"


def blocks(path: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page that are in one of these languages, or all."""
    text = path.read_text("utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, f"{path.name}: a block has no end"
    return [
        Block(
            path,
            text.count("\n", 0, match.start("code")),
            match["language"],
            match["code"],
            match["kind"] or "",
            match["name"] or "",
        )
        for match in _BLOCK.finditer(text)
        if not languages or match["language"] in languages
    ]


def all_blocks(*languages: str) -> list[Block]:
    """Return those of README and of all pages."""
    return [block for path in (README, *PAGES) for block in blocks(path, *languages)]


def headings(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and the site make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
        found.add(words.strip().replace(" ", "-"))
    return found
