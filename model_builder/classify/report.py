"""The report as one self-contained page: first for whoever decides, then for whoever builds.

No script and nothing loaded from elsewhere; it follows the reader's light or dark.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final

import numpy as np

from contracts import codec
from model_builder.classify import advice, described
from model_builder.classify.charts import Point, Series, chart
from model_builder.classify.details import details, percent, size_of, table
from model_builder.recipes.classify import Recipe

STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfcfd;--card:#fff;--ink:#16202b;--soft:#5b6b7c;--line:#e1e7ee;
--c1:#2563eb;--c2:#d97706;--c3:#059669;--c4:#dc2626;--note:#fff6e3;--noteline:#f0c36d}
@media(prefers-color-scheme:dark){:root{--bg:#11161c;--card:#1a212a;--ink:#e6ecf3;--soft:#97a6b6;
--line:#2c3743;--c1:#6ea0ff;--c2:#f0a84b;--c3:#3ecf9a;--c4:#ff7b72;--note:#2b2416;--noteline:#7a5d20}}
*{box-sizing:border-box}body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
background:var(--bg);color:var(--ink);max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0}h2{font-size:1.2rem;margin:2.4rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.5rem 0}.soft{color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem 1.2rem;
margin:.8rem 0}.two{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr))}
.two>.card{margin:0}.tiles{display:grid;gap:.6rem;
grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));margin:1rem 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.7rem .9rem}
.tile b{display:block;
font-size:1.35rem;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:.86rem}
.big{font-size:2.6rem;font-weight:700;line-height:1.1;letter-spacing:-.02em}
.parts{display:flex;height:14px;border-radius:7px;overflow:hidden;margin:.8rem 0 .3rem;gap:2px}
.parts i{display:block;min-width:2px}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.c4{--c:var(--c4)}.parts i,.bar i,.legend i{background:var(--c)}
.legend{font-size:.86rem;color:var(--soft);display:flex;gap:1rem;flex-wrap:wrap;margin:.2rem 0}
.legend i{display:inline-block;width:.7rem;height:.7rem;border-radius:3px;margin-right:.35rem}
.bar{display:inline-block;width:5rem;height:8px;border-radius:4px;background:var(--line);
vertical-align:middle}.bar i{display:block;height:8px;border-radius:4px}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}table{border-collapse:collapse;
font-size:.92rem;width:100%}td,th{padding:.3rem .6rem;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:600;font-size:.84rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{overflow-wrap:anywhere}.warn{background:var(--note);border:1px solid var(--noteline)}
.warn li{margin:.2rem 0}ul{padding-left:1.2rem;margin:.4rem 0}li{margin:.15rem 0}
details{border-top:1px solid var(--line);padding:.6rem 0}summary{cursor:pointer;font-weight:600}
figure{margin:.6rem 0}figcaption{color:var(--soft);font-size:.86rem}svg.chart{width:100%;
height:auto;display:block}svg .grid{stroke:var(--line)}svg .tick,svg .axis{fill:var(--soft);
font-size:12px}svg .label{fill:var(--ink);font-size:12.5px}svg .dot{fill:var(--c)}
svg .line{fill:none;stroke:var(--c);stroke-width:2.5}svg .diagonal{stroke:var(--soft);
stroke-dasharray:4 5}.matrix{width:auto;font-size:.8rem}.matrix td{border:0;padding:0}
.matrix td b{display:block;min-width:1.9rem;height:1.9rem;line-height:1.9rem;text-align:center;
font-weight:500;border-radius:4px;margin:1px;font-variant-numeric:tabular-nums}
.matrix th{border:0;padding:.1rem .4rem;font-weight:500;white-space:nowrap}
.matrix thead th{height:9rem;vertical-align:bottom;padding:0}.matrix thead span{display:block;
writing-mode:vertical-rl;transform:rotate(180deg);max-height:9rem;overflow:hidden;margin:0 auto}
.matrix tbody th{text-align:right;max-width:11rem;overflow:hidden;text-overflow:ellipsis}
.matrix .hit{background:color-mix(in srgb,var(--c3) var(--p),var(--card))}
.matrix .miss{background:color-mix(in srgb,var(--c4) var(--p),var(--card))}
.chips{display:flex;flex-wrap:wrap;gap:.35rem;margin:.4rem 0}.chips span{border:1px solid
var(--line);border-radius:99px;padding:.05rem .6rem;font-size:.88rem;overflow-wrap:anywhere}
@media(max-width:480px){svg .tick,svg .axis,svg .label{font-size:20px}
body{font-size:15px;padding:1rem .7rem 3rem}.big{font-size:2.1rem}
.card{padding:.8rem .9rem}td,th{padding:.25rem .4rem}}
@media print{details>*{display:block}}
"""

