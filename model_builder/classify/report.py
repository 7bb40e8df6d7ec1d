"""The report as one self-contained page, and the model card that travels in the bundle."""

from __future__ import annotations

import base64
import io
import math
from html import escape
from typing import Any

import numpy as np

from model_builder.recipes.classify import Recipe

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:#1b2733}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d5dde5}
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .7rem;text-align:left;
border-bottom:1px solid #e6ebf0}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
img{max-width:100%}.tiles{display:flex;gap:1rem;flex-wrap:wrap}.tile{background:#f2f6fa;
border-radius:8px;padding:.6rem 1rem}.tile b{display:block;font-size:1.5rem}
.warn{background:#fff4dc;padding:.5rem 1rem;border-radius:8px}
"""


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 1024:,.1f} KiB"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    """Numbers are right-aligned; everything is escaped."""

    def cell(value: Any, tag: str = "td") -> str:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return f"<{tag}{' class=n' if number else ''}>{escape(str(value))}</{tag}>"

    lines = ["<table><tr>" + "".join(cell(name, "th") for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows]
    return "".join(lines) + "</table>"


def _figure(draw: Any, width: float = 7.5, height: float = 4.2) -> str:
    """A matplotlib figure as an inline PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{encoded}">'


def _confusion(report: dict[str, Any]) -> str:
    labels = report["confusion"]["labels"]
    matrix = np.array(report["confusion"]["matrix"], np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    def draw(axes: Any) -> None:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.figure.colorbar(image, shrink=0.7, label="share of the true label")
        axes.set_xlabel("answer")
        axes.set_ylabel("true label")
        if len(labels) <= 60:
            size = 9 if len(labels) <= 20 else 5
            axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
            axes.set_yticks(range(len(labels)), labels, fontsize=size)

    side = 7.5 if len(labels) > 12 else 5.0
    return _figure(draw, side, side)


def _size_accuracy(report: dict[str, Any]) -> str:
    accuracy, size = report["accuracy"], report["size"]["model_bytes"]
    points = [("int8", size, accuracy["int8"], "o"), ("float", 4 * size, accuracy["float"], "s")]
    teacher = report["teacher"].get("bytes")
    if teacher and "teacher" in accuracy:
        points.append(("teacher", teacher, accuracy["teacher"], "*"))

    def draw(axes: Any) -> None:
        for row in report.get("search", {}).get("tried", []):
            axes.plot(row["model_bytes"] / 1024, 100 * row["validation_int8"], ".", color="#9ab")
        for name, x, y, marker in points:
            axes.plot(x / 1024, 100 * y, marker, markersize=10, label=f"{name} {100 * y:.1f} %")
        axes.set_xscale("log")
        axes.set_xlabel("size, KiB")
        axes.set_ylabel("accuracy on the test split, %")
        axes.grid(alpha=0.3)
        axes.legend()

    return _figure(draw)


def _reliability(report: dict[str, Any]) -> str:
    rows = report["calibration"]["reliability"]

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], "--", color="#999")
        axes.plot([r[0] for r in rows], [r[1] for r in rows], "o-")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.grid(alpha=0.3)

    return _figure(draw, 4.5, 4)


def _pareto(search: dict[str, Any]) -> str:
    """Accuracy against bytes and against latency, with the choice and the floor."""
    tried = search["tried"]

    def against(key: str, title: str, scale: float) -> str:
        def draw(axes: Any) -> None:
            for row in tried:
                fits = not row["reasons"]
                axes.plot(
                    row[key] / scale,
                    100 * row["validation_int8"],
                    "o" if fits else "x",
                    color="#1565c0" if fits else "#b71c1c",
                )
                if row["student"] == search["chosen"]:
                    axes.annotate(
                        "chosen",
                        (row[key] / scale, 100 * row["validation_int8"]),
                        xytext=(5, -12),
                        textcoords="offset points",
                    )
            axes.axhline(100 * search["floor"], color="#888", linestyle=":")
            axes.set_xlabel(title)
            axes.set_ylabel("int8 accuracy on validation, %")
            axes.grid(alpha=0.3)

        return _figure(draw, 5.5, 3.8)

    return against("model_bytes", "model, KiB", 1024) + against(
        "latency_p50_us", "latency of one text on this machine, us", 1
    )


