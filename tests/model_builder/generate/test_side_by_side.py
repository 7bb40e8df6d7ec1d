"""Matrices are quantised side by side, and come out as one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from model_builder.generate.quantize import effects_of, quantize_matrix
from model_builder.generate.side_by_side import PARTS, shares, side_by_side


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_rows_are_the_same_side_by_side(rows: int, bits: int) -> None:
    """A share of the rows knows nothing of the others."""
    rng = np.random.default_rng(rows)
    matrix = rng.standard_normal((rows, 32)).astype(np.float32)
    read = rng.standard_normal((200, 32)).astype(np.float32)
    whole = quantize_matrix(matrix, read.T @ read, None, bits)
    with side_by_side() as pool:
        parts = quantize_matrix(matrix, read.T @ read, None, bits, pool)
    assert parts.bits == whole.bits == bits
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.scales, whole.scales)


@pytest.mark.parametrize("count", [0, 1, 3, PARTS, 1000])
def test_shares_are_all_rows_once(count: int) -> None:
    """In their order."""
    rows = list(range(count))
    assert [row for share in shares(count) for row in rows[share]] == rows


def test_products_take_one_thread_within() -> None:
    """And as many as before when the pool has ended."""
    before = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    with side_by_side() as pool:
        within = pool.submit(threadpool_info).result()
    assert {one["num_threads"] for one in within if one["user_api"] == "blas"} == {1}
    assert before == [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_the_effects_of_errors_are_the_factor_of_the_inverse() -> None:
    """As the inverse by itself and its own factor give it."""
    read = np.random.default_rng(5).standard_normal((300, 24)).astype(np.float32)
    gram = read.T @ read
    effects = effects_of(gram).astype(np.float64)
    assert np.array_equal(effects, np.triu(effects)) and (np.diag(effects) > 0).all()
    damped = gram + np.eye(24) * 0.01 * np.mean(np.diag(gram))
    np.testing.assert_allclose(effects.T @ effects @ damped, np.eye(24), atol=1e-5)
