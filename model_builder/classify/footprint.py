"""Latency and memory of a model: ``python -m model_builder.classify.footprint FOLDER SIGNATURE``.

Reads ``model.tflite`` and ``inputs.npz``, prints one JSON line. A fresh process, because memory
that a training run left behind would drown the model's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.errors import UnavailableError

_TIMEOUT_S = 300


class Footprint(msgspec.Struct, frozen=True):
    """What running a model costs on this machine, one thread.

    Attributes:
        latency_p50_us, latency_p95_us: of one inference, without the front end.
        rss_bytes: resident memory that loading and running added.
        anonymous_bytes: the part of it that is not backed by a file.
    """

    latency_p50_us: float
    latency_p95_us: float
    rss_bytes: int
    anonymous_bytes: int


def measure(model: bytes, inputs: dict[str, NDArray[Any]], signature: str = "") -> Footprint:
    """Runs `model` on each row of `inputs` (name -> [N, ...]) in a new process.

    Raises:
        UnavailableError: ``measure-failed``.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.tflite").write_bytes(model)
        np.savez(Path(folder) / "inputs.npz", **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "model_builder.classify.footprint", folder, signature]
        try:
            result = subprocess.run(
                command, capture_output=True, timeout=_TIMEOUT_S, check=True, text=True
            )
            return msgspec.json.decode(result.stdout.splitlines()[-1], type=Footprint)
        except (subprocess.SubprocessError, IndexError, msgspec.DecodeError) as error:
            raise UnavailableError(
                "measure-failed", f"measuring the model failed: {str(error)[:300]}"
            ) from None


def _memory() -> tuple[int, int]:
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    )
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("Rss", "Anonymous"))  # type: ignore[return-value]


def _main(folder: str, signature: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    with np.load(Path(folder) / "inputs.npz", allow_pickle=False) as saved:
        inputs = {name: saved[name] for name in saved.files}
    before = _memory()
    interpreter = Interpreter(model_path=str(Path(folder) / "model.tflite"), num_threads=1)
    runner = interpreter.get_signature_runner(signature or None)
    count = len(next(iter(inputs.values())))
    rows = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(count)]
    for row in rows[:20]:
        runner(**row)
    times = []
    for row in rows:
        start = time.perf_counter_ns()
        runner(**row)
        times.append((time.perf_counter_ns() - start) / 1000)
    after = _memory()
    print(
        json.dumps(
            {
                "latency_p50_us": round(float(np.percentile(times, 50)), 1),
                "latency_p95_us": round(float(np.percentile(times, 95)), 1),
                "rss_bytes": max(0, after[0] - before[0]),
                "anonymous_bytes": max(0, after[1] - before[1]),
            }
        )
    )


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
