"""Greedy continuations of a generator: continue.py FOLDER PROMPTS COUNT; prints lists of ids."""

import json
import sys

from micro.generate import Generator
from micro.memory import Memory


class Manifest:
    """What a generator reads of a manifest."""

    def __init__(self, alphabet):
        self.front_end = {"kind": "alphabet", "characters": alphabet}
        self.model_file = "model.tflite"


def main(folder, file, count):
    """Prints the ids after each prompt."""
    with open(file) as stream:
        alphabet, prompts = json.load(stream)
    model = Generator(folder, Manifest(alphabet), Memory(40960))
    print(json.dumps([model.tokens(prompt, count) for prompt in prompts]))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
