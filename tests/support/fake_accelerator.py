"""Compiles ``fake_accelerator.c`` for a bundle: what its table answers is what the model does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ai_edge_litert
import numpy as np

from agent.runtime.classifier import Classifier
from contracts.bundle import Bundle
from contracts.manifest import NgramFrontEnd
from contracts.text import ngram_ids

SOURCE = Path(__file__).with_suffix(".c")
WHEEL = Path(ai_edge_litert.__path__[0])
PRIME, OFFSET = 1099511628211, 14695981039346656037


def fake_accelerator(path: Path, bundle: Bundle, behaviour: str, litert: Path = WHEEL) -> Path:
    """A shared object at `path`.

    Args:
        path: of the library.
        bundle: an int8 bundle of n-grams, whose golden texts it knows.
        behaviour: a macro of the source; ``NAME=value`` too.
        litert: the folder whose ``libLiteRt.so`` will have loaded it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    model = Classifier(bundle)
    front_end = bundle.manifest.front_end
    assert isinstance(front_end, NgramFrontEnd)
    for text in dict.fromkeys(vector.text for vector in bundle.golden()):
        ids = np.array(ngram_ids(text, front_end.config)[0], np.int32)
        value = OFFSET
        for byte in ids.tobytes():
            value = (value ^ byte) * PRIME % 2**64
        outputs = ", ".join(str(int(one)) for one in model.run(text).output)
        rows.append(f"{{{value}u, {{{outputs}}}}},")
        size = model.run(text).output.size
    model.close()
    (path.parent / "table.h").write_text(
        f"#define OUTPUTS {size}\n"
        "static const struct { uint64_t hash; int8_t outputs[OUTPUTS]; } TABLE[] = {\n"
        + "\n".join(rows)
        + "\n};\n"
    )
    subprocess.run(
        [
            "gcc", "-shared", "-fPIC", "-O1", f"-I{path.parent}", f"-D{behaviour}",
            f'-DLITERT="{litert / "libLiteRt.so"}"', "-o", str(path), str(SOURCE), "-ldl",
        ],
        check=True,
    )  # fmt: skip
    return path
