"""A small random encoder as a classify bundle, made while testing; nothing is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.model_builder.support import sentences, write_encoder

LABELS = ["heat", "off", "on"]
LENGTHS = [8, 16]


def encoder_bundle(folder: Path) -> Path:
    """A bundle ``tiny-encoder 1.0.0`` with signatures for 8 and 16 tokens, width 32."""
    from model_builder.classify.candidate import EncoderCandidate  # these load TensorFlow
    from model_builder.classify.package import ClassifierParts, write_classifier
    from model_builder.encoders.weights import fetch
    from model_builder.students.encoder import EncoderStudent
    from model_builder.teachers.sentence import load_tokenizer

    files = fetch(f"path:{write_encoder(folder / 'encoder')}", "", folder / "cache")
    weight = np.random.default_rng(1).normal(size=(32, len(LABELS))).astype(np.float32)
    student = EncoderStudent(files.load(), weight, np.zeros(len(LABELS), np.float32), LENGTHS)
    tokenizer = load_tokenizer(files.tokenizer, LENGTHS[-1])
    candidate = EncoderCandidate(student.convert(), tokenizer, LENGTHS)
    texts = [text for text, _ in sentences()]
    parts = ClassifierParts(
        name="tiny-encoder",
        version="1.0.0",
        candidate=candidate,
        labels=LABELS,
        golden_texts=texts[:8],
        baseline_logits=candidate.logits(texts[:20]),
    )
    return write_classifier(folder / "tiny-encoder", parts).path
