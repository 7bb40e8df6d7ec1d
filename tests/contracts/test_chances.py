"""The map from confidence to chance: linear between knots, never falling, checked."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.chances import Knot, chance, check
from contracts.errors import InputError

KNOTS: list[Knot] = [(0.5, 0.1), (0.8, 0.4), (0.9, 0.4), (1.0, 0.95)]


def test_it_is_numpys_interpolation() -> None:
    """Between the knots, on them, and outside."""
    at = np.linspace(0, 1, 201)
    expected = np.interp(at, *zip(*KNOTS, strict=True))
    assert np.allclose([chance(KNOTS, float(x)) for x in at], expected)
    assert chance([(0.7, 0.3)], 0.1) == chance([(0.7, 0.3)], 0.9) == 0.3


@pytest.mark.parametrize(
    "knots", [[(0.5, 0.1), (0.5, 0.2)], [(0.6, 0.1), (0.5, 0.2)], [(0.5, 0.2), (0.6, 0.1)]]
)
def test_a_map_that_falls_or_turns_back_is_refused(knots: list[Knot]) -> None:
    """A surer answer would count for less."""
    check(KNOTS)
    with pytest.raises(InputError, match="ascend") as raised:
        check(knots)
    assert raised.value.code == "bad-manifest"
