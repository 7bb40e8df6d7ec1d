"""A bundle's manifest and golden vectors, read from flash in pieces."""

import math
import time

from .errors import Refused
from .interpreter import Interpreter
from .loan import give_back
from .ngrams import Ngrams

MANIFEST = "manifest.json"
MAX_SAID = 64


class Manifest:
    """What a device needs of ``manifest.json`` at `path`; metrics and the like are skipped.

    Raises:
        Refused: ``bad-manifest``, ``bad-message``.
    """

    def __init__(self, path):
        try:
            from .manifest import read

            read(self, path)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise Refused("bad-manifest", "the manifest lacks or misuses %s" % error)
        finally:
            read = None
            give_back("manifest", "jsonstream")

    def misfit(self, board):
        """Why it cannot run here, or None. `board`: the facts of the board's profile."""
        try:
            from .manifest import misfit

            return misfit(self, board)
        finally:
            misfit = None
            give_back("manifest", "jsonstream")


class Classifier:
    """A loaded classify bundle in `folder`.

    Args:
        folder: holds the manifest and its files, checked before.
        manifest: read from it.
        memory: for the model.
    """

    def __init__(self, folder, manifest, memory):
        self.manifest = manifest
        self._front = Ngrams(manifest.front_end.get("config", {}))
        self._model = Interpreter(folder + "/" + manifest.model_file, memory)
        model = self._model
        if (
            len(model.inputs) != 1
            or len(model.inputs[0]) != 4 * self._front.length
            or len(model.outputs) != 1
            or len(model.outputs[0]) != len(manifest.labels)
        ):
            model.close()
            raise Refused("bad-manifest", "the model's borders are not what the manifest says")
        self.arena_bytes = model.arena_bytes

    def close(self):
        """Frees the model's file."""
        self._model.close()

    def scores(self, text):
        """int8 scores (as bytes of two's complement) and whether the text was cut."""
        over = self._front.fill(text, self._model.inputs[0])
        self._model.invoke()
        return self._model.outputs[0], over

    def classify(self, text, top_k):
        """The wire's ``classified``, without the bundle."""
        start = time.ticks_us()
        scores, over = self.scores(text)
        manifest = self.manifest
        step = manifest.scale / manifest.temperature
        values = [(b ^ 128) - 128 for b in scores]
        if manifest.cuts:
            return self._several(values, top_k, over, start)
        most = max(values)
        weights = [math.exp((v - most) * step) for v in values]
        total = sum(weights)
        order = best_first(values)[:top_k]
        top = [{"label": manifest.labels[i], "confidence": weights[i] / total} for i in order]
        confidence = top[0]["confidence"]
        result = {
            "label": top[0]["label"] if confidence >= manifest.threshold else "unknown",
            "confidence": confidence,
            "top": top,
            "latency_us": float(time.ticks_diff(time.ticks_us(), start)),
        }
        if over:
            result["truncated"] = True
        if confidence < manifest.threshold:
            result["best"] = top[0]["label"]
        return result

    def _several(self, values, top_k, over, start):
        """The answer of a model that gives several labels: by its integers alone."""
        manifest = self.manifest
        step = manifest.scale / manifest.temperature
        order = best_first(values)

        def scored(i):
            # The smaller exponential: a float has no room for the larger.
            power = math.exp(-abs(values[i] - manifest.zero_point) * step)
            chance = (1.0 if values[i] >= manifest.zero_point else power) / (1 + power)
            return {"label": manifest.labels[i], "confidence": chance}

        said = [scored(i) for i in order if values[i] >= manifest.cuts[i]][:MAX_SAID]
        top = [scored(i) for i in order[:top_k]]
        result = {
            "label": said[0]["label"] if said else "unknown",
            "confidence": (said or top)[0]["confidence"],
            "top": top,
            "latency_us": float(time.ticks_diff(time.ticks_us(), start)),
            "labels": said,
        }
        if over:
            result["truncated"] = True
        if not said:
            result["best"] = top[0]["label"]
        return result

    def replay(self, vector):
        """Steps that a golden vector's output is off, and whether its best label holds."""
        scores, _ = self.scores(vector["text"])
        values = [(b ^ 128) - 128 for b in scores]
        expected = vector["output"]
        if len(expected) != len(values):
            raise Refused("bad-manifest", "a golden vector has another length")
        steps = max([abs(a - b) for a, b in zip(values, expected)])
        best = self.manifest.labels[values.index(max(values))]
        # Equal scores may be ordered either way.
        held = best == vector["label"] or (
            vector["label"] in self.manifest.labels
            and values[self.manifest.labels.index(vector["label"])] == max(values)
        )
        return steps, held


def best_first(values):
    """Places of int8 values, the largest first; of equals the first, as agents answer.

    MicroPython's sort keeps no order of equals.
    """
    return sorted(range(len(values)), key=lambda i: i - 65536 * values[i])


def open_bundle(folder, manifest, memory):
    """Loads a bundle's model for its task."""
    if manifest.task == "classify":
        return Classifier(folder, manifest, memory)
    from .generate import Generator

    return Generator(folder, manifest, memory)


def selftest(folder, model):
    """Replays the golden vectors of the bundle in `folder` on its loaded `model`.

    Returns:
        ``(vectors, passed, most steps)``; see :func:`holds`.
    """
    try:
        from .golden import replay

        return replay(folder, model)
    finally:
        replay = None
        give_back("golden", "jsonstream")


def holds(manifest, vectors, passed, most):
    """Whether a self-test is good enough to serve."""
    return (
        vectors == manifest.golden_count
        and vectors > 0
        and most <= manifest.max_steps
        and passed >= manifest.min_agreement * vectors
    )
