"""What people read: the tables in the console, README and docs, and the charts' files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cases import CASES, Case
from bench.charts import case_charts
from bench.growth_report import cluster_tables, growth_charts, growth_tables, session_tables
from bench.processes import HERE
from bench.results import Results, Spread
from bench.sides import SIDES
from bench.verdict import verdicts

__all__ = ["case_rows", "markdown", "print_case", "print_verdicts", "table", "write_docs"]

ROOT = HERE.parent
COLOURS = {"aim": "green", "must": "green", "missed": "red", "failed": "red", "not measured": "yellow"}
WORDS = {
    "aim": "aim reached",
    "must": "must reached",
    "missed": "missed",
    "failed": "failed",
    "not measured": "not measured",
}


def _range(found: Spread | None, form: str = ",.0f", scale: float = 1) -> str:
    if found is None:
        return ""
    median, low, high = (format(value * scale, form) for value in (found.median, found.low, found.high))
    return median if low == high else f"{median} ({low} to {high})"


def _parts(results: Results, case: str, side: str, key: str, form: str, scale: float = 1) -> str:
    """Return the medians of a figure of each process, as "broker 1.4, backend 0.1"."""
    run = next(filter(None, results.cases[case][side]))
    found = {name: results.spread(case, side, key, name) for name in run[key]}
    shown = {name: format(each.median * scale, form) for name, each in found.items() if each}
    return ", ".join(shown.values() if len(shown) == 1 else (f"{name} {value}" for name, value in shown.items()))


def case_rows(results: Results, case: Case, *, short: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of one case's table; ``short``: the sides' short names."""
    key = "connections_per_second" if case.idle else "rate"
    heads = ["", "connections/s" if case.idle else "delivered/s", "ours / this"]
    heads += ["KiB per connection"] if case.idle else ["CPU per message, us", "p50, ms", "p99, ms", "p99.9, ms"]
    heads += ["peak memory, MiB"] + ([] if case.idle else ["load generator, cores"])
    rows = []
    sides = results.cases[case.name]
    first = next(iter(sides))
    for side, rounds in sides.items():
        label = "PyStrands, the other tree" if side == "other" else side
        if side in SIDES:
            label = SIDES[side].short if short else SIDES[side].label
        if not any(rounds):
            rows.append([label, "failed"] + [""] * (len(heads) - 2))
            continue
        ratio = "" if side == first else _range(results.ratio(case.name, first, side, key), ".2f")
        row = [label, _range(results.spread(case.name, side, key)), ratio]
        if case.idle:
            row.append(_parts(results, case.name, side, "bytes_per_connection", ".1f", 1 / 1024))
        else:
            row.append(_parts(results, case.name, side, "us", ".2f"))
            latency = [results.spread(case.name, side, "latency_us", part) for part in ("p50", "p99", "p999")]
            row += [f"{each.median / 1000:.2f}" if each else "" for each in latency]
        row.append(_parts(results, case.name, side, "peak_bytes", ".0f", 1 / 1024**2))
        if not case.idle:
            share = results.spread(case.name, side, "load_share")
            row.append(f"{share.median:.2f}" if share else "")
        rows.append(row)
    return heads, rows


def _verdict_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["case", "must", "aim", "measured", "verdict"]
    return heads, [
        [each.row.label, each.row.bound(each.row.must), each.row.bound(each.row.aim), each.measured, WORDS[each.word]]
        for each in verdicts(results)
    ]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> Table:
    """Return a table for the console."""
    made = Table(*heads, title=title, title_justify="left", title_style="bold")
    for row in rows:
        made.add_row(*row)
    return made


def print_case(console: Console, results: Results, case: Case) -> None:
    """Print one case's table."""
    console.print(table(*case_rows(results, case, short=True), case.label))


def print_verdicts(console: Console, results: Results) -> None:
    """Print the verdict on each row."""
    heads, rows = _verdict_rows(results)
    shown = table(heads, (), "Verdict")
    for each, row in zip(verdicts(results), rows, strict=True):
        shown.add_row(*row[:-1], f"[{COLOURS[each.word]}]{row[-1]}[/]")
    console.print(shown)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(line.replace("  |", " |") for line in lines) + "\n"


