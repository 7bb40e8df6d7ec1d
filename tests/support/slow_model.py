"""A classifier that keeps a processor busy for a while, made while testing; nothing is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.bundle import Bundle
from contracts.text import NgramConfig, ngram_ids
from model_builder.classify.candidate import NgramCandidate
from model_builder.classify.package import ClassifierParts, write_classifier
from model_builder.convert import Runner, to_int8
from model_builder.recipes.students import NgramStudentConfig
from model_builder.students.ngram import NgramStudent

LABELS = ["heat", "off", "on", "weather"]
CONFIG = NgramStudentConfig(
    kind="cnn",
    features=NgramConfig(buckets=512, length=192, char_min=3, char_max=4),
    dim=64,
    hidden=32,
    kernel=3,
    channels=256,
)
TEXTS = [f"turn the {thing} {how}" for thing in ("lamp", "oven", "fan") for how in ("on", "off")]


def slow_bundle(folder: Path) -> Bundle:
    """A bundle ``slow 1.0.0`` in `folder`: int8, some ten million products a text."""
    student = NgramStudent(CONFIG, len(LABELS), seed=3)
    ids = np.array([ngram_ids(text, CONFIG.features)[0] for text in TEXTS], np.int32)
    student.freeze()
    model = to_int8(student, student, CONFIG.features.length, ids)
    parts = ClassifierParts(
        name="slow",
        version="1.0.0",
        candidate=NgramCandidate(model, CONFIG.features),
        labels=LABELS,
        golden_texts=TEXTS,
        baseline_logits=Runner(model).logits(ids),
    )
    return write_classifier(folder, parts)
