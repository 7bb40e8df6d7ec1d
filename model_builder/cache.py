"""Arrays on disk by the hash of their text, so that a teacher labels a text once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from model_builder.convert import write_atomically


class RowCache:
    """One float32 row a text, in one file for one function of texts.

    Args:
        folder: where the file lives.
        key: names the function: a changed teacher is another key.
        width: of a row.
    """

    def __init__(self, folder: Path, key: str, width: int) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        self._file = folder / f"rows-{digest}.npz"
        self._width = width
        self._index: dict[bytes, int] = {}
        self._rows = np.zeros((0, width), np.float32)
        self._read()

    def _read(self) -> None:
        """A file that cannot be read is no cache: its rows are computed again."""
        try:
            with self._file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
                keys, rows = saved["keys"], saved["rows"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return
        if rows.shape == (len(keys), self._width) and rows.dtype == np.float32:
            self._rows = rows
            self._index = {bytes(key): i for i, key in enumerate(keys)}

    def get(
        self, texts: Sequence[str], compute: Callable[[list[str]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Rows float32 [N, width] of `texts`; what is not there is computed and kept."""
        keys = [hashlib.sha256(t.encode("utf-8", "replace")).digest()[:16] for t in texts]
        missing: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key not in self._index:
                missing.setdefault(key, text)
        if missing:
            fresh = compute(list(missing.values()))
            for key in missing:
                self._index[key] = len(self._index)
            self._rows = np.concatenate([self._rows, fresh.astype(np.float32)])
            self._write()
        return np.asarray(self._rows[[self._index[key] for key in keys]], np.float32)

    def _write(self) -> None:
        ordered = sorted(self._index, key=lambda key: self._index[key])
        keys = np.frombuffer(b"".join(ordered), np.uint8).reshape(-1, 16)
        buffer = io.BytesIO()
        np.savez(buffer, keys=keys, rows=self._rows)
        write_atomically(self._file, buffer.getvalue())
