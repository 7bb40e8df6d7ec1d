"""Times inferences: timed.py MODEL IDS ROUNDS."""

import json
import struct
import sys
import time

from micro.interpreter import Interpreter
from micro.memory import Memory


def main(path, file, rounds):
    """Prints ``{"ms": milliseconds of one}``."""
    model = Interpreter(path, Memory(65536))
    with open(file) as stream:
        ids = json.load(stream)
    struct.pack_into("<%di" % len(ids), model.inputs[0], 0, *ids)
    model.invoke()
    start = time.ticks_us()
    for _ in range(rounds):
        model.invoke()
    print(json.dumps({"ms": time.ticks_diff(time.ticks_us(), start) / 1000 / rounds}))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
