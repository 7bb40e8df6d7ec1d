"""The hashed n-gram front end: text to ids, equal to ``contracts/text.py`` on every text.

FNV-1a is over 32 bits. Where MicroPython's small integers are 31 bits wide, the product would
be a big integer for every byte, so the inner loop is viper and multiplies by the prime's
pieces: ``h * 0x01000193 = (h << 24) + h * 0x193``.
"""

from array import array

import micropython

from .errors import Refused


@micropython.viper
def _fnv(data: ptr8, start: int, end: int, state: ptr32):
    """Goes on with FNV-1a over data[start:end]; the state is two halves of 16 bits."""
    low = int(state[0])
    high = int(state[1])
    for i in range(start, end):
        low = low ^ data[i]
        # (high:low) * 0x193 + (low byte of low) << 24, modulo 2^32, in 16-bit halves.
        a = low * 0x193
        b = high * 0x193 + (a >> 16) + ((low & 0xFF) << 8)
        low = a & 0xFFFF
        high = b & 0xFFFF
    state[0] = low
    state[1] = high


def _fold(code):
    """One code point in lower case by simple ranges; 0x20 for what separates words."""
    if 0xFF01 <= code <= 0xFF5E:
        code -= 0xFEE0
    if code < 0x80:
        if 0x41 <= code <= 0x5A:
            return code + 32
        if 0x61 <= code <= 0x7A or 0x30 <= code <= 0x39 or code == 0x27:
            return code
        return 0x20
    if code < 0x180:
        if 0xC0 <= code <= 0xDE and code != 0xD7:
            return code + 32
        if code < 0xC0:
            return code if code in (0xAA, 0xB5, 0xBA) else 0x20
        if 0x100 <= code <= 0x137 or 0x14A <= code <= 0x177:
            return code | 1
        if 0x139 <= code <= 0x148 or 0x179 <= code <= 0x17E:
            return code + 1 if code & 1 else code
        return 0x20 if code in (0xD7, 0xF7) else code
    if 0x391 <= code <= 0x3A9 or 0x410 <= code <= 0x42F:
        return code + 32
    if 0x400 <= code <= 0x40F:
        return code + 80
    if 0x2000 <= code <= 0x206F or 0x3000 <= code <= 0x303F:
        return 0x27 if code == 0x2019 else 0x20
    return code


def _mark(code):
    """The mark that a separating code point is, of full width as ASCII; 0: it is none."""
    if 0xFF01 <= code <= 0xFF5E:
        code -= 0xFEE0
    seen = (
        0x21 <= code <= 0x7E
        or 0xA1 <= code <= 0xF7
        or 0x2010 <= code <= 0x2027
        or 0x2030 <= code <= 0x205E
        or 0x3001 <= code <= 0x303F
    )
    return code if seen else 0


class Ngrams:
    """The front end of one bundle.

    Args:
        config: the manifest's ``front_end.config``.

    Raises:
        Refused: ``bad-manifest``.
    """

    def __init__(self, config):
        self.buckets = _number(config, "buckets", 4096, 16, 1 << 24)
        self.length = _number(config, "length", 128, 4, 4096)
        self.char_min = _number(config, "char_min", 3, 1, 8)
        self.char_max = _number(config, "char_max", 4, 0, 8)
        self.pairs = bool(config.get("pairs", True))
        self.marks = bool(config.get("marks", False))
        self._state = array("I", [0, 0])
        self._starts = []
        for kind in (1, 2, 3):
            self._begin((0x9DC5, 0x811C))  # the offset basis, 0x811C9DC5
            _fnv(bytes([kind]), 0, 1, self._state)
            self._starts.append((self._state[0], self._state[1]))

    def _begin(self, halves):
        self._state[0], self._state[1] = halves

    def _id(self):
        # state % modulus from its halves: (high * 65536 + low) % modulus.
        modulus = self.buckets - 1
        return 1 + ((self._state[1] % modulus) * (65536 % modulus) + self._state[0]) % modulus

    def fill(self, text, view):
        """Writes the ids of `text` as little-endian int32 into `view`.

        Args:
            text: any text.
            view: bytes of `length` int32.

        Returns:
            True when the text gave more ids than fit.
        """
        self._view = view
        self._used = 0
        self._previous = b""
        over = False
        # Character by character: a list of all words would need a large piece of memory.
        word = bytearray(b" ")
        for char in text:
            code = _fold(ord(char))
            if code != 0x20:
                word.extend(chr(code).encode())
                continue
            if len(word) > 1:
                over = self._word(word) or over
                word = bytearray(b" ")
            mark = _mark(ord(char)) if self.marks else 0
            if mark:
                over = self._word(b" " + chr(mark).encode()) or over
        if len(word) > 1:
            over = self._word(word) or over
        for i in range(self._used * 4, self.length * 4):
            view[i] = 0
        return over

    def _word(self, word):
        """Ids of one folded word (a space before it); True when not all fit."""
        if self._used >= self.length:
            return True
        state = self._state
        size = len(word)
        self._begin(self._starts[0])
        _fnv(word, 1, size, state)
        over = self._put()
        if self.pairs:
            if self._previous:
                self._begin(self._starts[1])
                _fnv(self._previous, 1, len(self._previous), state)
                _fnv(word, 0, size, state)
                over = self._put() or over
            self._previous = word
        if self.char_max and not over:
            over = self._characters(word + b" ")
        return over

    def _put(self):
        if self._used >= self.length:
            return True
        value = self._id()
        at = self._used * 4
        view = self._view
        view[at] = value & 255
        view[at + 1] = (value >> 8) & 255
        view[at + 2] = (value >> 16) & 255
        view[at + 3] = 0
        self._used += 1
        return False

    def _characters(self, padded):
        """Character n-grams; a UTF-8 continuation byte, 10xxxxxx, begins none."""
        size = len(padded)
        over = False
        for first in range(size):
            if padded[first] & 0xC0 == 0x80:
                continue
            self._begin(self._starts[2])
            at = first
            for count in range(1, self.char_max + 1):
                if at >= size:
                    break
                end = at + 1
                while end < size and padded[end] & 0xC0 == 0x80:
                    end += 1
                _fnv(padded, at, end, self._state)
                at = end
                if count >= self.char_min:
                    over = self._put() or over
            if over:
                return True
        return over


def _number(config, name, default, least, most):
    value = config.get(name, default)
    if not isinstance(value, int) or not least <= value <= most:
        raise Refused("bad-manifest", "front end: %s is %s" % (name, value))
    return value
