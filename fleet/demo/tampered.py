"""A version that is signed and whole, but whose golden vectors do not match its model.

It stands for every model that a build or a converter got wrong: the signature is good, the
hashes are good, and only running it on the device shows that it is not what was measured.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries


def with_wrong_golden_vectors(source: Path, target: Path, version: str) -> Path:
    """Copies a bundle as a new version and inverts the expected outputs of its golden vectors.

    Args:
        source: a bundle folder.
        target: the new bundle folder; replaced when it exists.
        version: its version.

    Returns:
        `target`.
    """
    shutil.rmtree(target, ignore_errors=True)
    bundle = Bundle.open(source)
    bundle.extract(target)
    wrong = [
        msgspec.structs.replace(vector, output=[-1 - value for value in vector.output])
        for vector in bundle.golden()
    ]
    (target / bundle.manifest.golden.file).write_bytes(codec.encode(wrong))
    files = file_entries(target / entry.path for entry in bundle.manifest.files)
    manifest = msgspec.structs.replace(bundle.manifest, version=version, files=files)
    (target / MANIFEST).write_bytes(codec.pretty(manifest))
    return target
