"""The report's second half: every figure, folded."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Final

from model_builder.classify.charts import Point, Series, bar, chart

_MOST_LISTED: Final = 100
"""Rows of a list on the page; the report's JSON has more."""


def percent(value: float | None) -> str:
    """A ratio in percent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def size_of(value: float | None) -> str:
    """Bytes in KiB or MiB."""
    if value is None:
        return "–"
    return f"{value / 1024:,.0f} KiB" if value < 4 << 20 else f"{value / (1 << 20):,.1f} MiB"


class Html(str):
    """A cell that is HTML already."""

    __slots__ = ()


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Numbers are right-aligned; everything but :class:`Html` is escaped."""

    def cell(value: Any, tag: str = "td") -> str:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        shown = value if isinstance(value, Html) else escape(str(value))
        return f"<{tag}{' class=n' if number else ''}>{shown}</{tag}>"

    top = "".join(cell(name, "th") for name in head) if any(head) else ""
    lines = [f"<div class=scroll><table>{f'<tr>{top}</tr>' if top else ''}"]
    lines += ["<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows]
    return "".join(lines) + "</table></div>"


def details(report: dict[str, Any]) -> Iterator[str]:
    """The folded sections."""
    yield _fold("Every label", _labels(report))
    yield _fold("Size, accuracy and what was tried", _candidates(report), opened=True)
    yield _fold("Accuracy before and after int8", _accuracy(report))
    yield _fold("Cost and boards", _cost(report))
    yield _fold("Data", _data(report["data"]))
    yield from _lists(report)
    if report["layers"]:
        rows = [[row["layer"], f"{100 * row['error']:.3f} %"] for row in report["layers"]]
        yield _fold("Quantisation error by layer", table(["layer", "error"], rows))


def _fold(title: str, inside: str, *, opened: bool = False) -> str:
    start = "<details open>" if opened else "<details>"
    return f"{start}<summary>{escape(title)}</summary>{inside}</details>" if inside else ""


def _labels(report: dict[str, Any]) -> str:
    counts = report["data"].get("rows_by_label", {})
    rows = [
        [
            r["label"],
            Html(f"{bar(r['f1'], 'c3' if r['f1'] >= 0.9 else 'c2' if r['f1'] >= 0.75 else 'c4')}"),
            r["f1"],
            r["precision"],
            r["recall"],
            r["support"],
            counts.get(r["label"], "–"),
        ]
        for r in sorted(report["per_class"], key=lambda r: (r["f1"], r["label"]))
    ]
    return table(["label", "", "F1", "precision", "recall", "judged", "trained"], rows)


def _candidates(report: dict[str, Any]) -> str:
    accuracy, size = report["accuracy"], report["size"]["model_bytes"]
    tried = [
        Point(
            row["model_bytes"] / 1024,
            row["validation_int8"],
            title=f"{row['student']}: {row['validation_int8']:.1%}, {row['model_bytes']} bytes, "
            f"{row['latency_p50_us']} us",
        )
        for row in report.get("search", {}).get("tried", [])
    ]
    own = [
        Point(size / 1024, accuracy["int8"], f"int8 {percent(accuracy['int8'])}"),
        Point(4 * size / 1024, accuracy["float"], f"float {percent(accuracy['float'])}"),
    ]
    series = [Series(tried, "c2", "tried, on validation")] if tried else []
    series.append(Series(own, "c1", "chosen, on the test split"))
    if report["teacher"].get("bytes") and "teacher" in accuracy:
        teacher = accuracy["teacher"]
        point = Point(report["teacher"]["bytes"] / 1024, teacher, f"teacher {percent(teacher)}")
        series.append(Series([point], "c3", "teacher"))
    parts = [chart(series, "size, KiB", "accuracy", logarithmic=True)]
    if search := report.get("search"):
        parts.append(f"<p>{escape(search['why'])}</p>")
        parts.append(_generic(search["tried"]))
    if auto := report.get("auto"):
        parts.append(f"<p>{escape(str(auto.get('why', '')))}</p>")
        for number, found in enumerate(auto.get("rounds", []), 1):
            parts.append(f"<h3>Round {number}</h3>{_generic(found)}")
    if students := [row for row in report.get("students", []) if isinstance(row, dict)]:
        plain = [
            {k: v for k, v in row.items() if not isinstance(v, (list, dict))} for row in students
        ]
        parts.append(f"<h3>Trainings</h3>{_generic(plain)}")
    return "".join(parts)


def _generic(rows: list[dict[str, Any]]) -> str:
    """Records of one kind as a table of whatever they hold."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return ""

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return "; ".join(map(str, value))
        return "–" if value is None else value

    head = [name.replace("_", " ") for name in names]
    return table(head, [[shown(row.get(name)) for name in names] for row in rows])


def _accuracy(report: dict[str, Any]) -> str:
    accuracy, headline = report["accuracy"], report["headline"]
    low, high = accuracy["int8_interval"]
    delta = accuracy["int8_minus_float_interval"]
    rows = [
        ["right as it answers", percent(headline["accuracy"]), headline["how"]],
        ["right if it always answered", percent(headline["without_threshold"]), headline["how"]],
        ["int8 on the test split", percent(accuracy["int8"]), f"{percent(low)} to {percent(high)}"],
        ["float on the test split", percent(accuracy["float"]), ""],
        [
            "int8 minus float",
            f"{100 * accuracy['int8_minus_float']:+.2f} points",
            f"{100 * delta[0]:+.2f} to {100 * delta[1]:+.2f}",
        ],
        ["int8 on validation", percent(accuracy["validation_int8"]), ""],
    ]
    if "teacher" in accuracy:
        rows.append(["teacher on the test split", percent(accuracy["teacher"]), ""])
    outside = report["out_of_scope"]
    auroc = "–" if outside["auroc"] is None else f"{outside['auroc']:.3f}"
    rows.append(["tells other text apart (AUROC)", auroc, ""])
    rows.append(["temperature", report["calibration"]["temperature"], ""])
    return table(["", "", ""], rows)


def _cost(report: dict[str, Any]) -> str:
    size, cost, bundle = report["size"], report["cost"], report["bundle"]
    facts = [
        ["model", size_of(size["model_bytes"])],
        ["arena (TensorFlow Lite Micro)", size_of(size["arena_bytes"])],
        ["LiteRT against TensorFlow Lite Micro", _agreement(report["runtimes"])],
        ["memory that loading and running adds", size_of(cost["rss_bytes"])],
        ["latency p50 / p95", f"{cost['latency_p50_us']} / {cost['latency_p95_us']} µs"],
        ["operators", ", ".join(bundle["operators"])],
        ["parameters", f"{bundle['parameters']:,}"],
        ["seconds", ", ".join(f"{k} {v}" for k, v in report.get("seconds", {}).items())],
    ]
    boards = [[name, "; ".join(why) or "yes"] for name, why in report["boards"].items()]
    return table(["", ""], facts) + table(["board", "fits"], boards)


def _agreement(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    return (
        f"at most {found['steps']} step(s) apart on {found['texts']} texts, "
        f"{percent(found['equal'])} of outputs equal, same label on "
        f"{percent(found['same_label'])} of texts"
    )


def _data(data: dict[str, Any]) -> str:
    plain = {k: v for k, v in data.items() if not isinstance(v, (list, dict))}
    return table(["what", "value"], [[k.replace("_", " "), v] for k, v in plain.items()])


def _lists(report: dict[str, Any]) -> Iterator[str]:
    data = report["data"]
    yield _listed(
        "What it gets wrong",
        ["text", "label", "answer", "confidence"],
        [[r["text"], r["label"], r["answer"], r["confidence"]] for r in report["wrong"]],
        len(report["wrong"]),
    )
    yield _listed(
        "Rows that could not be used",
        ["file", "where", "what is wrong"],
        [[r["file"], r["place"], r["what"]] for r in data.get("left_out", [])],
        data.get("rows_left_out", 0),
    )
    yield _listed(
        "Texts with more than one label",
        ["text", "where"],
        [[r["text"], "; ".join(r["places"])] for r in data.get("conflicts", [])],
        len(data.get("conflicts", [])),
    )
    yield _listed(
        "Rows that are there more than once",
        ["text", "where", "first"],
        [[r["text"], r["place"], r["same_as"]] for r in data.get("duplicate_rows", [])],
        data.get("duplicates", 0),
    )
    yield _listed(
        "Labels with a single text",
        ["label", "text", "where"],
        [[r["label"], r["text"], r["place"]] for r in data.get("lonely_labels", [])],
        len(data.get("lonely_labels", [])),
    )
    yield _listed(
        "Labels that may be wrong",
        ["where", "text", "label", "rather"],
        [
            [r.get("place", ""), r["text"], r["label"], r["suggestion"]]
            for r in data["suspected_label_noise"]
        ],
        len(data["suspected_label_noise"]),
    )


def _listed(title: str, head: list[str], rows: list[list[Any]], count: int) -> str:
    if not rows:
        return ""
    more = (
        f"<p class=soft>The first {_MOST_LISTED}; the JSON beside this page has more.</p>"
        if count > _MOST_LISTED
        else ""
    )
    return _fold(f"{title} ({count})", more + table(head, rows[:_MOST_LISTED]))
