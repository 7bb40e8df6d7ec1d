"""What the optimisers of a generator do."""

from __future__ import annotations

import numpy as np
import pytest

from model_builder import lazy_tensorflow as tf
from model_builder.generate.encoded import Encoded
from model_builder.generate.student import forward
from model_builder.generate.train import orthogonal, train
from model_builder.generate.weights import DecoderConfig
from model_builder.recipes.training import TrainOptions

CONFIG = DecoderConfig(
    vocabulary=12, layers=1, width=16, hidden=24, heads=2, kv_heads=2, head_size=8,
    trained_context=8,
)  # fmt: skip


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_an_orthogonal_update_keeps_directions_and_evens_lengths(shape: tuple[int, int]) -> None:
    """Singular vectors stay; singular values come near 1."""
    rng = np.random.default_rng(1)
    u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.linspace(1, 20, min(shape))
    matrix = (u * values @ v).astype(np.float32)
    found = u.T @ orthogonal(tf.constant(matrix)).numpy() @ v.T
    evened = np.diag(found)
    assert evened.min() > 0.5 and evened.max() < 1.3
    assert np.abs(found - np.diag(evened)).max() < 0.02


def counting(rows: int) -> Encoded:
    """Sequences in which each token is one more than the last."""
    first = np.random.default_rng(2).integers(0, 4, (rows, 1))
    return Encoded((first + np.arange(9)).astype(np.int32), np.ones((rows, 8), np.float32))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_optimizer_learns_to_count(optimizer: str) -> None:
    """The loss of guessing is 2.5 nats."""
    options = TrainOptions(
        steps=120, batch=16, learning_rate=0.01, warmup=5, evaluate_every=40, optimizer=optimizer
    )
    losses: list[float] = []
    done = train(
        CONFIG, counting(64), counting(16), options, lambda step, loss: losses.append(loss)
    )
    assert done.validation_loss == min(losses) < 0.8


def test_only_the_answers_are_learnt_and_each_place_tells_the_next() -> None:
    """A prompt of noise costs nothing, and its answer counts on from the prompt's last token."""
    data = counting(64)
    data.ids[:, :4] = np.random.default_rng(3).integers(0, 12, (64, 4))
    data.counts[:, :4] = 0
    options = TrainOptions(steps=200, batch=16, learning_rate=0.02, warmup=5, evaluate_every=50)
    done = train(CONFIG, data, data, options)
    assert done.validation_loss < 0.4  # with the noise it could not be below 1
    found = forward(done.variables, CONFIG, tf.constant(data.ids[:, :-1]), fake=False)
    right = found.numpy().argmax(-1) == data.ids[:, 1:]
    assert right[data.counts > 0].mean() > 0.95


def test_muon_changes_the_matrices_only() -> None:
    """Norms and the embedding learn by AdamW: after one step they are the same."""
    trained = {
        name: train(
            CONFIG, counting(64), counting(16),
            TrainOptions(steps=1, batch=16, warmup=0, evaluate_every=1, optimizer=name),
        ).variables
        for name in ("adamw", "muon")
    }  # fmt: skip
    for name, value in trained["adamw"].items():
        matrix = "." in name and len(value.shape) == 2
        same = np.allclose(value.numpy(), trained["muon"][name].numpy(), atol=1e-6)
        assert same != matrix, name
