"""Classifies the golden texts of a bundle that gives several labels: several.py FOLDER TEXTS."""

import json
import sys

from micro.bundle import Manifest, open_bundle
from micro.errors import Refused
from micro.memory import Memory


def main(folder, texts):
    """Prints the answers, or the refusal."""
    try:
        manifest = Manifest(folder + "/manifest.json")
        model = open_bundle(folder, manifest, Memory(40960))
        with open(texts) as stream:
            answers = [model.classify(text, 4) for text in json.load(stream)]
    except Refused as error:
        print(json.dumps({"refused": error.code, "message": error.message}))
        return
    print(json.dumps(answers))


main(sys.argv[1], sys.argv[2])
