"""Memory that loading and running a decoder adds: measured in a process of its own.

``python -m model_builder.generate.measure MODEL CACHE SIGNATURE`` prints bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def peak_rss(model: Path, signature: str) -> int:
    """Bytes of resident memory that one signature of a model file takes, weight cache warm."""
    with tempfile.TemporaryDirectory(prefix="shoal-measure-") as folder:
        module = "model_builder.generate.measure"
        command = [sys.executable, "-m", module, str(model), f"{folder}/weights", signature]
        for _ in range(2):  # the first run writes the cache of packed weights
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _main(path: str, cache: str, signature: str) -> None:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    before = _resident("VmRSS")
    cpu = CpuOptions(num_threads=1, xnnpack_weight_cache_path=cache)
    model = CompiledModel.from_file(path, options=Options(cpu_options=cpu))
    inputs = {
        name: model.create_input_buffer_by_name(signature, name)
        for name in model.get_input_tensor_details(signature)
    }
    outputs = {
        name: model.create_output_buffer_by_name(signature, name)
        for name in model.get_output_tensor_details(signature)
    }
    model.run_by_name(signature, inputs, outputs)
    sys.stdout.write(f"{_resident('VmHWM') - before}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