def _summary(results: Results) -> str:
    """README's table: the rows of the verdict beside FastAPI, in figures that mean something by themselves."""
    rows = []
    for label, case, keys, form, scale in (
        ("echo through a backend, 100 clients; messages/s", "echo", ("rate",), ",.0f", 1),
        ("one room of 1,000 clients; deliveries/s", "room", ("rate",), ",.0f", 1),
        ("100 rooms of 10 clients; deliveries/s", "rooms", ("rate",), ",.0f", 1),
        ("broadcast to 10,000 clients; deliveries/s", "broadcast", ("rate",), ",.0f", 1),
        ("new connections per second", "idle", ("connections_per_second",), ",.0f", 1),
        ("99 of 100 echoes within, at half of FastAPI's most; ms", "latency", ("latency_us", "p99"), ".1f", 0.001),
    ):
        ours, theirs = (results.spread(case, side, *keys) for side in ("pystrands", "fastapi"))
        if ours and theirs:
            ratio = results.ratio(case, "pystrands", "fastapi", *keys)
            medians = [format(each.median * scale, form) for each in (ours, theirs)]
            rows.append([label, *medians, _range(ratio, ".2f")])
    return markdown(["", "PyStrands, broker and backend", "FastAPI on uvicorn", "ratio"], rows)


def _details(results: Results) -> str:
    parts = [markdown(*_verdict_rows(results))]
    for name, case in CASES.items():
        if name in results.cases:
            about = results.about[name]
            rounds = f"{about['rounds']} round{'' if about['rounds'] == 1 else 's'}"
            how = rounds if case.idle else f"{rounds} of {about['seconds']:g} s"
            parts.append(f"\n### {case.label[0].upper()}{case.label[1:]}\n\n{case.what} {how}.\n\n")
            parts.append(markdown(*case_rows(results, case)))
    for each in growth_tables(results):
        parts += [f"\n### {each.title}\n\n", markdown(each.heads, each.rows)]
    return "".join(parts)


def _with_part(text: str, name: str, part: str) -> str:
    pattern = rf"(<!-- {name}\b[^\n]*-->\n).*?(<!-- end of {name} -->)"
    if len(re.findall(pattern, text, re.DOTALL)) != 1:
        raise ValueError(f"there is no one place for {name}")
    return re.sub(pattern, lambda match: match[1] + part + match[2], text, flags=re.DOTALL)


def write_docs(results: Results, root: Path = ROOT) -> list[Path]:
    """Write the tables into README and docs and the charts beside them; return what was written."""
    about = next(iter(results.about.values()))
    kernel = about["kernel"].split("-")[0]
    tcp = f", TCP congestion control {about['congestion']}" if about.get("congestion") else ""  # older files have none
    where = (
        f"Measured on {about['date']} with {about['cores']} cores ({about['cpu']}), Linux {kernel},"
        f" Python {about['python']}{tcp}.\n"
    )
    written = []
    parts = [
        (root / "README.md", "figures", _summary(results)),
        (root / "docs" / "performance.md", "figures", where + "\n" + _details(results)),
    ]
    if tables := cluster_tables(results):
        of_cluster = [f"{each.title}:\n\n{markdown(each.heads, each.rows)}" for each in tables]
        parts.append((root / "docs" / "several-brokers.md", "figures of several brokers", "\n" + "\n".join(of_cluster)))
    if tables := session_tables(results):
        of_sessions = [markdown(each.heads, each.rows) for each in tables]
        parts.append(
            (root / "docs" / "internals" / "sessions.md", "figures of sessions", "\n" + "\n".join(of_sessions))
        )
    for path, name, part in parts:
        path.write_text(_with_part(path.read_text("utf-8"), name, part), "utf-8")
        written.append(path)
    for name, svg in {**case_charts(results), **growth_charts(results)}.items():
        path = root / "docs" / "images" / f"{name}.svg"
        path.write_text(svg, "utf-8")
        written.append(path)
    return written


if __name__ == "__main__":  # after a change of how things look
    write_docs(Results())
