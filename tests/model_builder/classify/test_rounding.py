"""Multipliers that round a sum once as they round it twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from model_builder.classify.rounding import align_means, same_rounding
from model_builder.convert import Runner, to_int8
from model_builder.export_c.arithmetic import mean_multiplier, multiplier
from model_builder.recipes.students import NgramStudentConfig
from model_builder.students.ngram import NgramStudent
from model_builder.tflm import measure


def rounded_twice(sums: NDArray[np.int64], real: float) -> NDArray[np.int64]:
    """``MultiplyByQuantizedMultiplier``: both roundings half away from zero."""
    fixed, shift = multiplier(real)
    sign = np.sign(sums)
    high = sign * ((np.abs(sums) * fixed + (1 << 30)) >> 31)
    if shift >= 0:
        return np.asarray(high << shift)
    half = 1 << (-shift - 1)
    return np.asarray(np.sign(high) * ((np.abs(high) + half) >> -shift))


def rounded_once(sums: NDArray[np.int64], real: float) -> NDArray[np.int64]:
    """XNNPACK's: one product in float32, to the nearest even."""
    return np.rint(sums.astype(np.float32) * np.float32(real)).astype(np.int64)


@pytest.mark.parametrize("k", range(1, 9))
def test_every_sum_is_rounded_alike(k: int) -> None:
    """All sums that an int8 output can hold; the multiplier is never larger than was asked."""
    rng = np.random.default_rng(k)
    for m in rng.uniform(0.5, 1.0, 40):
        asked = float(math.ldexp(m, -k))
        real = same_rounding(asked)
        assert asked / 3 < real <= asked * (1 + 1e-12)
        reach = int(256 / real)
        sums = np.arange(-reach, reach + 1)
        np.testing.assert_array_equal(rounded_once(sums, real), rounded_twice(sums, real))


def test_without_it_sums_differ() -> None:
    """The reason for all this: about one in 2**(k + 1)."""
    sums = np.arange(-6000, 6001)
    share = (rounded_once(sums, 0.0181) != rounded_twice(sums, 0.0181)).mean()
    assert 0.005 < share < 0.04


def test_small_steps_cost_little_precision() -> None:
    """For the k of a mean over n-grams the scale grows by less than a tenth."""
    for m in np.linspace(0.52, 0.999, 200):
        asked = float(math.ldexp(m, -5))
        assert same_rounding(asked) > asked * 0.9


def test_a_converted_mean_is_aligned_and_still_right() -> None:
    """The int8 model keeps to its float one; LiteRT and TFLM nearly always agree to the step."""
    from tensorflow.lite.python import schema_py_generated as schema

    config = NgramStudentConfig(dim=16, hidden=24)
    student = NgramStudent(config, 12, 3)
    rng = np.random.default_rng(3)
    length = config.features.length
    ids = np.zeros((200, length), np.int32)
    for row in ids:
        used = rng.integers(10, 60)
        row[:used] = rng.integers(1, config.features.buckets, used)
    student.freeze()
    model = to_int8(student, student, length, ids)
    graph = schema.Model.GetRootAs(model).Subgraphs(0)
    mean = next(
        op
        for op in (graph.Operators(i) for i in range(graph.OperatorsLength()))
        if op.InputsLength() == 2
        and list(graph.Tensors(op.Inputs(0)).ShapeAsNumpy()) == [1, length, 16]
        and op.BuiltinOptionsType() == schema.BuiltinOptions.ReducerOptions
        and graph.Tensors(op.Outputs(0)).Quantization().ScaleAsNumpy()[0]
        != graph.Tensors(op.Inputs(0)).Quantization().ScaleAsNumpy()[0]
    )
    scales = [
        float(graph.Tensors(i).Quantization().ScaleAsNumpy()[0])
        for i in (mean.Inputs(0), mean.Outputs(0))
    ]
    real = scales[0] / scales[1] / length
    sums = np.arange(int(-256 / real), int(256 / real))
    fixed, shift = mean_multiplier(scales[0] / scales[1], length)
    assert math.isclose(fixed * 2.0 ** (shift - 31), real, rel_tol=1e-6)
    np.testing.assert_array_equal(rounded_once(sums, real), rounded_twice(sums, real))

    wanted = student(ids).numpy()
    found = Runner(model).logits(ids)
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < 0.05
    lite = Runner(model).quantised(ids).astype(int)
    micro = measure(model, ids)[1]
    assert micro is not None
    assert (lite == micro).mean() > 0.97
    assert align_means(model) == model  # once is enough
