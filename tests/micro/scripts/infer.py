"""Runs a model over inputs from a file: infer.py MODEL INPUTS [MEMORY [rom]].

INPUTS is a JSON list of lists of ids; the outputs are printed as JSON, or the refusal. With
`rom` the model is put into a read-only file system first, whose files are mapped to memory.
"""

import json
import struct
import sys
import vfs

from micro.errors import Refused
from micro.interpreter import Interpreter
from micro.memory import Memory


def integer(value):
    """An integer of a ROMFS image: seven bits a byte, the highest first."""
    out = bytearray((value & 127,))
    while value > 127:
        value >>= 7
        out = bytearray((value & 127 | 128,)) + out
    return bytes(out)


def in_rom(path):
    """Mounts an image with this one file; returns its new path."""
    with open(path, "rb") as stream:
        data = stream.read()
    name = b"model.tflite"
    file = integer(len(name)) + name + b"\x02" + integer(len(data)) + data
    record = b"\x05" + integer(len(file)) + file
    image = b"\xd2\xcd\x31" + integer(len(record)) + record
    vfs.mount(vfs.VfsRom(memoryview(image)), "/rom")
    return "/rom/model.tflite"


def main(path, inputs, size, rom):
    """Prints ``{"outputs": [...]}`` or ``{"refused": code}``."""
    try:
        if rom:
            path = in_rom(path)
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
    print(json.dumps({"outputs": outputs, "arena": model.arena_bytes,
                      "in_place": model._source.memory is not None}))


size = int(sys.argv[3]) if len(sys.argv) > 3 else 40960
main(sys.argv[1], sys.argv[2], size, len(sys.argv) > 4)
