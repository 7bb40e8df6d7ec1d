"""A training whose graph was traced for another gives what one traced for itself gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.text import NgramConfig
from model_builder import lazy_tensorflow as tf
from model_builder import traced
from model_builder.checkpoint import Checkpoint
from model_builder.encoders.finetune import finetune
from model_builder.encoders.weights import EncoderFiles
from model_builder.recipes.students import FitConfig, NgramStudentConfig
from model_builder.recipes.teachers import TeacherConfig
from model_builder.students.fit import fit
from model_builder.students.ids import predict
from model_builder.students.ngram import NgramStudent
from model_builder.traced import Traced
from tests.model_builder.support import write_encoder

SHAPE = NgramStudentConfig(features=NgramConfig(buckets=64, length=16), dim=8, hidden=8)
FIT = FitConfig(epochs=2, batch=4, rate=0.02, dropout=0.2, quantise_from=0.0)


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without a graph."""
    monkeypatch.setattr(traced, "_KEPT", {})


def trained(seed: int, shape: NgramStudentConfig = SHAPE, config: FitConfig = FIT) -> list[Any]:
    """The weights and the answers of a small student."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 64, (10, 16)).astype(np.int32)
    targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 10)]
    student = NgramStudent(shape, 3, seed)
    fit(student, ids, targets, config, seed)
    return [*(v.numpy() for v in student.variables), predict(student, ids, quantise=True)]


@pytest.mark.parametrize("kind", ["bag", "cnn"])
def test_a_student_learns_what_it_learns_alone(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one, of another seed, was trained before it, and its graph is taken."""
    shape = msgspec.structs.replace(SHAPE, kind=kind, channels=8)
    alone = trained(2, shape)
    monkeypatch.setattr(traced, "_KEPT", {})
    other = trained(1, shape)
    kept = list(traced._KEPT.values())
    after = trained(2, shape)
    assert list(traced._KEPT.values()) == kept  # nothing was traced
    assert all(np.array_equal(a, b) for a, b in zip(alone, after, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(other, after, strict=True))


@pytest.mark.parametrize(
    "change", [{"dropout": 0.4}, {"feature_dropout": 0.3}, {"weight_decay": 0.3}]
)
def test_what_changes_the_graph_is_traced_anew(change: dict[str, float]) -> None:
    """A setting that the graph holds is never that of the training before."""
    first, *_ = trained(2)
    kept = len(traced._KEPT)
    second, *_ = trained(2, config=msgspec.structs.replace(FIT, **change))
    assert len(traced._KEPT) == kept + 1
    assert not np.array_equal(first, second)


def test_an_encoder_learns_what_it_learns_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each fold of a cross-validation does; the encoder of the fold before stays as it is."""
    folder = write_encoder(tmp_path / "encoder", hidden=8, layers=1)
    files = EncoderFiles(folder, "0" * 64, "path:x")
    config = TeacherConfig(epochs=2, batch=4, rate=0.01, precision="float32")

    def learned(seed: int) -> tuple[Any, list[Any]]:
        encoder = files.load()
        rng = np.random.default_rng(seed)
        weight = tf.Variable(rng.normal(size=(8, 3)).astype(np.float32))
        bias = tf.Variable(np.zeros(3, np.float32))
        rows = [[2, int(at), 3] for at in rng.integers(4, 12, 10)]
        goal = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 10)]
        checkpoint = Checkpoint(tmp_path / f"{len(list(tmp_path.iterdir()))}", "a" * 24)
        finetune(
            encoder, weight, bias, rows, goal, config, seed, checkpoint,
            lambda: None, lambda done, total: None,
        )  # fmt: skip
        return encoder, [v.numpy() for v in (*encoder.variables, weight, bias)]

    _, alone = learned(2)
    monkeypatch.setattr(traced, "_KEPT", {})
    first, before = learned(1)
    _, after = learned(2)
    assert len(traced._KEPT) == 1
    assert all(np.array_equal(a, b) for a, b in zip(alone, after, strict=True))
    own = [v.numpy() for v in first.variables]
    assert all(np.array_equal(a, b) for a, b in zip(own, before, strict=False))


def test_the_oldest_graph_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of many shapes holds no more than a few."""
    monkeypatch.setattr(traced, "_MOST", 2)
    variable = tf.Variable(1.0)
    function = tf.function(lambda: variable + 1.0, autograph=False)
    for key in "abca":
        assert float(Traced(key, [variable], function.get_concrete_function)()) == 2.0
    assert [key for (key, _), _ in traced._KEPT.items()] == ["c", "a"]