_MOST_CELLS: Final = 32
"""Labels of the confusion table; with more, those that are confused most."""

_LANGUAGES: Final = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "zh": "Chinese",
}
_CHIPS: Final = 24


def html(recipe: Recipe, report: dict[str, Any]) -> str:
    """The whole page; nothing is loaded from elsewhere."""
    title = f"{escape(recipe.name)} {recipe.version}"
    data = report["data"]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<p class=soft>Report on a text classifier</p><h1>{title}</h1>",
        (
            f"<p class=soft>{data['labels']} labels, {data['train']:,} training texts"
            f"{escape(_language(data))}. Taught by {escape(report['teacher']['name'])}.</p>"
        ),
        _headline(report),
        _warnings(data["warnings"]),
        _tiles(report),
        "<h2>What it is good for</h2><div class=two>",
        _strong(report),
        _weak(report),
        "</div>",
        described.page(report),
        "<h2>What it confuses</h2>",
        _confusions(report),
        _matrix(report),
        "<h2>What to label next</h2>",
        _next(report),
        _curve(report),
        "<h2>How sure it is</h2>",
        _sureness(report),
        "<h2>For whoever builds it</h2>",
        *details(report),
        _machine_readable(report),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _language(data: dict[str, Any]) -> str:
    code = data["language"]
    return "" if code == "und" else f", mostly {_LANGUAGES.get(code, f'in the language {code}')}"


def _headline(report: dict[str, Any]) -> str:
    found = report["headline"]
    low, high = found["interval"]
    right, wrong, unknown = found["accuracy"], found["wrong"], found["unknown"]
    bits = [("c3", right, "right"), ("c4", wrong, "wrong"), ("c2", unknown, "unknown")]
    strips = "".join(f'<i class={c} style="flex:{v:.4f}"></i>' for c, v, _ in bits if v)
    keys = "".join(f"<span><i class={c}></i>{name} {100 * v:.1f} %</span>" for c, v, name in bits)
    return (
        f"<div class=card><div class=big>{100 * right:.1f} %</div>"
        f"<p>of texts get the right label ({100 * low:.1f} to {100 * high:.1f} %, with 95 % "
        f"certainty), measured {escape(found['how'])}.</p>"
        f"<div class=parts>{strips}</div><p class=legend>{keys}</p>"
        f"<p class=soft>{_sentence(report)}</p></div>"
    )


def _sentence(report: dict[str, Any]) -> str:
    found, outside = report["headline"], report["out_of_scope"]
    if not outside["threshold"]:
        return f"It answers every text: the threshold is {escape(outside['chosen_by'])}."
    return (
        f"Below a confidence of {outside['threshold']:.2f} it answers <i>unknown</i>. Made to "
        f"answer always, it is right on {100 * found['without_threshold']:.1f} %."
    )


