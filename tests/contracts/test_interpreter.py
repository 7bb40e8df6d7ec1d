"""This Python is started again without what lies in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import interpreter

_NEWER = pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python does not know -P")
_BOTH = pytest.mark.parametrize(
    "safe", [pytest.param(True, marks=_NEWER, id="flag"), pytest.param(False, id="first line")]
)


@_BOTH
def test_a_program_imports_nothing_from_the_working_directory(tmp_path: Path, safe: bool) -> None:
    """Neither by the flag nor, on a Python that does not know it, by the first line."""
    (tmp_path / "colorsys.py").write_text("open('found', 'w').close()")
    text = "import sys, colorsys; print(sys.argv[1:])"
    command = interpreter.program(text, "a b", "-m", safe=safe)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "['a b', '-m']\n"
    assert not (tmp_path / "found").exists()


@_BOTH
def test_a_module_imports_nothing_from_the_working_directory(tmp_path: Path, safe: bool) -> None:
    """The module's own arguments reach it whole."""
    (tmp_path / "argparse.py").write_text("open('found', 'w').close()")
    command = interpreter.module("json.tool", "--indent", "1", unbuffered=True, safe=safe)
    done = subprocess.run(
        command, cwd=tmp_path, input="[1]", capture_output=True, text=True, check=True
    )
    assert done.stdout == "[\n 1\n]\n"
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("fleet", "status"), "typer", "fleet"),
        (("fleet", "serve"), "sqlalchemy", "fleet"),
        (("build", "recipe.yaml"), "typer", "builder"),
        (("import", "model.gguf"), "rich", "builder"),
    ],
)
def test_a_package_that_is_missing_is_one_line_with_the_command_that_installs_it(
    tmp_path: Path, words: tuple[str, ...], package: str, extra: str
) -> None:
    """Where the agent alone is installed, the other commands say what they need."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(
        f"raise ModuleNotFoundError('No module', name={package!r})"
    )
    done = _shoal(tmp_path, *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{package} is not installed" in line
    assert f"-m pip install 'shoal[{extra}]'" in line


def test_a_device_with_the_agent_alone_inspects_and_classifies(tmp_path: Path) -> None:
    """What is handed to the agent loads nothing of the controller."""
    for package in ("typer", "rich", "sqlalchemy", "fastapi", "tensorflow"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(
            f"raise ModuleNotFoundError('No module', name={package!r})"
        )
    done = _shoal(tmp_path, "classify", str(tmp_path / "none.shoal"), "hello")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "none.shoal" in done.stderr


def _shoal(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    text = "import sys; from fleet.__main__ import main; sys.argv[0] = 'shoal'; main()"
    return subprocess.run(
        [sys.executable, "-c", text, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), root])},
        capture_output=True,
        text=True,
        check=False,
    )
