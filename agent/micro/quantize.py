"""Fixed-point multipliers from float32 scales, in integers alone.

TFLite Micro computes them in double precision. Boards have single precision or none, so the
same roundings are done here on the bits of the scales: the result is the same everywhere.
"""

from .errors import Refused


def bit_length(value):
    """Bits of a non-negative integer."""
    count = 0
    while value >= 65536:
        value >>= 16
        count += 16
    while value:
        value >>= 1
        count += 1
    return count


def split(bits):
    """A positive float32, by its bits, as ``(mantissa, exponent)``: mantissa * 2**exponent."""
    exponent = bits >> 23
    if not 0 < exponent < 255:
        raise Refused("bad-model", "a scale is not a positive normal number")
    return (bits & 0x7FFFFF) | 0x800000, exponent - 150


def _round_even(mantissa, exponent, bits, sticky):
    """`mantissa` cut to `bits` bits, to nearest, ties to even."""
    drop = bit_length(mantissa) - bits
    if drop <= 0:
        return mantissa, exponent
    rest = mantissa & ((1 << drop) - 1)
    mantissa >>= drop
    half = 1 << (drop - 1)
    if rest > half or (rest == half and (sticky or mantissa & 1)):
        mantissa += 1
    return mantissa, exponent + drop


def product(a, b, single=False):
    """The product of two split numbers; `single`: rounded to float32, as C would in float."""
    mantissa, exponent = a[0] * b[0], a[1] + b[1]
    return _round_even(mantissa, exponent, 24, False) if single else (mantissa, exponent)


def multiplier(numerator, denominator):
    """``numerator / denominator`` as ``(multiplier, shift)``: multiplier * 2**(shift - 31).

    Rounded to double first, then to 31 bits half away from zero, as TFLite's
    ``QuantizeMultiplier`` does.
    """
    up = 56 + bit_length(denominator[0]) - bit_length(numerator[0])
    quotient = (numerator[0] << up) // denominator[0]
    sticky = quotient * denominator[0] != numerator[0] << up
    mantissa, exponent = _round_even(
        quotient, numerator[1] - denominator[1] - up, 53, sticky
    )
    width = bit_length(mantissa)
    drop = width - 31
    fixed = (mantissa + (1 << (drop - 1))) >> drop if drop > 0 else mantissa << -drop
    shift = width + exponent
    if fixed == 1 << 31:
        fixed >>= 1
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        raise Refused("bad-model", "a scale is out of range")
    return fixed, shift
