"""Runs the golden vectors of a bundle in one runtime and prints the raw outputs as JSON.

A program of its own: tflite-runtime needs numpy 1 and so another environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agent.runtime.classifier import Classifier
from contracts.bundle import Bundle


def main() -> None:
    """``runtime_outputs.py BUNDLE RUNTIME``."""
    bundle = Bundle.open(Path(sys.argv[1]))
    model = Classifier(bundle, runtime=sys.argv[2])
    rows = []
    for vector in bundle.golden():
        raw = model.run(vector.text)
        rows.append({"best": raw.best, "output": [int(v) for v in raw.output]})
    tested = model.selftest(bundle)
    model.close()
    print(json.dumps({"rows": rows, "passed": tested.passed, "vectors": tested.vectors}))


main()
