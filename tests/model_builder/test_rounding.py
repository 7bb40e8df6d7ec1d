"""Scales under which every runtime rounds alike: multipliers, and whole models."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.errors import RefusedError
from model_builder.convert import Runner, native_output, to_int8
from model_builder.export_c.arithmetic import mean_multiplier, multiplier
from model_builder.recipes.students import NgramStudentConfig
from model_builder.rounding import MEAN_HAIR, align, coarser, common_length, finer_mean
from model_builder.students.ngram import NgramStudent
from model_builder.tflm import measure

Integers = NDArray[np.int64]


def rounded_twice(sums: Integers, fixed: int, shift: int) -> Integers:
    """``MultiplyByQuantizedMultiplier``: both roundings half away from zero."""
    sign = np.sign(sums)
    high = sign * ((np.abs(sums << max(shift, 0)) * fixed + (1 << 30)) >> 31)
    if shift >= 0:
        return np.asarray(high)
    half = 1 << (-shift - 1)
    return np.asarray(np.sign(high) * ((np.abs(high) + half) >> -shift))


def rounded_once(sums: Integers, real: float, zero: int = 0) -> Integers:
    """XNNPACK's: one product in float32, to the nearest even; in a mean after the zero point."""
    product = sums.astype(np.float32) * np.float32(real)
    return np.rint(product + np.float32(zero)).astype(np.int64) - zero


@pytest.mark.parametrize("k", range(1, 12))
def test_every_sum_is_rounded_alike(k: int) -> None:
    """All sums that an int8 output can hold; the multiplier is no smaller than was asked."""
    rng = np.random.default_rng(k)
    for m in rng.uniform(0.5, 1.0, 20):
        asked = float(math.ldexp(m, -k))
        real = coarser(asked)
        assert asked * (1 - 1e-6) <= real < asked * (1.1 if 5 < k < 9 else 3)
        reach = int(256 / real)
        sums = np.arange(-reach, reach + 1)
        np.testing.assert_array_equal(
            rounded_once(sums, real), rounded_twice(sums, *multiplier(real))
        )


@pytest.mark.parametrize("count", [4, 5, 24, 96, 128, 150, 160, 192, 200, 256, 400])
def test_every_mean_is_rounded_alike(count: int) -> None:
    """The kernels put the division into a multiplier that they have normalised before."""
    rng = np.random.default_rng(count)
    for asked in np.exp(rng.uniform(math.log(1 / count), math.log(0.9), 30)):
        real = finer_mean(asked, count)
        # One over even numbers: coarse where it is large, which the means of texts are not. A
        # mean that nearly fills the range is cut off instead.
        least = asked / (2 if asked < 1 / 14 else 7)
        assert least < real <= asked * (1 + 2 * MEAN_HAIR) or asked < 2**-4.5
        reach = int(256 / real)
        sums = np.arange(-reach, reach + 1)
        twice = rounded_twice(sums, *mean_multiplier(real * count, count))
        for zero in (-128, -58, 0, 127):
            once = rounded_once(sums, real, zero)
            inside = np.abs(sums * real + zero + 0.5) < 127.9
            np.testing.assert_array_equal(once[inside], twice[inside])


@pytest.mark.parametrize("length", range(4, 600))
def test_every_length_has_a_common_one(length: int) -> None:
    """No build fails for its length; most stay as they are."""
    common = common_length(length)
    assert length <= common < 1.3 * length + 1
    assert common_length(common) == common
    finer_mean(0.05, common)


def test_without_it_sums_differ() -> None:
    """The reason for all this: about one in 2**(k + 1)."""
    sums = np.arange(-6000, 6001)
    twice = rounded_twice(sums, *multiplier(0.0181))
    share = (rounded_once(sums, 0.0181) != twice).mean()
    assert 0.005 < share < 0.04


def test_large_multipliers_have_no_ties() -> None:
    """Of a layer whose output is finer than its sums."""
    for asked in (0.51, 0.9, 1.0, 1.7, 40.0):
        real = coarser(asked)
        assert asked * (1 - 1e-6) <= real < 1.1 * asked
        sums = np.arange(-300, 301)
        np.testing.assert_array_equal(
            rounded_once(sums, real), rounded_twice(sums, *multiplier(real))
        )
    assert coarser(1e6) == 1e6


