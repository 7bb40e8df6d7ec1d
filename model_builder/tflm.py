"""TensorFlow Lite Micro: does a microcontroller run the model, with which arena, to what output."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.limits import MIB
from model_builder.convert import native_output

_ARENA_CAP = 4 * MIB
"""The largest arena tried; no board of ours gives more to a model."""


class ArenaReport(msgspec.Struct, frozen=True):
    """What TensorFlow Lite Micro said.

    Attributes:
        arena_bytes: of the tensor arena; None when it cannot run the model.
        problem: what it lacks, in its own words.
    """

    arena_bytes: int | None
    problem: str = ""


def measure(model: bytes, ids: NDArray[np.int32]) -> tuple[ArenaReport, NDArray[np.int8] | None]:
    """Runs `model` on `ids` int32 [N, L] with the kernels of TensorFlow Lite Micro.

    Returns:
        The report, and int8 [N, C] outputs, None when it cannot run.
    """
    from tflite_micro.python.tflite_micro import runtime

    with native_output() as said:
        try:
            interpreter = runtime.Interpreter.from_bytes(model, arena_size=_ARENA_CAP)
            outputs = [_run(interpreter, row) for row in ids]
            interpreter.print_allocations()
        except (RuntimeError, ValueError) as error:
            words = [line.strip() for line in said().splitlines() if line.strip()]
            return ArenaReport(None, "; ".join(words[-2:]) or str(error)), None
        text = said()
    found = re.search(r"Arena allocation total (\d+) bytes", text)
    if found is None:
        return ArenaReport(None, "no arena report"), None
    return ArenaReport(int(found.group(1))), np.stack(outputs)


def _run(interpreter: Any, row: NDArray[np.int32]) -> NDArray[np.int8]:
    interpreter.set_input(row[None], 0)
    interpreter.invoke()
    return np.array(interpreter.get_output(0)[0], np.int8)
