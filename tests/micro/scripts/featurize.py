"""Turns texts into ids: featurize.py CASES, a JSON list of [config, text]."""

import json
import struct
import sys

from micro.ngrams import Ngrams


def main(path):
    """Prints a JSON list of [ids, truncated]."""
    results = []
    with open(path) as stream:
        for config, text in json.load(stream):
            front = Ngrams(config)
            view = bytearray(4 * front.length)
            over = front.fill(text, view)
            results.append([struct.unpack("<%di" % front.length, view), over])
    print(json.dumps(results))


main(sys.argv[1])
