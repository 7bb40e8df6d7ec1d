"""What pip writes where it fetches nothing, by pip itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from contracts import limits, pip_failure
from tests.support.small_disk import SmallDisk


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("http://127.0.0.1:9/simple", "the package index cannot be reached"),
        ("https://nowhere.invalid/simple", "the package index cannot be reached"),
        ("", "No matching distribution found for shoal-there-is-none"),
    ],
)
def test_an_index_that_is_not_reached_is_told_from_a_package_that_is_not_there(
    tmp_path: Path, index: str, told: str
) -> None:
    """Pip's last line says of both that there is no such package."""
    where = ["--index-url", index] if index else ["--no-index"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--isolated", "--no-deps", "--quiet",
         "--retries", "1", *where, "--dest", str(tmp_path), "shoal-there-is-none==1.0"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert pip_failure.reason(done.stderr).startswith(told), done.stderr


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """By pip, on a disk that takes nothing of a wheel."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "shoal_large-1.0-py3-none-any.whl", "w") as wheel:
        info = "shoal_large-1.0.dist-info"
        wheel.writestr("shoal_large.bin", bytes(2 * limits.MIB))
        names = "Metadata-Version: 2.1\nName: shoal-large\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", names)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    disk = SmallDisk(tmp_path / "disk", limits.MIB)
    done = subprocess.run(
        disk.around([
            sys.executable, "-m", "pip", "download", "--isolated", "--no-deps", "--quiet",
            "--no-index", "--find-links", str(wheels), "--dest", str(tmp_path / "disk"),
            "shoal-large==1.0",
        ]),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert pip_failure.reason(done.stderr).startswith("the disk is full"), done.stderr
