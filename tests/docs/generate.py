"""Writes the parts of README and docs that come from the code: ``python -m tests.docs.generate``."""

import re
from pathlib import Path

from pystrands.broker.config import options_table
from pystrands.broker.metrics import counters_table, gauges_table
from pystrands.cli.main import SERVER_OPTIONS
from pystrands.client.options import options_table as client_options_table
from tests.docs.blocks import README, ROOT

CLIENTS_PAGE = ROOT / "docs" / "clients.md"
OPTIONS_PAGE = ROOT / "docs" / "options.md"
BROKERS_PAGE = ROOT / "docs" / "several-brokers.md"
PRODUCTION_PAGE = ROOT / "docs" / "production.md"


def names_table() -> str:
    """Return the names of each option in the environment and in the file, as a Markdown table."""
    rows = ["| Flag | Environment | TOML key | Takes |", "|---|---|---|---|"]
    for each in SERVER_OPTIONS:
        takes = ", ".join(f"`{choice}`" for choice in each.choices) or each.kind
        rows.append(f"| `{each.flag}` | `{each.env}` | `{each.key}` | {takes} |")
    return "\n".join(rows) + "\n"


def with_part(text: str, name: str, part: str) -> str:
    """Return a page's text with ``part`` between the comments of that name."""
    pattern = rf"(<!-- {name}\b[^\n]*-->\n).*?(<!-- end of {name} -->)"
    assert len(re.findall(pattern, text, re.DOTALL)) == 1, name
    return re.sub(pattern, lambda match: match[1] + part + match[2], text, flags=re.DOTALL)


def file_block(language: str, name: str) -> str:
    """Return a file of the repository as a fenced block."""
    return f"```{language}\n{(ROOT / name).read_text('utf-8')}```\n"


def production_page() -> str:
    """Return the page about production with its tables, and the files that it shows."""
    page = PRODUCTION_PAGE.read_text("utf-8")
    page = with_part(page, "nginx", file_block("nginx", "deploy/nginx.conf"))
    page = with_part(page, "systemd", file_block("ini", "deploy/pystrands.service"))
    page = with_part(page, "gauges", gauges_table())
    return with_part(page, "counters", counters_table())


def generated() -> dict[Path, str]:
    """Return what each page with such parts should be."""
    page = with_part(OPTIONS_PAGE.read_text("utf-8"), "options", options_table())
    return {
        README: with_part(README.read_text("utf-8"), "options", options_table()),
        OPTIONS_PAGE: with_part(page, "names", names_table()),
        PRODUCTION_PAGE: production_page(),
        BROKERS_PAGE: with_part(BROKERS_PAGE.read_text("utf-8"), "haproxy", file_block("text", "deploy/haproxy.cfg")),
        CLIENTS_PAGE: with_part(CLIENTS_PAGE.read_text("utf-8"), "options of the clients", client_options_table()),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, "utf-8")
