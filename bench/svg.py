"""Charts as SVG text: bars and lines, light and dark, each with a description for who cannot see it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Bars", "Line", "Lines", "bar_chart", "line_chart"]

WIDTH = 880
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STYLE = """
    .ground { fill: #fffefa; stroke: #dbd7ca; }
    .ours { fill: #0b6263; } .other { fill: #b9bdb6; }
    .yardstick { fill: none; stroke: #868b84; stroke-dasharray: 3 3; }
    .range { stroke: #1e2829; stroke-width: 1.2; opacity: .55; }
    .grid { stroke: #e4e0d4; } .axis { stroke: #868b84; }
    .line { fill: none; stroke-width: 2.2; }
    .line.a { stroke: #0b6263; } .line.b { stroke: #97490b; } .line.c { stroke: #868b84; }
    .dot.a { fill: #0b6263; } .dot.b { fill: #97490b; } .dot.c { fill: #868b84; }
    text { fill: #1e2829; } .strong { font-weight: 650; } .quiet { fill: #566163; font-size: 13px; }
    .label.a { fill: #0b6263; } .label.b { fill: #97490b; } .label.c { fill: #566163; }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #10181a; stroke: #2a373a; }
      .ours { fill: #6fcabf; } .other { fill: #47565a; } .yardstick { stroke: #9caaa9; }
      .range { stroke: #e5eae7; } .grid { stroke: #243034; } .axis { stroke: #728083; }
      .line.a { stroke: #6fcabf; } .line.b { stroke: #e6a869; } .line.c { stroke: #9caaa9; }
      .dot.a { fill: #6fcabf; } .dot.b { fill: #e6a869; } .dot.c { fill: #9caaa9; }
      text { fill: #e5eae7; } .quiet { fill: #9caaa9; }
      .label.a { fill: #6fcabf; } .label.b { fill: #e6a869; } .label.c { fill: #9caaa9; }
    }
"""


@dataclass(frozen=True)
class Bar:
    """A bar: a median, its range, and how it is drawn (ours, other or yardstick)."""

    label: str
    value: float
    low: float
    high: float
    shown: str
    kind: str = "other"


@dataclass(frozen=True)
class Bars:
    """A panel of bars with a scale of its own."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Line:
    """A line through points whose x and y are above nothing; ``kind``: a, b or c."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "a"


@dataclass(frozen=True)
class Lines:
    """A panel of lines over a logarithmic x axis; y begins at nothing."""

    title: str
    x_label: str
    lines: Sequence[Line]


def bar_chart(title: str, description: str, panels: Sequence[Bars]) -> str:
    """Return panels of horizontal bars, one below the other."""
    left, right, row, head = 250, 170, 26, 44
    parts: list[str] = []
    y = 22
    for panel in panels:
        parts.append(_text(26, y + 14, panel.title, "strong"))
        y += head - 16
        scale = (WIDTH - left - right) / (max(bar.high for bar in panel.bars) or 1)
        for bar in panel.bars:
            width = max(1.5, bar.value * scale)
            middle = y + row / 2
            parts.append(_text(left - 12, middle + 5, bar.label, anchor="end"))
            parts.append(
                f'<rect class="{bar.kind}" x="{left}" y="{y + 5}" width="{width:.1f}" height="{row - 10}" rx="2"/>'
            )
            parts.append(_line("range", left + bar.low * scale, middle, left + bar.high * scale, middle))
            end = left + max(bar.high * scale, width)
            parts.append(_text(end + 10, middle + 5, bar.shown, "quiet"))
            y += row
        y += 18
    return _document(title, description, y + 4, parts)


def line_chart(title: str, description: str, panels: Sequence[Lines]) -> str:
    """Return panels of lines, two beside each other."""
    parts: list[str] = []
    width, height = WIDTH / 2, 270
    for number, panel in enumerate(panels):
        parts += _line_panel(panel, number % 2 * width, 8 + number // 2 * height, width, height)
    return _document(title, description, 16 + math.ceil(len(panels) / 2) * height, parts)


def _line_panel(panel: Lines, x: float, y: float, width: float, height: float) -> list[str]:
    left, right, top, bottom = x + 62, x + width - 36, y + 62, y + height - 48
    every = [point for line in panel.lines for point in line.points]
    low, high = (choose(math.log10(point[0]) for point in every) for choose in (min, max))
    most = _round_up(max(point[1] for point in every))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (math.log10(point[0]) - low) / ((high - low) or 1)
        return left + across * (right - left), bottom - point[1] / most * (bottom - top)

    parts = [_text(x + 26, y + 22, panel.title, "strong")]
    for step in range(5):
        value = most * step / 4
        _, at = place((every[0][0], value))
        parts.append(_line("axis" if step == 0 else "grid", left, at, right, at))
        parts.append(_text(left - 8, at + 4, _short(value), "quiet", "end"))
    for value in _decades(low, high):
        at, _ = place((value, 0))
        parts.append(_line("axis", at, bottom, at, bottom + 4))
        parts.append(_text(at, bottom + 19, _short(value), "quiet", "middle"))
    parts.append(_text((left + right) / 2, bottom + 37, panel.x_label, "quiet", "middle"))
    across = x + 26.0
    for line in panel.lines:
        places = [place(point) for point in line.points]
        path = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in places)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        parts += [f'<circle class="dot {line.kind}" cx="{a:.1f}" cy="{b:.1f}" r="3.2"/>' for a, b in places]
        parts.append(f'<circle class="dot {line.kind}" cx="{across + 4:.1f}" cy="{y + 38:.1f}" r="4"/>')
        parts.append(_text(across + 14, y + 43, line.label, f"quiet label {line.kind}"))
        across += 30 + 7.2 * len(line.label)
    return parts


def _decades(low: float, high: float) -> list[float]:
    values = [10.0**power for power in range(math.floor(low), math.ceil(high) + 1)]
    return [value for value in values if low - 1e-9 <= math.log10(value) <= high + 1e-9]


def _round_up(value: float) -> float:
    size = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * size for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if step * size >= value)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _document(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    body = "\n  ".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" \
aria-labelledby="title desc" font-family="{FONTS}" font-size="15">
  <title id="title">{escape(title)}</title>
  <desc id="desc">{escape(description)}</desc>
  <style>{STYLE}  </style>
  <rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="12"/>
  {body}
</svg>
"""
