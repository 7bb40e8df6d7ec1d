"""The builder's program: its answers on stdout, its errors on stderr, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.bundle import Bundle
from contracts.errors import InputError
from model_builder import cli, lazy_tensorflow
from tests.model_builder.support import write_recipe

ROOT = Path(__file__).parents[2]


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m model_builder`` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "model_builder", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
        check=False,
    )


def test_a_build_prints_one_json_summary_and_writes_what_it_names(tmp_path: Path) -> None:
    """Nothing else is on stdout."""
    recipe = write_recipe(tmp_path)
    done = program(
        "build", str(recipe), "--out", str(tmp_path / "out"), "--json",
        "--set", "version=2.0.0", "--board", "raspberry-pi-5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["version"] == "2.0.0"
    for key in ("bundle", "archive", "report_json", "report_html"):
        assert Path(summary[key]).exists(), key
    assert Bundle.open(Path(summary["bundle"])).manifest.boards == ["raspberry-pi-5"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["build", "none.yaml"], 2, "cannot read the recipe none.yaml"),
        (["build"], 2, "Missing argument"),
        (
            ["build", "examples/home-intents.yaml", "--set", "studnet.x=1"],
            2,
            "did you mean student",
        ),
        (["build", "examples/home-intents.yaml", "--board", "toaster"], 2, "unknown board"),
        (["build", "examples/home-intents.yaml", "--out", "/proc/x"], 2, "cannot write"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_a_wrong_command_is_one_error_without_a_traceback(
    arguments: list[str], code: int, says: str
) -> None:
    """Exit code 2: change the input."""
    done = program(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("board", "out"), [("toaster", "out"), ("raspberry-pi-5", "/proc/x")], ids=["board", "folder"]
)
def test_what_is_wrong_is_told_before_tensorflow_is_loaded(
    board: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading it takes seconds."""
    monkeypatch.setattr(lazy_tensorflow, "load_quietly", lambda: pytest.fail("it was loaded"))
    with pytest.raises(InputError):
        cli.build(ROOT / "examples" / "home-intents.yaml", tmp_path / out, [board])
