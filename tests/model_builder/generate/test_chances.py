"""Calibration: chances hold on answers that the map was not fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from agent.generate.model import GenerativeModel
from contracts.bundle import Bundle
from contracts.chances import chance, check
from contracts.requests import GenerateRequest
from model_builder.generate.chances import LEAST_PAIRS, Judged, fitted, judged, reliability
from model_builder.generate.pairs import Pair
from tests.support.tiny_decoder import tiny_bundle


def _answers(count: int, seed: int) -> Judged:
    """Of a model that is far too sure: at 0.8 one in seven is right, at 1 nine in ten."""
    rng = np.random.default_rng(seed)
    confidences = 1 - rng.beta(1, 12, count)
    true = np.interp(confidences, [0.6, 0.8, 0.95, 1.0], [0.02, 0.15, 0.6, 0.9])
    return confidences, rng.random(count) < true


@pytest.mark.parametrize("seed", range(4))
def test_a_chance_is_what_it_says(seed: int) -> None:
    """Of new answers as many are right, as told by another library."""
    knots = fitted(_answers(600, seed))
    check(knots)
    assert 2 <= len(knots) <= 13 and knots[0] == (0.0, 0.0)
    confidences, right = _answers(4000, seed + 100)
    chances = np.array([chance(knots, c) for c in confidences])
    shares, means = calibration_curve(right, chances, n_bins=10)
    assert np.abs(shares - means).mean() < 0.08
    told = reliability((confidences, right), knots)
    sizes = [row["pairs"] for row in told["bins"]]
    assert np.allclose([row["right"] for row in told["bins"]], shares, atol=1e-4)
    assert np.allclose([row["chance"] for row in told["bins"]], means, atol=1e-4)
    assert told["ece"] == pytest.approx(np.abs(shares - means) @ sizes / 4000, abs=1e-3)
    assert told["ece"] < 0.06 < 0.2 < told["ece_before"]


def test_nothing_is_certain_and_too_few_fit_nothing() -> None:
    """All right, all wrong, and less than a hundred."""
    confidences = np.linspace(0.5, 1, LEAST_PAIRS)
    for right, least, most in ((True, 0.9, 0.999), (False, 0.001, 0.1)):
        knots = fitted((confidences, np.full(LEAST_PAIRS, right)))
        assert all(least <= share <= most for _, share in knots[1:])
    assert fitted((confidences[1:], np.ones(LEAST_PAIRS - 1, np.bool_))) == []
    same = fitted((np.ones(LEAST_PAIRS), np.arange(LEAST_PAIRS) % 2 == 0))
    assert len(same) == 2 and 0.4 < same[1][1] < 0.6


def test_answers_are_judged_by_the_program_of_devices(tmp_path: Path) -> None:
    """Their confidences are those that a device tells, and right is the whole text."""
    bundle = tiny_bundle(tmp_path)
    model = GenerativeModel(Bundle.open(bundle))
    prompts = ["the quick", "brown fox", "the lazy dog"]
    asked = [GenerateRequest(prompt=p, max_tokens=6, min_confidence=0.0) for p in prompts]
    told = [model.generate(one) for one in asked]
    model.close()
    pairs = [
        Pair(p, one.text if p != "brown fox" else "no")
        for p, one in zip(prompts, told, strict=True)
    ]
    confidences, right = judged(bundle, pairs, 6)
    assert confidences.tolist() == [one.confidence for one in told]
    assert right.tolist() == [True, False, True]
    assert [len(part) for part in judged(bundle, [], 6)] == [0, 0]
