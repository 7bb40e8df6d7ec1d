"""ECharts options from figures. Pure; colours read well on light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from fleet.store.bundles import Published
from fleet.store.telemetry import Point

_TEXT: Final = "#7b8c95"
_LINE: Final = "rgba(123,140,149,.25)"
COLOURS: Final = [
    "#1e93a6", "#e08a3c", "#6a78d1", "#4aa564", "#c9527b", "#a0893c", "#4b9bd8", "#8d6bb8",
]  # fmt: skip


def _base(*, time: bool = True, legend: bool = True) -> dict[str, Any]:
    return {
        "color": COLOURS,
        "backgroundColor": "transparent",
        "animation": False,
        "textStyle": {"color": _TEXT},
        "grid": {"left": 8, "right": 14, "top": 34 if legend else 14, "bottom": 6,
                 "containLabel": True},
        "legend": {"show": legend, "top": 0, "left": 0, "icon": "roundRect", "itemWidth": 10,
                   "itemHeight": 10, "textStyle": {"color": _TEXT}, "type": "scroll"},
        # As text, never as HTML: names come from devices.
        "tooltip": {"trigger": "axis" if time else "item", "renderMode": "richText",
                    "confine": True},
        "xAxis": {"type": "time", "axisLine": {"lineStyle": {"color": _LINE}},
                  "axisLabel": {"color": _TEXT, "hideOverlap": True},
                  "splitLine": {"show": False}},
        "yAxis": {"type": "value", "axisLabel": {"color": _TEXT},
                  "splitLine": {"lineStyle": {"color": _LINE}}, "nameTextStyle": {"color": _TEXT}},
    }  # fmt: skip


def span(options: dict[str, Any], since: float, until: float) -> dict[str, Any]:
    """Fixes the axis of time, seconds since the epoch; says so when there is nothing on it."""
    options["xAxis"] |= {"min": since * 1000, "max": until * 1000}
    shown = any(series["data"] for series in options["series"])
    options["title"] = {
        "show": not shown, "text": "No figures yet", "left": "center", "top": "middle",
        "textStyle": {"color": _TEXT, "fontSize": 13, "fontWeight": "normal"},
    }  # fmt: skip
    return options


def _line(name: str, data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "line", "showSymbol": len(data) < 3, "smooth": False,
            "data": data, "lineStyle": {"width": 2}, **more}  # fmt: skip


def traffic(rows: Iterable[tuple[int, int, int]]) -> dict[str, Any]:
    """Requests and errors a minute of the fleet."""
    found = list(rows)
    options = _base()
    options["series"] = [
        _line("requests / min", [[t * 1000, n] for t, n, _ in found], areaStyle={"opacity": 0.12}),
        _line("errors / min", [[t * 1000, e] for t, _, e in found], color="#d6453d"),
    ]
    return options


def requests(points: Sequence[Point]) -> dict[str, Any]:
    """Requests and errors of a device, per span."""
    options = _base()
    rows: dict[int, list[int]] = {}
    for point in points:
        row = rows.setdefault(point.start, [0, 0])
        row[0] += point.figures.requests
        row[1] += point.figures.errors
    options["series"] = [
        _line("requests", [[t * 1000, r[0]] for t, r in sorted(rows.items())],
              areaStyle={"opacity": 0.12}),
        _line("errors", [[t * 1000, r[1]] for t, r in sorted(rows.items())], color="#d6453d"),
    ]  # fmt: skip
    return options


def latency(points: Sequence[Point]) -> dict[str, Any]:
    """p50 and p95 of the inference, milliseconds."""
    options = _base()
    series: dict[str, list[Any]] = {"p50 ms": [], "p95 ms": []}
    for point in points:
        found = point.figures.latency_us
        if found is None or not found.count:
            continue
        for name, q in (("p50 ms", 0.5), ("p95 ms", 0.95)):
            value = found.quantile(q)
            series[name].append([point.start * 1000, round((value or 0) / 1000, 3)])
    options["series"] = [_line(name, data) for name, data in series.items()]
    return options


def labels(points: Sequence[Point], most: int = 7) -> dict[str, Any]:
    """Share of each label over time; the rarest together."""
    options = _base()
    options["yAxis"] |= {"max": 100, "axisLabel": {"color": _TEXT, "formatter": "{value} %"}}
    whole: dict[str, int] = {}
    for point in points:
        for label, count in point.figures.labels.items():
            whole[label] = whole.get(label, 0) + count
    shown = sorted(whole, key=lambda label: -whole[label])[:most]
    series: dict[str, list[Any]] = {label: [] for label in shown}
    if len(whole) > most:
        series["other"] = []
    for point in points:
        total = sum(point.figures.labels.values())
        if not total:
            continue
        rest = 100.0
        for label in shown:
            share = 100 * point.figures.labels.get(label, 0) / total
            rest -= share
            series[label].append([point.start * 1000, round(share, 2)])
        if "other" in series:
            series["other"].append([point.start * 1000, round(max(rest, 0), 2)])
    options["series"] = [
        _line(name[:40], data, stack="labels", areaStyle={"opacity": 0.5}, lineStyle={"width": 0})
        for name, data in series.items()
    ]
    return options


def gauges(points: Sequence[Point]) -> dict[str, Any]:
    """Memory, temperature and processor of the device."""
    options = _base()
    wanted = (
        ("memory MB", "rss_bytes", 1e-6), ("temperature °C", "temperature_c", 1.0),
        ("processor %", "cpu_ratio", 100.0),
    )  # fmt: skip
    options["series"] = [
        _line(
            name,
            [
                [p.start * 1000, round(p.figures.gauges[gauge][1] * factor, 2)]
                for p in points
                if gauge in p.figures.gauges
            ],
        )
        for name, gauge, factor in wanted
    ]
    return options


def accuracy_of(published: Published) -> float | None:
    """What the builder measured on the test split: accuracy of the int8 model, or exact match."""
    metrics = published.manifest.metrics
    for key in ("accuracy_int8", "exact_match", "accuracy", "accuracy_float"):
        value = metrics.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def models(published: Iterable[Published]) -> dict[str, Any]:
    """Size against accuracy, one series a bundle name."""
    options = _base(time=False)
    options["xAxis"] = {"type": "log", "name": "kB", "nameLocation": "middle", "nameGap": 26,
                        "axisLabel": {"color": _TEXT}, "nameTextStyle": {"color": _TEXT},
                        "splitLine": {"lineStyle": {"color": _LINE}}}  # fmt: skip
    options["yAxis"] |= {"name": "accuracy %", "scale": True}
    options["grid"] |= {"bottom": 24, "top": 48}
    series: dict[str, list[Any]] = {}
    for one in published:
        accuracy = accuracy_of(one)
        if accuracy is not None:
            kilobytes = round(max(one.manifest.total_bytes, 1) / 1000, 2)
            row = {"name": one.ref.version, "value": [kilobytes, round(accuracy * 100, 2)]}
            series.setdefault(one.ref.name, []).append(row)
    options["series"] = [
        {"name": name, "type": "scatter", "symbolSize": 14, "data": data,
         "label": {"show": True, "formatter": "{b}", "position": "right", "color": _TEXT}}
        for name, data in sorted(series.items())
    ]  # fmt: skip
    return options
