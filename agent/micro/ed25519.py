"""Ed25519 signature verification (RFC 8032, section 5.1.7) over big integers.

Only public values are handled, so nothing here needs to take constant time. One pass of
double-and-add over both scalars at once (Shamir's trick): [S]B - [k]A must encode to R.
"""

from .sha512 import Sha512

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_D2 = 2 * _D % _P
_ROOT = pow(2, (_P - 1) // 4, _P)


def _decompress(data):
    """A point from its 32 bytes, or None."""
    y = int.from_bytes(data, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    if y >= _P:
        return None
    x2 = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P:
        x = x * _ROOT % _P
    if (x * x - x2) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _add(p, q):
    # Extended coordinates, RFC 8032 section 5.1.4.
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = p[3] * _D2 * q[3] % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(p):
    a = p[0] * p[0] % _P
    b = p[1] * p[1] % _P
    c = 2 * p[2] * p[2]
    h = a + b
    e = h - (p[0] + p[1]) * (p[0] + p[1])
    g = a - b
    f = c + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


_BASE = _decompress(bytes([0x58] + [0x66] * 31))


def verify(key, signature, feed):
    """Whether `signature` (64 bytes) by `key` (32 bytes) is of the message.

    Args:
        key: the public key.
        signature: R and S.
        feed: called with a function that takes pieces of the message in order, so that the
            message need not be in memory.
    """
    if len(key) != 32 or len(signature) != 64:
        return False
    public = _decompress(key)
    s = int.from_bytes(signature[32:], "little")
    if public is None or s >= _L:
        return False
    digest = Sha512(bytes(signature[:32]) + bytes(key))
    feed(digest.update)
    k = int.from_bytes(digest.digest(), "little") % _L
    minus = (_P - public[0], public[1], 1, _P - public[3])
    both = _add(_BASE, minus)
    point = (0, 1, 1, 0)
    for bit in range(252, -1, -1):
        point = _double(point)
        one = (s >> bit) & 1
        two = (k >> bit) & 1
        if one and two:
            point = _add(point, both)
        elif one:
            point = _add(point, _BASE)
        elif two:
            point = _add(point, minus)
    inverse = pow(point[2], _P - 2, _P)
    x = point[0] * inverse % _P
    y = point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little") == bytes(signature[:32])
