"""Makes ``tests/data/tiny-classifier-1.0.0`` and ``-1.1.0``: small real bundles for tests.

Four intents, the microcontroller student, full int8. Run from the repository's root:
``python tests/data/make_tiny.py``. Version 1.1.0 is trained with another seed, so that the
model file differs while the front end and the labels are the same.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np

from contracts.text import NgramConfig, ngram_ids
from model_builder.classify.candidate import NgramCandidate
from model_builder.classify.package import ClassifierParts, write_classifier
from model_builder.convert import Runner, to_int8
from model_builder.recipes.students import FitConfig, NgramStudentConfig
from model_builder.seeds import make_deterministic
from model_builder.students.fit import fit
from model_builder.students.ngram import NgramStudent

ROOMS = ["kitchen", "living room", "bedroom", "garage", "hall", "office", "bathroom", "attic"]
DAYS = ["today", "tomorrow", "tonight", "on Monday", "this weekend", "in Berlin", "outside"]
TIMES = ["five minutes", "ten minutes", "an hour", "30 seconds", "a quarter of an hour", "7 am"]
TEMPLATES = {
    "lights-off": (
        ROOMS,
        [
            "turn off the lights in the {}",
            "switch the {} lamp off",
            "lights out in the {} please",
            "make the {} dark",
        ],
    ),
    "lights-on": (
        ROOMS,
        [
            "turn on the lights in the {}",
            "switch the {} lamp on",
            "I want light in the {}",
            "make the {} bright please",
        ],
    ),
    "timer": (
        TIMES,
        ["set a timer for {}", "wake me in {}", "count down {} please", "start a {} timer"],
    ),
    "weather": (
        DAYS,
        [
            "what is the weather {}",
            "will it rain {}",
            "how warm does it get {}",
            "do I need an umbrella {}?",
        ],
    ),
}
CONFIG = NgramStudentConfig(
    kind="cnn",
    features=NgramConfig(buckets=1024, length=96, char_min=3, char_max=4),
    dim=16,
    hidden=32,
    kernel=3,
    channels=24,
)


def make(folder: Path, version: str, seed: int) -> None:
    """Trains, converts and writes one bundle folder."""
    make_deterministic(seed)
    labels = sorted(TEMPLATES)
    texts = [
        (template.format(value), labels.index(label))
        for label in labels
        for value, template in itertools.product(*TEMPLATES[label])
    ]
    ids = np.array([ngram_ids(text, CONFIG.features)[0] for text, _ in texts], np.int32)
    wanted = np.array([label for _, label in texts])
    student = NgramStudent(CONFIG, len(labels), seed)
    targets = np.eye(len(labels), dtype=np.float32)[wanted]
    fit(student, ids, targets, FitConfig(epochs=60, batch=32, rate=1e-2), seed)
    student.freeze()
    model = to_int8(student, student, CONFIG.features.length, ids)
    accuracy = float((Runner(model).quantised(ids).argmax(1) == wanted).mean())
    assert accuracy > 0.98, f"the tiny model learned only {accuracy:.3f}"
    rng = np.random.default_rng(0)
    golden = [texts[i][0] for i in rng.permutation(len(texts))[:30]]
    golden += ["", "Ünïcode — ЖЖ 你好", "turn " * 100]
    shutil.rmtree(folder, ignore_errors=True)
    write_classifier(
        folder,
        ClassifierParts(
            name="tiny-classifier",
            version=version,
            candidate=NgramCandidate(model, CONFIG.features),
            labels=labels,
            golden_texts=golden,
            baseline_logits=Runner(model).logits(ids),
            metrics={"accuracy_int8_train": round(accuracy, 4)},
        ),
    )


if __name__ == "__main__":
    here = Path(__file__).parent
    make(here / "tiny-classifier-1.0.0", "1.0.0", seed=1)
    make(here / "tiny-classifier-1.1.0", "1.1.0", seed=2)
