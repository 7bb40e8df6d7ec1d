"""Runs a model over inputs from a file: infer.py MODEL INPUTS [MEMORY].

INPUTS is a JSON list of lists of ids; the outputs are printed as JSON, or the refusal.
"""

import json
import struct
import sys

from micro.errors import Refused
from micro.interpreter import Interpreter
from micro.memory import Memory


def main(path, inputs, size):
    """Prints ``{"outputs": [...]}`` or ``{"refused": code}``."""
    try:
        model = Interpreter(path, Memory(size))
        outputs = []
        with open(inputs) as stream:
            for ids in json.load(stream):
                struct.pack_into("<%di" % len(ids), model.inputs[0], 0, *ids)
                model.invoke()
                outputs.append([(b ^ 128) - 128 for b in model.outputs[0]])
    except Refused as error:
        print(json.dumps({"refused": error.code, "message": error.message}))
        return
    print(json.dumps({"outputs": outputs, "arena": model.arena_bytes}))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 40960)
