"""Builds from what labels mean: the text that is written, its peer, and its part of the page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from contracts import codec
from model_builder.classify.details import table
from model_builder.data.dataset import Dataset
from model_builder.data.written import Written
from model_builder.recipes.classify import Recipe, with_encoder
from model_builder.teachers.base import Progress
from model_builder.teachers.nearest import ENCODERS, NearestMeaning


def written_for(recipe: Recipe, cache: Path, progress: Progress) -> Written | None:
    """What a model writes for a recipe; None: the recipe does not ask for that.

    Raises:
        InputError, RefusedError, UnavailableError: see :func:`model_builder.writing.write.write`.
    """
    if recipe.data.written is None:
        return None
    from model_builder.writing.write import write

    english = recipe.data.written.language.casefold() in ("en", "english")
    return write(with_encoder(recipe, english=english), cache, progress)


def rows_of(written: Written) -> bytes:
    """What was written as JSONL, for a person to read and correct, and for ``data.train``."""
    return b"".join(
        codec.encode({"text": row.text, "label": row.label, "group": row.group or row.text}) + b"\n"
        for row in written.rows
    )


def how_measured(recipe: Recipe, how: str, rows: int) -> str:
    """The sentence on a headline, which tells real text from written text."""
    written = recipe.data.written
    if written is None:
        return how
    if recipe.data.test:
        return f"on {rows} real rows of {Path(recipe.data.test).name}, after learning written text"
    return f"{how}, on text that {written.by} wrote"


def nearest_description(
    recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress
) -> float | None:
    """What needs no text and no training: the label whose meaning is nearest, by the encoder.

    Returns:
        its accuracy on the real test rows; None: there are none, or no encoder.
    """
    if dataset.written is None or not recipe.data.test:
        return None
    if recipe.teacher.source.partition(":")[0] not in ENCODERS:
        return None
    # Labels of real rows beside the written ones have no meaning that was given.
    meanings = {label: dataset.written.meanings.get(label, label) for label in dataset.labels}
    scores = NearestMeaning(recipe.teacher, meanings, cache, progress).scores(dataset.test.texts)
    return round(float((scores.argmax(axis=1) == dataset.test.targets).mean()), 4)


def page(report: dict[str, Any]) -> str:
    """The part of the report on written text; empty: none was."""
    facts = report["data"].get("written")
    if not facts:
        return ""
    checked = facts["checked"]
    check = {"writer": "who wrote it", "encoder": "the encoder"}.get(facts["check"], "")
    rows = [
        ["written by", facts["by"]],
        ["texts", f"{facts['texts']} of {facts['asked_for']} asked for"],
        ["left out", str(sum(one["texts"] for one in facts["left_out"]))],
    ]
    if checked:
        rows.append(["checked", f"{check} saw the label in {facts['agreed']} of {checked} texts"])
    if facts["requests"]:
        tokens = f"{facts['tokens_read']:,} tokens read, {facts['tokens_written']:,} written"
        cost = f", cost {facts['cost']}" if facts["cost"] else ""
        rows.append(["asked", f"{facts['requests']} requests, {tokens}{cost}"])
    peer = report["accuracy"].get("nearest_description")
    if peer is not None:
        rows.append(["with no text at all", f"the nearest description is right on {peer:.1%}"])
    why = [[one["why"], one["texts"], " | ".join(one["examples"])] for one in facts["left_out"]]
    samples = [
        [label, facts["by_label"][label], " | ".join(texts)]
        for label, texts in list(facts["samples"].items())[:40]
    ]
    return (
        f"<h2>What it was taught with</h2><div class=card><p>No one's rows: {escape(facts['by'])} "
        f"wrote the text that it learned.</p>{table(['', ''], rows)}"
        f"<details><summary>Some of the texts</summary>{table(['label', 'texts', ''], samples)}"
        "</details>"
        f"<details><summary>What was left out</summary>{table(['why', 'texts', ''], why)}"
        "</details></div>"
    )
