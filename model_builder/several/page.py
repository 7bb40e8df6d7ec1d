"""The report of a classifier of several labels as one self-contained page, and its model card."""

from __future__ import annotations

from html import escape
from typing import Any, Final

from contracts import codec
from model_builder.classify.details import percent, size_of, table
from model_builder.classify.report import STYLE
from model_builder.recipes.classify import Recipe

_MOST_LISTED: Final = 100


def html(recipe: Recipe, report: dict[str, Any]) -> str:
    """The whole page; nothing is loaded from elsewhere."""
    title = f"{escape(recipe.name)} {recipe.version}"
    data, found = report["data"], report["headline"]
    low, high = found["interval"]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        "<p class=soft>Report on a text classifier that gives a text several labels</p>",
        f"<h1>{title}</h1>",
        (
            f"<p class=soft>{data['labels']} labels, {data['train']:,} training texts with "
            f"{data['labels_a_text']:.2f} labels on average.</p>"
        ),
        (
            f"<div class=card><div class=big>{100 * found['micro_f1']:.1f} %</div>"
            f"<p>F1 over all labels ({100 * low:.1f} to {100 * high:.1f} %, with 95 % certainty), "
            f"measured {escape(found['how'])}: of the labels that it gives "
            f"{percent(found['micro_precision'])} are right, and of those that are right it gives "
            f"{percent(found['micro_recall'])}. All labels of a text are right for "
            f"{percent(found['exact'])} of the texts.</p></div>"
        ),
        _warnings(data["warnings"]),
        "<h2>Beside what you might use instead</h2>",
        _beside(report),
        "<h2>Every label</h2>",
        _labels(report["per_class"]),
        "<h2>Where it is wrong</h2>",
        _wrong(report["wrong"]),
        "<h2>For whoever builds it</h2>",
        _built(report),
        _machine_readable(report),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _warnings(found: list[str]) -> str:
    if not found:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in found)
    return f'<div class="card warn"><b>To look at</b><ul>{lines}</ul></div>'


def _beside(report: dict[str, Any]) -> str:
    peer = report["peer"]
    rows = [
        ["this model", report["headline"]],
        [f"{peer['name']}, from a chance of one half", peer["from_one_half"]],
        [f"{peer['name']}, with thresholds chosen as this model's are", peer["with_thresholds"]],
    ]
    cells = [
        [name, *(percent(row[key]) for key in ("micro_f1", "macro_f1", "exact"))]
        for name, row in rows
    ]
    head = ["", "F1 over all labels", "mean F1 of a label", "all labels of a text right"]
    return f"<div class=card>{table(head, cells)}</div>"


def _labels(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["label"],
            row["support"],
            row["given"],
            percent(row["precision"]),
            percent(row["recall"]),
            percent(row["f1"]),
            f"{row['threshold']:.2f}",
            row["chosen_by"],
        ]
        for row in sorted(rows, key=lambda row: (row["f1"], row["label"]))
    ]
    head = ["label", "texts", "given", "precision", "recall", "F1", "threshold", "chosen by"]
    return f"<div class=card>{table(head, cells)}</div>"


def _wrong(rows: list[dict[str, Any]]) -> str:
    cells = [
        [row["text"], ", ".join(row["labels"]) or "none", ", ".join(row["answer"]) or "none"]
        for row in rows[:_MOST_LISTED]
    ]
    return f"<div class=card>{table(['text', 'right', 'it gives'], cells)}</div>"


def _built(report: dict[str, Any]) -> str:
    size, cost, accuracy = report["size"], report["cost"], report["accuracy"]
    agreement = report["runtimes"] or {}
    facts = [
        ["model file", size_of(size["model_bytes"])],
        ["arena (TFLite Micro)", size_of(size["arena_bytes"])],
        ["latency p50 / p95, us", f"{cost['latency_p50_us']} / {cost['latency_p95_us']}"],
        ["F1 int8 / float", f"{accuracy['int8']:.4f} / {accuracy['float']:.4f}"],
        ["outputs equal in LiteRT and TFLite Micro", percent(agreement.get("equal"))],
        ["temperature", report["calibration"]["temperature"]],
        ["error of its chances (ECE)", f"{report['calibration']['ece']:.4f}"],
    ]
    tried = [
        [row["plan"], row["learned"], row["steps"], percent(row["validation"]), row["surprise"]]
        for row in report["auto"]["rounds"][0]
    ]
    head = ["plan", "learned", "steps", "F1 of a text", "surprise"]
    return (
        f"<div class=card>{table(['', ''], facts)}<p>{escape(report['auto']['why'])}</p>"
        f"{table(head, tried)}</div>"
    )


def _machine_readable(report: dict[str, Any]) -> str:
    """The report itself, for ``shoal compare``."""
    data = codec.encode(report).decode().replace("<", "\\u003c")
    return f'<script type="application/json" id=report>{data}</script>'


def card(recipe: Recipe, report: dict[str, Any]) -> str:
    """The model card, Markdown."""
    data, found, peer = report["data"], report["headline"], report["peer"]
    weakest = sorted(
        (row for row in report["per_class"] if row["support"]),
        key=lambda row: (row["f1"], row["label"]),
    )[:5]
    kind = "of which a text may have several, or none; int8"
    weak = ", ".join(f"{row['label']} (F1 {row['f1']:.2f})" for row in weakest)
    rows = (
        f"- Data: {data['train']} training, {data['validation']} validation, {data['test']} test "
        f"texts, {data['labels_a_text']:.2f} labels a text, language {data['language']}."
    )
    right = (
        f"- F1 over all labels {found['micro_f1']:.4f}, mean F1 of a label "
        f"{found['macro_f1']:.4f}, all labels of a text right {found['exact']:.4f}, "
        f"{found['how']}."
    )
    other = (
        f"- {peer['name']}: {peer['from_one_half']['micro_f1']:.4f}, with thresholds "
        f"{peer['with_thresholds']['micro_f1']:.4f}."
    )
    limits = (
        "It knows the labels it was trained on, in the language it was trained on; text unlike "
        "the training data may get wrong labels that look sure. Do not use it where a wrong label "
        "harms somebody."
    )
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        f"Text classifier with {data['labels']} labels, {kind}.",
        "",
        rows,
        right,
        other,
        f"- Weakest labels: {weak}.",
        "",
        limits,
        "",
    ]
    return "\n".join(lines)
