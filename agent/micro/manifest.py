"""Reads a manifest and judges whether it fits; loaded for that alone and given back after it."""

from .errors import Refused
from .files import checked_name
from .jsonstream import Reader

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


def read(manifest, path):
    """Fills a :class:`micro.bundle.Manifest`; see there."""
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
                        model["outputs"] = _outputs(reader)
                    else:
                        reader.skip()
            elif key in _PARTS:
                found[key] = reader.value()
            else:
                reader.skip()
        reader.end()
    if found["schema"] not in (1, 2):
        raise Refused("bad-manifest", "schema %s, 1 and 2 are read" % found["schema"])
    manifest.name = checked_name(found["name"])
    manifest.version = _text(found["version"], "the version")
    manifest.task = found["task"]
    manifest.files = []
    for entry in found["files"]:
        size = entry["size"]
        if not isinstance(size, int) or size < 0 or len(_text(entry["sha256"], "a hash")) != 64:
            raise Refused("bad-manifest", "a file's size or hash is wrong")
        manifest.files.append((checked_name(entry["path"]), entry["sha256"], size))
    names = [entry[0] for entry in manifest.files]
    if not names or len(names) > MAX_FILES or len(set(names)) != len(names):
        raise Refused("bad-manifest", "expected 1 to %d different files" % MAX_FILES)
    manifest.model_file = checked_name(model["file"])
    manifest.golden_file = checked_name(found["golden"]["file"])
    if MANIFEST in names or manifest.model_file not in names or manifest.golden_file not in names:
        raise Refused("bad-manifest", "the manifest does not list the files that it uses")
    manifest.total_bytes = sum(entry[2] for entry in manifest.files)
    manifest.arena_bytes = model.get("arena_bytes")
    manifest.quantization = model["quantization"]
    manifest.scale, manifest.zero_point = model["outputs"]
    manifest.boards = found.get("boards", [])
    manifest.front_end = found["front_end"]
    manifest.golden_count = found["golden"]["count"]
    manifest.max_steps = found["golden"].get("max_steps", 1)
    manifest.min_agreement = found["golden"].get("min_label_agreement", 1.0)
    manifest.generator = found.get("generator")
    classifier = found.get("classifier") or {}
    manifest.labels = classifier.get("labels", [])
    manifest.temperature = classifier.get("temperature", 1.0)
    manifest.threshold = classifier.get("threshold", 0.0)
    manifest.cuts = classifier.get("cuts", [])
    cuts = manifest.cuts
    if bool(cuts) != (found["schema"] == 2) or (cuts and len(cuts) != len(manifest.labels)):
        raise Refused("bad-manifest", "schema 2 has a cut for each label, and schema 1 none")
    for cut in cuts:
        if not isinstance(cut, int) or not -128 <= cut <= 127:
            raise Refused("bad-manifest", "a cut is no int8 number")
    if manifest.task not in ("classify", "generate"):
        raise Refused("bad-manifest", "the task is %s" % manifest.task)
    if manifest.task == "classify" and (len(manifest.labels) < 2 or manifest.temperature <= 0):
        raise Refused("bad-manifest", "a classifier needs labels")


def _outputs(reader):
    """Scale and zero point of the first signature's first output."""
    signatures = reader.value()
    if not signatures:  # of an adapter, which misfit() refuses
        return 0.0, 0
    output = signatures[0]["outputs"][0]
    return output.get("scale", 0.0), output.get("zero_point", 0)


def misfit(manifest, board):
    """Why it cannot run here, or None. `board`: the facts of the board's profile."""
    if manifest.front_end.get("kind") == "base":
        return "an adapter: the board runs no base of one"
    if manifest.quantization not in board["quantizations"]:
        return "quantisation %s: the board runs int8" % manifest.quantization
    if manifest.arena_bytes is None:
        return "the model has operators that a microcontroller lacks"
    if manifest.arena_bytes > board["model_ram_bytes"]:
        return "memory: needs %d bytes, the board gives %d" % (
            manifest.arena_bytes,
            board["model_ram_bytes"],
        )
    if manifest.total_bytes > board["model_flash_bytes"]:
        return "storage: needs %d bytes, the board gives %d" % (
            manifest.total_bytes,
            board["model_flash_bytes"],
        )
    if manifest.front_end.get("kind") not in ("hashed-ngrams", "alphabet"):
        return "front end: the board has hashed n-grams and alphabets"
    if manifest.boards and board["name"] not in manifest.boards:
        return "board: the bundle is for %s" % ", ".join(manifest.boards)
    return None