def _warnings(lines: list[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="card warn"><b>Look at this first</b><ul>{items}</ul></div>'


def _tiles(report: dict[str, Any]) -> str:
    size, cost, accuracy = report["size"], report["cost"], report["accuracy"]
    tiles = [
        (size_of(size["model_bytes"]), "model file"),
        (f"{cost['latency_p50_us']:.0f} µs", "for one text, on this machine"),
        (size_of(size["arena_bytes"]), "memory on a microcontroller"),
        (percent(accuracy["int8"]), "on the test split, as shipped"),
        (percent(accuracy["float"]), "the same before int8"),
    ]
    if "teacher" in accuracy:
        tiles.append((percent(accuracy["teacher"]), "its teacher"))
    cells = "".join(
        f"<div class=tile><b>{value}</b><span>{name}</span></div>" for value, name in tiles
    )
    return f"<div class=tiles>{cells}</div>"


def _chips(labels: list[str]) -> str:
    shown = "".join(f"<span>{escape(label)}</span>" for label in labels[:_CHIPS])
    more = f"<span>and {len(labels) - _CHIPS} more</span>" if len(labels) > _CHIPS else ""
    return f"<div class=chips>{shown}{more}</div>"


def _strong(report: dict[str, Any]) -> str:
    labels = advice.strong(report)
    said = f"{len(labels)} of {report['data']['labels']} labels with an F1 of 0.9 or more."
    return f"<div class=card><b>Knows well</b><p class=soft>{said}</p>{_chips(labels)}</div>"


def _weak(report: dict[str, Any]) -> str:
    labels = advice.weak(report)
    said = f"{len(labels)} labels with an F1 below 0.75." if labels else "No label is below 0.75."
    return f"<div class=card><b>Do not rely on</b><p class=soft>{said}</p>{_chips(labels)}</div>"


def _confusions(report: dict[str, Any]) -> str:
    found = advice.confusions(report)
    if not found:
        return "<p>Nothing: every text of the measurement got its label.</p>"
    rows = [[c.label, c.answer, c.times, f"{100 * c.times / max(1, c.of):.0f} %"] for c in found]
    return (
        "<div class=card>"
        + table(["texts of", "are taken for", "times", "of its texts"], rows)
        + "</div>"
    )


def _matrix(report: dict[str, Any]) -> str:
    """Counts with the labels that are taken for one another side by side."""
    labels = report["confusion"]["labels"]
    matrix = np.array(report["confusion"]["matrix"])
    order = advice.by_cluster(matrix)
    note = (
        "Rows are true labels, columns answers; labels that are taken for one another stand "
        "together."
    )
    if len(labels) > _MOST_CELLS:
        off = matrix - np.diag(matrix.diagonal())
        busy = np.argsort(-(off.sum(axis=0) + off.sum(axis=1)), kind="stable")[:_MOST_CELLS]
        order = np.array([i for i in order if i in set(busy.tolist())])
        note += f" The {_MOST_CELLS} labels with most confusions of {len(labels)}."
    head = "".join(f"<th><span>{escape(labels[i])}</span></th>" for i in order)
    rows = []
    for i in order:
        total = max(1, int(matrix[i].sum()))
        cells = []
        for j in order:
            count = int(matrix[i, j])
            kind = "hit" if i == j else "miss"
            share = 0 if not count else 12 + 68 * count / total
            title = f"{labels[i]} answered as {labels[j]}: {count} of {total}"
            cells.append(
                f'<td><b class={kind} style="--p:{share:.0f}%" title="{escape(title)}">'
                f"{count or ''}</b></td>"
            )
        rows.append(f"<tr><th>{escape(labels[i])}</th>{''.join(cells)}</tr>")
    return (
        f"<div class=card><p class=soft>{note}</p><div class=scroll><table class=matrix>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _next(report: dict[str, Any]) -> str:
    wishes = advice.label_next(report)
    parts = []
    if wishes:
        parts.append(table(["label", "why"], [[w.label, w.why] for w in wishes]))
    noise = report["data"]["suspected_label_noise"]
    if noise:
        parts.append(
            f"<h3>Look at these labels</h3><p class=soft>{len(noise)} rows whose label a model "
            "trained without them finds very unlikely. Some are wrong, and each one that is put "
            "right helps twice.</p>"
        )
        parts.append(
            table(
                ["where", "text", "label", "rather"],
                [[r.get("place", ""), r["text"], r["label"], r["suggestion"]] for r in noise[:10]],
            )
        )
    return f"<div class=card>{''.join(parts)}</div>" if parts else ""


def _curve(report: dict[str, Any]) -> str:
    found = report.get("learning_curve") or {}
    points = found.get("points") or []
    if len(points) < 2:
        return ""
    gain = found["doubling"]
    if gain is None:
        said = "There are too few points to say what more rows would bring."
    elif gain < 0.003:
        said = "More rows of the same kind would bring next to nothing."
    else:
        said = f"Twice the rows would bring about {100 * gain:.1f} points."
    line = [Point(p["rows"], p["accuracy"], percent(p["accuracy"])) for p in points]
    return (
        f"<div class=card><b>Would more rows help?</b><p>{said} <span class=soft>Judged by the "
        "slope of a simple model's curve (TF-IDF), not by its height.</span></p>"
        + chart(
            [Series(line, "c1", line=True)],
            "training rows",
            "accuracy of a simple model",
            logarithmic=True,
        )
        + "</div>"
    )


def _sureness(report: dict[str, Any]) -> str:
    calibration, outside = report["calibration"], report["out_of_scope"]
    rows = calibration["reliability"]
    points = [Point(r[0], r[1], title=f"{r[2]} texts: {r[1]:.0%} right") for r in rows]
    interval = outside["threshold_interval"]
    said = f", 95 % interval {interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
    facts = [
        ["threshold", f"{outside['threshold']}{said}"],
        ["chosen by", f"{outside['chosen_by']}, on {outside['chosen_on']} rows"],
        ["turns into unknown, of good texts", percent(outside["refused_in_scope"])],
        ["turns into unknown, of other texts", percent(outside["refused_out_of_scope"])],
        ["error of its confidence (ECE)", f"{calibration['ece']:.3f}"],
    ]
    return (
        "<div class=card><p>When it says 80 %, is it right 8 times of 10? On the dashed line it "
        "is; above it is better than it says.</p>"
        + chart(
            [Series(points, "c1", line=True)],
            "confidence it gives",
            "how often it is right",
            diagonal=True,
        )
        + table(["", ""], facts)
        + "</div>"
    )


def _machine_readable(report: dict[str, Any]) -> str:
    """The report itself, for ``shoal compare``."""
    data = codec.encode(report).decode().replace("<", "\\u003c")
    return f'<script type="application/json" id=report>{data}</script>'
