"""Microcontroller class: memory of a MicroPython device, time of an inference, the C pack.

::

    python benchmarks/micro.py [--quick] [--json FILE] [--bundle FOLDER] [--generator FOLDER]

Without `--bundle` a model of 200 KB with random weights is measured. The heap's peak is the
smallest heap of the whole agent (its code, MQTT, the model's memory) with which a device with
that model on its flash answers, or updates to the next version and answers: MicroPython
collects only now and then, so what is in use at a moment says little. The cases with `-tls` are
the same over mutual TLS, whose library takes its memory from this heap in the unix port; on
an ESP32 it does not. Objects of the unix port have 64 bits; a board needs less.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from _figures import ROOT, Row, machine, row, save, show

sys.path.insert(0, str(ROOT))

import msgspec
import numpy as np

from contracts import codec
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.manifest import NgramFrontEnd
from contracts.requests import ClassifyRequest
from contracts.text import ngram_ids
from fleet.boards.folder import load_config, write_folder
from fleet.broker.run import MosquittoBroker, free_port, wait_until_connectable
from fleet.folder import Fleet, FleetConfig
from fleet.repository.repository import Repository
from model_builder.export_c import measure, pack
from tests.micro import bundles, device
from tests.micro.controller import Controller, enrol
from tests.support.broker import mosquitto
from tests.support.tools import need_tool

GENERATOR = ROOT / "tests/data/status-lines-1.0.0"
KIB = 1024

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


def character(bundle: Bundle, folder: Path, rounds: int) -> list[Row]:
    """Milliseconds of one character of the tiny generator, and what its manifest says of it."""
    from tflite_micro.python.tflite_micro import runtime

    manifest = bundle.manifest
    model = bundle.read(manifest.model.file)
    (folder / "generator.tflite").write_bytes(model)
    (folder / "one.json").write_text("[1]")
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=256 * KIB)
    state = np.zeros(manifest.model.signatures[0].inputs[1].shape, np.int8)
    values: dict[str, list[float]] = {"micropython": [], "tflm": []}
    for _ in range(5):
        found = device.run(
            "timed.py", str(folder / "generator.tflite"), str(folder / "one.json"), str(rounds)
        )
        values["micropython"].append(found["ms"])
        start = time.perf_counter()
        for _ in range(rounds):
            interpreter.set_input(np.array([[1]], np.int32), 0)
            interpreter.set_input(state, 1)
            interpreter.invoke()
        values["tflm"].append((time.perf_counter() - start) * 1000 / rounds)
    case = "generate"
    return [
        row(case, "micropython", "model_bytes", len(model), "bytes"),
        row(case, "tflm", "arena_bytes", manifest.model.arena_bytes or 0, "bytes"),
        row(case, "micropython", "exact_match", manifest.metrics["exact_match"], "ratio"),
        *(
            row(case, name, "ms_per_character", round(statistics.median(all_), 4), "ms", len(all_))
            for name, all_ in values.items()
        ),
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
    """Devices with heaps of any size, on a controller that has two versions of a bundle.

    Args:
        controller: connected.
        enrol: makes the folder of a device with this name.
        versions: published.
    """

    def __init__(
        self, controller: Controller, enrol: Callable[[str], Path], versions: list[Bundle]
    ) -> None:
        self._controller = controller
        self._enrol = enrol
        self._versions = versions
        self._count = 0

    @contextmanager
    def _device(self, heap: int, state: Path | None) -> Iterator[Running]:
        self._count += 1
        name = f"chip-{self._count}"
        home = self._enrol(name)
        if state is not None:
            shutil.copytree(state, home / "state")
        process = subprocess.Popen(
            device.command("device.py", str(home), heap=f"{heap}k"),
            env=device.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Running(name, home, process, self._controller)
        finally:
            process.kill()
            process.wait()

    def update(self, heap: int, version: int, state: Path | None) -> Path | None:
        """What a device with this heap has on its flash after an update; None if it fails."""
        revision = version + 1
        with self._device(heap, state) as running:
            self._controller.desire(running.name, revision, self._versions[version].ref)
            event = running.wait(
                lambda kind, m: (
                    kind == "update"
                    and m.revision == revision
                    and m.state in ("committed", "refused", "rolled-back")
                ),
                seconds=40,
            )
            good = event is not None and event.state == "committed" and running.answers()
            return running.home / "state" if good else None

    def classify(self, heap: int, state: Path) -> bool:
        """Whether a device with this heap answers golden texts."""
        with self._device(heap, state) as running:
            online = running.wait(
                lambda kind, m: kind == "status" and m.state == "online", seconds=20
            )
            texts = [vector.text for vector in self._versions[0].golden()[:10]]
            return online is not None and all(running.answers(text) for text in texts)


class Running:
    """A device that runs."""

    def __init__(
        self, name: str, home: Path, process: subprocess.Popen[bytes], controller: Controller
    ) -> None:
        self.name = name
        self.home = home
        self._process = process
        self._controller = controller

    def wait(self, wanted: Callable[[str, Any], bool], seconds: float) -> Any:
        """A message of this device; None when it does not come, or the device is gone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                return self._controller.wait(
                    "it", lambda who, kind, m: who == self.name and wanted(kind, m), seconds=0.5
                )
            except AssertionError:
                if self._process.poll() is not None:
                    return None
        return None

    def answers(self, text: str = "turn on the light") -> bool:
        """Whether it classifies a text."""
        request = ClassifyRequest(text=text)
        try:
            (answer,) = self._controller.ask(self.name, "classify", request, seconds=5)
        except AssertionError:
            return False
        return answer.classified is not None


