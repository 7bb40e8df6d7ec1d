"""The model card that travels in the bundle."""

from __future__ import annotations

import math
from typing import Any

from model_builder.recipes.classify import Recipe


def _source(recipe: Recipe) -> str:
    written = recipe.data.written
    return recipe.data.source if written is None else f"written by {written.by}"


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
            f"{data['test']} test texts (source: {_source(recipe)}, "
            f"language {data['language']})."
        ),
        f"- Teacher: {report['teacher']['name']}.",
        (
            f"- Right as it answers: {report['headline']['accuracy']:.1%}, "
            f"{report['headline']['how']}; {report['headline']['unknown']:.1%} unknown."
        ),
        (
            f"- Accuracy on the test split: int8 {accuracy['int8']:.4f}, float "
            f"{accuracy['float']:.4f}, teacher {teacher:.4f}."
        ),
        f"- Expected calibration error: {report['calibration']['ece']:.4f}.",
        (
            f"- Below confidence {outside['threshold']} the answer is `unknown` "
            f"({outside['chosen_by']})."
        ),
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
