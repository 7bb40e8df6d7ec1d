"""A bundle's manifest and golden vectors, read from flash in pieces."""

import math
import time

from .errors import Refused
from .files import checked_name
from .interpreter import Interpreter
from .loan import give_back
from .ngrams import Ngrams

MANIFEST = "manifest.json"
MAX_FILES = 16
_PARTS = (
    "schema",
    "name",
    "version",
    "task",
    "files",
    "front_end",
    "golden",
    "classifier",
    "generator",
    "boards",
)


def _text(value, what):
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise Refused("bad-manifest", "%s is not a text" % what)
    return value


class Manifest:
    """What a device needs of ``manifest.json`` at `path`; metrics and the like are skipped.

    Raises:
        Refused: ``bad-manifest``, ``bad-message``.
    """

    def __init__(self, path):
        try:
            self._read(path)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise Refused("bad-manifest", "the manifest lacks or misuses %s" % error)
        finally:
            give_back("jsonstream")

    def _read(self, path):
        from .jsonstream import Reader

        found = {}
        model = {}
        with open(path, "rb") as stream:
            reader = Reader(stream)
            for key in reader.members():
                if key == "model":
                    for part in reader.members():
                        if part in ("file", "quantization", "arena_bytes"):
                            model[part] = reader.value()
                        elif part == "signatures":
                            model["outputs"] = self._outputs(reader)
                        else:
                            reader.skip()
                elif key in _PARTS:
                    found[key] = reader.value()
                else:
                    reader.skip()
            reader.end()
        if found["schema"] != 1:
            raise Refused("bad-manifest", "schema %s, 1 is read" % found["schema"])
        self.name = checked_name(found["name"])
        self.version = _text(found["version"], "the version")
        self.task = found["task"]
        self.files = []
        for entry in found["files"]:
            size = entry["size"]
            if not isinstance(size, int) or size < 0 or len(_text(entry["sha256"], "a hash")) != 64:
                raise Refused("bad-manifest", "a file's size or hash is wrong")
            self.files.append((checked_name(entry["path"]), entry["sha256"], size))
        names = [entry[0] for entry in self.files]
        if not names or len(names) > MAX_FILES or len(set(names)) != len(names):
            raise Refused("bad-manifest", "expected 1 to %d different files" % MAX_FILES)
        self.model_file = checked_name(model["file"])
        self.golden_file = checked_name(found["golden"]["file"])
        if MANIFEST in names or self.model_file not in names or self.golden_file not in names:
            raise Refused("bad-manifest", "the manifest does not list the files that it uses")
        self.total_bytes = sum(entry[2] for entry in self.files)
        self.arena_bytes = model.get("arena_bytes")
        self.quantization = model["quantization"]
        self.scale, self.zero_point = model["outputs"]
        self.boards = found.get("boards", [])
        self.front_end = found["front_end"]
        self.golden_count = found["golden"]["count"]
        self.max_steps = found["golden"].get("max_steps", 1)
        self.min_agreement = found["golden"].get("min_label_agreement", 1.0)
        self.generator = found.get("generator")
        classifier = found.get("classifier") or {}
        self.labels = classifier.get("labels", [])
        self.temperature = classifier.get("temperature", 1.0)
        self.threshold = classifier.get("threshold", 0.0)
        if self.task not in ("classify", "generate"):
            raise Refused("bad-manifest", "the task is %s" % self.task)
        if self.task == "classify" and (len(self.labels) < 2 or self.temperature <= 0):
            raise Refused("bad-manifest", "a classifier needs labels")

    @staticmethod
    def _outputs(reader):
        """Scale and zero point of the first signature's first output."""
        signatures = reader.value()
        output = signatures[0]["outputs"][0]
        return output.get("scale", 0.0), output.get("zero_point", 0)

    def misfit(self, board):
        """Why it cannot run here, or None. `board`: the facts of the board's profile."""
        if self.quantization not in board["quantizations"]:
            return "quantisation %s: the board runs int8" % self.quantization
        if self.arena_bytes is None:
            return "the model has operators that a microcontroller lacks"
        if self.arena_bytes > board["model_ram_bytes"]:
            return "memory: needs %d bytes, the board gives %d" % (
                self.arena_bytes,
                board["model_ram_bytes"],
            )
        if self.total_bytes > board["model_flash_bytes"]:
            return "storage: needs %d bytes, the board gives %d" % (
                self.total_bytes,
                board["model_flash_bytes"],
            )
        if self.front_end.get("kind") not in ("hashed-ngrams", "alphabet"):
            return "front end: the board has hashed n-grams and alphabets"
        if self.boards and board["name"] not in self.boards:
            return "board: the bundle is for %s" % ", ".join(self.boards)
        return None


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
        most = max(values)
        weights = [math.exp((v - most) * step) for v in values]
        total = sum(weights)
        order = sorted(range(len(values)), key=lambda i: -values[i])[:top_k]
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


def golden(folder, manifest):
    """The golden vectors of a bundle, one at a time."""
    from .jsonstream import Reader

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
    vectors = passed = most = 0
    try:
        for vector in golden(folder, model.manifest):
            steps, held = model.replay(vector)
            vectors += 1
            most = max(most, steps)
            if held and steps <= model.manifest.max_steps:
                passed += 1
    finally:
        give_back("jsonstream")
    return vectors, passed, most


def holds(manifest, vectors, passed, most):
    """Whether a self-test is good enough to serve."""
    return (
        vectors == manifest.golden_count
        and vectors > 0
        and most <= manifest.max_steps
        and passed >= manifest.min_agreement * vectors
    )
