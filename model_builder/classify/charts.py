"""Charts as inline SVG: no script, no picture, in the page's own colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, Literal

import msgspec

_WIDTH: Final = 640
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 22, 30, 52


class Point(msgspec.Struct, frozen=True):
    """A point with what is said about it; `label` is written beside it."""

    x: float
    y: float
    label: str = ""
    title: str = ""


class Series(msgspec.Struct, frozen=True):
    """Points of one colour: ``c1`` to ``c4`` of the page's style."""

    points: Sequence[Point]
    colour: Literal["c1", "c2", "c3", "c4"] = "c1"
    name: str = ""
    line: bool = False


def chart(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    logarithmic: bool = False,
    diagonal: bool = False,
    percent: bool = True,
) -> str:
    """Points and lines over two axes.

    Args:
        series: at least one point in all.
        x_title: of the axis, with its unit.
        y_title: likewise.
        logarithmic: the x axis, whose values are above 0.
        diagonal: a dashed line of equals.
        percent: y values are ratios.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    xs = [math.log10(max(p.x, 1e-9)) if logarithmic else p.x for p in points]
    ys = [p.y for p in points]
    x_low, x_high = _padded(min(xs), max(xs))
    y_low, y_high = _padded(min(ys), max(ys))
    if percent:
        y_low, y_high = max(0.0, y_low), min(1.0, y_high)
    if diagonal:
        x_low, x_high, y_low, y_high = 0.0, 1.0, 0.0, 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        at = math.log10(max(x, 1e-9)) if logarithmic else x
        across = (at - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [f'<svg class=chart viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img>']
    parts.append(f"<title>{escape(y_title)} against {escape(x_title)}</title>")
    for y in _ticks(y_low, y_high):
        _, at = place(1, y)
        said = f"{100 * y:.3g} %" if percent else f"{y:.3g}"
        parts.append(f'<line class=grid x1={_LEFT} x2={_WIDTH - _RIGHT} y1="{at}" y2="{at}" />')
        parts.append(f'<text class=tick x={_LEFT - 6} y="{at + 4}" text-anchor=end>{said}</text>')
    for value in _decades(x_low, x_high) if logarithmic else _ticks(x_low, x_high):
        at, _ = place(value, y_low)
        parts.append(
            f'<text class=tick x="{at}" y={_HEIGHT - _BOTTOM + 16} text-anchor=middle>'
            f"{_short(value)}</text>"
        )
    parts.append(
        f"<text class=axis x={(_LEFT + _WIDTH) / 2} y={_HEIGHT - 6} text-anchor=middle>"
        f"{escape(x_title)}</text>"
    )
    if diagonal:
        (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
        parts.append(f'<line class=diagonal x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" />')
    for one in series:
        placed = [(*place(p.x, p.y), p) for p in one.points]
        if one.line and len(placed) > 1:
            path = " ".join(f"{x},{y}" for x, y, _ in placed)
            parts.append(f'<polyline class="line {one.colour}" points="{path}" />')
        for x, y, point in placed:
            title = escape(point.title or f"{point.label} {_short(point.x)}, {point.y:.4g}")
            parts.append(
                f'<circle class="dot {one.colour}" cx="{x}" cy="{y}" r=5><title>{title}</title>'
                "</circle>"
            )
            if point.label:
                anchor = "end" if x > _WIDTH * 0.72 else "start" if x < _WIDTH * 0.28 else "middle"
                parts.append(
                    f'<text class=label x="{x}" y="{y - 12}" text-anchor={anchor}>'
                    f"{escape(point.label)}</text>"
                )
    parts.append("</svg>")
    named = [one for one in series if one.name]
    if named:
        keys = "".join(
            f'<span><i class="{one.colour}"></i>{escape(one.name)}</span>' for one in named
        )
        parts.append(f"<p class=legend>{keys}</p>")
    return f"<figure><figcaption>{escape(y_title)}</figcaption>{''.join(parts)}</figure>"


def bar(share: float, colour: Literal["c1", "c2", "c3", "c4"] = "c1") -> str:
    """A share from 0 to 1 as a bar."""
    return f'<span class=bar><i class="{colour}" style="width:{100 * share:.1f}%"></i></span>'


def _padded(low: float, high: float) -> tuple[float, float]:
    space = (high - low) * 0.12 or max(abs(high) * 0.1, 0.05)
    return low - space, high + space


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round values."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step)
    return [
        round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)
    ]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten, or the powers alone where that is enough."""
    found = [
        float(f"{step}e{power}")
        for power in range(math.floor(low), math.ceil(high) + 1)
        for step in ((1,) if high - low > 3 else (1, 2, 5))
    ]
    return [value for value in found if low <= math.log10(value) <= high]


def _short(value: float) -> str:
    """A number in four characters or so."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
