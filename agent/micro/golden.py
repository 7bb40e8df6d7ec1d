"""Golden vectors: replayed when a bundle is tested; given back after it."""

from .errors import Refused
from .jsonstream import Reader


def golden(folder, manifest):
    """The golden vectors of a bundle, one at a time."""
    with open(folder + "/" + manifest.golden_file, "rb") as stream:
        reader = Reader(stream)
        for number in reader.elements():
            if number >= manifest.golden_count:
                raise Refused("bad-manifest", "more golden vectors than the manifest says")
            vector = reader.value()
            if not isinstance(vector, dict) or not isinstance(vector.get("text"), str):
                raise Refused("bad-manifest", "a golden vector is not well-formed")
            yield vector
        reader.end()


def replay(folder, model):
    """As :func:`micro.bundle.selftest`."""
    vectors = passed = most = 0
    for vector in golden(folder, model.manifest):
        steps, held = model.replay(vector)
        vectors += 1
        most = max(most, steps)
        if held and steps <= model.manifest.max_steps:
            passed += 1
    return vectors, passed, most
