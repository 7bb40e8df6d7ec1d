"""What every benchmark prints and writes: rows of figures, and where they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


def row(case: str, system: str, figure: str, value: float, unit: str, runs: int = 1) -> Row:
    """One figure, of `runs` repetitions."""
    return {
        "case": case,
        "system": system,
        "figure": figure,
        "value": round(value, 4 if abs(value) < 10 else 2),
        "unit": unit,
        "runs": runs,
    }


def show(rows: list[Row]) -> None:
    """A line a figure."""
    for one in rows:
        print(
            f"{one['case']:<26} {one['system']:<20} {one['figure']:<30} "
            f"{one['value']:>14,} {one['unit']:<8} {one['runs']:>6}",
            flush=True,
        )


def machine() -> dict[str, Any]:
    """What this runs on, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def save(path: Path | None, benchmark: str, rows: list[Row], facts: dict[str, Any]) -> None:
    """Writes the figures as JSON.

    Args:
        path: of the file; None: nowhere.
        benchmark: its name.
        rows: its figures.
        facts: see :func:`machine`; taken before the benchmark, so that its load is not in them.
    """
    if path is None:
        return
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    document = {"benchmark": benchmark, "machine": facts, "commit": commit, "rows": rows}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
