"""Loads and runs damaged models: damaged.py FOLDER COUNT."""

import gc
import json
import sys

from micro.errors import Refused
from micro.interpreter import Interpreter
from micro.memory import Memory


def main(folder, count):
    """Prints how many were refused or ran, and which raised anything else."""
    refused = ran = 0
    crashed = []
    for number in range(count):
        gc.collect()
        try:
            Interpreter("%s/%d.tflite" % (folder, number), Memory(65536)).invoke()
            ran += 1
        except Refused:
            refused += 1
        except Exception as error:
            crashed.append([number, repr(error)])
    print(json.dumps({"refused": refused, "ran": ran, "crashed": crashed}))


main(sys.argv[1], int(sys.argv[2]))
