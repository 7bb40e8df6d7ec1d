"""Training states on disk, so that a killed build goes on where its last epoch ended."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.convert import write_atomically


class Saved(msgspec.Struct):
    """A training state.

    Attributes:
        epoch: epochs that are done.
        finished: nothing is left to train.
        arrays: of the model, then of the optimiser; the latter are gone when finished.
        notes: JSON values, for example the validation scores.
    """

    epoch: int
    finished: bool
    arrays: list[NDArray[Any]]
    notes: list[Any]


class Checkpoint:
    """One training run's state in one file; each save replaces it at once.

    Args:
        folder: where it lives.
        key: hex digest of all that determines the run.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._file = folder / f"training-{key[:24]}.npz"

    def load(self, shapes: Sequence[tuple[int, ...]]) -> Saved | None:
        """The state, or None when there is none that fits.

        Args:
            shapes: of the model's arrays; a file that does not have them is ignored.
        """
        try:
            with self._file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
                notes = msgspec.json.decode(saved["notes"].tobytes())
                arrays = [saved[f"a{i}"] for i in range(int(saved["count"]))]
                state = Saved(int(saved["epoch"]), bool(saved["finished"]), arrays, notes)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, msgspec.DecodeError):
            return None
        if [tuple(a.shape) for a in state.arrays[: len(shapes)]] != [tuple(s) for s in shapes]:
            return None
        return state

    def save(self, state: Saved) -> None:
        """Writes the state."""
        buffer = io.BytesIO()
        named = {f"a{i}": array for i, array in enumerate(state.arrays)}
        np.savez(
            buffer,
            count=len(named),
            epoch=state.epoch,
            finished=state.finished,
            notes=np.frombuffer(msgspec.json.encode(state.notes), np.uint8),
            **named,  # type: ignore[arg-type]
        )
        write_atomically(self._file, buffer.getvalue())
