"""Figures are right on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from model_builder.classify import metrics


def test_accuracy_confusion_and_per_class_count_the_same() -> None:
    """Three texts, one of them wrong."""
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    targets = np.array([0, 1, 1])
    predicted = logits.argmax(axis=1)
    assert metrics.accuracy(logits, targets) == pytest.approx(2 / 3)
    assert metrics.confusion(predicted, targets, 2).tolist() == [[1, 0], [1, 1]]
    first, second = metrics.per_class(predicted, targets, ["a", "b"])
    assert (first["precision"], first["recall"], first["support"]) == (0.5, 1.0, 1)
    assert (second["precision"], second["recall"], second["support"]) == (1.0, 0.5, 2)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Ten answers at 0.8, half of them right: 0.3."""
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert metrics.ece(probabilities, np.array([0, 1] * 5)) == pytest.approx(0.3)
    assert metrics.ece(np.tile([1.0, 0.0], (10, 1)), np.zeros(10, int)) == pytest.approx(0.0)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=50),
    st.lists(st.integers(0, 20), min_size=1, max_size=50),
)
def test_auroc_is_that_of_a_known_library_with_ties(inside: list[int], outside: list[int]) -> None:
    """scikit-learn's, on any scores."""
    wanted = roc_auc_score([1] * len(inside) + [0] * len(outside), inside + outside)
    assert metrics.auroc(np.array(inside), np.array(outside)) == pytest.approx(wanted)


def test_the_temperature_undoes_a_scaling() -> None:
    """Logits that are the true log-odds, times four, need a temperature of four."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 3))
    shares = metrics.softmax(true)
    targets = np.array([rng.choice(3, p=row) for row in shares])
    assert metrics.best_temperature(true * 4, targets) == pytest.approx(4, rel=0.1)


def test_the_threshold_parts_the_outside_from_the_inside() -> None:
    """With outside text by Youden's index, without by the share of the inside it may refuse."""
    inside, outside = np.linspace(0.6, 1, 100), np.linspace(0.1, 0.5, 100)
    threshold, how = metrics.choose_threshold(inside, outside, 0.02)
    assert 0.5 < threshold <= 0.6
    assert "Youden" in how
    threshold, how = metrics.choose_threshold(inside, np.zeros(0), 0.05)
    assert (inside < threshold).mean() == pytest.approx(0.05, abs=0.011)


def test_intervals_hold_the_figure_and_shrink_with_more_data() -> None:
    """Wilson's, and the paired difference's."""
    low, high = metrics.wilson(0.9, 100)
    assert low < 0.9 < high
    assert metrics.wilson(0.9, 10_000)[1] < high
    new, old = np.array([True] * 9 + [False]), np.array([True] * 8 + [False] * 2)
    mean, (low, high) = metrics.paired_difference(new, old)
    assert mean == pytest.approx(0.1)
    assert low < 0.1 < high


def test_a_model_without_a_mistake_is_not_called_infinitely_sure() -> None:
    """Twenty right answers allow a confidence of about 20 in 21, and a threshold below one."""
    logits = np.tile([3.0, 0.0], (20, 1))
    temperature = metrics.best_temperature(logits, np.zeros(20, int))
    confidence = metrics.softmax(logits, temperature).max(axis=1)
    assert 0.9 < confidence[0] < 0.99
    sure = np.full(100, 0.99999)
    threshold, _ = metrics.choose_threshold(sure, np.full(100, 0.5), 0.02)
    assert 0.5 < threshold < 0.99999
    assert metrics.choose_threshold(sure, np.zeros(0), 0.02)[0] <= 0.99999
