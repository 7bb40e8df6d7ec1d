"""Compiles and runs a C pack: golden vectors on the host and in QEMU, sizes, instructions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from contracts import board as boards
from contracts import codec
from contracts.bundle import Bundle
from contracts.errors import ShoalError, UnavailableError
from model_builder.export_c.pack import export


class Run(msgspec.Struct, frozen=True):
    """What ``golden_main.c`` printed; instructions are means of one text, 0 on the host."""

    vectors: int
    passed: int
    front_end_instructions: int
    model_instructions: int


class Size(msgspec.Struct, frozen=True):
    """Bytes of the C99 engine.

    Attributes:
        engine_code: instructions of kernels, front end and generated calls.
        tables: weights, scales and labels in flash.
        ram: arena and other variables.
    """

    engine_code: int
    tables: int
    ram: int

    @property
    def flash(self) -> int:
        """All that is in flash."""
        return self.engine_code + self.tables


def _make(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["make", "-s", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except FileNotFoundError:
        raise UnavailableError("no-make", "measuring a C pack needs make: install it") from None
    except subprocess.TimeoutExpired:
        raise ShoalError("c-pack-failed", f"make {' '.join(words)} took over 300 s") from None
    if done.returncode != 0:
        tail = (done.stderr + done.stdout).strip()[-1500:]
        raise ShoalError("c-pack-failed", f"make {' '.join(words)} failed: {tail}")
    return done.stdout


def _run(folder: Path, *words: str) -> Run:
    return msgspec.json.decode(_make(folder, *words).strip().splitlines()[-1], type=Run)


def run_host(folder: Path) -> Run:
    """The golden vectors on this machine; raises ``c-pack-failed`` when one differs."""
    return _run(folder, "check")


def run_qemu(folder: Path, cpu: str) -> Run:
    """The golden vectors in QEMU; `cpu` is ``cortex-m3`` or ``cortex-m4``."""
    return _run(folder, "qemu", f"CPU={cpu}")


def size(folder: Path, cpu: str) -> Size:
    """Flash and RAM of the C99 engine at -Os for `cpu`."""
    _make(folder, "arm", f"CPU={cpu}")
    code = tables = ram = 0
    for name in ("shoal_kernels", "shoal_ngrams", "shoal_bundle", "model"):
        listing = subprocess.run(
            ["arm-none-eabi-size", "-A", str(folder / "build" / cpu / f"{name}.o")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in listing.splitlines():
            words = line.split()
            if len(words) != 3 or not words[1].isdigit():
                continue
            if words[0].startswith(".text"):
                code += int(words[1])
            elif words[0].startswith((".rodata", ".data.rel.ro")):
                tables += int(words[1])
            elif words[0].startswith((".bss", ".data")):
                ram += int(words[1])
    return Size(code, tables, ram)


def report(folder: Path, cpus: tuple[str, ...] = ("cortex-m3", "cortex-m4")) -> dict[str, Any]:
    """All figures of a pack, for the build report; also written to ``measured.json``."""
    host = run_host(folder)
    figures: dict[str, Any] = {"vectors": host.vectors, "host_passed": host.passed}
    for cpu in cpus:
        sizes, run = size(folder, cpu), run_qemu(folder, cpu)
        figures[cpu] = {
            "engine_code_bytes": sizes.engine_code,
            "flash_bytes": sizes.flash,
            "ram_bytes": sizes.ram,
            "qemu_passed": run.passed,
            "front_end_instructions": run.front_end_instructions,
            "model_instructions": run.model_instructions,
        }
    (folder / "measured.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def export_and_report(bundle: Path, report_json: Path, board: str | None) -> dict[str, Any]:
    """Writes the C pack beside a built bundle and its figures into the build report.

    Without a C compiler or QEMU the pack is written and the report says what was not measured.

    Args:
        bundle: the bundle's folder.
        report_json: the build report; gets the member ``c_pack``.
        board: whose facts go into ``board.h``.

    Returns:
        The folder of the pack and the figures.
    """
    folder = bundle.parent / f"{bundle.name}-c"
    export(Bundle.open(bundle), folder, board=boards.load(board) if board else None)
    tools = ("make", "gcc", "arm-none-eabi-gcc", "qemu-system-arm")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    figures = {"not_measured": f"{', '.join(missing)} missing"} if missing else report(folder)
    document = msgspec.json.decode(report_json.read_bytes())
    document["c_pack"] = figures
    report_json.write_bytes(codec.pretty(document))
    return {"folder": str(folder), **figures}
