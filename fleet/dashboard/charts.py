"""ECharts options from figures. Pure; colours read well on light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fleet.dashboard import gaps
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
    # Beside a gap a point may stand alone: only its symbol shows it.
    alone = len(data) < 3 or any(value is None for _, value in data)
    return {"name": name, "type": "line", "showSymbol": alone, "smooth": False,
            "data": data, "lineStyle": {"width": 2}, **more}  # fmt: skip


def traffic(rows: Iterable[tuple[int, int, int]], until: float | None = None) -> dict[str, Any]:
    """Requests and errors a minute of the fleet; in a minute of which nobody told, none were.

    Args:
        rows: start, requests and errors of minutes.
        until: up to when devices are there.
    """
    counts: dict[int, gaps.Row] = {start: (asked, wrong) for start, asked, wrong in rows}
    found = gaps.filled(counts, dict.fromkeys(counts, 0.0), gaps.MINUTE, until)
    return _counts(found, "requests / min", "errors / min")


def requests(points: Sequence[Point], until: float | None = None) -> dict[str, Any]:
    """Requests and errors of a device, per span; broken where the device was away.

    Args:
        points: of the device.
        until: up to when it is there.
    """
    rows: dict[int, gaps.Row] = {}
    for point in points:
        asked, wrong = rows.get(point.start, (0, 0))
        rows[point.start] = (asked + point.figures.requests, wrong + point.figures.errors)
    step = points[0].resolution if points else gaps.MINUTE
    return _counts(gaps.filled(rows, gaps.covered(points), step, until), "requests", "errors")


def _counts(rows: Sequence[tuple[int, gaps.Row | None]], *names: str) -> dict[str, Any]:
    options = _base()
    asked, wrong = ([[t * 1000, row and row[n]] for t, row in rows] for n in range(2))
    options["series"] = [
        _line(names[0], asked, areaStyle={"opacity": 0.12}),
        _line(names[1], wrong, color="#d6453d"),
    ]
    return options


def latency(points: Sequence[Point], _until: float | None = None) -> dict[str, Any]:
    """p50 and p95 of the inference, milliseconds; broken where nothing was answered."""
    options = _base()
    series: dict[str, list[Any]] = {"p50 ms": [], "p95 ms": []}
    last: Point | None = None
    for point in points:
        found = point.figures.latency_us
        if found is None or not found.count:
            continue
        _break(series.values(), last, point)
        last = point
        for name, q in (("p50 ms", 0.5), ("p95 ms", 0.95)):
            value = found.quantile(q)
            series[name].append([point.start * 1000, round((value or 0) / 1000, 3)])
    options["series"] = [_line(name, data) for name, data in series.items()]
    return options


def _break(series: Iterable[list[Any]], last: Point | None, point: Point) -> None:
    """Ends the lines after `last` where a span without figures is before `point`."""
    if last is not None and point.start - last.start > 2 * last.resolution:
        for data in series:
            data.append([(last.start + last.resolution) * 1000, None])


def labels(points: Sequence[Point], _until: float | None = None, most: int = 7) -> dict[str, Any]:
    """Share of each label over time, the rarest together; broken where nothing was answered."""
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
    last: Point | None = None
    for point in points:
        total = sum(point.figures.labels.values())
        if not total:
            continue
        _break(series.values(), last, point)
        last = point
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


def gauges(points: Sequence[Point], until: float | None = None) -> dict[str, Any]:
    """Memory, temperature and processor of the device; broken where it was away.

    Args:
        points: of the device.
        until: up to when it is there: a gauge that moves far is told.
    """
    options = _base()
    wanted = (
        ("memory MB", "rss_bytes", 1e-6), ("temperature °C", "temperature_c", 1.0),
        ("processor %", "cpu_ratio", 100.0),
    )  # fmt: skip
    since = gaps.covered(points)
    options["series"] = [
        _line(name, _measured(points, since, gauge, factor, until))
        for name, gauge, factor in wanted
    ]
    return options


def _measured(
    points: Sequence[Point],
    since: Mapping[int, float],
    gauge: str,
    factor: float,
    until: float | None,
) -> list[Any]:
    found: list[Any] = []
    last: Point | None = None
    for point in (point for point in points if gauge in point.figures.gauges):
        if last is not None and gaps.was_away(last.start, since[point.start], point.resolution):
            found.append([(last.start + last.resolution) * 1000, None])
        found.append([point.start * 1000, round(point.figures.gauges[gauge][1] * factor, 2)])
        last = point
    if last is not None and until is not None and until > last.start + 2 * last.resolution:
        found.append([until * 1000, found[-1][1]])
    return found


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


def by_label(published: Published, most: int = 40) -> dict[str, Any]:
    """What the builder measured of each label, the worst first; bars, at most `most`."""
    options = _base(time=False, legend=False)
    measured = published.manifest.metrics.get("f1_per_class")
    rows = sorted(measured.items(), key=lambda row: row[1]) if isinstance(measured, dict) else []
    rows = [(label, value) for label, value in rows if isinstance(value, int | float)][:most]
    options["xAxis"] = {"type": "category", "data": [label[:40] for label, _ in rows],
                        "axisLabel": {"color": _TEXT, "rotate": 45,
                                      "hideOverlap": True}}  # fmt: skip
    options["yAxis"] |= {"name": "F1 %", "max": 100}
    options["grid"] |= {"top": 34}
    values = [round(value * 100, 2) for _, value in rows]
    options["series"] = [{"name": "F1 %", "type": "bar", "data": values}] if rows else []
    return options