def html(recipe: Recipe, report: dict[str, Any]) -> str:
    """The whole report as one page; nothing is loaded from elsewhere."""
    accuracy, data, size = report["accuracy"], report["data"], report["size"]
    cost, calibration, outside = report["cost"], report["calibration"], report["out_of_scope"]
    tiles = [
        ("int8", _percent(accuracy["int8"])),
        ("float", _percent(accuracy["float"])),
        ("teacher", _percent(accuracy.get("teacher"))),
        ("model", _bytes(size["model_bytes"])),
        ("arena", _bytes(size["arena_bytes"])),
        ("latency", f"{cost['latency_p50_us']:.0f} us"),
    ]
    low, high = accuracy["int8_interval"]
    delta = accuracy["int8_minus_float_interval"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(recipe.name)} {recipe.version}</title><style>{_STYLE}</style>",
        f"<h1>{escape(recipe.name)} {recipe.version}</h1><div class=tiles>",
        *(f"<div class=tile><b>{value}</b>{name}</div>" for name, value in tiles),
        "</div>",
        (
            f"<p>int8 accuracy on {data['test']} test texts: {_percent(accuracy['int8'])} "
            f"(95 % interval {_percent(low)} to {_percent(high)}); int8 minus float "
            f"{100 * accuracy['int8_minus_float']:+.2f} points "
            f"({100 * delta[0]:+.2f} to {100 * delta[1]:+.2f}).</p>"
        ),
    ]
    if data["warnings"]:
        lines = "<br>".join(escape(line) for line in data["warnings"])
        parts.append(f"<p class=warn>{lines}</p>")
    if "search" in report:
        search = report["search"]
        parts += [
            "<h2>Search</h2>",
            f"<p>{escape(search['why'])}</p>",
            _pareto(search),
            _table(
                ["student", "int8 on validation", "model bytes", "arena", "us", "does not fit"],
                [
                    [
                        row["student"],
                        _percent(row["validation_int8"]),
                        row["model_bytes"],
                        row["arena_bytes"] or "–",
                        row["latency_p50_us"],
                        "; ".join(row["reasons"]),
                    ]
                    for row in search["tried"]
                ],
            ),
        ]
    plain = {k: v for k, v in data.items() if not isinstance(v, list)}
    parts += [
        "<h2>Size and accuracy</h2>",
        _size_accuracy(report),
        "<h2>Data</h2>",
        _table(["what", "value"], [[k.replace("_", " "), v] for k, v in plain.items()]),
        "<h2>Confusions</h2>",
        _confusion(report),
        _table(["true label", "answer", "times"], _largest_confusions(report)),
        "<h2>Calibration</h2>",
        (
            f"<p>Expected calibration error {calibration['ece']:.4f} at temperature "
            f"{calibration['temperature']}. Answers below {outside['threshold']} are "
            f"<i>unknown</i> (chosen by {escape(outside['chosen_by'])}): "
            f"{_percent(outside['refused_in_scope'])} of in-scope and "
            f"{_percent(outside['refused_out_of_scope'])} of out-of-scope test text; "
            f"AUROC {outside['auroc'] if outside['auroc'] is not None else '–'}.</p>"
        ),
        _reliability(report),
        "<h2>Cost</h2>",
        _table(
            ["what", "value"],
            [
                ["model", _bytes(size["model_bytes"])],
                ["arena (TensorFlow Lite Micro)", _bytes(size["arena_bytes"])],
                ["LiteRT against TensorFlow Lite Micro", _agreement(report["runtimes"])],
                ["memory that loading and running adds", _bytes(cost["rss_bytes"])],
                ["latency p50 / p95, us", f"{cost['latency_p50_us']} / {cost['latency_p95_us']}"],
                ["operators", ", ".join(report["bundle"]["operators"])],
                ["parameters", report["bundle"]["parameters"]],
            ],
        ),
        _table(
            ["board", "fits"],
            [[name, "; ".join(why) or "yes"] for name, why in report["boards"].items()],
        ),
    ]
    if report["layers"]:
        rows = [[row["layer"], round(100 * row["error"], 3)] for row in report["layers"]]
        parts += ["<h2>Quantisation error by layer, %</h2>", _table(["layer", "error"], rows)]
    parts += [
        "<h2>Per label</h2>",
        _table(
            ["label", "precision", "recall", "F1", "texts"],
            [
                [r["label"], r["precision"], r["recall"], r["f1"], r["support"]]
                for r in report["per_class"]
            ],
        ),
        "<h2>What it gets wrong</h2>",
        _table(
            ["text", "label", "answer", "confidence"],
            [[r["text"], r["label"], r["answer"], r["confidence"]] for r in report["wrong"]],
        ),
    ]
    if data["suspected_label_noise"]:
        noise = [[r["text"], r["label"], r["suggestion"]] for r in data["suspected_label_noise"]]
        parts += ["<h2>Labels to look at</h2>", _table(["text", "label", "suggestion"], noise)]
    return "\n".join(parts) + "\n"


def _agreement(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    return (
        f"at most {found['steps']} step(s) apart on {found['texts']} texts, "
        f"{_percent(found['equal'])} of outputs equal, same label on "
        f"{_percent(found['same_label'])} of texts"
    )


def _largest_confusions(report: dict[str, Any], most: int = 15) -> list[list[Any]]:
    labels = report["confusion"]["labels"]
    matrix = np.array(report["confusion"]["matrix"])
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:most]
    places = [np.unravel_index(i, matrix.shape) for i in order]
    return [[labels[int(r)], labels[int(c)], int(matrix[r, c])] for r, c in places if matrix[r, c]]


def card(recipe: Recipe, report: dict[str, Any]) -> str:
    """The model card, Markdown (M. Mitchell et al., "Model Cards", 2019)."""
    accuracy, data, outside = report["accuracy"], report["data"], report["out_of_scope"]
    weakest = sorted(
        (r for r in report["per_class"] if r["support"]), key=lambda r: (r["f1"], r["label"])
    )[:5]
    teacher = accuracy.get("teacher", math.nan)
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        f"Text classifier with {data['labels']} labels, {recipe.student.family} student, int8.",
        "",
        (
            f"- Data: {data['train']} training, {data['validation']} validation, "
            f"{data['test']} test texts (source: {recipe.data.source}, "
            f"language {recipe.data.language})."
        ),
        f"- Teacher: {report['teacher']['name']}.",
        (
            f"- Accuracy on the test split: int8 {accuracy['int8']:.4f}, float "
            f"{accuracy['float']:.4f}, teacher {teacher:.4f}."
        ),
        f"- Expected calibration error: {report['calibration']['ece']:.4f}.",
        f"- Below confidence {outside['threshold']} the answer is `unknown`.",
        "- Weakest labels: " + ", ".join(f"{r['label']} (F1 {r['f1']:.2f})" for r in weakest) + ".",
        "",
        (
            "It knows the labels it was trained on, in the language it was trained on; text unlike "
            "the training data may get a confident wrong answer. Do not use it where a wrong label "
            "harms somebody."
        ),
        "",
    ]
    return "\n".join(lines)
