"""Reads JSON from a file piece by piece: a document may be larger than the memory.

A reader stands before a value. ``value()`` builds it, ``skip()`` passes it, and ``members()``
and ``elements()`` walk into an object or list: for each member the caller takes its value
before it goes on. With `sink` set, the canonical form (OLPC canonical JSON, as The Update
Framework signs it) of all that is passed goes there.
"""

from .errors import Refused

CHUNK = 256
MAX_STRING = 4096
MAX_DEPTH = 24
_ESCAPES = {34: 34, 92: 92, 47: 47, 98: 8, 102: 12, 110: 10, 114: 13, 116: 9}


def _bad(what):
    return Refused("bad-message", "not valid JSON: %s" % what)


class Reader:
    """A pull parser over `stream` (opened for binary reading).

    Raises:
        Refused: ``bad-message``; not JSON, nested too deep, or a string that is too long.
    """

    def __init__(self, stream):
        self._stream = stream
        self._chunk = bytearray(CHUNK)
        self._size = 0
        self._at = 0
        self._depth = 0
        self.sink = None

    def _peek(self):
        if self._at >= self._size:
            self._size = self._stream.readinto(self._chunk) or 0
            self._at = 0
            if not self._size:
                return -1
        return self._chunk[self._at]

    def _next(self):
        code = self._peek()
        if code < 0:
            raise _bad("it ends too early")
        self._at += 1
        return code

    def _space(self):
        while self._peek() in (32, 9, 10, 13):
            self._at += 1
        return self._peek()

    def _emit(self, data):
        if self.sink is not None:
            self.sink(data)

    def _expect(self, code):
        found = self._space()
        if found != code:
            raise _bad("expected %s" % chr(code))
        self._at += 1

    def _string(self):
        self._expect(34)
        out = bytearray()
        while True:
            code = self._next()
            if code == 34:
                break
            if code < 32:
                raise _bad("a control character in a string")
            if code == 92:
                code = self._next()
                if code == 117:
                    self._unicode(out)
                    continue
                if code not in _ESCAPES:
                    raise _bad("an unknown escape")
                code = _ESCAPES[code]
            out.append(code)
            if len(out) > MAX_STRING:
                raise Refused("too-large", "a string is over %d bytes" % MAX_STRING)
        if self.sink is not None:
            self.sink(b'"' + out.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"')
        try:
            return out.decode()
        except UnicodeError:
            raise _bad("a string is not UTF-8")

    def _hex(self):
        digits = bytes([self._next() for _ in range(4)])
        try:
            return int(digits, 16)
        except ValueError:
            raise _bad("an unknown escape")

    def _unicode(self, out):
        code = self._hex()
        if 0xD800 <= code < 0xDC00:
            if self._next() != 92 or self._next() != 117:
                raise _bad("half of a surrogate pair")
            low = self._hex()
            if not 0xDC00 <= low < 0xE000:
                raise _bad("half of a surrogate pair")
            code = 0x10000 + ((code - 0xD800) << 10) + low - 0xDC00
        elif 0xDC00 <= code < 0xE000:
            raise _bad("half of a surrogate pair")
        out.extend(chr(code).encode())

    def _word(self):
        """A number, true, false or null."""
        text = bytearray()
        while self._peek() not in (-1, 32, 9, 10, 13, 44, 93, 125):
            text.append(self._next())
            if len(text) > 32:
                raise _bad("a number is too long")
        self._emit(bytes(text))
        for word, value in ((b"true", True), (b"false", False), (b"null", None)):
            if text == word:
                return value
        try:
            if b"." in text or b"e" in text or b"E" in text:
                return float(text.decode())
            return int(text.decode())
        except ValueError:
            raise _bad("expected a value")

    def _enter(self, code):
        self._expect(code)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _bad("nested too deep")
        self._emit(bytes([code]))

    def _more(self, close, first):
        """Whether another member or element follows; passes the comma or the end."""
        code = self._space()
        if code == close:
            self._at += 1
            self._depth -= 1
            self._emit(bytes([close]))
            return False
        if not first:
            if code != 44:
                raise _bad("expected a comma")
            self._at += 1
            self._emit(b",")
        return True

    def members(self):
        """The keys of an object, one by one."""
        self._enter(123)
        first = True
        while self._more(125, first):
            first = False
            key = self._string()
            self._expect(58)
            self._emit(b":")
            yield key

    def elements(self):
        """The numbers of a list's elements, one by one."""
        self._enter(91)
        number = 0
        while self._more(93, number == 0):
            yield number
            number += 1

    def value(self):
        """Builds the value that follows."""
        code = self._space()
        if code == 123:
            result = {}
            for key in self.members():
                result[key] = self.value()
            return result
        if code == 91:
            return [self.value() for _ in self.elements()]
        if code == 34:
            return self._string()
        return self._word()

    def skip(self):
        """Passes the value that follows."""
        code = self._space()
        if code == 123:
            for _ in self.members():
                self.skip()
        elif code == 91:
            for _ in self.elements():
                self.skip()
        elif code == 34:
            self._string()
        else:
            self._word()

    def end(self):
        """Raises unless nothing follows."""
        if self._space() != -1:
            raise _bad("something follows the document")


def select(path, wanted):
    """The members of a file's object that are in `wanted`, as a dict."""
    found = {}
    with open(path, "rb") as stream:
        reader = Reader(stream)
        for key in reader.members():
            if key in wanted:
                found[key] = reader.value()
            else:
                reader.skip()
        reader.end()
    return found
