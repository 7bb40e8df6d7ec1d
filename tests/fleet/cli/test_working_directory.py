"""Programs that `shoal` starts import nothing from the folder it is called in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHOAL = Path(sys.executable).with_name("shoal")


@pytest.mark.parametrize("command", ["inspect", "build"])
def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, command: str) -> None:
    """A folder of downloads is no place for code that runs by itself."""
    if not SHOAL.is_file():
        pytest.skip("the package is not installed")
    for name in ("msgspec", "yaml", "typer", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    done = subprocess.run(
        [SHOAL, command, "missing"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "imported" not in done.stdout + done.stderr
    assert done.returncode == 2, done.stderr
    assert "missing" in done.stderr
