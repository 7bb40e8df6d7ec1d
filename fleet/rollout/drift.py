"""How far what a model answers in the field is from its manifest's baseline.

Both distances are 0 to 1, and both are made smaller by what chance alone would give with so
few answers, so that a limit means the same for 50 answers and for 50,000.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from contracts.histogram import Histogram


def label_drift(baseline: Mapping[str, float], counts: Mapping[str, int]) -> float | None:
    """Total variation distance of label shares, less its expectation under no drift.

    For n answers, the share of a label with probability p deviates by
    ``sqrt(2 p (1 - p) / (pi n))`` in the mean (the mean absolute deviation of a normal
    distribution); half the sum over the labels is what chance gives.

    Args:
        baseline: share of each label; need not sum to exactly 1.
        counts: answers by label.

    Returns:
        0 to 1; None without answers or without a baseline.
    """
    n = sum(counts.values())
    mass = sum(baseline.values())
    if not n or mass <= 0:
        return None
    distance = chance = 0.0
    for label in baseline.keys() | counts.keys():
        p = baseline.get(label, 0.0) / mass
        distance += abs(counts.get(label, 0) / n - p)
        chance += math.sqrt(2 * p * (1 - p) / (math.pi * n))
    return max(0.0, (distance - chance) / 2)


def confidence_drift(baseline: Histogram, found: Histogram) -> float | None:
    """Kolmogorov-Smirnov distance of confidences, less its mean under no drift.

    The mean of the Kolmogorov distribution is ``sqrt(pi / 2) * ln 2`` (about 0.869), divided
    by ``sqrt(n)``, where n joins both sample sizes as ``1 / (1/n1 + 1/n2)``.

    Returns:
        0 to 1; None when one is empty or their scales differ.
    """
    n1, n2 = baseline.count, found.count
    if not n1 or not n2 or baseline.scale != found.scale:
        return None
    sum1 = sum2 = 0
    distance = 0.0
    for index in sorted({int(k) for k in (*baseline.counts, *found.counts)}):
        sum1 += baseline.counts.get(str(index), 0)
        sum2 += found.counts.get(str(index), 0)
        distance = max(distance, abs(sum1 / n1 - sum2 / n2))
    chance = math.sqrt(math.pi / 2) * math.log(2) * math.sqrt(1 / n1 + 1 / n2)
    return max(0.0, distance - chance)