@contextmanager
def plain(folder: Path, versions: list[Bundle]) -> Iterator[Bench]:
    """Devices on a broker without TLS."""
    repository = Repository.create(folder / "repo", folder / "keys")
    for bundle in versions:
        repository.publish(bundle)
    with mosquitto() as config, Controller(config, "bench", repository) as controller:

        def enrolled(name: str) -> Path:
            return enrol(folder / name, name, "bench", config, repository.root)

        yield Bench(controller, enrolled, versions)


@contextmanager
def mutual_tls(folder: Path, versions: list[Bundle]) -> Iterator[Bench]:
    """Devices that were enrolled in a fleet, on its broker with mutual TLS and access control."""
    port = free_port()
    config = FleetConfig(
        fleet="bench", mqtt=MqttConfig(host="localhost", port=port), mutual_tls=True
    )
    fleet = Fleet.init(folder / "fleet", config)
    for bundle in versions:
        fleet.publish(bundle.path)

    def enrolled(name: str) -> Path:
        _, path = fleet.enroll(name, "esp32-s3", groups=[], labels={})
        write_folder(load_config(path), folder / name)
        return folder / name / "shoal"

    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    broker = MosquittoBroker(fleet.folder / "broker/mosquitto.conf", port=port, program=program)
    with broker:
        controller_config = fleet.controller_mqtt()
        wait_until_connectable(controller_config)
        with Controller(controller_config, "bench", fleet.open_repository()) as controller:
            yield Bench(controller, enrolled, versions)


def heaps(versions: list[Bundle], folder: Path, step: int) -> list[Row]:
    """The smallest heaps for classification and for an update, without and with mutual TLS."""
    rows = []
    for suffix, fleet in (("", plain), ("-tls", mutual_tls)):
        place = folder / fleet.__name__
        place.mkdir()
        with fleet(place, versions) as bench:
            installed = bench.update(512, 0, None)
            if installed is None:
                raise SystemExit("a device with a heap of 512 KiB did not install the bundle")
            clean = place / "installed"
            shutil.copytree(installed, clean)
            figures = {
                "classify": smallest(partial(_classifies, bench, clean), 96, 320, step),
                "update": smallest(partial(_updates, bench, clean), 96, 320, step),
            }
        rows += [
            row(f"{case}{suffix}", "micropython", "heap_peak_bytes", heap * KIB, "bytes")
            for case, heap in figures.items()
            if heap is not None
        ]
    return rows


def _classifies(bench: Bench, state: Path, heap: int) -> bool:
    return bench.classify(heap, state)


def _updates(bench: Bench, state: Path, heap: int) -> bool:
    return bench.update(heap, 1, state) is not None


def next_version(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle under the next version number."""
    bundle.extract(folder)
    major, minor, _ = bundle.manifest.version.split(".")
    manifest = msgspec.structs.replace(bundle.manifest, version=f"{major}.{int(minor) + 1}.0")
    (folder / "manifest.json").write_bytes(codec.pretty(manifest))
    return Bundle.open(folder)


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
    parser.add_argument("--generator", type=Path, default=GENERATOR, help="a generator's bundle")
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        if arguments.bundle:
            first = Bundle.open(arguments.bundle)
        else:
            first = bundles.write(folder / "v0", "large", "1.0.0", seed=1, large=True)
        versions = [first, next_version(first, folder / "v1")]
        size = first.manifest.total_bytes
        rounds = 5 if arguments.quick else 50
        rows = [
            row("classify", "micropython", "bundle_bytes", size, "bytes"),
            *times(first, folder, rounds),
            *c_pack(first, folder / "pack"),
            *heaps(versions, folder, 16 if arguments.quick else 4),
        ]
        if arguments.generator:
            rows += character(Bundle.open(arguments.generator), folder, rounds * 10)
    show(rows)
    save(arguments.json, "micro", rows, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
