"""Fixed-point multipliers, as TensorFlow Lite computes them (``QuantizeMultiplier``)."""

from __future__ import annotations

import math

from contracts.errors import InputError


def multiplier(real: float) -> tuple[int, int]:
    """`real` as ``(multiplier, shift)`` with ``real ~ multiplier * 2**(shift - 31)``.

    Raises:
        InputError: ``bad-model``; the number is not positive or not finite.
    """
    if not math.isfinite(real) or real <= 0:
        raise InputError("bad-model", f"a scale gives the multiplier {real}")
    fraction, shift = math.frexp(real)
    fixed = math.floor(fraction * 2**31 + 0.5)
    if fixed == 2**31:
        fixed //= 2
        shift += 1
    return (0, 0) if shift < -31 else (fixed, shift)


def mean_multiplier(real: float, count: int) -> tuple[int, int]:
    """The multiplier of a mean of `count` values: the division goes into it, truncated."""
    fixed, shift = multiplier(real)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (fixed << bits) // count, shift - bits
