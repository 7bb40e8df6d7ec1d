"""Integer kernels, equal to the reference kernels of TensorFlow Lite Micro bit by bit.

Viper integers have the width of the machine's word, so nothing here may need more than 32
bits nor rely on overflow at 32. Pointers to int8 read bytes: ``(b ^ 128) - 128`` is the sign.
"""

import micropython

INT32 = 2  # types of tensors, as the schema of .tflite files numbers them
INT8 = 9


@micropython.viper
def flip(source: ptr8, target: ptr8, n: int):
    """target = source + 128: int8 to uint8, so that the inner loops need no sign extension."""
    for i in range(n):
        target[i] = source[i] ^ 128


@micropython.viper
def window_dots(x: ptr8, w: ptr8, acc: ptr32, p: ptr32):
    """One filter over all positions of a 1 x k convolution, accumulators without bias.

    x: flipped input [width, channels]; w: int8 [k, channels]; acc: int32 [positions].
    p: width, channels, k, positions, left padding, input zero point + 128.
    """
    width = int(p[0])
    channels = int(p[1])
    k = int(p[2])
    zero = int(p[5])
    # The sum of the whole filter times the zero point is the same at every position.
    whole = 0
    n = k * channels
    for i in range(n):
        whole += (w[i] ^ 128) - 128
    start = 0 - int(p[4])
    for position in range(int(p[3])):
        first = start if start > 0 else 0
        last = start + k
        if last > width:
            last = width
        total = whole
        a = int(x) + first * channels
        b = int(w) + (first - start) * channels
        n = (last - first) * channels
        xs = ptr8(a)
        ws = ptr8(b)
        if last - first != k:
            total = 0
            for i in range(n):
                total += (ws[i] ^ 128) - 128
        s = 0
        i = 0
        end = n - 3
        while i < end:
            s += xs[i] * ((ws[i] ^ 128) - 128)
            s += xs[i + 1] * ((ws[i + 1] ^ 128) - 128)
            s += xs[i + 2] * ((ws[i + 2] ^ 128) - 128)
            s += xs[i + 3] * ((ws[i + 3] ^ 128) - 128)
            i += 4
        while i < n:
            s += xs[i] * ((ws[i] ^ 128) - 128)
            i += 1
        acc[position] = s - zero * total
        start += 1


@micropython.viper
def row_dots(x: ptr8, w: ptr8, acc: ptr32, p: ptr32):
    """Rows of weights times one input vector, accumulators without bias.

    x: flipped input [n]; w: int8 [rows, n]; acc: int32 [rows].
    p: n, rows, input zero point + 128.
    """
    n = int(p[0])
    zero = int(p[2])
    end = n - 3
    at = int(w)
    for row in range(int(p[1])):
        ws = ptr8(at)
        s = 0
        i = 0
        while i < end:
            s += (x[i] - zero) * ((ws[i] ^ 128) - 128)
            s += (x[i + 1] - zero) * ((ws[i + 1] ^ 128) - 128)
            s += (x[i + 2] - zero) * ((ws[i + 2] ^ 128) - 128)
            s += (x[i + 3] - zero) * ((ws[i + 3] ^ 128) - 128)
            i += 4
        while i < n:
            s += (x[i] - zero) * ((ws[i] ^ 128) - 128)
            i += 1
        acc[row] = s
        at += n


@micropython.viper
def rescale(acc: ptr32, scale: ptr32, out: ptr8, p: ptr32):
    """``MultiplyByQuantizedMultiplier`` of accumulators, to int8 or in place.

    scale: triples (bias, multiplier, shift). The product of 31 x 31 bits is made of 16-bit
    halves: saturating rounding doubling high multiply, then a rounding right shift, both
    half away from zero (gemmlowp, fixedpoint.h).
    p: count, 1: a triple each / 0: one for all, stride of out, zero point, least, most,
    1: write int32 back to acc instead of out.
    """
    one = 1
    top = one << 31
    count = int(p[0])
    each = int(p[1]) * 3
    stride = int(p[2])
    zero = (int(p[3]) ^ top) - top
    least = (int(p[4]) ^ top) - top
    most = (int(p[5]) ^ top) - top
    back = int(p[6])
    t = 0
    o = 0
    for i in range(count):
        # A 32-bit load is unsigned where the word is wider: restore the sign.
        v = ((int(acc[i]) ^ top) - top) + ((int(scale[t]) ^ top) - top)
        m = int(scale[t + 1])
        shift = (int(scale[t + 2]) ^ top) - top
        t += each
        if shift > 0:
            v = v << shift
            shift = 0
        negative = 0
        if v < 0:
            negative = 1
            v = 0 - v
        ah = (v >> 16) & 0xFFFF
        al = v & 0xFFFF
        bh = m >> 16
        bl = m & 0xFFFF
        low = al * bl
        m1 = ah * bl
        m2 = al * bh
        s = (m1 & 0xFFFF) + (m2 & 0xFFFF) + ((low >> 16) & 0xFFFF)
        high = ah * bh + ((m1 >> 16) & 0xFFFF) + (m2 >> 16) + (s >> 16)
        nudge = 0x4000
        if negative and (low & 0xFFFF) == 0:
            nudge = 0x3FFF
        v = high + high + (((s & 0xFFFF) + nudge) >> 15)
        if negative:
            v = 0 - v
        if shift < 0:
            shift = 0 - shift
            mask = (one << shift) - 1
            rest = v & mask
            limit = mask >> 1
            if v < 0:
                limit += 1
            v = v >> shift
            if rest > limit:
                v += 1
        if back:
            acc[i] = v
        else:
            v += zero
            if v < least:
                v = least
            if v > most:
                v = most
            out[o] = v
            o += stride


@micropython.viper
def column_sums(x: ptr8, acc: ptr32, p: ptr32):
    """acc[c] = sum over rows of (x[r, c] - zero point). p: rows, columns, zero point."""
    rows = int(p[0])
    columns = int(p[1])
    one = 1
    top = one << 31
    less = rows * (128 + ((int(p[2]) ^ top) - top))
    for c in range(columns):
        s = 0
        i = c
        for r in range(rows):
            s += x[i] ^ 128
            i += columns
        acc[c] = s - less


@micropython.viper
def column_max(x: ptr8, out: ptr8, p: ptr32):
    """out[c] = max over rows of x[r, c]. p: rows, columns."""
    rows = int(p[0])
    columns = int(p[1])
    for c in range(columns):
        best = 0
        i = c
        for r in range(rows):
            v = x[i] ^ 128
            if v > best:
                best = v
            i += columns
        out[c] = best ^ 128


@micropython.viper
def centre(x: ptr8, acc: ptr32, p: ptr32):
    """acc = (x - zero point) << shift. p: count, zero point, shift."""
    one = 1
    top = one << 31
    zero = 128 + ((int(p[1]) ^ top) - top)
    shift = int(p[2])
    for i in range(int(p[0])):
        acc[i] = ((x[i] ^ 128) - zero) << shift


@micropython.viper
def combine(acc: ptr32, other: ptr32, n: int, how: int):
    """acc = acc + other (how 0), acc - other (1), acc * other (2)."""
    one = 1
    top = one << 31
    for i in range(n):
        a = (int(acc[i]) ^ top) - top
        b = (int(other[i]) ^ top) - top
        if how == 0:
            acc[i] = a + b
        elif how == 1:
            acc[i] = a - b
        else:
            acc[i] = a * b
