"""Places tensors in one arena so that those alive at the same time do not overlap."""

ALIGN = 8


def place(spans):
    """Offsets for tensors, largest first, each at the lowest place that is free.

    Args:
        spans: list of (bytes, first step, last step), None for tensors without memory here.

    Returns:
        Offsets (None where the span is None) and the bytes of the arena.
    """
    offsets = [None] * len(spans)
    order = sorted([i for i in range(len(spans)) if spans[i]], key=lambda i: -spans[i][0])
    total = 0
    done = []
    for i in order:
        size, first, last = spans[i]
        size = (size + ALIGN - 1) // ALIGN * ALIGN
        at = 0
        for start, end, begin, until in sorted(done):
            if begin <= last and first <= until and start < at + size and at < end:
                at = end
        offsets[i] = at
        done.append((at, at + size, first, last))
        total = max(total, at + size)
    return offsets, total
