"""Figures that say how sure they are: thresholds, cross-validation, languages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.labelled.rows import Row
from model_builder.classify import metrics
from model_builder.classify.advice import one_sided
from model_builder.classify.build import build
from model_builder.classify.crossvalidation import assign
from model_builder.data.language import detect
from model_builder.recipes import classify as recipes
from tests.model_builder.support import sentences, write_recipe


def test_a_threshold_of_too_few_rows_is_off_and_says_so() -> None:
    """Thirty confidences tell nothing of the worst two in a hundred; three thousand do."""
    rng = np.random.default_rng(1)
    few = metrics.dependable_threshold(rng.uniform(0.4, 1, 30), np.zeros(0), 0.02)
    assert few.value == 0
    assert few.how.startswith("off: with 30 rows")
    many = metrics.dependable_threshold(rng.uniform(0.4, 1, 3000), np.zeros(0), 0.02)
    assert many.value == pytest.approx(0.412, abs=0.006)
    assert many.interval is not None
    assert many.interval[0] < many.value < many.interval[1]
    assert many.interval[1] - many.interval[0] < 0.02
    assert metrics.dependable_threshold(np.zeros(0), np.zeros(0), 0.02).value == 0


def test_the_threshold_is_off_exactly_where_it_could_refuse_too_much() -> None:
    """The bound is that of the binomial share: between 100 and 300 rows at two in a hundred."""
    rng = np.random.default_rng(2)
    off = [
        metrics.dependable_threshold(rng.uniform(0.4, 1, n), np.zeros(0), 0.02).value == 0
        for n in (60, 100, 300, 1000)
    ]
    assert off == [True, True, False, False]


def test_out_of_scope_text_that_looks_like_the_rest_gives_no_threshold() -> None:
    """Where it does not, it does."""
    rng = np.random.default_rng(3)
    inside = rng.uniform(0.5, 1, 200)
    same = metrics.dependable_threshold(inside, rng.uniform(0.5, 1, 25), 0.02)
    assert same.value == 0
    assert "do not show" in same.how
    apart = metrics.dependable_threshold(inside, rng.uniform(0.1, 0.5, 25), 0.02)
    assert 0.45 < apart.value <= 0.51
    assert "Youden" in apart.how


def test_an_answer_of_unknown_is_counted_as_it_is_given() -> None:
    """Right only where it is given and right."""
    found = metrics.as_answered(
        np.array([0.9, 0.4, 0.8, 0.3]), np.array([True, True, False, False]), 0.5
    )
    assert found == {"right": 0.25, "wrong": 0.25, "unknown": 0.5}


def test_folds_keep_groups_together_and_spread_labels() -> None:
    """Every row is in one fold; a label's groups are in all of them."""
    rows = [Row(f"t{g} {i}", f"l{g % 3}", f"g{g}") for g in range(30) for i in range(4)]
    folds = assign(rows, 5, 1)
    for group in {row.group for row in rows}:
        assert len({f for f, row in zip(folds, rows, strict=True) if row.group == group}) == 1
    assert set(Counter(folds.tolist()).values()) == {24}
    for label in ("l0", "l1", "l2"):
        assert {f for f, row in zip(folds, rows, strict=True) if row.label == label} == set(
            range(5)
        )
    assert (assign(rows, 5, 1) == folds).all()
    assert (assign(rows, 5, 2) != folds).any()


def test_a_small_set_is_cross_validated(tmp_path: Path) -> None:
    """Every row is judged once, by a model that did not see it; the headline says so."""
    short = {"fit": {"epochs": 8, "batch": 16, "rate": 0.02}}
    recipe = write_recipe(tmp_path, evaluation={"folds": 2}, distillation=short)
    result = build(recipes.load(recipe), tmp_path / "out", lambda what, done, total: None)
    rows = len(sentences())
    headline = result.report["headline"]
    assert (headline["rows"], headline["folds"]) == (rows, 2)
    assert headline["how"] == f"by cross-validation in 2 folds over {rows} rows"
    assert headline["interval"][0] < headline["accuracy"] < headline["interval"][1]
    assert sum(map(sum, result.report["confusion"]["matrix"])) == rows
    assert sum(row["support"] for row in result.report["per_class"]) == rows
    outside = result.report["out_of_scope"]
    assert (outside["threshold"], outside["chosen_on"]) == (0.0, rows)
    assert outside["chosen_by"].startswith("off: with 96 rows")
    assert result.report["data"]["language"] == "en"
    manifest = Bundle.open(result.bundle).manifest
    assert manifest.classifier is not None
    assert manifest.classifier.threshold == 0
    assert manifest.metrics["accuracy"] == headline["accuracy"]
    assert json.loads(result.report_json.read_bytes())["seconds"]["cross_validation"] > 0


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["turn on the kitchen light please", "what is the weather like tomorrow"] * 20, "en"),
        (["Wo bleibt denn mein Paket?", "Die Rechnung ist leider falsch."] * 20, "de"),
        (["Где моя посылка?", "Я хочу вернуть товар и получить деньги."] * 20, "ru"),
        (["12345", "...", "678"], "und"),
    ],
)
def test_the_language_of_short_texts_is_told(texts: list[str], code: str) -> None:
    """A few at a time, for one alone tells little."""
    assert detect(texts).code == code


def test_a_model_that_says_one_label_alone_is_called_of_no_use() -> None:
    """Nine rows in ten have it: nine answers in ten are right, and none of the tenth is found."""

    def report(matrix: list[list[int]]) -> dict[str, Any]:
        return {"confusion": {"labels": ["ham", "spam"], "matrix": matrix}}

    silent_on_spam = one_sided(report([[90, 0], [10, 0]]))
    assert len(silent_on_spam) == 2
    assert "never answered" in silent_on_spam[0] and "spam" in silent_on_spam[0]
    assert "'ham'" in silent_on_spam[1] and "90.0%" in silent_on_spam[1]
    assert one_sided(report([[90, 0], [4, 6]])) == []
    assert len(one_sided(report([[80, 10], [9, 1]]))) == 1
    assert one_sided(report([[0, 0], [0, 0]])) == []
