"""What pip writes where it fetches nothing, by pip itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts import pip_failure


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
