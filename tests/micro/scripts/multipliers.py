"""Fixed-point multipliers of scales: multipliers.py CASES, a JSON list of float32 bits [a, b, c].

Prints (a * b / c) as TFLite's multiplier and shift.
"""

import json
import sys

from micro import quantize


def main(path):
    """Prints a JSON list of [multiplier, shift]."""
    results = []
    with open(path) as stream:
        for a, b, c in json.load(stream):
            product = quantize.product(quantize.split(a), quantize.split(b))
            results.append(quantize.multiplier(product, quantize.split(c)))
    print(json.dumps(results))


main(sys.argv[1])
