"""Draws docs/pictures/overview.svg: ``python docs/generate_pictures.py``. A test compares."""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).with_name("pictures") / "overview.svg"
NAMESPACE, FONT = "http://www.w3.org/2000/svg", "system-ui, sans-serif"
WIDTH, HEIGHT = 880, 250
INK, SOFT, SEA, GOOD, BAD, PAPER = "#1f2a33", "#5b6b78", "#0f766e", "#15803d", "#b91c1c", "#f8fafc"


def _text(
    x: float, y: float, words: str, *, size: int = 14, ink: str = INK, bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{ink}"{weight} '
        f'text-anchor="middle">{words}</text>'
    )


def _box(
    x: float, y: float, width: float, title: str, lines: list[str], *, edge: str = SOFT
) -> str:
    height = 44 + 18 * len(lines)
    parts = [
        _frame(x, y, width, height, edge),
        _text(x + width / 2, y + 26, title, size=15, bold=True),
    ]
    for number, line in enumerate(lines):
        parts.append(_text(x + width / 2, y + 48 + 18 * number, line, size=12, ink=SOFT))
    return "".join(parts)


def _frame(x: float, y: float, width: float, height: float, edge: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10" '
        f'fill="#ffffff" stroke="{edge}" stroke-width="1.5"/>'
    )


def _arrow(x: float, y: float, to_x: float, to_y: float, ink: str = SEA) -> str:
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{ink}" '
        f'stroke-width="2" marker-end="url(#{"bad" if ink == BAD else "head"})"/>'
    )


def _devices(x: float, y: float, count: int, ink: str) -> str:
    return "".join(
        f'<rect x="{x + 17 * (n % 6):g}" y="{y + 17 * (n // 6):g}" width="12" height="12" rx="3" '
        f'fill="{ink}"/>'
        for n in range(count)
    )


def _head(name: str, ink: str) -> str:
    return (
        f'<marker id="{name}" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0,0 L6,3 L0,6 z" fill="{ink}"/></marker>'
    )


def render() -> str:
    """The picture."""
    parts = [
        f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" role="img">',
        "<title>From labelled texts to a model on every device</title>",
        f"<defs>{_head('head', SEA)}{_head('bad', BAD)}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="{PAPER}"/>',
        _box(20, 34, 150, "Your texts", ["a table with labels", "CSV, .xlsx, JSON"]),
        _arrow(172, 74, 206, 74),
        _box(212, 34, 150, "Teacher", ["a large encoder", "learns your labels"]),
        _arrow(364, 74, 398, 74),
        _box(404, 34, 150, "Student", ["int8, 180 to 500 KB", "with its own test"]),
        _arrow(556, 74, 590, 74),
        _box(596, 34, 150, "Signed", ["by keys that need", "not be online"], edge=SEA),
        _arrow(671, 116, 671, 146),
        _frame(212, 150, 534, 80, SEA),
        _text(634, 174, "one device", size=12, ink=SOFT),
        _devices(628, 186, 1, GOOD),
        _text(496, 174, "then some", size=12, ink=SOFT),
        _devices(464, 186, 4, GOOD),
        _text(316, 174, "then all", size=12, ink=SOFT),
        _devices(268, 186, 12, GOOD),
        _arrow(596, 194, 544, 194),
        _arrow(448, 194, 392, 194),
        _text(813, 170, "A bad one", size=12, ink=BAD, bold=True),
        _text(813, 187, "stops at the first,", size=12, ink=BAD),
        _text(813, 204, "which goes back", size=12, ink=BAD),
        _text(95, 170, "Ask any of them", size=12, ink=SEA, bold=True),
        _text(95, 187, "over MQTT or HTTP:", size=12, ink=SEA),
        _text(95, 204, "the text stays there", size=12, ink=SEA),
        _arrow(168, 190, 206, 190),
        "</svg>\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render())
    sys.stdout.write(f"wrote {TARGET.name}\n")