SHAPES = [
    NgramStudentConfig(kind="bag", dim=32, hidden=0),
    NgramStudentConfig(kind="bag", dim=16, hidden=0, max_pool=False),
    NgramStudentConfig(kind="bag", dim=24, hidden=48),
    NgramStudentConfig(kind="bag", dim=48, hidden=128, max_pool=False),
    NgramStudentConfig(kind="cnn", dim=24, hidden=0, channels=24),
    NgramStudentConfig(kind="cnn", dim=16, hidden=40, kernel=5),
]


def drawn(seed: int) -> tuple[NgramStudent, NDArray[np.int32]]:
    """A student of some shape with random weights of some size, and ids like those of texts."""
    rng = np.random.default_rng(seed)
    length = int(rng.choice([24, 64, 96, 128, 160, 192, 200, 256]))
    shape = SHAPES[seed % len(SHAPES)]
    features = msgspec.structs.replace(shape.features, buckets=512, length=length)
    classes = int(rng.choice([2, 3, 6, 20, 77, 150]))
    student = NgramStudent(msgspec.structs.replace(shape, features=features), classes, seed)
    for variable in student.trainable_variables:
        size = rng.uniform(0.2, 4.0)
        noise = rng.normal(0, 0.05, variable.shape)
        variable.assign(variable * size + noise.astype(np.float32))
    student.freeze()
    ids = np.zeros((150, length), np.int32)
    for row in ids:
        used = rng.integers(0, length + 1)
        row[:used] = rng.integers(1, 512, used)
    return student, ids


def by_reference(model: bytes, ids: NDArray[np.int32]) -> NDArray[np.int8]:
    """LiteRT's reference kernels, which are the same on every processor."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    rows = []
    with native_output():
        interpreter = Interpreter(
            model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        target = interpreter.get_output_details()[0]["index"]
        for row in ids:
            interpreter.set_tensor(source, row[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(target)[0])
    return np.stack(rows)


@pytest.mark.parametrize("seed", range(12))
def test_runtimes_agree_bit_for_bit_on_random_models(seed: int) -> None:
    """XNNPACK, LiteRT's reference kernels and TensorFlow Lite Micro, for few and many labels."""
    student, ids = drawn(seed)
    model = to_int8(student, student, ids.shape[1], ids[:100])
    lite = Runner(model).quantised(ids)
    _, micro = measure(model, ids)
    assert micro is not None
    np.testing.assert_array_equal(lite, micro)
    np.testing.assert_array_equal(by_reference(model, ids), micro)
    assert len({row.tobytes() for row in micro}) > 50  # it does answer


@pytest.mark.parametrize("seed", range(6))
def test_an_aligned_model_is_still_right(seed: int) -> None:
    """It keeps to its float one as well as the converter's own does, within a quarter."""
    student, ids = drawn(seed)
    errors = []
    wanted = student(ids).numpy()
    for scales in (align, lambda model, _: model):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("model_builder.convert.align", scales)
            model = to_int8(student, student, ids.shape[1], ids)
        found = Runner(model).logits(ids)
        errors.append(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))
    assert errors[0] < max(1.25 * errors[1], 0.05)


def test_what_rounds_in_its_own_way_is_refused() -> None:
    """A new operator in a student must be thought about: the build says so at its start."""
    import tensorflow as tf

    student, ids = drawn(0)

    def squashed(ids: tf.Tensor) -> tf.Tensor:
        return tf.tanh(student(ids))

    with pytest.raises(RefusedError, match="TANH rounds in its own way"):
        to_int8(student, squashed, ids.shape[1], ids)


def test_conversion_is_the_same_twice() -> None:
    """Same weights, same bytes."""
    student, ids = drawn(2)
    models = [to_int8(student, student, ids.shape[1], ids) for _ in range(2)]
    assert models[0] == models[1]


def test_the_bundles_of_tests_hold_to_the_bit() -> None:
    """Whoever makes them again sees it."""
    for folder in (Path(__file__).parents[1] / "data").glob("tiny-classifier-*"):
        assert b'"max_steps":0' in (folder / "manifest.json").read_bytes().replace(b" ", b"")
