"""Microcontroller class: memory of a MicroPython device, time of an inference, the C pack.

::

    python benchmarks/micro.py [--quick] [--json FILE] [--bundle FOLDER]

Without `--bundle` a model of 200 KB with random weights is measured. The heap's peak is the
smallest heap of the whole agent (code, TLS-less MQTT, model) with which a device with that
model on its flash answers, or updates to another version of it: MicroPython collects only
when memory runs out, so what is in use at a moment says little. Objects of the unix port have
64 bits; a board needs less.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from contracts.bundle import Bundle
from contracts.manifest import NgramFrontEnd
from contracts.messages import ClassifyRequest
from contracts.text import ngram_ids
from fleet.repository.repository import Repository
from model_builder.export_c import measure, pack
from tests.micro import bundles, device
from tests.micro.controller import Controller, enrol
from tests.support.broker import mosquitto

ROOT = Path(__file__).parents[1]
KIB = 1024
Row = dict[str, Any]

_TIMED = """\
#include <stdio.h>
#include <time.h>
#include "golden.h"
#include "shoal_bundle.h"
int main(void)
{
    struct timespec a, b;
    shoal_prepare(shoal_goldens[0].text, shoal_goldens[0].size);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < ROUNDS; i++) {
        if (shoal_run() != 0) {
            return 1;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
    printf("%.6f", ms / ROUNDS);
    return 0;
}
"""


def row(case: str, system: str, figure: str, value: float, unit: str, runs: int = 1) -> Row:
    """One figure."""
    return {
        "case": case,
        "system": system,
        "figure": figure,
        "value": value,
        "unit": unit,
        "runs": runs,
    }


def times(bundle: Bundle, folder: Path, rounds: int) -> list[Row]:
    """Milliseconds of one inference, the three systems in turns; model alone, no front end."""
    from tflite_micro.python.tflite_micro import runtime

    front = bundle.manifest.front_end
    assert isinstance(front, NgramFrontEnd)
    model = bundle.read(bundle.manifest.model.file)
    (folder / "timed.tflite").write_bytes(model)
    text = bundle.golden()[0].text
    ids, _ = ngram_ids(text, front.config)
    (folder / "ids.json").write_text(json.dumps(ids))
    out = folder / "timed"
    pack.export(bundle, out)
    (out / "timed.c").write_text(_TIMED)
    sources = ["timed.c", "golden.c", "model.c", "shoal_bundle.c", "shoal_kernels.c"]
    flags = ["-O2", "-D_POSIX_C_SOURCE=199309L", "-std=c99", f"-DROUNDS={rounds * 20}"]
    command = ["gcc", *flags, "-o", "run", *sources, "shoal_ngrams.c"]
    subprocess.run(command, cwd=out, check=True)
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=4 * 1024 * KIB)
    value = np.array([ids], np.int32)
    values: dict[str, list[float]] = {"micropython": [], "tflm": [], "c99": []}
    for _ in range(5):
        found = device.run(
            "timed.py", str(folder / "timed.tflite"), str(folder / "ids.json"), str(rounds)
        )
        values["micropython"].append(found["ms"])
        start = time.perf_counter()
        for _ in range(rounds * 20):
            # Its arena reuses the input's memory: it has to be set each time.
            interpreter.set_input(value, 0)
            interpreter.invoke()
        values["tflm"].append((time.perf_counter() - start) * 1000 / (rounds * 20))
        done = subprocess.run([out / "run"], capture_output=True, text=True, check=True)
        values["c99"].append(float(done.stdout))
    return [
        row("classify", name, "ms", round(statistics.median(all_), 4), "ms", len(all_))
        for name, all_ in values.items()
    ]


def smallest(fits: Callable[[int], bool], low: int, high: int, step: int) -> int | None:
    """The smallest heap in KiB that is enough; None when `high` is not."""
    if not fits(high):
        return None
    while high - low > step:
        middle = (low + high) // 2 // step * step
        if fits(middle):
            high = middle
        else:
            low = middle
    return high


class Bench:
    """A broker, a repository with two versions, and devices with heaps of any size."""

    def __init__(self, controller: Controller, folder: Path, versions: list[Bundle]) -> None:
        self.controller = controller
        self.folder = folder
        self.versions = versions
        self._count = 0

    def _start(self, heap: int, source: Path | None) -> tuple[str, subprocess.Popen[bytes]]:
        self._count += 1
        name = f"chip-{self._count}"
        home = self.folder / name
        if source is not None:
            shutil.copytree(source, home)
        config = self.controller.config
        enrol(home, name, self.controller.topics.fleet, config, self.controller.repository.root)
        process = subprocess.Popen(
            device.command("device.py", str(home), heap=f"{heap}k"),
            env=device.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return name, process

    def update(self, heap: int, version: int, source: Path | None) -> Path | None:
        """Whether a device with this heap commits a version; its folder, or None."""
        name, process = self._start(heap, source)
        try:
            self.controller.desire(name, version + 1, self.versions[version].ref)
            event = self.controller.wait(
                "the update",
                lambda who, kind, m: (
                    who == name
                    and kind == "update"
                    and m.revision == version + 1
                    and m.state in ("committed", "refused", "rolled-back")
                ),
                seconds=25,
            )
            return self.folder / name if event.state == "committed" else None
        except AssertionError:
            return None
        finally:
            process.kill()
            process.wait()

    def classify(self, heap: int, source: Path) -> bool:
        """Whether a device with this heap answers every golden text."""
        name, process = self._start(heap, source)
        try:
            self.controller.wait(
                "online",
                lambda who, kind, m: who == name and kind == "status" and m.state == "online",
                seconds=10,
            )
            for vector in self.versions[0].golden()[:10]:
                request = ClassifyRequest(text=vector.text)
                (answer,) = self.controller.ask(name, "classify", request, seconds=5)
                if answer.classified is None:
                    return False
            return True
        except AssertionError:
            return False
        finally:
            process.kill()
            process.wait()


def heaps(versions: list[Bundle], folder: Path, step: int) -> list[Row]:
    """The smallest heaps for classification and for an update."""
    repository = Repository.create(folder / "repo", folder / "keys")
    for bundle in versions:
        repository.publish(bundle)
    with mosquitto() as config, Controller(config, "bench", repository) as controller:
        bench = Bench(controller, folder, versions)
        installed = bench.update(512, 0, None)
        if installed is None:
            raise SystemExit("a device with a heap of 512 KiB did not install the bundle")
        clean = folder / "installed"
        shutil.copytree(installed, clean)
        figures = {
            "classify": smallest(lambda heap: bench.classify(heap, clean), 96, 256, step),
            "update": smallest(lambda heap: bool(bench.update(heap, 1, clean)), 96, 256, step),
        }
    return [
        row(case, "micropython", "heap_peak_bytes", heap * KIB, "bytes")
        for case, heap in figures.items()
        if heap is not None
    ]


def c_pack(bundle: Bundle, folder: Path) -> list[Row]:
    """Sizes and instructions of the C99 engine in QEMU."""
    pack.export(bundle, folder)
    found = measure.report(folder)
    rows = []
    for cpu in ("cortex-m3", "cortex-m4"):
        figures = found[cpu]
        for figure, key, unit in (
            ("engine_code_bytes", "engine_code_bytes", "bytes"),
            ("flash_bytes", "flash_bytes", "bytes"),
            ("ram_bytes", "ram_bytes", "bytes"),
            ("instructions", "model_instructions", "instructions"),
            ("front_end_instructions", "front_end_instructions", "instructions"),
        ):
            rows.append(row("c-pack", f"c99-qemu-{cpu}", figure, figures[key], unit))
    return rows


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="coarse steps, few rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--bundle", type=Path, help="measure this bundle instead of random weights")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        versions = [
            bundles.write(folder / f"v{i}", "large", f"1.{i}.0", seed=i + 1, large=True)
            for i in range(2)
        ]
        if arguments.bundle:
            versions[0] = Bundle.open(arguments.bundle)
        rows = [
            row(
                "classify", "micropython", "model_bytes", versions[0].manifest.total_bytes, "bytes"
            ),
            *times(versions[0], folder, 5 if arguments.quick else 50),
            *c_pack(versions[0], folder / "pack"),
            *heaps(versions, folder, 32 if arguments.quick else 8),
        ]
    for one in rows:
        head = f"{one['case']:10} {one['system']:20} {one['figure']:24}"
        print(f"{head} {one['value']:>14,} {one['unit']}")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.strip()
    machine = {"cpu": platform.processor() or platform.machine(), "cores": 2,
               "python": platform.python_version()}  # fmt: skip
    if arguments.json:
        result = {"benchmark": "micro", "machine": machine, "commit": commit, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
