"""Self-tests many damaged models, each in a process of its own, and counts how they ended.

``python tests/faults/models_by_fork.py FOLDER COUNT``: `FOLDER` is a bundle folder to damage.
The process forks where ``agent.runtime.check.run`` starts a program: Python and the runtime are
then loaded once. The child runs the program's own ``main`` with its limits.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec

from agent.runtime import check, classifier, golden, litert  # noqa: F401  # loaded before forks
from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.errors import ErrorBody
from contracts.messages import Selftested

SECONDS = 3
MEMORY_BYTES = 1 << 30


def damaged(chance: random.Random, model: bytes) -> bytes:
    """A model with a few bytes changed, cut, or grown."""
    data = bytearray(model)
    for _ in range(chance.choice((1, 2, 4, 16, 40))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    kind = chance.random()
    if kind < 0.05:
        del data[chance.randrange(len(data)) :]
    elif kind < 0.1:
        at = chance.randrange(len(data))
        data[at:at] = chance.randbytes(chance.randrange(1, 64))
    return bytes(data)


def ended(folder: Path) -> str:
    """How one self-test ended: ``ok``, the error's code, or ``crashed``."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(write, 1)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            signal.alarm(SECONDS)
            code = check.main([str(folder), "-", "1", str(MEMORY_BYTES), str(SECONDS)])
        except BaseException:  # noqa: BLE001  # as a program: any other end is a crash
            code = 70
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        output = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        result = codec.decode(output, Selftested, what="a result")
        return "ok" if result.passed == result.vectors else "passed too few"
    try:
        return codec.decode(output, ErrorBody, what="an error").error.code
    except Exception:  # noqa: BLE001  # no line: it crashed
        return "crashed"


def main(folder: Path, count: int) -> int:
    """Runs and prints the counts and the slowest test's seconds as JSON."""
    path = folder / "model.tflite"
    model = path.read_bytes()
    manifest = Bundle.open(folder).manifest
    found: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        path.write_bytes(damaged(random.Random(number), model))
        files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
        changed = msgspec.structs.replace(manifest, files=files)
        (folder / MANIFEST).write_bytes(codec.encode(changed))
        begin = time.monotonic()
        found[ended(folder)] += 1
        slowest = max(slowest, time.monotonic() - begin)
    print(json.dumps({"ends": found, "slowest_s": slowest}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
