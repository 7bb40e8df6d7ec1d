"""SHA-512 (FIPS 180-4), which MicroPython's hashlib lacks and Ed25519 needs."""

import struct
from array import array

_MASK = 0xFFFFFFFFFFFFFFFF


def _primes(count):
    found = []
    number = 2
    while len(found) < count:
        if all(number % p for p in found):
            found.append(number)
        number += 1
    return found


def _root(number, power):
    """The first 64 bits behind the point of the square (2) or cube (3) root, in integers."""
    target = number << (64 * power)
    low, high = 0, 1 << 70
    while low < high:
        middle = (low + high + 1) >> 1
        if middle**power <= target:
            low = middle
        else:
            high = middle - 1
    return low & _MASK


# The constants are the roots of the first primes (FIPS 180-4, 4.2.3 and 5.3.5).
_START = [_root(p, 2) for p in _primes(8)]
_K = None


def _constants():
    global _K
    if _K is None:
        # An array takes an eighth of a list's memory here: these are big integers.
        _K = array("Q", bytearray(8 * 80))
        for i, prime in enumerate(_primes(80)):
            _K[i] = _root(prime, 3)
    return _K


def release():
    """Frees the table of constants; it is made again when it is needed."""
    global _K
    _K = None


class Sha512:
    """Streaming SHA-512: ``update`` and ``digest``, as hashlib's."""

    def __init__(self, data=b""):
        self._state = list(_START)
        self._rest = bytearray()
        self._size = 0
        self.update(data)

    def update(self, data):
        """Goes on with `data`."""
        self._size += len(data)
        self._rest.extend(data)
        if len(self._rest) >= 128:
            whole = len(self._rest) // 128 * 128
            for at in range(0, whole, 128):
                self._block(struct.unpack_from(">16Q", self._rest, at))
            self._rest = bytearray(memoryview(self._rest)[whole:])

    def digest(self):
        """The 64 bytes; nothing may follow."""
        size = self._size
        self.update(b"\x80" + bytes(-(size + 17) % 128) + struct.pack(">QQ", 0, size * 8))
        return struct.pack(">8Q", *self._state)

    def _block(self, words):
        w = list(words)
        a, b, c, d, e, f, g, h = self._state
        k = _constants()
        for i in range(80):
            if i >= 16:
                x = w[(i - 15) & 15]
                y = w[(i - 2) & 15]
                s0 = ((x >> 1) | (x << 63)) ^ ((x >> 8) | (x << 56)) ^ (x >> 7)
                s1 = ((y >> 19) | (y << 45)) ^ ((y >> 61) | (y << 3)) ^ (y >> 6)
                w[i & 15] = (w[i & 15] + (s0 & _MASK) + w[(i - 7) & 15] + (s1 & _MASK)) & _MASK
            s1 = ((e >> 14) | (e << 50)) ^ ((e >> 18) | (e << 46)) ^ ((e >> 41) | (e << 23))
            t = h + (s1 & _MASK) + (g ^ (e & (f ^ g))) + k[i] + w[i & 15]
            s0 = ((a >> 28) | (a << 36)) ^ ((a >> 34) | (a << 30)) ^ ((a >> 39) | (a << 25))
            u = (s0 & _MASK) + ((a & b) | (c & (a | b)))
            h, g, f, e = g, f, e, (d + t) & _MASK
            d, c, b, a = c, b, a, (t + u) & _MASK
        self._state = [(x + y) & _MASK for x, y in zip(self._state, (a, b, c, d, e, f, g, h))]
